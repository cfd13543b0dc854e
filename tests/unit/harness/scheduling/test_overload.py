"""When a Server test counts as lost: never one that LoadGen would call VALID."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from harness.scheduling.base import Counters, LocalScheduler, Work
from harness.scheduling.overload import Overload, Overloaded, query_limit
from harness.task.shape import Shape

BOUND = 0.1


class SimpleScheduler(LocalScheduler):
    def _accept(self, ids, indices):
        raise NotImplementedError


def valid(latencies):
    """LoadGen's verdict without early stopping, which only makes it stricter (results.cc, PerfConstraintsMet)."""
    return np.sort(latencies)[int(len(latencies) * 0.99)] <= BOUND


def ended(arrivals, latencies, *, tick=0.02, max_queries=None):
    """Seconds after which a test with these queries is ended; None if it runs to its end."""
    now = 0.0
    overload = Overload(max_queries or len(arrivals), BOUND, 99, patience=0, clock=lambda: now)
    done = arrivals + latencies
    while now <= done.max():
        completed = done <= now
        counters = Counters(
            issued=int((arrivals <= now).sum()),
            completed=int(completed.sum()),
            late=int((completed & (latencies > BOUND)).sum()),
        )
        try:
            overload.look(counters)
        except Overloaded:
            return now
        now += tick
    return None


@pytest.mark.parametrize("seed", range(40))
def test_no_test_is_ended_that_loadgen_would_call_valid(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(50, 3000))
    arrivals = np.cumsum(rng.exponential(0.002, count))
    # Around the limit of 1 %, by chance above or below it; some late queries are answered long after the last arrival.
    latencies = np.where(rng.random(count) < rng.uniform(0.005, 0.015), rng.exponential(2, count), 0.05)
    latencies = np.maximum(latencies, 0.001)
    end = ended(arrivals, latencies)
    assert end is None or not valid(latencies)


def test_the_last_late_query_that_loadgen_allows_does_not_end_a_test():
    for count in (100, 1000, 9999):
        allowed = count - 1 - int(count * 0.99)
        arrivals = np.arange(1, count + 1) * 0.001
        latencies = np.full(count, 0.05)
        latencies[:allowed] = 1e3
        assert valid(latencies)
        assert ended(arrivals, latencies) is None
        latencies[: allowed + 3] = 1e3
        assert not valid(latencies)
        assert ended(arrivals, latencies) is not None


def test_overload_is_found_soon_whether_late_queries_wait_or_are_answered():
    arrivals = np.arange(1, 100_001) * 0.001
    waiting = np.maximum(0.02, np.arange(100_000) * 0.001 * 49)  # at 50 times what the system can do
    always = np.full(100_000, 0.15)  # no backlog, but each one is late
    assert ended(arrivals, waiting) < 2
    assert ended(arrivals, always) < 2


def test_the_number_of_queries_is_an_upper_bound():
    rng = np.random.default_rng(0)
    for rate, seconds in ((0.1, 5), (3, 2), (1000, 10)):
        counts = rng.poisson(rate * seconds, 100_000)
        assert counts.max() < query_limit(rate, seconds, 1)
    assert query_limit(1000, 10, 1) < 1.2 * 10_000
    assert query_limit(1, 1, 270_336) == 270_336


def test_a_short_test_is_left_to_loadgen():
    now = 0.0
    overload = Overload(100, BOUND, 99, patience=5, clock=lambda: now)
    for now in np.arange(1.0, 7.0):  # noqa: B007  the clock reads it
        overload.look(Counters(issued=100, completed=30))
    now = 7.0
    with pytest.raises(Overloaded) as error:
        overload.look(Counters(issued=100, completed=30))
    assert (error.value.late, error.value.max_queries, error.value.seconds) == (70, 100, 6)
    assert error.value.reached == 5


def test_a_late_query_is_never_also_counted_as_waiting():
    """Readers take no lock, so they may read between any two updates."""
    seen = []

    class Watched(Counters):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            seen.append(name)

    scheduler = SimpleScheduler(SimpleNamespace(answer=lambda *_: None, qsl=SimpleNamespace(cost=np.ones_like)), None)
    scheduler.late_after, scheduler._complete = 0.0, lambda *_: None
    scheduler.counters = Watched(issued=1)
    seen.clear()
    scheduler._answer(Work([1], np.array([0]), Shape(1, 1), (0.0,)))
    assert seen.index("completed") < seen.index("late")
    assert scheduler.counters.late == 1
