"""Describes a model from its file and its graph."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.catalog import manifests
from harness.catalog.arithmetic import product_weights
from harness.catalog.models import fetch_record, identify_model, model_file
from harness.errors import ConfigError
from harness.terminal import console

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_ZERO_POINTS = {  # operator: inputs that are zero points
    "ConvInteger": (2, 3),
    "DequantizeLinear": (2,),
    "MatMulInteger": (2, 3),
    "QLinearConv": (2, 5, 7),
    "QLinearMatMul": (2, 5, 7),
    "QuantizeLinear": (2,),
}
_MAX_LISTED = 8
_BUILT = {
    "random": "built random",
    "built": "built",
    "dense-random": "built dense random",
    "dense-built": "built dense",
}
"""Suffixes of models built here, and their meaning."""


def overview() -> list[dict[str, str]]:
    """Every known model: name, benchmark, precision, copies on this machine, description."""
    return [
        {
            "name": name,
            "benchmark": entry.official_name,
            "precision": entry.precision,
            "here": _here(name, entry),
            "description": entry.description,
        }
        for name, (_, entry) in manifests.models().items()
    ]


def _here(name: str, entry: manifests.ModelEntry) -> str:
    if entry.file:
        return "shipped"
    here = ["fetched"] if model_file(name).is_file() and fetch_record(name) else []
    here += [words for kind, words in _BUILT.items() if model_file(f"{name}-{kind}").is_file()]
    ways = [way for way, possible in (("fetch", entry.fetch), ("build", entry.builder)) if possible]
    return ", ".join(here) or f"no: {' or '.join(ways) or 'give its path'}"


@dataclass(frozen=True)
class Sparsity:
    """The zeros in a model's weight matrices; ``least`` and ``most`` are their shares in single matrices, 0 to 1."""

    count: int
    elements: int
    zeros: int
    least: float
    most: float


@dataclass(frozen=True)
class ModelFacts:
    """All facts about a model, for `harness models show`."""

    name: str
    title: str
    path: str
    size: int
    """In bytes."""
    sha256: str | None
    benchmark: str
    official_name: str
    source: str
    precision: str
    fetched: dict[str, object] | None
    """Its `FetchRecord`."""
    notes: list[str]
    inputs: list[str]
    outputs: list[str]
    parameters: dict[str, int]
    operators: dict[str, int]
    weight_matrices: Sparsity
    settings: dict[str, str | int]
    metadata: dict[str, str]


def describe(name: str) -> ModelFacts:
    """All facts about a model, given by its name or the path of its file.

    Raises:
        ConfigError: the model does not exist, or its file is broken.
    """
    import onnx

    found, file = identify_model(name)
    graph = file.graph
    try:
        model = onnx.load(str(found.path))
    except Exception as error:
        raise ConfigError(f"{found.path} cannot be loaded with its weights ({error}): fetch it again.") from error
    record = fetch_record(name) if name in manifests.models() else None
    return ModelFacts(
        name=found.name,
        title=found.title,
        path=str(found.path),
        size=found.path.stat().st_size,
        sha256=found.sha256,
        benchmark=found.benchmark,
        official_name=found.official_name,
        source=found.source,
        precision=found.precision,
        fetched=record.model_dump() if record else None,
        notes=[words for words in (found.caveat, found.remark) if words],
        inputs=[str(tensor) for tensor in graph.inputs],
        outputs=[str(tensor) for tensor in graph.outputs],
        parameters=parameters(model),
        operators=dict(graph.operators),
        weight_matrices=sparsity(model),
        settings=found.settings,
        metadata=found.metadata,
    )


def rows(facts: ModelFacts) -> Iterator[tuple[str, str]]:
    """The facts as rows of a table: (title, text)."""
    yield "name", facts.title
    yield "path", facts.path
    yield "sha256", facts.sha256 or ""
    yield "size", console.quantity(facts.size, "B")
    yield "benchmark", f"{facts.benchmark}, results under {facts.official_name}"
    yield "source", facts.source
    yield "precision", facts.precision
    if facts.fetched:
        yield "fetched", f"{facts.fetched['time']} from {facts.fetched['source']}"
    for kind, lines in (("note", facts.notes), ("input", facts.inputs), ("output", facts.outputs)):
        for line in lines:
            yield kind, line
    yield "parameters", ", ".join(f"{count:,} {kind}" for kind, count in facts.parameters.items())
    total = sum(facts.operators.values())
    top = list(facts.operators.items())[:_MAX_LISTED]
    rest = total - sum(count for _, count in top)
    words = [f"{count} {operator}" for operator, count in top] + ([f"{rest} others"] if rest else [])
    yield "nodes", f"{total:,}: {', '.join(words)}"
    matrices = facts.weight_matrices
    if matrices.count:
        yield (
            "sparsity",
            f"{matrices.zeros / matrices.elements:.1%} zeros in {matrices.count} weight matrices "
            f"(from {matrices.least:.1%} to {matrices.most:.1%})",
        )
    for setting, value in facts.settings.items():
        yield "setting", f"{setting} = {value}"
    for key, text in facts.metadata.items():
        yield "metadata", f"{key}: {text}"


def parameters(model: ModelProto) -> dict[str, int]:
    """Number of floating-point and of integer weights; shapes and zero points do not count."""
    from onnx import TensorProto

    kinds = {
        "float": {TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE},
        "integer": {TensorProto.INT8, TensorProto.UINT8, TensorProto.INT32},
    }
    zero_points = {
        node.input[number]
        for node in model.graph.node
        for number in _ZERO_POINTS.get(node.op_type, ())
        if number < len(node.input)
    }
    counts = dict.fromkeys(kinds, 0)
    for name, tensor in _constants(model).items():
        for kind, types in kinds.items():
            if tensor.data_type in types and name not in zero_points:
                counts[kind] += int(np.prod(tensor.dims, dtype=np.int64))
    return counts


def sparsity(model: ModelProto) -> Sparsity:
    """The zeros in the weights of matrix products and convolutions; integer zeros are those equal to the zero point."""
    nodes = [(node.op_type, list(node.input), list(node.output)) for node in model.graph.node]
    axes = {node.output[0]: _axis(node) for node in model.graph.node if node.op_type == "DequantizeLinear"}
    shares, zeros, elements = [], 0, 0
    for each in product_weights(nodes, _constants(model)):
        axis = axes.get(each.converted, 0 if "Conv" in each.operator else -1)
        found = _count_zeros(each.weight, each.zero_point, axis)
        count = int(np.prod(each.weight.dims, dtype=np.int64))
        if count:
            shares.append(found / count)
            zeros, elements = zeros + found, elements + count
    return Sparsity(len(shares), elements, zeros, min(shares, default=0.0), max(shares, default=0.0))


def _axis(node: NodeProto) -> int:
    """The axis of a DequantizeLinear's channels."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)


def _count_zeros(tensor: TensorProto, zero_point: TensorProto | None, axis: int) -> int:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    zero = np.zeros((), values.dtype)
    if zero_point is not None:
        zero = numpy_helper.to_array(zero_point)
        if zero.size == 1:
            zero = zero.reshape(())
        elif zero.ndim == 1 and zero.size == values.shape[axis]:
            zero = zero.reshape([-1 if number == axis % values.ndim else 1 for number in range(values.ndim)])
    return int(np.count_nonzero(values == zero))


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    found = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    found[node.output[0]] = attribute.t
    return found
