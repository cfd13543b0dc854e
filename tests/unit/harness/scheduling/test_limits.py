"""The choice of batch limits, with simulated engines whose times are known."""

from __future__ import annotations

import json
import time
from functools import partial
from itertools import count
from threading import Barrier, BoundedSemaphore
from types import SimpleNamespace

import numpy as np
import pytest
from echo import COSTS, EchoSut, Qsl
from finished import run_folder
from simulated import ONES, Simulated

from harness.engines.deepsparse import DeepSparseSettings
from harness.engines.null import NullEngine
from harness.engines.onnxruntime import OnnxRuntimeSettings
from harness.host.machine import core_count, cpu_model
from harness.preparing.shared import Shared, shared_by_nodes, shared_with_result
from harness.results.parts import RecordedLimits
from harness.scenarios import base, offline
from harness.scenarios.base import Listener, WarmUp
from harness.scenarios.offline import Offline
from harness.scenarios.server import Server
from harness.scenarios.stream import MultiStream, SingleStream
from harness.scheduling.limits import Limits, alternatives, choose_limits, typical
from harness.settings.identity import identity
from harness.settings.request import RunRequest, resolve
from harness.task.shape import Shape

INDICES = np.arange(100)
OWN = Limits(64, 1024)


def images(curve, **more):
    """The choice for images."""
    sut = Simulated(curve, **more)
    return choose_limits(sut, OWN, alternatives(OWN, ONES), [1], INDICES, clock=sut.clock), sut


def best_at(size, slope=0.04):
    """A curve of seconds whose throughput is the highest at that batch, and lower by ``slope`` for each doubling."""
    return lambda shape: 0.002 * shape.batch * (1 + slope * abs(np.log2(shape.batch / size)))


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 64])
def test_the_best_batch_of_a_known_curve_is_found(size):
    choice, sut = images(best_at(size))
    assert choice.limits == Limits(size, 1024)
    assert sut.now < 4
    assert choice.seconds[Limits(size, 1024)] == pytest.approx(0.002)


def test_of_batches_that_are_equally_fast_the_smallest_is_chosen():
    assert images(lambda shape: 0.002 * shape.batch)[0].limits.max_batch == 1
    assert images(lambda shape: 0.01)[0].limits.max_batch == 64


@pytest.mark.parametrize("size", [1, 4, 64])
def test_noise_costs_at_most_a_few_percent(size):
    """Each batch varies by 5 %, and a fifth of the time the machine is half as fast."""
    chosen = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        slow = rng.choice([1.0, 2.0], 100, p=[0.8, 0.2])
        choice, _ = images(
            best_at(size), noise=lambda now, rng=rng, slow=slow: slow[int(now / 0.2)] * rng.lognormal(0, 0.05)
        )
        chosen.append(choice.limits.max_batch)
    lost = [best_at(size)(Shape(batch, 1)) / batch / 0.002 - 1 for batch in chosen]
    assert np.mean(lost) < 0.03
    assert np.median(lost) <= 0.04


def test_a_slow_first_batch_rules_out_no_other():
    choice, _ = images(best_at(64), noise=lambda now: 20.0 if now == 0 else 1.0)
    assert choice.limits.max_batch == 64


def test_where_batches_take_long_the_engines_own_limits_remain_and_little_time_is_lost():
    choice, sut = images(lambda shape: 2.0 * shape.batch)
    assert (choice.limits, choice.seconds) == (OWN, {})
    assert sut.now <= 4
    assert "takes too long" in choice.words("images")


def test_if_larger_is_still_faster_where_batches_become_too_slow_to_measure_the_next_size_is_taken():
    choice, _ = images(lambda shape: 0.4 + 0.2 * shape.batch)  # four take 1.2 s
    assert [limits.max_batch for limits in choice.seconds] == [1, 2]
    assert choice.limits.max_batch == 4


