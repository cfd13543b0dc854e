"""Server on fewer streams where one core is too slow for the bound, with simulated engines whose times are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from simulated import ONES, Simulated

from harness.engines import cores
from harness.engines.base import EngineSettings
from harness.engines.deepsparse import DeepSparseSettings
from harness.engines.onnxruntime import OnnxRuntimeSettings
from harness.host.machine import Core
from harness.preparing.streams import affordable, quick_enough, with_streams
from harness.scenarios.base import Listener
from harness.scenarios.server import Server
from harness.scheduling import cost
from harness.task.shape import Shape

BOUND = 0.1
INDICES = np.arange(100)
ARRIVING = {"latency": False, "arriving": True}


@pytest.fixture
def machine(monkeypatch):
    """A machine with that many cores on that many nodes."""

    def of(count, nodes=1):
        monkeypatch.setattr(cores, "cores", lambda: [Core(number * nodes // count, number) for number in range(count)])
        monkeypatch.setattr("harness.engines.deepsparse.core_count", lambda: count)

    return of


@pytest.fixture
def chosen(monkeypatch):
    """The scenario chosen from layouts, on an engine that takes ``alone`` seconds for a sample on one core."""

    def choose(layouts, alone, efficiency=1.0, closed=None):
        def build(settings):
            layout = settings.layout()
            seconds = alone / layout.threads**efficiency
            sut = Simulated(lambda shape: seconds * shape.batch, streams=layout.streams)
            sut.engine.settings = settings
            monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=sut.clock))
            return Server(sut, ONES, 1, BOUND)

        return quick_enough(layouts, build, (closed if closed is not None else []).append, INDICES, Listener())

    return choose


def layouts(settings=None, max_cost=1):
    settings = settings or OnnxRuntimeSettings()
    return settings.layouts(settings.suited(**ARRIVING, max_cost=max_cost))


def streams(found):
    return [layout.layout().streams for layout in found]


@pytest.mark.parametrize(
    ("count", "nodes", "expected"),
    [
        (1, 1, [1]),
        (2, 1, [2, 1]),
        (6, 1, [6, 3, 1]),
        (14, 1, [14, 7, 2, 1]),
        (64, 1, [64, 32, 16, 8, 4, 2, 1]),
        (96, 2, [96, 48, 24, 12, 6, 2, 1]),
        (16, 4, [16, 8, 4, 1]),
    ],
)
def test_layouts_have_ever_fewer_streams_and_leave_no_core_idle(machine, count, nodes, expected):
    machine(count, nodes)
    found = layouts()
    assert streams(found) == [layout.stream_count() for layout in found] == expected
    assert [layout.layout().threads for layout in found] == [count // number for number in expected]
    assert [len(layout.layout().instances) for layout in found[:-1]] == [nodes] * (len(found) - 1)


def test_layouts_begin_with_what_suits_the_engine(machine):
    machine(8)
    found = layouts(DeepSparseSettings())
    assert [layout.in_force()["scheduler"] for layout in found] == ["elastic", *["multi_stream"] * 3, "single_stream"]
    assert streams(found) == [16, 8, 4, 2, 1]
    assert streams(layouts(DeepSparseSettings(), max_cost=384)) == [2, 1]
    assert EngineSettings().layouts(EngineSettings()) == [EngineSettings()]


def test_deepsparse_keeps_its_pinning_which_it_reads_once(machine):
    machine(16, nodes=2)
    found = layouts(DeepSparseSettings(), max_cost=384)
    assert streams(found) == [4, 2]
    assert {len(layout.layout().instances) for layout in found} == {2}


def test_layouts_keep_what_else_suits_the_engine(machine):
    machine(4)
    mine = OnnxRuntimeSettings(max_batch=3)
    assert all(layout.max_batch == 3 for layout in mine.layouts(mine))


@pytest.mark.parametrize("mine", [{"streams": 4}, {"threads": 1}, {"instances": 1}])
def test_what_the_user_sets_stays(machine, mine):
    machine(4)
    for settings in (OnnxRuntimeSettings(**mine), DeepSparseSettings(**mine)):
        assert layouts(settings) == [settings.suited(**ARRIVING, max_cost=1)]
    assert len(layouts(DeepSparseSettings(scheduler="elastic"))) == 1


@pytest.mark.parametrize(
    ("alone", "expected"), [(0.01, 64), (0.079, 64), (0.081, 32), (0.15, 32), (0.17, 16), (1.0, 4), (1.5, 2), (4.0, 1)]
)
def test_a_stream_gets_as_many_cores_as_its_part_of_the_bound_needs(machine, chosen, alone, expected):
    machine(64)
    closed = []
    scenario = chosen(layouts(), alone, closed=closed)
    assert scenario.sut.engine.streams == expected
    chosen = scenario.describe().streams
    assert chosen.streams == expected
    assert "with 64 streams, a sample takes" in chosen.why
    assert "80% of the bound is 80 ms" in chosen.why
    assert (closed == []) == (expected == 64)


@pytest.mark.parametrize(("count", "share"), [(2, 0.5), (6, 0.75), (8, 0.8), (64, 0.8)])
def test_many_streams_leave_little_waiting(machine, chosen, count, share):
    machine(count)
    assert chosen(layouts(), 0.99 * share * BOUND).sut.engine.streams == count
    assert chosen(layouts(), 1.01 * share * BOUND).sut.engine.streams < count


def test_cores_that_help_less_are_measured_again(machine, chosen):
    machine(64)
    closed = []
    assert chosen(layouts(), 0.2, efficiency=0.5, closed=closed).sut.engine.streams == 8
    assert [engine.streams for engine in closed] == [64, 16]


def test_an_engine_that_deals_cores_out_is_measured_on_as_many_streams_as_compute_at_once(monkeypatch):
    sut = Simulated(lambda shape: 0.06, streams=2)
    sut.engine = SimpleNamespace(streams=2, parallel=1, fixed_shapes=False, settings=EngineSettings(), computes=True)
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=sut.clock))
    times = cost.measure_shapes(sut, [Shape(1, 1)], INDICES)[Shape(1, 1)]
    assert times.tolist() == pytest.approx([0.06] * len(times))
    slowness, words = Server(sut, ONES, 1, BOUND).slowness(INDICES, Listener())
    assert slowness == pytest.approx(1.8)
    assert words == "with 1 stream, a sample takes 60 ms, and 33% of the bound is 33.3 ms"


def test_a_layout_of_the_users_own_is_not_measured(machine, chosen):
    machine(4)
    scenario = chosen(layouts(OnnxRuntimeSettings(streams=4)), 1e3)
    assert scenario.sut.now == 0
    assert scenario.describe().streams is None


def test_another_run_of_the_result_decides(machine, caplog):
    machine(8)
    found = layouts()
    assert with_streams(found, 2) == [found[2]]
    assert with_streams(found, None) == found
    assert not caplog.records
    assert with_streams(found, 7) == found
    assert "used 7 streams, which is not possible here" in caplog.text
    assert with_streams([EngineSettings()], 2) == [EngineSettings()]


def test_layouts_whose_copies_of_the_weights_do_not_fit_are_left_out(machine):
    machine(16)
    found = layouts()
    assert streams(affordable(found, 10, 100)) == [16, 4, 2, 1]
    assert streams(affordable(found, 10, 5)) == [16, 1]
    assert affordable(found, 10, None) == found
    assert affordable(found[:1], 10, 5) == found[:1]
