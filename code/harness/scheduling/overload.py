"""Detects, while a paced test runs, that LoadGen can no longer call it VALID.

Any error is in the test's favour: a query counts as late only if it must also be late for LoadGen, and the number of
queries is the largest that the schedule can hold. LoadGen starts a query's latency when the query is due, which is
never after it arrives here, and ends it inside `QuerySamplesComplete`, which is called after the query is counted.
"""

import math
import time
from collections import deque
from collections.abc import Callable

from harness.errors import RunFailed
from harness.scheduling.base import Counters

LONGEST_GAP = 30
"""A gap between queries of a paced test longer than this many mean gaps occurs once in 1e13 queries."""
_PATIENCE_SECONDS = 5.0  # before a test is ended: short tests get LoadGen's own verdict, longer ones a steady rate


class Overloaded(RunFailed):
    """The test was ended because it could no longer be VALID."""

    def __init__(self, late: int, max_queries: int, completed: int, seconds: float) -> None:
        """``late`` of at most ``max_queries`` are late after ``seconds``; ``completed`` were answered by then."""
        super().__init__(f"{late:,} of at most {max_queries:,} queries are late after {seconds:.1f} s.")
        self.late, self.max_queries, self.seconds = late, max_queries, seconds
        self.moved = 0.0
        """Seconds by which the realtime clock, which paces LoadGen, was moved during the test."""
        self.reached = completed / seconds
        """Queries completed per second."""


class Overload:
    """Counts late queries of one test."""

    def __init__(
        self,
        max_queries: int,
        bound: float,
        percentile: int,
        patience: float = _PATIENCE_SECONDS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """At most ``max_queries`` can arrive; ``percentile`` % of them must be answered within ``bound`` seconds.

        A test of up to ``patience`` seconds is never ended.
        """
        self.max_queries = max_queries
        self._bound, self._patience, self._clock = bound, patience, clock
        # LoadGen takes the latency at position int(n x percentile) of n sorted ones, so at most n x (1 - percentile)
        # may be late; one more for its rounding. Early stopping is stricter.
        self._allowed = max_queries * (100 - percentile) / 100 + 1
        self._seen: deque[tuple[float, int]] = deque()
        self._old = 0
        self._began = 0.0

    def look(self, counters: Counters) -> None:
        """Update the counts; call it often.

        Raises:
            Overloaded: too many queries are late.
        """
        now = self._clock()
        # In this order: a query that is completed in between must not count twice.
        late, completed = counters.late, counters.completed
        while self._seen and now - self._seen[0][0] > self._bound:
            self._old = self._seen.popleft()[1]
        late += max(0, self._old - completed)
        if late > self._allowed and now - self._began > self._patience:
            raise Overloaded(late, self.max_queries, completed, now - self._began)
        issued = counters.issued
        if issued and not self._began:
            self._began = now
        self._seen.append((self._clock(), issued))  # all of them had arrived by now


def query_limit(rate: float, seconds: float, minimum: int) -> int:
    """An upper limit on the arrivals of a Poisson process of ``rate`` per second in ``seconds``, at least ``minimum``.

    Ten standard deviations above the mean, and 20 for small means: the probability of more is below 1e-16.
    """
    mean = rate * seconds
    return max(minimum, math.ceil(mean + 10 * math.sqrt(mean) + 20))
