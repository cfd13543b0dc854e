from __future__ import annotations

import threading
import time

import echo
import numpy as np
import pytest
from echo import COSTS, EchoSut
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.scheduling.cost import CostTable
from harness.scheduling.server import Backlog, ServerScheduler, WaitingSample
from harness.task.shape import Shape

BOUND = 0.1
# Twice the samples take 1.5 times as long: batches pay off.
GAINING = CostTable({Shape(n, x): 0.01 * n**0.6 * (x / 384) for n in (1, 2, 4, 8) for x in (1, 384)}, fixed=False)
# Like GAINING, but three times as slow: 8 samples take 104 ms, more than the bound.
SLOWER = CostTable({Shape(n, x): 0.03 * n**0.6 * (x / 384) for n in range(1, 9) for x in (1, 384)}, fixed=False)
# Twice the samples take twice as long: batches only delay their samples.
LINEAR = CostTable({Shape(n, x): 0.01 * n * (x / 384) for n in (1, 8) for x in (1, 384)}, fixed=False)
FIXED = CostTable({Shape(n, x): 0.004 * n**0.6 * (x / 100) for n in (1, 4) for x in (100, 384)}, fixed=True)


def backlog(table, *samples):
    made = Backlog(table, BOUND)
    for number, (arrival, cost) in enumerate(samples):
        made.push(WaitingSample(arrival, number, number, cost))
    return made


def test_a_sample_alone_is_taken_at_once():
    waiting = backlog(GAINING, (0.0, 50))
    assert [sample.id for sample in waiting.take(0.0, 8)] == [0]
    assert len(waiting) == 0


def test_the_oldest_is_always_taken_with_those_of_similar_cost():
    waiting = backlog(GAINING, (0.0, 300), (0.001, 20), (0.002, 310), (0.003, 25), (0.004, 290))
    assert sorted(sample.id for sample in waiting.take(0.005, 3)) == [0, 2, 4]
    assert sorted(sample.id for sample in waiting.take(0.005, 3)) == [1, 3]


def test_batches_are_made_only_where_they_raise_throughput():
    samples = [(0.001 * n, 384) for n in range(6)]
    assert len(backlog(LINEAR, *samples).take(0.006, 6)) == 1
    assert len(backlog(GAINING, *samples).take(0.006, 6)) == 6


def test_a_short_sample_does_not_justify_padding():
    assert len(backlog(LINEAR, (0.0, 384), (0.001, 10)).take(0.002, 2)) == 1
    assert len(backlog(GAINING, (0.0, 384), (0.001, 10)).take(0.002, 2)) == 1


def test_a_compiled_batch_is_filled_with_samples_that_cost_nothing_extra():
    waiting = backlog(FIXED, (0.0, 90), (0.001, 80), (0.002, 95), (0.003, 70), (0.004, 60), (0.005, 300))
    chosen = waiting.take(0.006, 6)
    assert sorted(sample.id for sample in chosen) == [0, 1, 2, 3]


def test_a_batch_ends_in_time_for_its_oldest():
    samples = [(0.0, 384)] * 8
    # 8 samples take 34.8 ms, 4 take 23 ms, 1 takes 10 ms.
    assert len(backlog(GAINING, *samples).take(BOUND - 0.030, 8)) < 8
    assert len(backlog(GAINING, *samples).take(BOUND - 0.012, 8)) == 1
    # Too late for all: batches raise throughput, but samples that arrive now must not wait longer than the bound.
    assert len(backlog(GAINING, *samples).take(BOUND + 1, 8)) == 8
    assert 1 < len(backlog(SLOWER, *samples).take(BOUND + 1, 8)) < 8


def test_late_samples_wait_until_nothing_else_does():
    waiting = backlog(LINEAR, (0.0, 384), (0.005, 384), (0.090, 384), (0.091, 384))
    now = 0.100  # a sample takes 10 ms, so the first two cannot be answered within 100 ms
    order = [sample.id for _ in range(4) for sample in waiting.take(now, 1)]
    assert order == [2, 3, 0, 1]
    assert len(waiting) == 0


def test_late_samples_run_when_a_stream_has_time():
    waiting = backlog(LINEAR, (0.0, 384))
    assert [sample.id for sample in waiting.take(5.0, 1)] == [0]


def test_idle_streams_share_the_waiting_samples():
    samples = [(0.0, 384)] * 8
    assert len(backlog(GAINING, *samples).take(0.0, 4)) == 4


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 499), max_size=150), st.integers(1, 3), st.sampled_from([GAINING, LINEAR, FIXED]))
def test_any_samples_get_exactly_one_response(indices, streams, table):
    scheduler, answers, seen = echo.serve(
        lambda complete: ServerScheduler(EchoSut(streams), table, BOUND, complete), [[index] for index in indices]
    )
    assert scheduler.failure is None
    assert set(seen.values()) <= {1}
    assert [answers[(1 << 40) + n] for n in range(len(indices))] == indices
    assert scheduler.counters.completed == scheduler.counters.issued == len(indices)


def test_the_backlog_is_taken_in_the_order_of_the_deadlines():
    rng = np.random.default_rng(3)
    waiting = backlog(LINEAR, *((0.001 * n, int(cost)) for n, cost in enumerate(rng.choice(COSTS, 200))))
    taken = []
    while len(waiting):
        taken += [sample.id for sample in waiting.take(0.05, len(waiting))]
    assert taken == list(range(200))


def test_an_idle_stream_never_waits_while_samples_do():
    class Slow(EchoSut):
        def answer(self, indices, shape):
            started.append(time.perf_counter())
            threading.Event().wait(0.02)
            return super().answer(indices, shape)

    started = []
    done = threading.Event()
    scheduler = ServerScheduler(Slow(2), GAINING, 10.0, lambda ids, _: done.set() if 3 in ids else None)
    begin = time.perf_counter()
    for n in range(2):
        scheduler.issue([n], [n])
    time.sleep(0.005)
    for n in (2, 3):  # both streams are busy: these two wait for the first free one
        scheduler.issue([n], [n])
    assert done.wait(5)
    scheduler.close()
    assert started[1] - begin < 0.015
    assert 0.015 < started[2] - begin < 0.06


def test_a_failure_is_kept_and_nothing_is_answered_for_it():
    scheduler, answers, _ = echo.serve(
        lambda complete: ServerScheduler(EchoSut(fail_at=7), LINEAR, BOUND, complete), [[1], [7], [3]]
    )
    assert str(scheduler.failure) == "the engine broke"
    assert 7 not in answers.values()


@pytest.mark.parametrize("count", [10_000])
def test_the_choice_takes_no_longer_with_a_long_backlog(count):
    waiting = backlog(GAINING, *((0.0, int(cost)) for cost in np.resize(COSTS, count)))
    start = time.perf_counter()
    for _ in range(100):
        waiting.take(1.0, count)
    assert time.perf_counter() - start < 1.0