def test_the_engines_own_limits_are_the_largest_that_are_taken_unmeasured():
    choice, sut = images(lambda shape: 0.02 + 0.018 * shape.batch)  # 64 take 1.2 s
    assert choice.limits == OWN
    assert [limits.max_batch for limits in choice.seconds] == [1, 2, 4, 8, 16]
    assert sut.now < 6
    assert "larger batches are faster" in choice.why
    assert images(lambda shape: 0.02 * shape.batch * (1 + 0.03 * shape.batch))[0].limits.max_batch == 1


@pytest.mark.parametrize(("factor", "expected"), [(-0.2, 768), (0.2, 384)])
def test_samples_of_several_lengths_have_their_tokens_limited(factor, expected):
    own = Limits(64, 384)
    sut = Simulated(lambda shape: 1e-5 * (shape.batch * shape.length) ** (1 + factor), COSTS)
    choice = choose_limits(sut, own, alternatives(own, COSTS), typical(COSTS), np.arange(Qsl.count), clock=sut.clock)
    assert choice.limits == Limits(64, expected)
    assert choice.words("tokens").startswith(f"max_tokens {expected}, since ")
    assert {length for _, length in sut.shapes} == set(typical(COSTS))


def test_limits_that_make_no_difference_are_not_tried():
    assert alternatives(Limits(64, 384), np.full(9, 300)) == [Limits(64, 384), Limits(64, 768)]
    assert alternatives(Limits(8, 4), ONES) == [Limits(1, 4), Limits(2, 4), Limits(8, 4)]
    assert alternatives(OWN, ONES, few=True) == [Limits(4, 1024), Limits(16, 1024), OWN]
    assert alternatives(OWN, COSTS, few=True) == [OWN]


def test_all_streams_run_at_once():
    together, calls = Barrier(3), count()

    class Meeting(Simulated):
        def answer(self, indices, shape):
            if next(calls) < 3:
                together.wait(20)  # breaks, and fails the test, unless all three streams come here
            return super().answer(indices, shape)

    sut = Meeting(lambda shape: 0.05, streams=3)
    tried = alternatives(Limits(2, 64), ONES)
    assert choose_limits(sut, Limits(2, 64), tried, [1], INDICES, clock=sut.clock).limits in tried


@pytest.mark.parametrize(("streams", "waiting"), [(2, 1), (4, 0)])
def test_batches_that_wait_in_the_engine_make_large_ones_look_no_faster(monkeypatch, streams, waiting):
    places = BoundedSemaphore(2)
    monkeypatch.setattr(NullEngine, "parallel", 2)

    class Queueing(Simulated):
        def answer(self, indices, shape):
            with places:
                time.sleep(0.008 * shape.batch)
            return EchoSut.answer(self, indices, shape)

    sut, own = Queueing(None, streams=streams), Limits(16, 64)
    sut.engine.waiting = waiting
    choice = choose_limits(sut, own, alternatives(own, ONES), [1], INDICES)
    assert choice.seconds[own] == pytest.approx(0.004, rel=0.15)  # seconds per image, two at once


