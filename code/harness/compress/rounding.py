"""Weights as symmetric 8-bit integers, with one scale per layer or one per output."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.compress.prune import Statistics

GREATEST = 127
"""The largest integer; symmetric, so -128 is not used."""
CLIPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Fractions of the largest weight to try as the value of the largest integer."""
_BLOCK_COLUMNS = 128  # rounded before the columns after them are corrected


@dataclass(frozen=True)
class Rounded:
    """int8 (outputs, inputs) and float32 scales (1, 1) or (outputs, 1): weight = values * scale."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]

    @property
    def weight(self) -> NDArray[np.float32]:
        """The values that the integers represent, float32 (outputs, inputs)."""
        return self.values.astype(np.float32) * self.scale

    @property
    def per_output(self) -> bool:
        """Whether each output has its own scale."""
        return self.scale.size > 1


def nearest(weight: NDArray[np.float32], statistics: Statistics | None = None, *, per_output: bool = False) -> Rounded:
    """Round to the nearest integer; with statistics, the largest weights are clipped if that reduces the error."""
    reach = np.abs(weight).max(axis=1 if per_output else None, keepdims=True)
    reach = np.where(reach > 0, reach, 1).astype(np.float32)
    candidates = [_round(weight, reach * np.float32(clip) / GREATEST) for clip in (CLIPS if statistics else (1.0,))]
    return min(candidates, key=lambda rounded: statistics.loss(rounded.weight)) if statistics else candidates[0]


def second_order(weight: NDArray[np.float32], statistics: Statistics, *, per_output: bool = False) -> Rounded:
    """Round column by column, and compensate each error in the columns after it; zeros stay zeros.

    The update is that of GPTQ (Frantar et al., arXiv:2210.17323, equation 3), from the Cholesky factor of the inverse
    of the Gram matrix. If rounding to the nearest gives a smaller error, that is used.
    """
    plain = nearest(weight, statistics, per_output=per_output)
    scale, keep = plain.scale, weight != 0
    factor = np.linalg.cholesky(np.linalg.inv(statistics.gram.astype(np.float64))).T.astype(np.float32)
    values = np.zeros(weight.shape, np.int8)
    rest = weight.copy()
    for start in range(0, weight.shape[1], _BLOCK_COLUMNS):
        stop = min(start + _BLOCK_COLUMNS, weight.shape[1])
        errors = np.zeros((len(weight), stop - start), np.float32)
        for column in range(start, stop):
            rounded = _round(rest[:, column : column + 1], scale)
            values[:, column] = rounded.values[:, 0]
            errors[:, column - start] = (rest[:, column] - rounded.weight[:, 0]) / factor[column, column]
            update = np.outer(errors[:, column - start], factor[column, column:stop])
            rest[:, column:stop] -= update * keep[:, column:stop]
        rest[:, stop:] -= (errors @ factor[start:stop, stop:]) * keep[:, stop:]
    corrected = Rounded(values, scale)
    return min(corrected, plain, key=lambda rounded: statistics.loss(rounded.weight))


def keep_sums(weight: NDArray[np.float32]) -> Rounded:
    """Round so that the weights of each output keep their sum, for few weights with similar inputs.

    Rounding each weight to the nearest shifts an output's sum and thus its mean, because inputs after a ReLU are never
    negative: in a depthwise convolution this shift can be as large as a weak channel itself. Therefore as many weights
    are rounded up as the sum requires, those with the largest fractions first.
    """
    scale = np.full((1, 1), max(float(np.abs(weight).max()), 1e-30) / GREATEST, np.float32)
    exact = weight.astype(np.float64) / scale
    low = np.floor(exact)
    fraction = exact - low
    rank = (-fraction).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    rounded = low + (rank < np.rint(fraction.sum(axis=1, keepdims=True)))
    return Rounded(np.clip(rounded, -GREATEST, GREATEST).astype(np.int8), scale)


def _round(weight: NDArray[np.float32], scale: NDArray[np.float32]) -> Rounded:
    return Rounded(np.clip(np.rint(weight / scale), -GREATEST, GREATEST).astype(np.int8), scale)
