"""Offline: LoadGen issues one large query, and only the time until its last sample counts."""

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.scheduling.base import Complete, Observer, StreamThreads, Work
from harness.scheduling.batching import Batch, Planner
from harness.scheduling.cost import stream_seconds
from harness.task.shape import Integers, Shape
from harness.task.sut import SUT

_MIN_BATCHES_OF_QUARTER = 8  # with fewer, their lengths decide which quarter is the fastest
_MIN_SHARE_OF_KNOWN_SHAPES = 0.25  # of the work must be in batches of shapes that had run before


class OfflineScheduler(StreamThreads):
    """Plans an entire query; the threads take its batches one after the other."""

    def __init__(self, sut: SUT, planner: Planner, complete: Complete, observer: Observer | None = None) -> None:
        super().__init__(sut, complete, observer)
        self.planner = planner
        self._queue: queue.SimpleQueue[tuple[NDArray[np.uint64], Integers, Batch] | None] = queue.SimpleQueue()
        self.start(sut.engine.in_flight)

    def close(self) -> None:
        """End the threads once the queue is empty."""
        for _ in self._threads:
            self._queue.put(None)
        self._join()

    def _accept(self, ids: Sequence[int], indices: Integers) -> None:
        if self.observer:
            self.observer.arrived(time.perf_counter())
        query_ids = np.array(ids, dtype=np.uint64)
        order = self.qsl.arrange(indices)
        query_ids, indices = query_ids[order], indices[order]
        costs = self.qsl.cost(indices)
        self._issued(costs)
        batches = self.planner.plan(costs)
        # Before the first batch runs: readers take no lock, and must not find more done than planned.
        self.counters.planned_seconds += sum(self.expected(batch.shape) for batch in batches)
        for batch in batches:
            self._queue.put((query_ids, indices, batch))

    def _next(self) -> Work | None:
        item = self._queue.get()
        if item is None:
            return None
        query_ids, indices, batch = item
        return Work(query_ids[batch.positions].tolist(), indices[batch.positions], batch.shape)


def expected_seconds(took: Mapping[Shape, float]) -> Callable[[Shape], float]:
    """The seconds of a batch of any shape, interpolated between the measured ones.

    Time is not linear in tokens, and long samples run first: their pace alone would say little about the rest.
    """
    by_length = {shape.length: seconds / (shape.batch * shape.length) for shape, seconds in took.items()}
    lengths = sorted(by_length)
    paces = [by_length[length] for length in lengths]

    @cache
    def seconds(shape: Shape) -> float:
        return float(np.interp(shape.length, lengths, paces)) * shape.batch * shape.length

    return seconds


class MeasuredRate(NamedTuple):
    """A measured rate in samples/s."""

    mean: float
    fastest: float
    """In the fastest quarter of the time; the mean if there were too few batches to divide."""


def measure_rate(
    sut: SUT, planner: Planner, indices: Integers, seconds: float, on_batch: Callable[[], None] = lambda: None
) -> MeasuredRate:
    """Estimate samples/s of the data set on this machine, from batches spread evenly over its plan.

    As many batches run at once as in the test. The mean pace of the batches that fit into ``seconds`` is used for all
    batches. The first batch of each shape is left out if enough others remain: OpenVINO compiles a shape when it first
    runs, which doubles the time of that batch. ``on_batch()`` is called after each batch, on the stream's thread.
    """
    batches = planner.plan(sut.qsl.cost(indices))
    # Every prefix of this order covers the plan evenly, no matter when the time is up.
    order = _spread(len(batches))
    done = 0
    lock = threading.Lock()
    errors: list[BaseException] = []
    ran: list[tuple[float, float, int, bool]] = []
    seen: set[Shape] = set()
    count = sut.engine.in_flight
    start = time.perf_counter()

    def work() -> None:
        nonlocal done
        while not errors:
            with lock:
                if time.perf_counter() - start > seconds and done >= min(len(batches), count):
                    return
                batch = batches[order[done % len(order)]]
                done += 1
                first = batch.shape not in seen
                seen.add(batch.shape)
            try:
                began = time.perf_counter()
                sut.answer(indices[batch.positions], batch.shape)
                ran.append((began, time.perf_counter(), batch.padded, first))
                on_batch()
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    began, ended, costs, firsts = zip(*ran, strict=True)
    # From the batches' own times: threads that wait for the last batch at the end would look slow.
    busy = stream_seconds(np.array(began), np.array(ended), sut.engine.parallel)
    counted = _counted(list(map(_MeasuredBatch, ended, busy.tolist(), costs, firsts)))
    took = sum(batch.padded for batch in batches) / (_pace(counted) * sut.engine.parallel)
    mean = len(indices) / took
    return MeasuredRate(mean, mean * _spread_of(counted))


class _MeasuredBatch(NamedTuple):
    """A batch that was measured."""

    ended: float
    seconds: float
    """How long it kept a stream busy."""
    cost: int
    first: bool
    """Whether it was the first of its shape."""


def _counted(ran: Sequence[_MeasuredBatch]) -> Sequence[_MeasuredBatch]:
    """Batches whose shapes had run before, or all if those are too few."""
    repeated = [each for each in ran if not each.first]
    enough = sum(each.cost for each in repeated) >= _MIN_SHARE_OF_KNOWN_SHAPES * sum(each.cost for each in ran)
    return repeated if enough else ran


def _pace(ran: Sequence[_MeasuredBatch]) -> float:
    """Cost per second of a stream."""
    return sum(each.cost for each in ran) / sum(each.seconds for each in ran)


def _spread_of(ran: Sequence[_MeasuredBatch]) -> float:
    """The speed of the fastest quarter ÷ the mean, at least 1."""
    if len(ran) < 4 * _MIN_BATCHES_OF_QUARTER:
        return 1.0
    ordered = sorted(ran, key=lambda each: each.ended)
    bounds = np.linspace(0, len(ordered), 5).astype(int)
    speeds = [_pace(ordered[start:stop]) for start, stop in pairwise(bounds)]
    return max(1.0, float(max(speeds) / np.mean(speeds)))


def _spread(count: int) -> Integers:
    """0..count-1 in the order of the golden ratio's multiples: each prefix covers the range evenly."""
    return np.argsort((np.arange(count) * 0.6180339887498949) % 1.0, kind="stable")
