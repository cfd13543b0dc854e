"""Offline: LoadGen issues one large query, and only the time until its last sample counts."""

import queue
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from harness.scheduling.base import Complete, Observer, StreamThreads, Work
from harness.scheduling.batching import Batch, Planner
from harness.task.shape import Integers
from harness.task.sut import SUT


class OfflineScheduler(StreamThreads):
    """Plans an entire query; the streams take its batches one after the other."""

    def __init__(self, sut: SUT, planner: Planner, complete: Complete, observer: Observer | None = None) -> None:
        super().__init__(sut, complete, observer)
        self.planner = planner
        self._queue: queue.SimpleQueue[tuple[NDArray[np.uint64], Integers, Batch] | None] = queue.SimpleQueue()
        self.start()

    def close(self) -> None:
        """End the threads once the queue is empty."""
        for _ in self._threads:
            self._queue.put(None)
        self._join()

    def _accept(self, ids: Sequence[int], indices: Integers) -> None:
        if self.observer:
            self.observer.arrived(time.perf_counter())
        query_ids = np.array(ids, dtype=np.uint64)
        order = self.sut.qsl.arrange(indices)
        query_ids, indices = query_ids[order], indices[order]
        costs = self.sut.qsl.cost(indices)
        self._issued(costs)
        for batch in self.planner.plan(costs):
            self._queue.put((query_ids, indices, batch))

    def _next(self) -> Work | None:
        item = self._queue.get()
        if item is None:
            return None
        query_ids, indices, batch = item
        return Work(query_ids[batch.positions].tolist(), indices[batch.positions], batch.shape)


def measure_rate(
    sut: SUT, planner: Planner, indices: Integers, seconds: float, on_batch: Callable[[], None] = lambda: None
) -> float:
    """Estimate samples/s of the data set on this machine, from batches spread evenly over its plan.

    All streams run as in the test. The mean time of the batches that fit into ``seconds`` is used for all batches.
    ``on_batch()`` is called after each batch, on the stream's thread.
    """
    batches = planner.plan(sut.qsl.cost(indices))
    # Every prefix of this order covers the plan evenly, whenever the time is up.
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
                on_batch()
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


def _spread(count: int) -> Integers:
    """0..count-1 in the order of the golden ratio's multiples: each prefix covers the range evenly."""
    return np.argsort((np.arange(count) * 0.6180339887498949) % 1.0, kind="stable")
