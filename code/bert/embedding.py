"""The size of a graph's word embedding, read from the ONNX file without its weights."""

from pathlib import Path

from harness.errors import ConfigError
from harness.graph import read_nodes

_SAME_IDS = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Clip", "Expand"}
"""Operators that pass token ids on."""
_SAME_ROWS = {"Cast", "Identity", "DequantizeLinear", "QuantizeLinear", "FakeQuantize"}
"""Operators that pass an embedding's rows on."""
_LOOKUPS = {"Gather": (0, 1), "EmbedLayerNormalization": (2, 0), "QEmbedLayerNormalization": (2, 0)}
_LOOKUPS |= {"GatherBlockQuantized": (0, 1)}
"""Operators that look up rows: the positions of the table and of the ids among their inputs."""


def embedding_rows(model: Path, input_ids: str) -> int | None:
    """Rows of the table from which the graph looks up its input ``input_ids``; None if no such table is found."""
    try:
        graph = read_nodes(model)
    except ConfigError:  # the engine decides whether it is a model
        return None
    ids, rows = {input_ids}, {name: (weight.dims or [0])[0] for name, weight in graph.weights.items()}
    for operator, inputs, outputs in graph.nodes:
        if operator in _LOOKUPS:
            table, index = _LOOKUPS[operator]
            if len(inputs) > max(table, index) and inputs[index] in ids and inputs[table] in rows:
                return rows[inputs[table]]
        elif inputs and outputs:
            if operator in _SAME_IDS and inputs[0] in ids:
                ids.add(outputs[0])
            if operator in _SAME_ROWS and inputs[0] in rows:
                rows[outputs[0]] = rows[inputs[0]]
    return None
