"""What the benchmarks share: a scenario made ready as a run makes it, and how ratios are printed."""

from __future__ import annotations

import multiprocessing
import statistics
from dataclasses import dataclass

import numpy as np

from harness import catalog
from harness.loadgen.logs import Detail
from harness.qsl import SampleLibrary
from harness.registry import BENCHMARKS, ENGINES, SCENARIOS, resolve
from harness.scenarios.base import Scenario
from harness.scheduling.base import Scheduler
from harness.sut import SUT

BOUNDS = {"bert": 0.130, "resnet50": 0.015}
"""Seconds, as mlperf.conf sets the Server bound of each benchmark."""


@dataclass
class Ready:
    """A scenario with all that it needs, loaded and warm."""

    scenario: Scenario
    sut: SUT
    qsl: SampleLibrary
    indices: np.ndarray
    bound: float

    @classmethod
    def make(cls, model: str, dataset: str | None, engine: str, name: str, **options: int) -> Ready:
        """The scenario of that name with a model on an engine."""
        found = catalog.find_model(model)
        kind = resolve("benchmark", BENCHMARKS, found.benchmark)
        benchmark = kind(kind.Settings.model_validate(found.settings), catalog.CACHE_DIR)
        qsl = benchmark.open(catalog.find_dataset(found.benchmark, dataset), None)
        engine_class, scenario_class = resolve("engine", ENGINES, engine), resolve("scenario", SCENARIOS, name)
        if engine == "null":  # as many as are loaded: batches that lie side by side in memory need no copy
            options = {"max_batch": min(1024, qsl.performance_count), **options}
        settings = scenario_class.engine_settings(engine_class.Settings(**options))
        sut = benchmark.make_sut(engine_class(found.path, settings), qsl)
        scenario = scenario_class(sut, qsl.cost(np.arange(qsl.count)), kind.max_cost)
        indices = np.arange(qsl.performance_count)
        qsl.load(indices)
        for shape in scenario.compiled:
            sut.prepare(shape)
        scenario.warm_up(indices)
        return cls(scenario, sut, qsl, indices, BOUNDS[found.benchmark])

    def test(self, scheduler: Scheduler | None = None, **settings: object) -> Detail:
        """LoadGen's log of a test; its samples are loaded again afterwards."""
        from harness.loadgen import session

        scheduler = scheduler or self.scenario.scheduler(session.complete, self.bound)
        detail = session.short_test(self.scenario.name, scheduler, self.qsl, **settings)
        self.qsl.load(self.indices)
        return detail


def apart(work, *args):
    """Run a measurement in a process of its own: engines and LoadGen leave threads behind."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def spread(values: list[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"
