from __future__ import annotations

import threading

import echo
import pytest
from echo import EchoSut
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.scheduling.cost import CostTable
from harness.scheduling.stream import StreamScheduler
from harness.task.shape import Shape

TABLE = CostTable({Shape(n, x): 0.01 * n**0.7 * (x / 384) for n in (1, 8) for x in (1, 100, 384)}, fixed=False)
FIXED = CostTable({Shape(n, x): 0.004 * n**0.6 * (x / 100) for n in (1, 4) for x in (100, 384)}, fixed=True)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.integers(0, 499), min_size=1, max_size=8), max_size=20),
    st.integers(1, 3),
    st.sampled_from([TABLE, FIXED]),
)
def test_any_samples_get_exactly_one_response(queries, streams, table):
    scheduler, answers, seen = echo.serve(lambda complete: StreamScheduler(EchoSut(streams), table, complete), queries)
    flat = [index for query in queries for index in query]
    assert scheduler.failure is None
    assert set(seen.values()) <= {1}
    assert [answers[(1 << 40) + n] for n in range(len(flat))] == flat
    assert scheduler.counters.completed == scheduler.counters.issued == len(flat)


@pytest.mark.parametrize("size", [1, 8])
def test_a_query_is_answered_by_the_thread_that_issues_it(size):
    threads = set()
    scheduler = StreamScheduler(EchoSut(), TABLE, lambda ids, _: threads.add(threading.current_thread()))
    scheduler.issue(list(range(size)), list(range(size)))
    assert threads == {threading.current_thread()}
    assert scheduler.counters.completed == size


def test_several_streams_share_a_query():
    threads = set()
    scheduler = StreamScheduler(EchoSut(2), TABLE, lambda ids, _: threads.add(threading.current_thread()))
    scheduler.issue(list(range(8)), list(range(8)))
    scheduler.close()
    assert len(threads) == 2
    assert scheduler.counters.completed == 8


@pytest.mark.parametrize("streams", [1, 2])
def test_a_failure_is_recorded_and_not_raised_into_loadgen(streams):
    answered = []
    scheduler = StreamScheduler(EchoSut(streams, fail_at=7), TABLE, lambda ids, _: answered.extend(ids))
    scheduler.issue([70, 71], [7, 8])
    scheduler.close()
    assert str(scheduler.failure) == "the engine broke"
    assert scheduler.failed.is_set()
    assert 70 not in answered
