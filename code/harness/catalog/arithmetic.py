"""The arithmetic of an ONNX file: the types of its weights, and how many of them are zero.

The file is read without onnx, and only a sample of each weight, so that even gigabytes take a fraction of a second.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Generic, Protocol, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.files.disk import readable
from harness.graph import Weight, read_nodes, relative

_PRODUCTS = {  # operator: (input that may be a weight, input with its zero point)
    "Conv": ((1, None),),
    "ConvInteger": ((1, 3),),
    "ConvTranspose": ((1, None),),
    "Gemm": ((0, None), (1, None)),
    "MatMul": ((0, None), (1, None)),
    "MatMulInteger": ((0, 2), (1, 3)),
    "QLinearConv": ((3, 5),),
    "QLinearMatMul": ((0, 2), (3, 5)),
}
_TYPES = {  # by their numbers in onnx.TensorProto.DataType
    **{1: ("float", "<f4"), 2: ("uint8", "u1"), 3: ("int8", "i1"), 6: ("int32", "<i4"), 10: ("float16", "<f2")},
    **{11: ("double", "<f8"), 16: ("bfloat16", "<u2")},
}
_QUANTISE = ("QuantizeLinear", "DequantizeLinear")
_SAME_ZEROS = ("Identity", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Cast", *_QUANTISE)
_MAX_DIMENSION = 2**40  # elements of a dimension; a damaged file may state more
_MAX_STEPS = 16  # from node to node, from a product back to its weight; a damaged graph may have a cycle
_SLICES, _SLICE = 8, 4096  # slices that are read of a weight, and the bytes of each

GraphNode: TypeAlias = tuple[str, Sequence[str], Sequence[str]]
"""Operator, inputs and outputs."""


@dataclass(frozen=True)
class Arithmetic:
    """The number formats in the matrix products and convolutions of a graph; shares are of their weights."""

    types: frozenset[str]
    """Element types of all weights, inputs and outputs of the graph, by their names in ONNX."""
    integer: float
    """Share in 8 bits that integer operators read, such as QLinearConv and MatMulInteger."""
    dequantised: float
    """Share in 8 bits that floating-point operators read through a DequantizeLinear (QDQ)."""
    zeros: float
    """Share of zeros."""
    domains: frozenset[str]
    """Domains of operators that are not ONNX's own, such as com.microsoft."""


@readable()
def read_arithmetic(path: Path) -> Arithmetic:
    """Read a model's file.

    Raises:
        ConfigError: the file cannot be read or is not an ONNX model.
    """
    graph = read_nodes(path)
    kinds: Counter[str] = Counter()
    zeros = 0.0
    for found in product_weights(graph.nodes, graph.weights):
        if max(found.weight.dims) > _MAX_DIMENSION:
            continue
        count = prod(found.weight.dims)
        kinds["dequantised" if found.converted else "integer" if found.integer else "float"] += count
        zeros += count * _zeros(path, found.weight, found.zero_point)
    numbers = graph.type_numbers | {weight.type_number for weight in graph.weights.values()}
    total = max(kinds.total(), 1)
    return Arithmetic(
        frozenset(_TYPES[number][0] for number in numbers if number in _TYPES),
        kinds["integer"] / total,
        kinds["dequantised"] / total,
        zeros / total,
        frozenset(graph.domains),
    )


class HasDims(Protocol):
    """A weight, whatever holds its values."""

    @property
    def dims(self) -> Sequence[int]:
        """Its shape."""


W = TypeVar("W", bound=HasDims)


@dataclass(frozen=True)
class ProductWeight(Generic[W]):
    """A weight of matrix products or convolutions, from which they compute without changing its zeros."""

    weight: W
    operator: str
    """The operator of the first product with it."""
    integer: bool
    """Whether that operator computes with integers."""
    converted: str
    """The output of the QuantizeLinear or DequantizeLinear that reads it; "" if none does."""
    zero_point: W | None
    """The constant that it is compared with for zeros; None for 0."""


def product_weights(nodes: Iterable[GraphNode], weights: Mapping[str, W]) -> Iterator[ProductWeight[W]]:
    """The weights of the products among ``nodes``, each once; those of one dimension do not count."""
    nodes = list(nodes)
    producers = {outputs[0]: (operator, inputs) for operator, inputs, outputs in nodes if outputs}
    seen = set()
    for operator, inputs, _ in nodes:
        for number, zero_number in _PRODUCTS.get(operator, ()):
            if number >= len(inputs):
                continue
            name, converted = inputs[number], ""
            zero = inputs[zero_number] if zero_number is not None and zero_number < len(inputs) else ""
            for _ in range(_MAX_STEPS):
                made = producers.get(name)
                if not made or not made[1] or made[0] not in _SAME_ZEROS:
                    break
                if made[0] in _QUANTISE:
                    # A weight that the graph itself quantises is stored in floating point, where zero is 0.
                    zero = made[1][2] if made[0] == "DequantizeLinear" and len(made[1]) > 2 else ""
                    converted = name
                name = made[1][0]
            weight = weights.get(name)
            if weight is None or name in seen or len(weight.dims) < 2:
                continue
            seen.add(name)
            yield ProductWeight(weight, operator, zero_number is not None, converted, weights.get(zero))


def _zeros(path: Path, weight: Weight, zero_point: Weight | None) -> float:
    """The share of zeros in a sample of a weight; integer zeros are those equal to the zero point."""
    values = _sample(path, weight)
    zero = np.zeros(1, values.dtype)
    if zero_point is not None:
        zero = _sample(path, zero_point)
    if not values.size or not zero.size or (zero != zero[0]).any():  # zero points per channel would take longer to read
        return 0.0
    return float(np.mean(values == zero[0]))


def _sample(path: Path, weight: Weight) -> NDArray[np.generic]:
    """Values from slices spread evenly over a weight; all values of a small one."""
    dtype = np.dtype(_TYPES.get(weight.type_number, ("", "u1"))[1])
    start, size = weight.start, weight.size
    if weight.external:
        path = path.parent / relative(path, weight.external.get("location", ""))
        start = int(weight.external.get("offset") or 0)
        size = int(weight.external.get("length") or 0) or prod(weight.dims) * dtype.itemsize
    if weight.varints and dtype.itemsize > 1:  # decoding them would take longer than the answer is worth
        return np.empty(0, dtype)
    with path.open("rb") as file:
        if weight.varints:
            file.seek(start)
            return _low_bytes(file.read(min(size, _SLICES * _SLICE))).view(dtype)
        parts = []
        step = max(_SLICE, size // _SLICES // _SLICE * _SLICE)
        for offset in range(0, size, step):
            file.seek(start + offset)
            part = file.read(min(_SLICE, size - offset))
            parts.append(part[: len(part) // dtype.itemsize * dtype.itemsize])
    return np.frombuffer(b"".join(parts), dtype)


def _low_bytes(varints: bytes) -> NDArray[np.uint8]:
    """The lowest 8 bits of each protobuf integer, without an incomplete one at the end.

    Each byte holds 7 bits; only the last byte of an integer is below 128.
    """
    content = np.frombuffer(varints, np.uint8)
    ends = np.flatnonzero(content < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1]) if ends.size else ends
    eighth = np.where(ends > starts, content[np.minimum(starts + 1, ends)] & 1, 0)
    low: NDArray[np.uint8] = (content[starts] & 0x7F | eighth << 7).astype(np.uint8)
    return low
