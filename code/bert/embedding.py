"""The size of a graph's word embedding, read from the ONNX file without its weights."""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

# Numbers of protobuf fields, from onnx.proto.
_GRAPH = 7  # of ModelProto
_NODE, _INITIALIZER = 1, 5  # of GraphProto
_INPUT, _OUTPUT, _OPERATOR, _ATTRIBUTE = 1, 2, 4, 5  # of NodeProto
_VALUE = 5  # of AttributeProto: a tensor
_DIMS, _NAME = 1, 8  # of TensorProto

_SAME_IDS = {"Cast", "Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Clip", "Expand"}
"""Operators that hand token ids on."""
_SAME_ROWS = {"Cast", "Identity", "DequantizeLinear", "QuantizeLinear", "FakeQuantize"}
"""Operators that hand an embedding's rows on."""
_LOOKUPS = {"Gather": (0, 1), "EmbedLayerNormalization": (2, 0), "QEmbedLayerNormalization": (2, 0)}
_LOOKUPS |= {"GatherBlockQuantized": (0, 1)}
"""Operators that look up rows: the positions of the table and of the ids among their inputs."""


class _Part(NamedTuple):
    """A range of the file."""

    start: int
    stop: int


@dataclass
class _Nodes:
    """The edges of a graph."""

    nodes: list[tuple[str, list[str], list[str]]] = field(default_factory=list)
    """Operator, inputs and outputs of each."""
    rows: dict[str, int] = field(default_factory=dict)
    """The first dimension of each weight."""


def embedding_rows(model: Path, input_ids: str) -> int | None:
    """Rows of the table from which the graph looks up its input ``input_ids``; None if no such table is found."""
    try:
        with model.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            graph = _read(data)
    except (OSError, ValueError, IndexError):  # the engine has the last word on whether it is a model
        return None
    ids, rows = {input_ids}, graph.rows
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


def _read(data: mmap.mmap) -> _Nodes:
    found = _Nodes()
    for number, graph in _fields(data, _Part(0, len(data))):
        if number != _GRAPH or isinstance(graph, int):
            continue
        for kind, part in _fields(data, graph):
            if isinstance(part, int):
                continue
            if kind == _NODE:
                found.nodes.append(_node(data, part, found.rows))
            elif kind == _INITIALIZER:
                name, rows = _tensor(data, part)
                found.rows[name] = rows
    return found


def _node(data: mmap.mmap, node: _Part, rows: dict[str, int]) -> tuple[str, list[str], list[str]]:
    """Operator, inputs and outputs; a constant's first dimension goes to ``rows``."""
    strings: dict[int, list[str]] = {_INPUT: [], _OUTPUT: [], _OPERATOR: []}
    tensors = []
    for number, value in _fields(data, node):
        if isinstance(value, int):
            continue
        if number in strings:
            strings[number].append(data[value.start : value.stop].decode())
        elif number == _ATTRIBUTE:
            tensors += [part for kind, part in _fields(data, value) if kind == _VALUE and not isinstance(part, int)]
    operator = "".join(strings[_OPERATOR])
    if operator == "Constant" and tensors and strings[_OUTPUT]:
        rows[strings[_OUTPUT][0]] = _tensor(data, tensors[0])[1]
    return operator, strings[_INPUT], strings[_OUTPUT]


def _tensor(data: mmap.mmap, tensor: _Part) -> tuple[str, int]:
    """Name and first dimension; 0 for a scalar."""
    name, dims = "", []
    for number, value in _fields(data, tensor):
        if number == _DIMS:
            dims.append(value if isinstance(value, int) else _varint(data, value.start)[0])
        elif number == _NAME and not isinstance(value, int):
            name = data[value.start : value.stop].decode()
    return name, dims[0] if dims else 0


def _fields(data: mmap.mmap, message: _Part) -> Iterator[tuple[int, int | _Part]]:
    """(number, value) of each field of a protobuf message; all but integers come as the range of their bytes."""
    at = message.start
    while at < message.stop:
        key, at = _varint(data, at)
        number, kind = divmod(key, 8)
        if kind == 0:
            value, at = _varint(data, at)
            yield number, value
            continue
        if kind not in (1, 2, 5):
            raise ValueError(f"wire type {kind} at {at}")
        length, at = _varint(data, at) if kind == 2 else (8 if kind == 1 else 4, at)
        if at + length > message.stop:
            raise ValueError(f"a field of {length} bytes at {at}")
        yield number, _Part(at, at + length)
        at += length


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("not a varint")
