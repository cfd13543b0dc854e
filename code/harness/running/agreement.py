"""Whether an engine computes a model as ONNX Runtime does.

An engine can be wrong without an error, for some models and in some batches only: of a pruned INT8 EfficientNet,
DeepSparse 1.8.0 gets 81 % of the images right in batches of 16, and 75 % in batches of 64 (docs/compression.md). The
accuracy shows the loss, but not that the engine is its cause, so that the harness looks before an accuracy run.
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
"""What is no rounding any more. INT8 models that both engines compute rightly differ by 0.02 to 0.1."""
_SHAPES = 12  # at most, from the smallest to the largest
_ROWS = 4  # of a batch that ONNX Runtime computes, too: of what was seen to be wrong, most rows were


@dataclass(frozen=True)
class Agreement:
    """How far an engine's outputs are from ONNX Runtime's."""

    differences: dict[Shape, float]
    """By the shape of the batch: root of the squared difference, relative to the outputs around their mean."""
    right: int | None = None
    """The batch size, below those that are wrong, which is not; None if there is none, or nothing is wrong."""

    @classmethod
    def of(cls, record: Record) -> Agreement:
        """From the record of a run; no differences where they were not measured."""
        rows = record.agreement.differences if record.agreement else ()
        return cls({Shape(int(batch), int(length)): difference for batch, length, difference in rows})

    def record(self) -> dict[str, object]:
        """For the record of a run: (batch, length, difference) of each shape."""
        found = [[*shape, difference] for shape, difference in self.differences.items()]
        return {"with": OnnxRuntimeEngine.name, "differences": found}

    @property
    def worst(self) -> Shape:
        """The shape with the largest difference."""
        return max(self.differences, key=lambda shape: self.differences[shape])

    @property
    def wrong(self) -> list[Shape]:
        """The shapes in which the engine is wrong, the smallest batches first."""
        return sorted(shape for shape, difference in self.differences.items() if difference > LIMIT)

    def warning(self, engine: str) -> str:
        """What is wrong and what to do about it, "" for nothing."""
        if not self.wrong:
            return ""
        shapes = ", ".join(f"{shape.batch} x {shape.length}" for shape in self.wrong)
        smaller = f"give --set max_batch={self.right}, which it computes rightly, or " if self.right else ""
        off = self.differences[self.worst]
        return (
            f"in batches of {shapes}, what {engine} computes is {off:.0%} off what ONNX Runtime does, which is no "
            f"rounding: {smaller}use --engine onnxruntime."
        )


def agreement(
    benchmark: Benchmark, sut: SUT, indices: Integers, ran: Callable[[], None] = lambda: None
) -> Agreement | None:
    """Run a batch of each shape that was prepared, or of `_SHAPES` of them, and some of its rows on ONNX Runtime.

    Where one is wrong, smaller batches are prepared until one is right. ``indices`` are samples to choose from, int64
    (n,); they need not be loaded, and are not afterwards. ``ran`` is called for every batch.

    Returns:
        None where nothing can be compared: ONNX Runtime itself, an engine that computes nothing, an arg-max, or samples
        that are all longer than the graph that ONNX Runtime cannot reshape.

    Raises:
        ConfigError: ONNX Runtime sees another graph than the engine.
        EngineError: ONNX Runtime does not run the model.
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
    """Of one shape; None where nothing can be compared. ``by_cost`` are samples in the order of their cost."""
    qsl = sut.qsl
    # A length that the graph fixes binds ONNX Runtime, and may not bind the engine.
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
    off = size = 0.0
    for row in rows.tolist() if mine else ():
        one = batch[row : row + 1]
        (theirs,) = reference.values(reference.outputs(one, Shape(reference.static.batch or 1, length)), one)
        off += float(np.square(mine[row] - theirs, dtype=np.float64).sum())
        size += float(np.square(theirs - theirs.mean(), dtype=np.float64).sum())
        ran()
    qsl.unload(loaded)
    return (off / size) ** 0.5 if size else None
