"""Server on fewer streams where one core is too slow for the bound, with simulated engines whose times are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from test_limits import ONES, Simulated

from harness.engines import cores
from harness.engines.base import EngineSettings
from harness.engines.deepsparse import DeepSparseSettings
from harness.engines.onnxruntime import OnnxRuntimeSettings
from harness.host.machine import Core
from harness.running.streams import quick_enough, with_streams
from harness.scenarios.base import Listener
from harness.scenarios.server import Server
from harness.scheduling import cost
from harness.task.shape import Shape

BOUND = 0.1
INDICES = np.arange(100)
ARRIVING = {"latency": False, "arriving": True}


@pytest.fixture
def machine(monkeypatch):
    """A machine with that many cores on one node."""

    def of(count):
        monkeypatch.setattr(cores, "cores", lambda: [Core(0, number) for number in range(count)])
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
            monkeypatch.setattr(cost, "core_count", lambda: 1)  # the simulated clock knows no streams at once
            return Server(sut, ONES, 1, BOUND)

        return quick_enough(layouts, build, (closed if closed is not None else []).append, INDICES, Listener())

    return choose


def layouts(settings=None, max_cost=1):
    settings = settings or OnnxRuntimeSettings()
    return settings.layouts(settings.suited(**ARRIVING, max_cost=max_cost))


def streams(found):
    return [layout.layout().streams for layout in found]


@pytest.mark.parametrize(("count", "expected"), [(1, [1]), (2, [2, 1]), (6, [6, 3, 1]), (64, [64, 32, 16, 8, 4, 2, 1])])
def test_layouts_have_ever_fewer_streams_with_more_cores(machine, count, expected):
    machine(count)
    found = layouts()
    assert streams(found) == expected
    assert [layout.layout().threads for layout in found] == [count // number for number in expected]


def test_layouts_begin_with_what_suits_the_engine(machine):
    machine(8)
    found = layouts(DeepSparseSettings())
    assert [layout.in_force()["scheduler"] for layout in found] == ["elastic", *["multi_stream"] * 3, "single_stream"]
    assert streams(found) == [16, 8, 4, 2, 1]
    assert streams(layouts(DeepSparseSettings(), max_cost=384)) == [2, 1]
    assert EngineSettings().layouts(EngineSettings()) == [EngineSettings()]


@pytest.mark.parametrize("mine", [{"streams": 4}, {"threads": 1}, {"instances": 1}])
def test_what_the_user_sets_stays(machine, mine):
    machine(4)
    for settings in (OnnxRuntimeSettings(**mine), DeepSparseSettings(**mine)):
        assert layouts(settings) == [settings.suited(**ARRIVING, max_cost=1)]
    assert len(layouts(DeepSparseSettings(scheduler="elastic"))) == 1


@pytest.mark.parametrize(
    ("alone", "expected"), [(0.01, 64), (0.049, 64), (0.051, 32), (0.11, 16), (0.19, 16), (1.5, 2), (1e3, 1)]
)
def test_a_stream_gets_as_many_cores_as_half_the_bound_needs(machine, chosen, alone, expected):
    machine(64)
    closed = []
    scenario = chosen(layouts(), alone, closed=closed)
    assert scenario.sut.engine.streams == expected
    assert len(closed) == (expected != 64)  # the first measurement shows how many cores it takes
    assert scenario.describe()["streams"]["streams"] == expected
    assert "half the bound is 50 ms" in scenario.describe()["streams"]["why"]


def test_cores_that_help_less_are_measured_again(machine, chosen):
    machine(64)
    closed = []
    assert chosen(layouts(), 0.19, efficiency=0.5, closed=closed).sut.engine.streams == 4
    assert [engine.streams for engine in closed] == [64, 16, 8]


def test_an_engine_with_more_streams_than_cores_is_measured_on_as_many_as_run_at_once(monkeypatch):
    """DeepSparse deals two streams for each core out itself; all at once they would only wait for each other."""
    monkeypatch.setattr(cost, "core_count", lambda: 1)
    sut = Simulated(lambda shape: 0.06, streams=2)
    monkeypatch.setattr(cost, "time", SimpleNamespace(perf_counter=sut.clock))
    times = cost.measure_shapes(sut, [Shape(1, 1)], INDICES)
    assert times[Shape(1, 1)].tolist() == pytest.approx([0.06] * len(times[Shape(1, 1)]))
    slowness, words = Server(sut, ONES, 1, BOUND).slowness(INDICES, Listener())
    assert slowness == pytest.approx(1.2)
    assert words == "with 1 stream, a sample takes 60 ms, and half the bound is 50 ms"


def test_a_layout_of_the_users_own_is_not_measured(machine, chosen):
    machine(4)
    scenario = chosen(layouts(OnnxRuntimeSettings(streams=4)), 1e3)
    assert scenario.sut.now == 0
    assert "streams" not in scenario.describe()


def test_another_run_of_the_result_decides(machine):
    machine(8)
    found = layouts()
    assert with_streams(found, 2) == [found[2]]
    assert with_streams(found, 7) == with_streams(found, None) == found
    assert with_streams([EngineSettings()], 2) == [EngineSettings()]
