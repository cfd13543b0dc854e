"""Checks whether an engine computes a model as ONNX Runtime does.

An engine can be wrong without an error, and only for some models and batches: with a pruned INT8 EfficientNet,
DeepSparse 1.8.0 gets 81 % of the images right in batches of 16, and 75 % in batches of 64 (docs/compression.md).
Accuracy shows the loss but not its cause, so the harness makes this check before an accuracy run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from harness.engines.base import engine_errors
from harness.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSettings
from harness.results.record import Record
from harness.task.base import Benchmark
from harness.task.shape import Integers, Shape
from harness.task.sut import SUT

LIMIT = 0.25
"""Maximum difference explained by rounding. INT8 models that both engines compute correctly differ by 0.02 to 0.1."""
_SHAPES = 12  # maximum number of shapes to compare, from the smallest to the largest
_ROWS = 4  # rows of a batch that ONNX Runtime also computes: in every wrong batch seen, most rows were wrong


@dataclass(frozen=True)
class Agreement:
    """The deviation of an engine's outputs from ONNX Runtime's."""

    differences: dict[Shape, float]
    """By batch shape: root of the squared difference, relative to the outputs around their mean."""
    right: int | None = None
    """A correct batch size below the wrong ones; None if there is none, or nothing is wrong."""

    @classmethod
    def of(cls, record: Record) -> Agreement:
        """From a run's record; empty if nothing was compared."""
        rows = record.agreement.differences if record.agreement else ()
        return cls({Shape(int(batch), int(length)): difference for batch, length, difference in rows})

    def record(self) -> dict[str, object]:
        """For a run's record: [batch, length, difference] of each shape."""
        found = [[*shape, difference] for shape, difference in self.differences.items()]
        return {"with": OnnxRuntimeEngine.name, "differences": found}

    @property
    def worst(self) -> Shape:
        """The shape with the largest difference."""
        return max(self.differences, key=lambda shape: self.differences[shape])

    @property
    def wrong(self) -> list[Shape]:
        """The shapes that the engine computes incorrectly, smallest batches first."""
        return sorted(shape for shape, difference in self.differences.items() if difference > LIMIT)

    def warning(self, engine: str) -> str:
        """What is wrong and how to avoid it; "" if nothing is wrong."""
        if not self.wrong:
            return ""
        shapes = ", ".join(f"{shape.batch} x {shape.length}" for shape in self.wrong)
        smaller = f"--set max_batch={self.right}, which it computes correctly, or " if self.right else ""
        return (
            f"in batches of {shapes}, {engine} differs from ONNX Runtime by up to {self.differences[self.worst]:.0%}, "
            f"more than rounding explains: use {smaller}--engine onnxruntime."
        )


def agreement(
    benchmark: Benchmark, sut: SUT, indices: Integers, ran: Callable[[], None] = lambda: None
) -> Agreement | None:
    """Run a batch of each prepared shape, or of `_SHAPES` of them, and some of its rows on ONNX Runtime.

    If one is wrong, smaller batches are prepared until one is correct. ``indices`` are samples to choose from, int64
    (n,); they need not be loaded, and are not loaded afterwards. ``ran`` is called after every batch.

    Returns:
        None if nothing can be compared: the engine is ONNX Runtime or computes nothing, the output is an arg-max, or
        all samples are longer than a graph that ONNX Runtime cannot reshape.

    Raises:
        ConfigError: ONNX Runtime sees a different graph than the engine.
        EngineError: ONNX Runtime cannot run the model.
    """
    if isinstance(sut.engine, OnnxRuntimeEngine) or not sut.engine.computes:
        return None
    assert sut.engine.model is not None
    with engine_errors(OnnxRuntimeEngine.name, f"to load {sut.engine.model}"):
        engine = OnnxRuntimeEngine(sut.engine.model, OnnxRuntimeSettings(streams=1))
    reference = benchmark.make_sut(engine, sut.qsl)
    by_cost = indices[np.argsort(sut.qsl.cost(indices), kind="stable")]
    shapes = sorted(sut.prepared)
    shapes = [shapes[n] for n in np.unique(np.linspace(0, len(shapes) - 1, min(len(shapes), _SHAPES)).astype(int))]
    found = {shape: _difference(sut, reference, by_cost, shape, ran) for shape in shapes}
    result = Agreement({shape: difference for shape, difference in found.items() if difference is not None})
    if not result.wrong:
        return result if result.differences else None
    smallest = result.wrong[0]
    batch = 0 if sut.static.batch else smallest.batch // 2
    while batch:
        shape = Shape(batch, smallest.length)
        if shape not in sut.prepared:
            sut.prepare(shape)
        if (_difference(sut, reference, by_cost, shape, ran) or 0) <= LIMIT:
            break
        batch //= 2
    return replace(result, right=batch or None)


def _difference(sut: SUT, reference: SUT, by_cost: Integers, shape: Shape, ran: Callable[[], None]) -> float | None:
    """The difference of one shape; None if nothing can be compared. ``by_cost`` are samples sorted by cost."""
    qsl = sut.qsl
    # A length that the graph fixes binds ONNX Runtime, but not always the engine.
    length = reference.static.length or shape.length
    fitting = by_cost[: int(np.searchsorted(qsl.cost(by_cost), min(length, shape.length), side="right"))]
    if not len(fitting):
        return None
    batch = np.resize(fitting[-shape.batch :], shape.batch)
    loaded = np.unique(batch)
    qsl.load(loaded)
    mine = sut.values(sut.outputs(batch, shape), batch)
    ran()
    rows = np.unique(np.linspace(0, shape.batch - 1, _ROWS).astype(int))
    error = size = 0.0
    for row in rows.tolist() if mine else ():
        one = batch[row : row + 1]
        (theirs,) = reference.values(reference.outputs(one, Shape(reference.static.batch or 1, length)), one)
        error += float(np.square(mine[row] - theirs, dtype=np.float64).sum())
        size += float(np.square(theirs - theirs.mean(), dtype=np.float64).sum())
        ran()
    qsl.unload(loaded)
    return (error / size) ** 0.5 if size else None
