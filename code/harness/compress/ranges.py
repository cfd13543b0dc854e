"""The range of values that the 8 bits of a tensor represent, and its observation on calibration data."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from harness.compress.network import Feed, Network, session

REACHES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Fractions of the observed range to try for a matrix product's inputs: rare outliers cost other values precision."""
_SIGNED = 128


@dataclass(frozen=True)
class Range:
    """Minimum and maximum value that the 8 bits of a tensor can represent; 0 is always representable."""

    low: float
    high: float

    @classmethod
    def of(cls, low: float, high: float) -> Range:
        """Includes 0; rounded to four digits, so that the last bits of a processor's sums do not change the model.

        The zero point is never 128: OpenVINO 2026.4 does not load a product of activations whose second operand has it
        ("Check 'convert->constant_fold(...)' failed"). The range is then about 1 % wider.
        """
        low, high = min(0.0, float(f"{low:.4g}")), max(0.0, float(f"{high:.4g}"))
        found = cls(low, high if high - low > 1e-30 else low + 1.0)
        return cls(low, -low * _SIGNED / (_SIGNED - 1)) if found.zero == _SIGNED else found

    @classmethod
    def of_steps(cls, scale: np.float32, zero: int) -> Range:
        """The range of exactly this scale and this zero point, 0 to 255."""
        return cls(-zero * float(scale), (255 - zero) * float(scale))

    @property
    def scale(self) -> np.float32:
        """The size of one step."""
        return np.float32((self.high - self.low) / 255)

    @property
    def zero(self) -> np.uint8:
        """The zero point."""
        return np.uint8(round(-self.low / self.scale))

    def rounded(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 values after quantisation to 8 bits and back."""
        zero = float(self.zero)
        steps: NDArray[np.float32] = np.clip(np.rint(values / self.scale) + zero, 0, 255)
        return ((steps - zero) * self.scale).astype(np.float32)


def observe(network: Network, names: Iterable[str], feeds: Iterable[Feed]) -> dict[str, Range]:
    """The ranges of named tensors over all calibration batches."""
    names = sorted(set(names))
    inputs = {value.name for value in network.model.graph.input}
    model = ModelProto.FromString(network.model.SerializeToString())
    known = {value.name for value in model.graph.output} | inputs
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    running = session(model)
    wanted = [name for name in names if name not in inputs]
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for feed in feeds:
        values = dict(zip(wanted, running.run(wanted, dict(feed)), strict=True)) if wanted else {}
        values.update((name, feed[name]) for name in names if name in inputs)
        for name, value in values.items():
            low[name] = min(low[name], float(value.min()))
            high[name] = max(high[name], float(value.max()))
    return {name: Range.of(low[name], high[name]) for name in names}
