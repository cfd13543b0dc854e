"""The pilot of a Server test: which queries are late, and what rate is left."""

from __future__ import annotations

import time

import numpy as np
import pytest
from echo import COSTS, EchoSut, Qsl

from harness.errors import EngineError
from harness.scenarios import server
from harness.scenarios.base import Listener, WarmUp
from harness.scenarios.server import Server
from harness.scheduling import pilot
from harness.scheduling.cost import CostTable
from harness.scheduling.pilot import late_queries
from harness.scheduling.server import ServerScheduler
from harness.task.shape import Shape

INDICES = np.arange(Qsl.count)
TABLE = CostTable({Shape(n, x): 1e-4 for n in (1, 4) for x in (1, 384)}, fixed=False)


class Slow(EchoSut):
    """Takes some seconds for each batch."""

    seconds = 0.0

    def answer(self, indices, shape):
        time.sleep(self.seconds)
        return super().answer(indices, shape)


class Scheduling:
    """Makes a scheduler, and keeps it."""

    def __init__(self, sut, bound=5.0):
        self.sut, self.bound = sut, bound

    def __call__(self, complete):
        self.made = ServerScheduler(self.sut, TABLE, self.bound, complete)
        return self.made

    @property
    def counters(self):
        return self.made.counters


def test_queries_that_are_answered_in_time_are_not_late_and_each_is_heard_of():
    heard, one = [], Scheduling(Slow())
    assert late_queries(one, INDICES, 2000, 50, 0, lambda: heard.append(1)) == 0
    assert len(heard) >= one.counters.completed == 50


def test_a_pilot_ends_when_too_many_are_late():
    sut = Slow()
    sut.seconds = 0.02
    one = Scheduling(sut, bound=0.001)
    assert late_queries(one, INDICES, 500, 10_000, 3, lambda: None) > 3
    assert one.counters.issued < 1000
    assert one.counters.completed == one.counters.issued


def test_a_query_that_is_issued_late_is_late_as_in_loadgen():
    """The thread that issues is held up; the answers themselves take no time."""
    one = Scheduling(Slow(), bound=0.02)
    late = late_queries(one, INDICES, 100, 20, 20, lambda: time.sleep(0.05))
    assert one.counters.late < late
    assert late > 5


def test_a_long_wait_for_a_query_is_heard_of(monkeypatch):
    monkeypatch.setattr(pilot, "_BEAT_SECONDS", 0.001)
    heard = []
    late_queries(Scheduling(Slow()), INDICES, 50, 3, 0, lambda: heard.append(1))
    assert len(heard) > 3  # once for each query, and while it waits


def test_a_failure_of_the_engine_ends_it():
    with pytest.raises(EngineError, match="the engine broke"):
        late_queries(Scheduling(EchoSut(fail_at=int(INDICES[0]))), INDICES[:1], 1000, 100, 5, lambda: None)


@pytest.fixture
def estimate(monkeypatch):
    """An estimate whose pilots find ``late(rate)`` queries late; with the rates that they tried."""

    def of(late, peak=100.0, seconds=20.0, pilots=True):
        tried = []

        def stand_in(scheduler_of, indices, rate, queries, max_late, on_query):
            tried.append((rate, queries, max_late))
            return late(rate)

        monkeypatch.setattr(server, "late_queries", stand_in)
        scenario = Server(Slow(), COSTS, 384, 0.1, WarmUp(pilots=pilots))
        scenario.times = {Shape(1, 384): np.full(8, 0.01)}
        monkeypatch.setattr(Server, "peak", lambda self, indices: peak)
        return scenario.estimate(INDICES, seconds, Listener()), tried

    return of


def test_a_rate_that_holds_stays(estimate):
    found, tried = estimate(lambda rate: 1)
    assert (found.value, found.per_second, tried) == (50, 50, [(50, 250, 1)])
    assert "less" not in found.how


def test_a_rate_that_does_not_hold_is_lowered_until_one_does_and_the_reason_is_shown(estimate):
    found, tried = estimate(lambda rate: 5 if rate > 30 else 0)
    assert [rate for rate, _, _ in tried] == pytest.approx([50, 35, 24.5])
    assert found.value == found.per_second == pytest.approx(24.5)
    assert found.how.endswith(", and less since too many were late at 50 and 35")


def test_lowering_ends_and_the_user_hears_of_it(estimate):
    found, tried = estimate(lambda rate: 99)
    assert len(tried) == 5
    assert found.value == pytest.approx(50 * 0.7**5)
    assert found.remark == "too many queries were late at 12 queries/s and all higher rates"


@pytest.mark.parametrize("more", [{"peak": 0.0}, {"pilots": False}, {"peak": 1.0}])
def test_a_pilot_is_left_out_where_it_can_show_nothing(estimate, more):
    """No rate meets the bound; no bound decides; or a dozen queries would be all."""
    found, tried = estimate(lambda rate: 99, **more)
    assert tried == []
    assert ("no rate seems to meet the bound" in found.how) == (more == {"peak": 0.0})
    assert not found.remark


@pytest.mark.parametrize(
    ("rate", "seconds", "queries"),
    [(50, 20, 250), (5, 600, 100), (10, 600, 150), (5, 20, 100), (5, 2, 10), (1e4, 600, 50_000), (1, 600, 20)],
)
def test_a_pilot_lasts_seconds_whatever_the_rate(rate, seconds, queries):
    assert server._pilot_queries(rate, seconds) == queries
