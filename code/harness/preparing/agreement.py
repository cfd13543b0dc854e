"""Checks whether an engine computes a model as ONNX Runtime does.

An engine can be wrong without an error, and only for some models and batches: with a pruned INT8 EfficientNet,
DeepSparse 1.8.0 gets 81 % of the images right in batches of 16, and 75 % in batches of 64 (docs/compression.md).
Accuracy shows the loss but not its cause, so the harness makes this check before an accuracy run.

It runs as many batches at once as the test will, and reads the outputs only when all have returned: an engine that
keeps one buffer for all streams would otherwise be right or wrong by chance.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from threading import Barrier

import numpy as np

from harness.engines.base import engine_errors
from harness.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSettings
from harness.errors import EngineError, HarnessError
from harness.results.agreement import MAX_DIFFERENCE, Agreement
from harness.task.base import Benchmark
from harness.task.shape import Array, Integers, Shape
from harness.task.sut import SUT

_MAX_SHAPES = 12  # to compare, from the smallest to the largest
_COMPARED_ROWS = 4  # rows of a shape that ONNX Runtime also computes: in every wrong batch seen, most rows were wrong
_HOLD_SECONDS = 0.01  # that outputs are held before they are read: by then nothing may write to them


def agreement(
    benchmark: Benchmark,
    sut: SUT,
    indices: Integers,
    ran: Callable[[], None] = lambda: None,
    original: Path | None = None,
) -> Agreement | None:
    """Run a batch of each prepared shape, or of `_MAX_SHAPES` of them, and some of its rows on ONNX Runtime.

    If a shape is wrong, smaller batches are prepared until one is correct. ``indices`` are samples to choose from,
    int64 (n,); they need not be loaded, and are not loaded afterwards. ``ran`` is called after every batch.
    ``original`` is the model's file for ONNX Runtime, if the engine's was converted from it.

    Returns:
        None if nothing can be compared: the engine is ONNX Runtime or computes nothing, the output is an arg-max, or
        all samples are longer than the length that the graph fixes for ONNX Runtime.

    Raises:
        NotCompared: ONNX Runtime cannot run the model, or sees a different graph than the engine.
        EngineError: the engine fails, or outputs of batches that ran at once share memory.
    """
    if type(sut.engine) is OnnxRuntimeEngine or not sut.engine.computes:
        return None
    model = original or sut.engine.model
    assert model is not None
    with _by_onnx_runtime(), engine_errors(OnnxRuntimeEngine.name, f"to load {model}"):
        engine = OnnxRuntimeEngine(model, OnnxRuntimeSettings(streams=1))
        reference = benchmark.make_sut(engine, sut.qsl)
    by_cost = indices[np.argsort(sut.qsl.cost(indices), kind="stable")]
    compare = _EngineComparison(sut, reference, by_cost, ran)
    shapes = sorted(sut.prepared)
    shapes = [shapes[n] for n in np.unique(np.linspace(0, len(shapes) - 1, min(len(shapes), _MAX_SHAPES)).astype(int))]
    found = {shape: compare.difference(shape, sut.engine.in_flight) for shape in shapes}
    result = Agreement({shape: difference for shape, difference in found.items() if difference is not None})
    if not result.wrong:
        return result if result.differences else None
    # Only for better advice: the test runs none of these batches, so an engine that cannot run them does not end it.
    with suppress(EngineError):
        smallest = result.wrong[0]
        if sut.engine.in_flight > 1 and compare.right(smallest, 1):
            return replace(result, at_once=sut.engine.in_flight)
        batch = 0 if sut.static.batch else smallest.batch // 2
        while batch:
            shape = Shape(batch, smallest.length)
            if shape not in sut.prepared:
                sut.prepare(shape)
            if compare.right(shape, sut.engine.in_flight):
                return replace(result, right=batch)
            batch //= 2
    return result


class NotCompared(EngineError):
    """ONNX Runtime cannot run the model."""


@contextmanager
def _by_onnx_runtime() -> Iterator[None]:
    try:
        yield
    except HarnessError as error:
        raise NotCompared(str(error)) from error


@dataclass(frozen=True)
class _EngineComparison:
    sut: SUT
    reference: SUT
    by_cost: Integers
    """Samples sorted by cost."""
    ran: Callable[[], None]

    def right(self, shape: Shape, at_once: int) -> bool:
        return (self.difference(shape, at_once) or 0) <= MAX_DIFFERENCE

    def difference(self, shape: Shape, at_once: int) -> float | None:
        """The difference of ``at_once`` batches that run together; None if nothing can be compared."""
        qsl = self.sut.qsl
        # A length that the graph fixes binds ONNX Runtime, but not always the engine.
        length = self.reference.static.length or shape.length
        cost = qsl.cost(self.by_cost)
        fitting = self.by_cost[: int(np.searchsorted(cost, min(length, shape.length), side="right"))]
        if not len(fitting):
            return None
        # Each batch has another sample in the same row.
        batches = [np.resize(np.roll(fitting, place)[-shape.batch :], shape.batch) for place in range(at_once)]
        loaded = np.unique(np.concatenate(batches))
        qsl.load(loaded)
        try:
            return self._difference(batches, shape, length)
        finally:
            qsl.unload(loaded)

    def _difference(self, batches: Sequence[Integers], shape: Shape, length: int) -> float | None:
        found = self._at_once(batches, shape)
        error = size = 0.0
        rows = np.linspace(0, shape.batch - 1, _COMPARED_ROWS).astype(int).tolist()
        places = np.linspace(0, len(batches) - 1, _COMPARED_ROWS).astype(int).tolist()
        for place, row in sorted({*zip(places, rows, strict=True)}) if found[0] else ():
            theirs = self._expected(batches[place][row : row + 1], length)
            error += float(np.square(found[place][row] - theirs, dtype=np.float64).sum())
            size += float(np.square(theirs - theirs.mean(), dtype=np.float64).sum())
        return (error / size) ** 0.5 if size else None

    def _at_once(self, batches: Sequence[Integers], shape: Shape) -> list[list[Array]]:
        """The values of each batch, read when all have returned: by then, a buffer that they share is overwritten."""
        start = Barrier(len(batches))

        def run(batch: Integers) -> Sequence[Array]:
            start.wait()  # so that each batch has its own thread, for which an engine may keep a buffer
            return self.sut.run(batch, shape)

        self.sut.runner(shape)
        with ThreadPoolExecutor(len(batches), thread_name_prefix="stream") as pool:
            returned = list(pool.map(run, batches))
            self.ran()
            time.sleep(_HOLD_SECONDS)
        checked = [self.sut.checked(outputs, shape) for outputs in returned]
        _check_memory(self.sut.engine.name, returned)
        return [self.sut.values(outputs, batch) for outputs, batch in zip(checked, batches, strict=True)]

    def _expected(self, sample: Integers, length: int) -> Array:
        shape = Shape(self.reference.static.batch or 1, length)
        with _by_onnx_runtime():
            (values,) = self.reference.values(self.reference.outputs(sample, shape), sample)
        self.ran()
        return values


def _check_memory(engine: str, returned: Sequence[Sequence[Array]]) -> None:
    """Raise an error if two batches returned the same memory: answers would be right by chance only."""
    for mine, theirs in combinations(returned, 2):
        if any(np.shares_memory(one, other) for one in mine for other in theirs):
            raise EngineError(
                f"{engine} returned the outputs of batches that ran at once in the same memory: one would overwrite "
                "another's before it is read. Return new arrays for each batch, or use --set streams=1."
            )
