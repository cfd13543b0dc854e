from __future__ import annotations

import threading
import time

import echo
import numpy as np
import pytest
from echo import COSTS, EchoSut, Qsl
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.engines.base import Engine, EngineSettings
from harness.engines.deepsparse import DeepSparseSettings
from harness.errors import EngineError
from harness.host.usage import CoreMeter, CoreUse
from harness.scenarios.base import Listener
from harness.scenarios.offline import Offline, margin_for
from harness.scheduling.batching import DynamicPlanner, FixedPlanner, best_lengths
from harness.scheduling.offline import MeasuredRate, OfflineScheduler, _MeasuredBatch, _spread_of, measure_rate


def serve(sut, planner, queries):
    return echo.serve(lambda complete: OfflineScheduler(sut, planner, complete), queries)


@pytest.mark.slow
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


def test_as_many_batches_are_with_the_engine_as_it_asks_for():
    sut, together = EchoSut(streams=2), threading.Barrier(3)
    sut.engine.waiting, answer = 1, sut.answer

    def wait(indices, shape):
        together.wait(timeout=10)  # raises with fewer than three threads
        return answer(indices, shape)

    sut.answer = wait
    scheduler, answers, _ = serve(sut, FixedPlanner([384], 2, 768), [range(12)])
    assert scheduler.failure is None
    assert len(answers) == 12


def test_the_first_failure_is_kept_and_the_failed_batch_is_not_answered():
    scheduler, answers, _ = serve(EchoSut(fail_at=7), DynamicPlanner(1, 1), [[1, 7, 7, 3]])
    assert scheduler.failed.is_set()
    assert str(scheduler.failure) == "the engine broke"
    assert 7 not in answers.values()


def test_a_failure_while_planning_is_recorded_not_raised_into_loadgen():
    scheduler, _, _ = serve(EchoSut(), FixedPlanner([1], 8, 8), [[0, 1, 2]])
    assert "does not fit" in str(scheduler.failure)


def test_every_shape_is_compiled_and_warmed_up():
    compiled = set()
    sut = EchoSut()
    sut.engine.fixed_shapes = True
    sut.engine.settings, sut.engine.shape_budget = DeepSparseSettings(), 5
    sut.prepare = compiled.add
    scenario = Offline(sut, COSTS, 384, 0.13)
    scenario.get_ready(np.arange(Qsl.count), Listener())
    assert len(sut.shapes) == 5
    assert sut.shapes == set(scenario.shapes) == compiled


def test_the_test_knows_what_batches_of_any_length_take_from_a_few_that_were_run_before():
    sut = EchoSut()
    sut.engine.settings = sut.engine.settings.model_copy(update={"max_batch": 16})
    scenario = Offline(sut, COSTS, 384, 0.13)
    scenario.get_ready(np.arange(Qsl.count), Listener())
    lengths = sorted(shape.length for shape in scenario._took)
    assert len(lengths) == 4
    assert (lengths[0], lengths[-1]) == (min(shape.length for shape in sut.shapes), max(COSTS))
    assert lengths[0] < 100
    counters = echo.serve(scenario.scheduler, [range(500), range(100)])[0].counters
    assert counters.done_seconds == pytest.approx(counters.planned_seconds)
    assert counters.planned_seconds > 0


def test_an_engine_with_a_setting_shapes_compiles_that_many():
    class Toy(Engine):
        def compile(self, signature):
            return None

    assert Toy(None, DeepSparseSettings(shapes=3)).shape_budget == 3
    assert Toy(None, DeepSparseSettings(shapes=3)).exact_shapes
    assert Toy(None, EngineSettings()).shape_budget == 12
    assert not Toy(None, EngineSettings()).exact_shapes


@pytest.fixture
def slow(monkeypatch):
    """A SUT whose batches take time on the clock that is used, and this clock."""
    now = [0.0]

    class Slow(EchoSut):
        def answer(self, indices, shape):
            now[0] += shape.batch * shape.length * 2e-6
            return super().answer(indices, shape)

    monkeypatch.setattr("harness.scheduling.offline.time.perf_counter", lambda: now[0])
    sut = Slow()
    sut.engine.streams = 1
    return sut, now


def test_the_measured_rate_is_that_of_the_entire_data_set(slow):
    """Batches of long samples are slower; a rate from only the first (longest) ones would be far off."""
    (sut, _), planner = slow, DynamicPlanner(4, 10**6)
    padded = sum(batch.padded for batch in planner.plan(COSTS))
    rate = measure_rate(sut, planner, np.arange(Qsl.count), 0.3)
    assert rate.mean == pytest.approx(len(COSTS) / (padded * 2e-6), rel=0.1)
    assert rate.fastest >= rate.mean


def test_the_rate_of_an_accuracy_run_is_measured_in_half_a_second(slow):
    sut, now = slow
    scenario, indices = Offline(sut, COSTS, 384, 0.13), np.arange(Qsl.count)
    found, seconds = scenario.fastest(indices, Listener()), now[0]
    assert 0.5 <= seconds < 0.7
    usual = scenario.estimate(indices, 20.0, Listener())
    assert now[0] - seconds > 4
    assert found.value == found.per_second == pytest.approx(usual.per_second, rel=0.4)


def test_the_measured_rate_is_that_of_the_streams_if_more_batches_are_with_the_engine():
    places = threading.BoundedSemaphore(2)

    class Queueing(EchoSut):
        def answer(self, indices, shape):
            with places:
                time.sleep(0.05)
            return super().answer(indices, shape)

    sut = Queueing(streams=2)
    sut.engine.waiting = 1
    rate = measure_rate(sut, DynamicPlanner(5, 10**6), np.arange(Qsl.count), 0.01)
    assert rate.mean == pytest.approx(2 * 5 / 0.05, rel=0.15)


