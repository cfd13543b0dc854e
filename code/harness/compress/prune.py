"""Chooses the weights to prune by magnitude or by second-order information, and refits the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

_STEPS = 10
"""Stages of second-order pruning: the remaining weights are refitted after each, then the next are chosen."""
_FIT, _LAST_FIT = 8, 30  # iterations of conjugate gradients
_SPARSITY_GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Sparsities at which to measure a layer's loss."""
FITS_OF_LOSSES = (len(_SPARSITY_GRID) + 1) * (_FIT + 1)
"""Approximate cost of `losses`, in products of a layer's weights with its Gram matrix."""
FITS_OF_PRUNING = (_STEPS + 1) * (_FIT + 1) + _LAST_FIT
"""The same for `second_order`."""
_MAX_SPARSITY = 0.95  # of one layer, when each gets its own
_DAMPING = 0.01
"""Share of the Gram matrix's mean diagonal that is added to it: calibration data does not span all directions."""


@dataclass(frozen=True)
class Statistics:
    """Calibration statistics of a layer: x are its inputs in the compressed model, y the outputs it should produce.

    Both are centred on their means, because the bias corrects for these. The best weights W minimise
    |x W' - y|^2 = tr(W gram W') - 2 tr(W target') + |y|^2.
    """

    gram: NDArray[np.float32]
    """x'x, float32 (inputs, inputs)."""
    target: NDArray[np.float32]
    """y'x, float32 (outputs, inputs)."""
    energy: float
    """Sum of squares of the dense layer's outputs."""
    inputs: NDArray[np.float32]
    """Mean of x, float32 (inputs,)."""
    outputs: NDArray[np.float32]
    """Mean of y, float32 (outputs,)."""

    def damped(self, dense: NDArray[np.float32]) -> Statistics:
        """Regularised towards the weights of the dense layer, for directions with little data."""
        damping = np.float32(_DAMPING * max(float(np.diag(self.gram).mean()), 1e-12))
        gram = self.gram + damping * np.eye(len(self.gram), dtype=np.float32)
        return replace(self, gram=gram, target=self.target + damping * dense)

    def loss(self, weight: NDArray[np.float32]) -> float:
        """The squared error of these weights relative to ``energy``, minus a constant."""
        return float(np.vdot(weight @ self.gram - 2 * self.target, weight)) / max(self.energy, 1e-30)

    def bias(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """The correction to add to the outputs of these weights, float32 (outputs,)."""
        bias: NDArray[np.float32] = self.outputs - weight @ self.inputs
        return bias


def magnitude(weight: NDArray[np.float32], sparsity: float, block: int) -> NDArray[np.float32]:
    """The weights, float32 (outputs, inputs), without the blocks with the smallest sum of squares along the inputs."""
    return weight * _keep(_by_block(weight**2, block).sum(axis=2), sparsity, weight.shape, block)


def second_order(
    weight: NDArray[np.float32], statistics: Statistics, sparsity: float, block: int
) -> NDArray[np.float32]:
    """Prune the weights that matter least to the layer's outputs, and fit the others to the dense layer's outputs.

    The score of a block B of weights w is w' (inverse(H)_BB)^-1 w, where H is the Gram matrix: the increase of the
    squared output error if the block is removed and all other weights of its row adapt. This is the score of the
    Optimal BERT Surgeon (Kurtic et al., arXiv:2203.07259, equation 6) with the layer's own error instead of the model's
    loss, as in the Optimal Brain Compressor (Frantar and Alistarh, arXiv:2208.11580). Blocks are removed in stages of a
    cubic schedule; the remaining weights are the least-squares solution, by conjugate gradients. Weights that are
    already 0 stay 0.
    """
    weight = fit(weight, weight != 0, statistics, _FIT)
    shares = [sparsity * (1 - (1 - stage / _STEPS) ** 3) for stage in range(1, _STEPS + 1)]
    *_, sparse = _path(weight, statistics, shares, block)
    return fit(sparse, sparse != 0, statistics, _LAST_FIT)


@dataclass(frozen=True)
class LayerLosses:
    """The loss of a dense layer under second-order pruning at increasing sparsity."""

    curve: list[tuple[float, float]]
    """(sparsity, loss), from the present zeros to an empty layer. The loss is the squared output error relative to each
    output's variance, averaged over outputs: otherwise outputs with a large variance would hide the others, which still
    matter to the next operator, most often a normalisation."""
    weight: NDArray[np.float32]
    """Float32 (outputs, inputs), at the measured sparsity nearest to the requested one."""
    loss: float
    """The loss of ``weight``."""

    def scaled(self, harm: float) -> list[tuple[float, float]]:
        """The curve rescaled so that ``weight`` has the loss ``harm``."""
        factor = harm / max(self.loss, 1e-30)
        return [(share, lost * factor) for share, lost in self.curve]


def losses(weight: NDArray[np.float32], statistics: Statistics, block: int, sparsity: float) -> LayerLosses:
    """Prune a layer in steps, to get its losses, and its weights at about ``sparsity``."""
    variance = np.einsum("ri,ri->r", weight @ statistics.gram, weight) + 1e-30
    gone = float((~_by_block(weight, block).any(axis=2)).sum()) * block / weight.size
    curve = [(0.0, 0.0), (gone, 0.0)] if gone else [(0.0, 0.0)]
    grid = [share for share in _SPARSITY_GRID if share > gone] or [(1 + gone) / 2]
    nearest = min(grid, key=lambda share: abs(share - sparsity))
    for share, sparse in zip(grid, _path(weight, statistics, grid, block), strict=True):
        lost = sparse - weight
        curve.append((share, float((np.einsum("ri,ri->r", lost @ statistics.gram, lost) / variance).mean())))
        if share == nearest:
            chosen, loss = sparse, curve[-1][1]
    return LayerLosses([*curve, (1.0, 1.0)], chosen, loss)


def allocate(
    curves: Mapping[str, list[tuple[float, float]]], sizes: Mapping[str, int], sparsity: float
) -> dict[str, float]:
    """The sparsity of each layer that minimises the sum of losses at a given overall sparsity.

    At the minimum, pruning one more weight costs the same in every layer (a Lagrange multiplier, found by bisection).
    """
    grid = np.linspace(0, max(_MAX_SPARSITY, sparsity), 200)
    # Between the measured points, the square root of the loss is nearly linear; the loss itself is not.
    loss = {
        name: np.interp(grid, [share for share, _ in curve], [lost**0.5 for _, lost in curve]) ** 2
        for name, curve in curves.items()
    }
    total = sum(sizes.values())

    def choose(price: float) -> dict[str, float]:
        return {name: float(grid[np.argmin(loss[name] - price * sizes[name] * grid)]) for name in loss}

    low, high = 1e-30, 1.0
    for _ in range(200):
        price = (low * high) ** 0.5
        short = sum(sizes[name] * share for name, share in choose(price).items()) < sparsity * total
        low, high = (price, high) if short else (low, price)
    # Between the two prices a layer's sparsity jumps by at least one grid point.
    few, many = choose(low), choose(high)
    lack, leap = (
        sum(sizes[name] * (share - few[name]) for name, share in shares.items())
        for shares in (dict.fromkeys(few, sparsity), many)
    )
    part = min(max(lack / leap, 0.0), 1.0) if leap > 0 else 1.0
    return {name: (1 - part) * few[name] + part * many[name] for name in many}


def _path(
    weight: NDArray[np.float32], statistics: Statistics, shares: Sequence[float], block: int
) -> Iterator[NDArray[np.float32]]:
    """The weights at each of these sparsities, each fitted from the previous one."""
    inverse = np.linalg.inv(statistics.gram.astype(np.float64)).astype(np.float32)
    starts = range(0, weight.shape[1] // block * block, block)
    curvature = np.linalg.inv(np.reshape([inverse[i : i + block, i : i + block] for i in starts], (-1, block, block)))
    for share in shares:
        blocks = _by_block(weight, block)
        harm = np.einsum("rbi,bij,rbj->rb", blocks, curvature, blocks, optimize=True)
        weight = fit(weight, _keep(harm, share, weight.shape, block) & (weight != 0), statistics, _FIT)
        yield weight


def fit(
    weight: NDArray[np.float32], keep: NDArray[np.bool_], statistics: Statistics, iterations: int
) -> NDArray[np.float32]:
    """The weights whose outputs are nearest to the dense ones, with only those in ``keep`` other than 0.

    Conjugate gradients with a diagonal preconditioner, all rows at once.
    """
    gram = statistics.gram
    scale = 1 / np.diag(gram)
    weight = weight * keep
    residual = (statistics.target - weight @ gram) * keep
    step = residual * scale
    size = (residual * step).sum(axis=1, keepdims=True)
    for _ in range(iterations):
        image = (step @ gram) * keep
        length = size / np.maximum((step * image).sum(axis=1, keepdims=True), 1e-30)
        weight = weight + length * step
        residual = residual - length * image
        scaled = residual * scale
        size, previous = (residual * scaled).sum(axis=1, keepdims=True), size
        step = scaled + size / np.maximum(previous, 1e-30) * step
    return weight


def _by_block(values: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    """The values as (outputs, blocks, block), without the inputs after the last complete block."""
    return values[:, : values.shape[1] // block * block].reshape(len(values), -1, block)


def _keep(score: NDArray[np.float32], sparsity: float, shape: tuple[int, ...], block: int) -> NDArray[np.bool_]:
    """bool (outputs, inputs): False for the blocks with the lowest scores, up to the share ``sparsity``."""
    keep = np.ones(score.size, bool)
    count = min(round(sparsity * shape[0] * shape[1] / block), score.size)
    if count:
        keep[np.argpartition(score, count - 1, axis=None)[:count]] = False
    whole = np.repeat(keep.reshape(score.shape), block, axis=1)
    return np.pad(whole, [(0, 0), (0, shape[1] - whole.shape[1])], constant_values=True)
