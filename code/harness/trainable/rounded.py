"""Rounding to 8 bits and back within training, with the arithmetic of `harness.compress`.

The gradient passes through the rounding as if it were not there, except where a value lies outside the range (the
straight-through estimator: Bengio et al., arXiv:1308.3432; Jacob et al., arXiv:1712.05877).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from harness.compress.network import Layer
from harness.compress.ranges import Range
from harness.compress.rounding import GREATEST, Rounded, keep_sums

_INERTIA = 0.99
"""Weight of the past in the moving averages of ranges."""


def in_bytes(value: Tensor, span: Range) -> Tensor:
    """Float32 values after rounding to uint8 in a range, and back."""
    return torch.fake_quantize_per_tensor_affine(value.float(), float(span.scale), int(span.zero), 0, 255)


@dataclass
class ActivationQuantiser:
    """Rounds one tensor to 8 bits, with a range that follows its values during training.

    The range is the moving average of a batch's minimum and maximum (Jacob et al., arXiv:1712.05877, section 3.1),
    times the part of it that was found best before training. A step moves the range once, after its last forward pass,
    so that it does not matter in how many parts a batch is computed.
    """

    low: float = 0.0
    high: float = 0.0
    reaches: tuple[float, float] = (1.0, 1.0)
    """Parts of the minimum and the maximum that the 8 bits represent; above 1 where single batches reach further."""
    follows: bool = False
    """Whether the values are those of a training step, which move the range."""
    seen: list[tuple[float, float]] = field(default_factory=list)
    """Minima and maxima of the step so far."""
    watch: Callable[[Tensor], None] | None = None
    """If set, gets the values, which are then not rounded."""

    @property
    def range(self) -> Range:
        """The range that the 8 bits represent."""
        return Range.of(self.low * self.reaches[0], self.high * self.reaches[1])

    def __call__(self, value: Tensor) -> Tensor:
        """Round a value."""
        if self.watch is not None:
            self.watch(value.detach())
            return value
        if self.follows:
            found = limits(value)
            if all(map(math.isfinite, found)):
                self.seen.append(found)
        return in_bytes(value, self.range)

    def move(self) -> None:
        """Move the range towards the values of the step."""
        if self.seen:
            low, high = min(low for low, _ in self.seen), max(high for _, high in self.seen)
            self.low += (1 - _INERTIA) * (low - self.low)
            self.high += (1 - _INERTIA) * (high - self.high)

    def widen(self, value: Tensor) -> None:
        """Widen the range to include the values of a batch."""
        low, high = limits(value)
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.seen.append((low, high))

    def settle(self) -> None:
        """Keep the range that was found, as a part of the mean minimum and maximum of the batches that `widen` saw.

        The moving average tends towards these means: as a part of the extremes, the range would shrink in training.
        """
        present = self.low * self.reaches[0], self.high * self.reaches[1]
        if self.seen:
            self.low, self.high = (sum(values) / len(self.seen) for values in zip(*self.seen, strict=True))
        self.reaches = (
            present[0] / self.low if self.low < 0 else 1.0,
            present[1] / self.high if self.high > 0 else 1.0,
        )
        self.seen.clear()

    def state(self) -> dict[str, Any]:
        """Plain data, for checkpoints."""
        return {"low": self.low, "high": self.high, "reaches": self.reaches}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.low, self.high, self.reaches = state["low"], state["high"], tuple(state["reaches"])


def limits(value: Tensor) -> tuple[float, float]:
    """Minimum and maximum, widened to include 0."""
    low, high = torch.aminmax(value.detach())
    return min(float(low), 0.0), max(float(high), 0.0)


@dataclass
class WeightQuantiser:
    """Rounds a layer's matrix (outputs, inputs) to symmetric 8 bits, with one scale or one per output.

    The scale follows the largest weight. The weights of a grouped convolution keep their sums, as in
    `harness.compress.rounding.keep_sums`.
    """

    layer: Layer
    per_output: bool = False
    clip: float = 1.0
    """The part of the largest weight that becomes the largest integer."""

    def scale(self, matrix: Tensor) -> Tensor:
        """Float32 (1, 1) or (outputs, 1)."""
        greatest = matrix.detach().abs().amax(dim=1 if self.per_output else (0, 1), keepdim=True)
        return torch.where(greatest > 0, greatest, 1.0).float() * np.float32(self.clip).item() / GREATEST

    def __call__(self, matrix: Tensor) -> Tensor:
        """Round a matrix."""
        if self.layer.groups > 1:
            exact = matrix.detach()
            rounded = torch.from_numpy(keep_sums(exact.cpu().numpy()).weight).to(exact)
            return matrix + (rounded - exact)
        scale = self.scale(matrix).reshape(-1)
        zero = torch.zeros(scale.shape, dtype=torch.int32, device=matrix.device)
        if self.per_output:
            return torch.fake_quantize_per_channel_affine(matrix, scale, zero, 0, -GREATEST, GREATEST)
        return torch.fake_quantize_per_tensor_affine(matrix, scale, zero, -GREATEST, GREATEST)

    def rounded(self, matrix: Tensor) -> Rounded:
        """The integers and scales of a matrix with which training computes."""
        if self.layer.groups > 1:
            return keep_sums(matrix.detach().cpu().numpy())
        with torch.no_grad():
            scale = self.scale(matrix)
            values = torch.round(self(matrix) / scale).to(torch.int8)
        return Rounded(np.ascontiguousarray(values.cpu().numpy()), scale.cpu().numpy())


@dataclass(frozen=True)
class TableQuantiser:
    """Rounds the rows that are read from an embedding table to 8 bits."""

    table: Callable[[], Tensor]

    def __call__(self, rows: Tensor) -> Tensor:
        """Round rows, in the range of the whole table."""
        low, high = limits(self.table())
        return in_bytes(rows, Range.of(low, high))