class TestOffline:
    @pytest.fixture
    def ready(self, monkeypatch):
        """Prepares an Offline test of a simulated SUT: on its clock."""

        def prepared(sut, seconds=60.0, limits=None, **own):
            monkeypatch.setattr(base, "time", SimpleNamespace(perf_counter=sut.clock))
            monkeypatch.setattr(offline, "choose_limits", partial(choose_limits, clock=sut.clock))
            costs, warm_up = sut.qsl.cost(np.arange(sut.qsl.count)), WarmUp(seconds, limits)
            scenario = Offline(sut, costs, 384, 0.13, warm_up)
            scenario.get_ready(np.arange(sut.qsl.count), Listener())
            return scenario

        return prepared

    def test_the_choice_is_in_force_planned_and_recorded(self, ready):
        sut = Simulated(best_at(4))
        scenario = ready(sut)
        assert sut.engine.settings.max_batch == 4
        assert {batch.shape.batch for batch in scenario.planner.plan(ONES)} == {4}
        recorded = RecordedLimits.of(scenario.describe().limits)
        assert (recorded.max_batch, recorded.max_tokens) == (4, 1024)
        assert [4, 1024, pytest.approx(500)] in recorded.measured

    @pytest.mark.parametrize("given", [{"max_batch": 32}, {"max_tokens": 512}])
    def test_what_the_user_sets_is_obeyed_and_not_measured(self, ready, given):
        sut = Simulated(best_at(4))
        sut.engine.settings = OnnxRuntimeSettings(**given)
        scenario = ready(sut)
        assert scenario.choice is None
        assert sut.engine.settings == OnnxRuntimeSettings(**given)
        assert scenario.describe().limits is None

    def test_an_engine_that_computes_nothing_keeps_its_limits(self, ready):
        sut = Simulated(best_at(4))
        sut.engine.computes = False
        assert ready(sut).choice is None

    def test_a_repeated_run_takes_the_limits_of_the_first_without_measuring(self, ready):
        sut = Simulated(best_at(4))
        scenario = ready(sut, limits=Limits(16, 1024))
        assert sut.engine.settings.max_batch == 16
        assert sut.shapes == {shape for shape in sut.shapes if shape.batch in (16, 100 % 16)}
        assert scenario.describe().limits.limits.max_batch == 16

    def test_few_batches_are_compiled_where_that_is_quick(self, ready):
        sut = Simulated(best_at(16), compiling=2.0)
        sut.engine.fixed_shapes, sut.engine.settings = True, DeepSparseSettings()
        scenario = ready(sut)
        assert [shape.batch for shape in sut.compiled] == [64, 4, 16]
        assert scenario.shapes == (Shape(16, 1),)

    def test_none_but_the_engines_own_is_compiled_where_that_takes_long(self, ready):
        sut = Simulated(best_at(16), compiling=30.0)
        sut.engine.fixed_shapes, sut.engine.settings = True, DeepSparseSettings()
        assert ready(sut).shapes == tuple(sut.compiled) == (Shape(64, 1),)

    @pytest.mark.parametrize(
        ("compiling", "seconds", "settings", "shapes"),
        [
            (2.0, 60.0, {}, 12),
            (7.6, 60.0, {}, 7),
            (30.0, 60.0, {}, 4),
            (30.0, float("inf"), {}, 12),
            (30.0, 60.0, {"shapes": 9}, 9),
            (0.1, 60.0, {"shapes": 2}, 2),
            (0.1, 60.0, {"shapes": 20}, 20),
        ],
    )
    def test_as_many_lengths_are_compiled_as_the_user_says_or_the_time_allows(
        self, ready, compiling, seconds, settings, shapes
    ):
        sut = Simulated(lambda shape: 1e-4, COSTS, compiling=compiling)
        kind = DeepSparseSettings(**settings)
        sut.engine.fixed_shapes, sut.engine.settings = True, kind
        if kind.shapes:
            sut.engine.shape_budget, sut.engine.exact_shapes = kind.shapes, True
        scenario = ready(sut, seconds)
        assert len(scenario.shapes) == shapes
        assert set(sut.compiled) == set(scenario.shapes)
        assert scenario.shapes[-1].length == sut.compiled[0].length == COSTS.max()


@pytest.mark.parametrize("kind", [Server, MultiStream, SingleStream])
@pytest.mark.parametrize(("compiling", "least", "most"), [(1.0, 10, 13), (30.0, 3, 5)])
def test_the_other_scenarios_also_compile_within_the_time(monkeypatch, kind, compiling, least, most):
    sut = Simulated(lambda shape: 1e-4 * shape.batch, COSTS, compiling=compiling)
    monkeypatch.setattr(base, "time", SimpleNamespace(perf_counter=sut.clock))
    sut.engine.fixed_shapes, sut.engine.settings = True, DeepSparseSettings()
    scenario = kind(sut, COSTS, 384, 0.13, WarmUp(60.0))
    scenario.get_ready(np.arange(Qsl.count), Listener())
    assert least <= len(sut.compiled) <= most
    assert len(sut.compiled) == len(set(sut.compiled))
    assert max(shape.length for shape in scenario.shapes) == COSTS.max()


