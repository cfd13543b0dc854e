from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.null import NullEngine, NullSettings
from harness.errors import EngineError
from harness.scheduling.batching import DynamicPlanner, FixedPlanner, best_lengths
from harness.scheduling.offline import OfflineScheduler, measure_rate, warm_up
from harness.sut import SUT, Responses

COSTS = np.random.default_rng(0).integers(1, 385, 500)


class Qsl:
    count = len(COSTS)

    def cost(self, indices):
        return COSTS[indices]

    def arrange(self, indices):
        return np.argsort(indices, kind="stable")


class EchoSut(SUT):
    """Answers each sample with its own index as the size of the response."""

    unit = "tokens"

    def __init__(self, streams=1, fail_at=None):
        super().__init__(NullEngine(None, NullSettings(streams=streams)), Qsl())
        self.fail_at = fail_at
        self.shapes = set()

    def signature(self, shape):
        raise AssertionError

    feed = encode = signature

    def answer(self, indices, shape):
        if self.fail_at is not None and self.fail_at in indices:
            raise EngineError("the engine broke")
        self.shapes.add(shape)
        assert len(indices) <= shape.batch
        return Responses([0] * len(indices), indices.tolist(), np.zeros(1))


def serve(sut, planner, queries):
    """Issue queries of sample indices, wait, and return what was completed: {id: index}, times each id was seen."""
    answers, seen, lock = {}, Counter(), threading.Lock()

    def complete(ids, responses):
        with lock:
            seen.update(ids)
            answers.update(zip(ids, responses.sizes, strict=True))

    scheduler = OfflineScheduler(sut, planner, complete)
    start = 1 << 40  # LoadGen's ids are addresses
    for query in queries:
        scheduler.issue(list(range(start, start + len(query))), list(query))
        start += len(query)
    scheduler.flush()
    scheduler.close()
    return scheduler, answers, seen


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.lists(st.integers(0, 499), max_size=120), max_size=4),
    st.integers(1, 40),
    st.integers(1, 4000),
    st.integers(0, 8),
    st.integers(1, 3),
)
def test_any_samples_and_any_limits_give_each_id_one_response(queries, max_batch, max_tokens, shapes, streams):
    planner = (
        FixedPlanner(best_lengths(COSTS, shapes), max_batch, max_tokens)
        if shapes
        else DynamicPlanner(max_batch, max_tokens)
    )
    scheduler, answers, seen = serve(EchoSut(streams), planner, queries)
    flat = [index for query in queries for index in query]
    assert scheduler.failure is None
    assert set(seen.values()) <= {1}
    assert [answers[(1 << 40) + n] for n in range(len(flat))] == flat
    assert scheduler.counters.completed == scheduler.counters.issued == len(flat)
    assert scheduler.counters.real == COSTS[flat].sum()


def test_the_first_failure_is_kept_and_the_failed_batch_is_not_answered():
    scheduler, answers, _ = serve(EchoSut(fail_at=7), DynamicPlanner(1, 1), [[1, 7, 7, 3]])
    assert scheduler.failed.is_set()
    assert str(scheduler.failure) == "the engine broke"
    assert 7 not in answers.values()


def test_a_failure_while_planning_is_recorded_not_raised_into_loadgen():
    scheduler, _, _ = serve(EchoSut(), FixedPlanner([1], 8, 8), [[0, 1, 2]])
    assert "does not fit" in str(scheduler.failure)


def test_every_shape_is_warmed_up():
    planner = FixedPlanner(best_lengths(COSTS, 5), 8, 2048)
    sut = EchoSut()
    sut.engine.fixed_shapes = True
    warm_up(sut, planner, np.arange(Qsl.count))
    assert sut.shapes == set(planner.shapes)


def test_the_measured_rate_is_that_of_the_whole_data_set():
    """Batches of long samples are slower; a rate from the first (longest) ones alone would be off by a lot."""

    class Slow(EchoSut):
        def answer(self, indices, shape):
            threading.Event().wait(shape.batch * shape.length * 2e-7)
            return super().answer(indices, shape)

    planner = DynamicPlanner(4, 10**6)
    padded = sum(batch.padded for batch in planner.plan(COSTS))
    rate = measure_rate(Slow(), planner, np.arange(Qsl.count), 0.3)
    assert rate == pytest.approx(len(COSTS) / (padded * 2e-7), rel=0.5)


def test_a_failure_while_measuring_is_raised():
    with pytest.raises(EngineError, match="the engine broke"):
        measure_rate(EchoSut(fail_at=3), DynamicPlanner(4, 1000), np.arange(Qsl.count), 5.0)
