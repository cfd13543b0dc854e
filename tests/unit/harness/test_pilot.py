"""The pilot of a Server test: which queries are late, and what rate is left."""

from __future__ import annotations

import time

import numpy as np
import pytest
from echo import COSTS, EchoSut, Qsl

from harness.errors import EngineError
from harness.scenarios import server
from harness.scenarios.base import Listener
from harness.scenarios.server import Server
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


def scheduler(sut, bound=5.0):
    return ServerScheduler(sut, TABLE, bound, lambda ids, responses: None)


def test_queries_that_are_answered_in_time_are_not_late_and_each_is_heard_of():
    heard, one = [], scheduler(Slow())
    assert late_queries(one, INDICES, 2000, 50, 0, lambda: heard.append(1)) == 0
    assert len(heard) == one.counters.completed == 50


def test_a_pilot_ends_when_too_many_are_late():
    sut = Slow()
    sut.seconds = 0.02
    one = scheduler(sut, bound=0.001)
    assert late_queries(one, INDICES, 500, 10_000, 3, lambda: None) > 3
    assert one.counters.issued < 1000
    assert one.counters.completed == one.counters.issued


def test_a_failure_of_the_engine_ends_it():
    with pytest.raises(EngineError, match="the engine broke"):
        late_queries(scheduler(EchoSut(fail_at=int(INDICES[0]))), INDICES[:1], 1000, 100, 5, lambda: None)


@pytest.fixture
def estimate(monkeypatch):
    """An estimate whose pilots find ``late(rate)`` queries late; with the rates that they tried."""

    def of(late, peak=100.0, seconds=20.0):
        tried = []

        def pilot(scheduler, indices, rate, queries, most, on_query):
            scheduler.close()
            tried.append((rate, queries, most))
            return late(rate)

        monkeypatch.setattr(server, "late_queries", pilot)
        scenario = Server(Slow(), COSTS, 384, 0.1)
        scenario.times = {Shape(1, 384): np.full(8, 0.01)}
        monkeypatch.setattr(Server, "peak", lambda self, indices: peak)
        return scenario.estimate(INDICES, seconds, Listener()), tried

    return of


def test_a_rate_that_holds_stays(estimate):
    found, tried = estimate(lambda rate: 1)
    assert (found.value, found.per_second, tried) == (50, 50, [(50, 250, 1)])
    assert "less" not in found.how


def test_a_rate_that_does_not_hold_is_lowered_until_one_does_and_the_reason_is_told(estimate):
    found, tried = estimate(lambda rate: 5 if rate > 30 else 0)
    assert [rate for rate, _, _ in tried] == pytest.approx([50, 35, 24.5])
    assert found.value == found.per_second == pytest.approx(24.5)
    assert found.how.endswith(", and less since too many were late at 50 and 35")


def test_lowering_ends(estimate):
    found, tried = estimate(lambda rate: 99)
    assert len(tried) == 5
    assert found.value == pytest.approx(50 * 0.7**5)


def test_a_rate_without_hope_needs_no_pilot(estimate):
    found, tried = estimate(lambda rate: 99, peak=0.0)
    assert tried == []
    assert "no rate seems to meet the bound" in found.how


@pytest.mark.parametrize(
    ("rate", "seconds", "queries"),
    [(50, 20, 250), (5, 600, 100), (10, 600, 150), (5, 20, 25), (1e4, 600, 1000), (0.1, 1, 1)],
)
def test_a_pilot_is_a_small_part_of_the_test(rate, seconds, queries):
    assert server._pilot_queries(rate, seconds) == queries
