"""Matrix products of two activations, as in attention: queries by keys, and attention weights by values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from harness.compress.network import Feed, Network, node_name
from harness.compress.ranges import REACHES, Range

_MATRICES = 64
"""Pairs of matrices, of one sample and head each, used to try ranges."""


@dataclass(frozen=True)
class Product:
    """A node that multiplies two tensors, neither of which is constant."""

    node: NodeProto

    @property
    def left(self) -> str:
        """The tensor whose rows are multiplied."""
        return str(self.node.input[0])

    @property
    def right(self) -> str:
        """The tensor whose columns are multiplied: keys after their transposition."""
        return str(self.node.input[1])

    @property
    def output(self) -> str:
        """Its output tensor."""
        return str(self.node.output[0])

    @property
    def name(self) -> str:
        """The node's name, without the parts that exporters add."""
        return node_name(self.node)


def products(network: Network) -> Iterator[Product]:
    """The products of activations in the order of the graph."""
    for node in network.nodes:
        if node.op_type == "MatMul" and not any(map(network.is_constant, node.input)):
            yield Product(node)


def choose_ranges(
    product: Product, batches: Sequence[Feed], known: Mapping[str, Range]
) -> tuple[dict[str, Range], float] | None:
    """The ranges of both operands that change the product least, and that change relative to the product.

    ``batches`` hold both operands; a range that is ``known`` stays. None if the operands are not float32 matrices.
    """
    pairs = [(values[product.left], values[product.right]) for values in batches]
    if any(value.dtype != np.float32 or value.ndim < 2 for pair in pairs for value in pair):
        return None
    sample = _sample(pairs)
    expected = [left @ right for left, right in sample]
    energy = sum(float(np.vdot(value, value)) for value in expected) or 1e-30

    def harm(left: Range, right: Range) -> float:
        lost = [left.rounded(a) @ right.rounded(b) - exact for (a, b), exact in zip(sample, expected, strict=True)]
        return float((sum(float(np.vdot(value, value)) for value in lost) / energy) ** 0.5)

    left, right = (
        known.get(name) or _observed(side)
        for name, side in zip(product.node.input, zip(*pairs, strict=True), strict=True)
    )
    if product.left not in known:
        left = min(_candidates(left), key=lambda span: harm(span, right))
    if product.right not in known:
        right = min(_candidates(right), key=lambda span: harm(left, span))
    return {product.left: left, product.right: right}, harm(left, right)


def _observed(values: Iterable[NDArray[np.generic]]) -> Range:
    parts = [value for value in values if value.size]
    return Range.of(min(float(p.min()) for p in parts), max(float(p.max()) for p in parts))


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
    wanted = set(np.linspace(0, count - 1, min(count, _MATRICES)).astype(int).tolist())
    found, start = [], 0
    for left, right in stacks:
        chosen = [number - start for number in sorted(wanted) if start <= number < start + len(left)]
        found += [(left[number], right[number]) for number in chosen]
        start += len(left)
    return found
