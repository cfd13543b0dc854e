"""The deviation of an engine's outputs from ONNX Runtime's: measured before an accuracy run, recorded and reported."""

from __future__ import annotations

from dataclasses import dataclass

from harness.engines.onnxruntime import OnnxRuntimeEngine
from harness.results.record import Record, RecordedAgreement
from harness.task.shape import Shape

MAX_DIFFERENCE = 0.25
"""Maximum difference explained by rounding.

INT8 models that both engines compute correctly differ by 0.02 to 0.1. bf16, which keeps 8 of FP32's 24 bits, is within
that: with the operands of every product rounded to it, MiniLM differs by 0.005 and EfficientNet-Lite0 by 0.04.
"""


@dataclass(frozen=True)
class Agreement:
    """The deviation of an engine's outputs from ONNX Runtime's."""

    differences: dict[Shape, float]
    """By batch shape: root mean square difference, relative to the standard deviation of ONNX Runtime's outputs."""
    right: int | None = None
    """A correct batch size below the wrong ones; None if there is none, or nothing is wrong."""
    at_once: int = 1
    """The number of batches that must run at once for an output to be wrong."""

    @classmethod
    def of(cls, record: Record) -> Agreement:
        """From a run's record; empty if nothing was compared."""
        rows = record.agreement.differences if record.agreement else ()
        return cls({Shape(int(batch), int(length)): difference for batch, length, difference in rows})

    def record(self) -> RecordedAgreement:
        """For a run's record."""
        found: list[list[int | float]] = [[*shape, difference] for shape, difference in self.differences.items()]
        return RecordedAgreement(reference=OnnxRuntimeEngine.name, differences=found)

    @property
    def worst(self) -> Shape:
        """The shape with the largest difference."""
        return max(self.differences, key=lambda shape: self.differences[shape])

    @property
    def wrong(self) -> list[Shape]:
        """The shapes that the engine computes incorrectly, smallest batches first."""
        return sorted(shape for shape, difference in self.differences.items() if difference > MAX_DIFFERENCE)

    def warning(self, engine: str) -> str:
        """The deviation and how to avoid it; "" if nothing is wrong."""
        if not self.wrong:
            return ""
        shapes = ", ".join(f"{shape.batch} x {shape.length}" for shape in self.wrong)
        smaller = f"--set max_batch={self.right}, which it computes correctly, or " if self.right else ""
        at_once = ""
        if self.at_once > 1:
            at_once, smaller = f", {self.at_once} at once", "--set streams=1, with which it is correct, or "
        return (
            f"in batches of {shapes}{at_once}, {engine} differs from ONNX Runtime by up to "
            f"{self.differences[self.worst]:.0%}, more than rounding explains: use {smaller}--engine onnxruntime."
        )
