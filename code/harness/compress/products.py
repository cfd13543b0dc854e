"""Matrix products of two activations, as in attention: queries times keys, and attention weights times values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from harness.compress.network import Feed, Multiplication, Network
from harness.compress.ranges import REACHES, Range

_MIN_OPSET_OF_LAST_AXIS = 13
"""The first operator set in which a Softmax without an axis is over the last one."""
_TRIED_MATRICES = 64
"""Pairs of matrices, of one sample and head each, used to try ranges."""


@dataclass(frozen=True)
class Product(Multiplication):
    """A node that multiplies two tensors, neither of which is constant."""

    softmax: int | None = None
    """The axis of the softmax that reads the product, possibly scaled and masked; None without one."""
    weighted: bool = False
    """Whether the left tensor is a softmax's output, such as attention weights."""

    @property
    def left(self) -> str:
        """The tensor whose rows are multiplied."""
        return str(self.node.input[0])

    @property
    def right(self) -> str:
        """The tensor whose columns are multiplied: keys after their transposition."""
        return str(self.node.input[1])


def products(network: Network) -> Iterator[Product]:
    """The products of activations in the order of the graph."""
    weights = {node.output[0] for node in network.nodes if node.op_type == "Softmax"}
    for node in network.nodes:
        if node.op_type == "MatMul" and not any(map(network.is_constant, node.input)):
            yield Product(node, _softmax(network, node.output[0]), node.input[0] in weights)


def _softmax(network: Network, name: str) -> int | None:
    """The axis of the softmax that reads a tensor, possibly scaled by a number and masked; None without one."""
    while (node := network.only_reader(name)) is not None:
        if node.op_type == "Softmax":
            axes = [int(attribute.i) for attribute in node.attribute if attribute.name == "axis"]
            last = network.model.opset_import[0].version >= _MIN_OPSET_OF_LAST_AXIS
            return axes[0] if axes else -1 if last else 1
        if node.op_type not in ("Add", "Where", "Identity") and not _scales(network, node, name):
            return None
        name = node.output[0]
    return None


def _scales(network: Network, node: NodeProto, name: str) -> bool:
    """Whether a node multiplies or divides a tensor by one number."""
    if node.op_type not in ("Mul", "Div") or (node.op_type == "Div" and node.input[0] != name):
        return False
    other = node.input[1] if node.input[0] == name else node.input[0]
    return network.is_constant(other) and network.constant(other).size == 1


def choose_ranges(
    product: Product, batches: Sequence[Feed], known: Mapping[str, Range]
) -> tuple[dict[str, Range], float] | None:
    """The ranges of both operands that change the product least, and that change relative to the product.

    ``batches`` hold both operands; ranges in ``known`` are kept. Before a softmax, only differences within a row
    count. None unless both operands are float32 matrices of finite numbers.
    """
    pairs = [(values[product.left], values[product.right]) for values in batches]
    if not all(_measurable(value) for pair in pairs for value in pair):
        return None
    sample = _sample(pairs)
    centred = product.softmax in (-1, max(value.ndim for value in pairs[0]) - 1)

    def counted(values: NDArray[np.float32]) -> NDArray[np.float32]:
        return values - values.mean(axis=-1, keepdims=True) if centred else values

    expected = [counted(left @ right) for left, right in sample]
    energy = sum(float(np.vdot(value, value)) for value in expected) or 1e-30

    def harm(spans: Mapping[str, Range]) -> float:
        left, right = spans[product.left], spans[product.right]
        found = [counted(left.rounded(a) @ right.rounded(b)) for a, b in sample]
        lost = [value - exact for value, exact in zip(found, expected, strict=True)]
        return float((sum(float(np.vdot(value, value)) for value in lost) / energy) ** 0.5)

    names = dict.fromkeys((product.left, product.right))  # only one if a tensor is multiplied by itself
    spans = {name: known.get(name) or _observed(values[name] for values in batches) for name in names}
    for name in (name for name in names if name not in known):
        trials = [{**spans, name: span} for span in _candidates(spans[name])]
        spans = min(trials, key=harm)
    return spans, harm(spans)


def _measurable(value: NDArray[np.generic]) -> bool:
    return value.dtype == np.float32 and value.ndim > 1 and value.size > 0 and bool(np.isfinite(value).all())


def _observed(values: Iterable[NDArray[np.generic]]) -> Range:
    limits = [(float(value.min()), float(value.max())) for value in values]
    return Range.of(min(low for low, _ in limits), max(high for _, high in limits))


def _candidates(whole: Range) -> Iterator[Range]:
    """The whole range and smaller ones: rare outliers cost the other values precision."""
    for reach in REACHES:
        yield Range.of(whole.low * reach, whole.high * reach)


def _sample(
    pairs: Sequence[tuple[NDArray[np.generic], NDArray[np.generic]]],
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Pairs of matrices (places, depth) and (depth, places), spread evenly over all samples and heads."""
    stacks = []
    for left, right in pairs:
        shape = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        stacks.append([np.broadcast_to(x, (*shape, *x.shape[-2:])).reshape(-1, *x.shape[-2:]) for x in (left, right)])
    count = sum(len(left) for left, _ in stacks)
    wanted = set(np.linspace(0, count - 1, min(count, _TRIED_MATRICES)).astype(int).tolist())
    found, start = [], 0
    for left, right in stacks:
        chosen = [number - start for number in sorted(wanted) if start <= number < start + len(left)]
        found += [(left[number], right[number]) for number in chosen]
        start += len(left)
    return found
