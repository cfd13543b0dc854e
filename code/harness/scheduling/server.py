"""Server: queries arrive one by one at random, and 99 % must be answered within the scenario's latency bound."""

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.scheduling.base import Complete, Observer, StreamThreads, Work
from harness.scheduling.cost import CostTable
from harness.task.shape import Integers
from harness.task.sut import SUT

_MAX_CONSIDERED_SAMPLES = 64  # the oldest, so that the choice of a batch takes no longer with a long backlog
_MIN_THROUGHPUT_GAIN = 1.03  # a larger batch must raise throughput by this factor, since it delays its first samples
_DEADLINE_SAFETY_FACTOR = 1.05  # on the measured seconds, to decide whether a sample can still meet its deadline


class WaitingSample(NamedTuple):
    """A sample that was issued and has not run yet."""

    arrival: float
    """Seconds of time.perf_counter()."""
    id: int
    sample: int
    """Its index in the data set."""
    cost: int


class Backlog:
    """The waiting samples, earliest deadline first, except those that can no longer be answered in time.

    The bound applies to a percentile: how late a late answer is does not matter. Late samples therefore wait until
    nothing else is waiting, instead of delaying the samples behind them.
    """

    def __init__(self, table: CostTable, bound: float) -> None:
        """``bound`` is the latency bound in seconds."""
        self.table, self.bound = table, bound
        self._waiting: deque[WaitingSample] = deque()
        self._late: deque[WaitingSample] = deque()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._late)

    def push(self, sample: WaitingSample) -> None:
        """Add a sample behind those that arrived earlier."""
        self._waiting.append(sample)

    def take(self, now: float, share: int) -> list[WaitingSample]:
        """Remove the samples to run next in one batch: the oldest that is in time, and at most ``share`` - 1 others.

        Of all batches that hold the oldest and answer it in time, this one has the highest throughput. Work counts as
        the seconds that each sample would take alone, so padding is not a gain.
        """
        while self._waiting and not self._in_time(self._waiting[0], now):
            self._late.append(self._waiting.popleft())
        queue = self._waiting or self._late
        limit = self._waiting[0].arrival + self.bound - now if self._waiting else self.bound
        if share == 1 or len(queue) == 1:
            return [queue.popleft()]
        window = [queue.popleft() for _ in range(min(len(queue), _MAX_CONSIDERED_SAMPLES))]
        table, oldest = self.table, window[0]
        # Samples of similar cost first; the sort is stable, so older samples win ties.
        window.sort(key=lambda sample: (sample is not oldest, abs(sample.cost - oldest.cost)))
        best, size, work, longest = 0.0, 1, 0.0, 0
        for count, sample in enumerate(window[: min(share, table.max_batch)], start=1):
            longest = max(longest, sample.cost)
            work += table.seconds(1, sample.cost)
            seconds = table.seconds(count, longest)
            if seconds > limit and count > 1:
                continue
            if work / seconds > best * (_MIN_THROUGHPUT_GAIN if count > 1 else 1):
                best, size = work / seconds, count
        chosen, rest = window[:size], window[size:]
        rest.sort()
        queue.extendleft(reversed(rest))
        return chosen

    def _in_time(self, sample: WaitingSample, now: float) -> bool:
        return now + _DEADLINE_SAFETY_FACTOR * self.table.seconds(1, sample.cost) <= sample.arrival + self.bound


class ServerScheduler(StreamThreads):
    """Idle streams take waiting samples at once; while all are busy, the waiting samples form larger batches."""

    def __init__(
        self, sut: SUT, table: CostTable, bound: float, complete: Complete, observer: Observer | None = None
    ) -> None:
        """``bound`` is the latency bound in seconds."""
        super().__init__(sut, complete, observer)
        self.late_after = bound
        self._backlog = Backlog(table, bound)
        self._arrived = threading.Condition()
        self._idle = 0
        self._closing = False
        self.start(sut.engine.streams)

    def close(self) -> None:
        """End the threads once no sample is waiting."""
        with self._arrived:
            self._closing = True
            self._arrived.notify_all()
        self._join()

    def _accept(self, ids: Sequence[int], indices: Integers) -> None:
        now = time.perf_counter()
        costs = self.qsl.cost(indices)
        self._issued(costs)
        with self._arrived:
            for sample in zip(ids, indices.tolist(), costs.tolist(), strict=True):
                self._backlog.push(WaitingSample(now, *sample))
            self._arrived.notify(len(ids))

    def _next(self) -> Work | None:
        with self._arrived:
            self._idle += 1
            while not len(self._backlog) or self.failed.is_set():
                if self._closing:
                    return None
                self._arrived.wait()
            # The waiting samples are divided among the streams that are idle now.
            chosen = self._backlog.take(time.perf_counter(), -(-len(self._backlog) // self._idle))
            self._idle -= 1
        longest = max(sample.cost for sample in chosen)
        return Work(
            [sample.id for sample in chosen],
            np.array([sample.sample for sample in chosen], dtype=np.int64),
            self._backlog.table.shape(len(chosen), longest),
            [sample.arrival for sample in chosen],
        )
