"""The common part of all schedulers: query ids, threads, counters, and the first failure."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np

from harness.task.qsl import SampleLibrary
from harness.task.shape import Integers, Shape
from harness.task.sut import SUT, Responses

Complete = Callable[[list[int], Responses], None]
"""Answers query ids with one response each, in the same order."""


@dataclass
class Counters:
    """The progress of a test. Written under the scheduler's lock, read at any time."""

    began: float = 0.0
    """When the first query arrived, in seconds of time.perf_counter()."""
    ended: float = 0.0
    """When the outputs of the last batch were ready."""
    issued: int = 0
    completed: int = 0
    late: int = 0
    """The completed samples that took longer than the latency bound, if the scenario has one."""
    batches: int = 0
    real: int = 0
    """Cost units of the issued samples, without padding."""
    done_cost: int = 0
    """Cost units of the completed samples."""
    padded: int = 0
    """Cost units that the engine computed, including padding."""
    planned_seconds: float = 0.0
    """Total seconds of all batches of the issued samples, as measured before the test; 0 if unknown."""
    done_seconds: float = 0.0
    """The part of ``planned_seconds`` that is expected for the completed batches."""
    busy_seconds: float = 0.0
    """Seconds that the completed batches took."""
    running: dict[int, tuple[float, float]] = field(default_factory=dict)
    """For each thread that computes a batch: when it began, and its expected seconds. Written without a lock."""

    @property
    def padding_ratio(self) -> float | None:
        """Padded ÷ real cost units; 1 means no padding."""
        return self.padded / self.real if self.real else None


class Work(NamedTuple):
    """One batch: query ids, the sample index of each (int64), and the shape that they run in."""

    ids: list[int]
    indices: Integers
    shape: Shape
    arrivals: Sequence[float] = ()
    """When its queries arrived, in seconds of time.perf_counter(); empty where all arrived at once."""


class Observer(Protocol):
    """Receives the events of a scheduler; it must neither raise nor block."""

    def arrived(self, when: float) -> None:
        """The first query arrived, at ``when`` seconds of time.perf_counter(); called only in Offline."""

    def answered(self, start: float, end: float, work: Work, cost: int) -> None:
        """A batch of ``cost`` units was computed from ``start`` to ``end``; called under the scheduler's lock."""


class Scheduler(ABC):
    """Owns the query ids of a test: answers each exactly once, or records why it could not."""

    late_after = float("inf")
    """Seconds after which an answer counts as late."""

    def __init__(self, qsl: SampleLibrary, complete: Complete, observer: Observer | None = None) -> None:
        """``complete`` passes answers to LoadGen."""
        self.qsl = qsl
        self.counters = Counters()
        self.observer = observer
        self.failure: BaseException | None = None
        self.failed = threading.Event()
        self.on_failure: Callable[[BaseException], None] = lambda error: None
        """Called once, on any thread, with the error that `failure` then holds."""
        self._given_up = False
        self._complete = complete
        self._lock = threading.Lock()

    def issue(self, ids: Sequence[int], indices: Sequence[int]) -> None:
        """LoadGen's callback: query ids and sample indices of one query. Never raises."""
        # An exception must not unwind through LoadGen's C++ frames: it would end the process without a message.
        try:
            if not self.counters.began:
                self.counters.began = time.perf_counter()
            self._accept(ids, np.array(indices, dtype=np.int64))
        except BaseException as error:  # noqa: BLE001
            self._fail(error)

    def flush(self) -> None:  # noqa: B027
        """LoadGen's callback: no more samples for now. Nothing is held back, so there is nothing to do."""

    def give_up(self) -> None:
        """Answer the rest without computing it, so that a trial that cannot meet the bound ends with its last query.

        Only for trials, whose log is discarded: LoadGen's measurements are wrong from now on.
        """
        self._given_up = True

    def stop(self) -> None:
        """Answer and record nothing more: the test is over, although LoadGen continues."""
        self.failed.set()
        with self._lock:
            self.observer = None

    def close(self) -> None:  # noqa: B027  a scheduler without threads has nothing to end
        """End the threads once every issued sample is answered."""

    @abstractmethod
    def _accept(self, ids: Sequence[int], indices: Integers) -> None:
        """Answer a query now or later; count it with `_issued` first."""

    def _issued(self, costs: Integers) -> None:
        total = int(costs.sum())
        with self._lock:  # readers take no lock: `real` must be updated before `issued`
            self.counters.real += total
            self.counters.issued += len(costs)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            first = self.failure is None
            if first:
                self.failure = error
        self.failed.set()
        if first:
            self.on_failure(error)


def no_responses(count: int) -> Responses:
    """``count`` empty responses."""
    zeros = np.zeros(count, np.int64)
    return Responses(zeros, zeros, np.empty(0, np.uint8))


class LocalScheduler(Scheduler):
    """A scheduler whose batches run on a SUT of this process."""

    def __init__(self, sut: SUT, complete: Complete, observer: Observer | None = None) -> None:
        super().__init__(sut.qsl, complete, observer)
        self.sut = sut
        self.expected: Callable[[Shape], float] = lambda shape: 0.0
        """Seconds of a batch of that shape, as measured before the test; 0 if unknown."""

    def _answer(self, work: Work) -> None:
        start, expected, thread = time.perf_counter(), self.expected(work.shape), threading.get_ident()
        self.counters.running[thread] = start, expected
        responses = no_responses(len(work.ids)) if self._given_up else self.sut.answer(work.indices, work.shape)
        cost = int(self.qsl.cost(work.indices).sum())
        end = time.perf_counter()
        in_time = not work.arrivals or end - min(work.arrivals) <= self.late_after
        late = 0 if in_time else sum(end - arrival > self.late_after for arrival in work.arrivals)
        # Counted before it is reported: the last completion ends the test, and the counters are read then.
        with self._lock:
            self.counters.ended = time.perf_counter()
            # Readers take no lock, and must not count a late query as waiting too: `completed` before `late`.
            self.counters.completed += len(work.ids)
            self.counters.late += late
            self.counters.batches += 1
            self.counters.done_cost += cost
            self.counters.padded += work.shape.batch * work.shape.length
            self.counters.done_seconds += expected
            self.counters.busy_seconds += end - start
            self.counters.running.pop(thread, None)
            if self.observer:
                self.observer.answered(start, end, work, cost)
        self._complete(work.ids, responses)


class StreamThreads(LocalScheduler):
    """A scheduler whose threads each run one batch after the other."""

    def start(self, threads: int) -> None:
        """Start the threads."""
        self._threads = [threading.Thread(target=self._work, name=f"stream-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    @abstractmethod
    def _next(self) -> Work | None:
        """The next batch, waiting for one if necessary; None ends the thread."""

    def _work(self) -> None:
        while True:
            try:
                work = self._next()
                if work is None:
                    return
                if not self.failed.is_set():
                    self._answer(work)
            except BaseException as error:  # noqa: BLE001
                self._fail(error)

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()