class TestOneResult:
    """All runs of an official result use the limits and streams that its first run chose."""

    @pytest.fixture
    def settings(self, tmp_path):
        def resolved(mode="accuracy", **more):
            request = {"engine": "onnxruntime", "rehearsal": True, "tree": tmp_path, "system": "here", "mode": mode}
            return resolve(RunRequest(**{**request, **more}))

        return resolved

    def keep(self, settings, **changes):
        """The record of a finished run with these settings."""
        made = run_folder(settings.tree / "runs", scenario=settings.scenario, mode=settings.mode)
        record = json.loads((made / "run.json").read_text())
        record |= {
            "identity": identity(settings).model_dump(mode="json"),
            "limits": {"max_batch": 4, "max_tokens": 384},
            "streams": {"streams": 1, "why": "quick"},
            "machine": {**record["machine"], "cpu": cpu_model(), "cores": core_count()},
            **changes,
        }
        settings.target.mkdir(parents=True)
        (settings.target / "run.json").write_text(json.dumps(record))

    @pytest.mark.parametrize("mode", ["performance", "accuracy"])
    def test_the_limits_of_the_other_run_are_used(self, settings, mode):
        first, second = settings(mode), settings("accuracy" if mode == "performance" else "performance")
        self.keep(first)
        assert shared_with_result(second) == Shared(Limits(4, 384), 1)
        assert shared_with_result(first) == Shared()
        if mode == "performance":
            assert shared_with_result(settings("performance", compliance="TEST01")) == Shared(Limits(4, 384), 1)

    def test_each_choice_counts_without_the_other(self, settings):
        self.keep(settings("performance"), limits=None)
        assert shared_with_result(settings()) == Shared(None, 1)

    def test_each_node_uses_what_it_chose(self, settings):
        made = {"name": "a", "host": "x", "model_sha256": "", "code": "", "streams": 2, "rate": 1.0}
        machine = {"packages": {}, "python": "3.11", "os": "Linux", "cpu": "CPU", "cores": 2}
        first = {**made, "machine": machine, "engine": {"name": "null"}, "limits": {"max_batch": 4, "max_tokens": 384}}
        second = {**first, "name": "b", "limits": None, "chosen_streams": {"streams": 1}}
        self.keep(settings("performance"), nodes=[first, second], limits=None, streams=None)
        assert shared_by_nodes(settings()) == {"a": Shared(Limits(4, 384), None), "b": Shared(None, 1)}
        assert shared_with_result(settings()) == Shared()
        assert shared_by_nodes(settings("performance")) == {}

    def test_a_run_with_other_settings_or_without_a_result_chooses_for_itself(self, settings):
        assert shared_with_result(settings()) == Shared()
        self.keep(settings("performance"))
        assert shared_with_result(settings(options={"streams": "1"})) == Shared()
        assert shared_with_result(settings(rehearsal=False)) == Shared()

    def test_a_performance_run_that_replaces_another_measures_again(self, settings):
        self.keep(settings("accuracy"))
        assert shared_with_result(settings("performance", force=True)) == Shared()
        self.keep(settings("performance"))
        assert shared_with_result(settings("accuracy", force=True)) == Shared(Limits(4, 384), 1)
        assert shared_with_result(settings("performance", compliance="TEST01", force=True)) == Shared(Limits(4, 384), 1)

    def test_limits_of_another_processor_are_not_used(self, settings):
        self.keep(settings("performance"), machine={"cpu": "another", "cores": 96, "packages": {}})
        assert shared_with_result(settings()) == Shared()

    def test_a_record_without_choices_or_that_cannot_be_read_sets_none(self, settings):
        self.keep(settings("performance"), limits=None, streams=None)
        assert shared_with_result(settings()) == Shared()
        (settings("performance").target / "run.json").write_text("{")
        assert shared_with_result(settings()) == Shared()