@pytest.mark.parametrize(("seconds", "slower"), [(2.0, 1.0), (0.001, 3.0)])
def test_the_measured_rate_is_without_first_batches_of_a_shape_if_others_came(monkeypatch, seconds, slower):
    """OpenVINO compiles a shape when it first comes; a test repeats its shapes, so a query sized by that is short."""
    now, seen = [0.0], set()

    class Compiling(EchoSut):
        def answer(self, indices, shape):
            now[0] += shape.batch * shape.length * (2e-6 if shape in seen else 6e-6)
            seen.add(shape)
            return super().answer(indices, shape)

    monkeypatch.setattr("harness.scheduling.offline.time.perf_counter", lambda: now[0])
    sut, planner = Compiling(), DynamicPlanner(4, 10**6)
    sut.engine.streams = 1
    padded = sum(batch.padded for batch in planner.plan(COSTS))
    rate = measure_rate(sut, planner, np.arange(Qsl.count), seconds)
    assert rate.mean == pytest.approx(len(COSTS) / (padded * 2e-6 * slower), rel=0.01)


def test_the_spread_is_that_of_the_quarters_in_time():
    steady = [_MeasuredBatch(0.1 * n + 0.1, 0.1, 50, False) for n in range(64)]
    assert _spread_of(steady) == pytest.approx(1)
    faster = steady[:48] + [_MeasuredBatch(4.85 + 0.05 * n, 0.05, 50, False) for n in range(16)]
    assert _spread_of(faster) == pytest.approx(1.6)  # one quarter at 2, three at 1
    assert _spread_of(faster[:31]) == 1  # too few to divide


@given(
    lost=st.floats(0, 0.83),
    lockstep=st.floats(1, 2),
    error=st.floats(-0.1, 0.1),
    seconds=st.sampled_from([1.0, 10.0, 20.0, 600.0]),
)
def test_a_run_is_long_enough_even_if_all_neighbours_leave(lost, lockstep, error, seconds):
    """``lost`` of two cores while the rate was measured, with up to a tenth of error; all of them in the test."""
    alone = 100.0
    measured = alone * ((2 - lost) / 2) ** lockstep * (1 + error)
    value = measured * margin_for(1.0, CoreUse(2 - lost, lost, 0.0, 2).gain, long=seconds >= 600)
    assert Offline.generated(value, seconds) / alone >= seconds


@given(st.floats(1, 2), st.floats(-0.1, 0.1))
def test_a_run_is_long_enough_for_the_fastest_speed_that_was_seen(spread, error):
    value = 100.0 * (1 + error) * margin_for(spread, 1.0, long=True)
    assert Offline.generated(value, 600.0) / (100.0 * spread) >= 0.98 * 600


def test_an_official_run_on_a_quiet_machine_takes_at_most_fifteen_percent_longer():
    quiet = CoreUse(1.97, 0.02, 0.0, 2)
    assert Offline.generated(100 * margin_for(1.0, quiet.gain, long=True), 600.0) / 100 <= 1.15 * 600


@pytest.mark.parametrize(("faster", "seconds"), [(1.12, 20.0), (1.12, 600.0), (1.25, 20.0)])
def test_a_tuned_rate_makes_runs_on_a_faster_machine_long_enough(monkeypatch, faster, seconds):
    scenario = Offline(EchoSut(), COSTS, 384, 0.13)
    monkeypatch.setattr(scenario, "_rate", lambda *_: MeasuredRate(50.0, 50.5))
    trial = scenario.trial(np.arange(Qsl.count), 1.0, None, Listener())
    assert trial.score == 50
    assert Offline.generated(trial.value, seconds) / (50 * faster) >= seconds


@pytest.mark.parametrize(("fastest", "value"), [(50.5, 57.5), (80.0, 80.0)])
def test_a_tuned_rate_foresees_the_speed_that_was_seen_but_not_that_neighbours_leave(monkeypatch, fastest, value):
    monkeypatch.setattr(CoreMeter, "use", CoreUse(1.0, 1.0, 0.0, 2))
    scenario = Offline(EchoSut(), COSTS, 384, 0.13)
    monkeypatch.setattr(scenario, "_rate", lambda *_: MeasuredRate(50.0, fastest))
    assert scenario.trial(np.arange(Qsl.count), 1.0, None, Listener()).value == pytest.approx(value)


def test_the_margin_is_limited():
    assert margin_for(9.0, 3.0, long=False) == 3


def test_neighbours_make_a_query_larger_and_are_named(monkeypatch):
    found = {}
    for others in (0.0, 1.0):
        monkeypatch.setattr(CoreMeter, "use", CoreUse(1.0, others, 0.0, 2))
        scenario = Offline(EchoSut(), COSTS, 384, 0.13)
        monkeypatch.setattr(scenario, "_rate", lambda *_: MeasuredRate(50.0, 51.0))
        found[others] = scenario.estimate(np.arange(Qsl.count), 20.0, Listener())
    assert (found[0.0].value, found[0.0].per_second, found[0.0].remark) == (pytest.approx(57.5), 50, "")
    assert found[1.0].value == 150
    assert "other processes used 1.00 of 2 cores while the rate was measured" in found[1.0].remark
    assert "the run may take up to 1 min 06 s" in found[1.0].remark


def test_a_failure_while_measuring_is_raised():
    with pytest.raises(EngineError, match="the engine broke"):
        measure_rate(EchoSut(fail_at=3), DynamicPlanner(4, 1000), np.arange(Qsl.count), 5.0)
