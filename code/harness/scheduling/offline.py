"""Offline: LoadGen hands over one large query, and only the time until its last sample counts."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from harness.scheduling.batching import Batch, Planner
from harness.sut import SUT, Responses

Complete = Callable[[list[int], Responses], None]


@dataclass
class Counters:
    """What a test has done so far. Written under the scheduler's lock, read at any time."""

    issued: int = 0
    completed: int = 0
    batches: int = 0
    real: int = 0
    """Cost units of the samples themselves."""
    done_cost: int = 0
    """Cost units of the completed samples."""
    padded: int = 0
    """Cost units that the engine computed."""

    @property
    def padding_ratio(self) -> float | None:
        """Padded ÷ real cost units; 1 is no padding."""
        return self.padded / self.real if self.real else None


class OfflineScheduler:
    """Owns the threads and the query ids of a test: it answers each id exactly once, or records why it stopped."""

    def __init__(self, sut: SUT, planner: Planner, complete: Complete) -> None:
        """One thread for each stream of the engine; ``complete(ids, responses)`` tells LoadGen."""
        self.sut = sut
        self.planner = planner
        self.counters = Counters()
        self.failure: BaseException | None = None
        self.failed = threading.Event()
        self._complete = complete
        self._queue: queue.SimpleQueue[tuple[np.ndarray, np.ndarray, Batch] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"stream-{n}", daemon=True) for n in range(sut.engine.streams)
        ]
        for thread in self._threads:
            thread.start()

    def issue(self, ids: Sequence[int], indices: Sequence[int]) -> None:
        """LoadGen's callback: query ids and sample indices of one query. Returns at once, and never raises."""
        # An exception must not unwind through LoadGen's C++ frames: it would end the process without a word.
        try:
            query_ids = np.array(ids, dtype=np.uint64)
            samples = np.array(indices, dtype=np.int64)
            order = self.sut.qsl.arrange(samples)
            query_ids, samples = query_ids[order], samples[order]
            costs = self.sut.qsl.cost(samples)
            total = int(costs.sum())
            with self._lock:  # readers take no lock, so that `real` is there before `issued`
                self.counters.real += total
                self.counters.issued += len(samples)
            for batch in self.planner.plan(costs):
                self._queue.put((query_ids, samples, batch))
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def flush(self) -> None:
        """LoadGen's callback: no more samples will come for now. Nothing is held back, so there is nothing to do."""

    def close(self) -> None:
        """Stop the threads once the queue is empty."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (item := self._queue.get()) is not None:
            if self.failed.is_set():
                continue
            query_ids, samples, batch = item
            try:
                indices = samples[batch.positions]
                responses = self.sut.answer(indices, batch.shape)
                # Counted before LoadGen is told: the last completion ends the test, and the counters are read then.
                with self._lock:
                    self.counters.completed += len(batch.positions)
                    self.counters.batches += 1
                    self.counters.done_cost += int(self.sut.qsl.cost(indices).sum())
                    self.counters.padded += batch.padded
                self._complete(query_ids[batch.positions].tolist(), responses)
            except BaseException as error:  # noqa: BLE001
                self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self.failure is None:
                self.failure = error
        self.failed.set()


def warm_up(sut: SUT, planner: Planner, indices: np.ndarray, on_batch: Callable[[], None] = lambda: None) -> float:
    """Run one batch of every shape that ``indices`` give, so that no first time falls into the test.

    ``on_batch()`` is called after each.

    Returns:
        The longest of them, in seconds.
    """
    slowest, seen = 0.0, set()
    for batch in planner.plan(sut.qsl.cost(indices)):
        if batch.shape in seen or (not sut.engine.fixed_shapes and len(seen) >= 4):
            continue
        seen.add(batch.shape)
        start = time.perf_counter()
        sut.answer(indices[batch.positions], batch.shape)
        slowest = max(slowest, time.perf_counter() - start)
        on_batch()
    return slowest


def measure_rate(sut: SUT, planner: Planner, indices: np.ndarray, seconds: float) -> float:
    """Samples/s of the data set on this machine, from batches spread evenly over its plan.

    All streams work as in the test. The mean time of the batches that fit into ``seconds`` is taken for all of them.
    """
    batches = planner.plan(sut.qsl.cost(indices))
    # Evenly spaced prefixes: 1/2, 1/4, 3/4, ... visits the plan evenly however soon the time is over.
    order = _spread(len(batches))
    done = 0
    lock = threading.Lock()
    errors: list[BaseException] = []
    start = time.perf_counter()

    def work() -> None:
        nonlocal done
        while not errors:
            with lock:
                if time.perf_counter() - start > seconds and done >= min(len(batches), sut.engine.streams):
                    return
                batch = batches[order[done % len(order)]]
                done += 1
            try:
                sut.answer(indices[batch.positions], batch.shape)
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(sut.engine.streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    elapsed = time.perf_counter() - start
    return len(indices) / (elapsed / done * len(batches))


def _spread(count: int) -> np.ndarray:
    """0..count-1 in the order of the golden ratio's multiples: each prefix covers the whole range evenly."""
    return np.argsort((np.arange(count) * 0.6180339887498949) % 1.0, kind="stable")
