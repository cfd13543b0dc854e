"""From settings to a scenario that is ready: what a test, a trial of tuning and a benchmark have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.engines.base import Engine, engine_errors
from harness.errors import ConfigError
from harness.host import console
from harness.loadgen.logs import Detail
from harness.registry import BENCHMARKS, ENGINES, SCENARIOS, resolve
from harness.rules.rehearsal import REHEARSAL_TREE
from harness.running.settings import RunSettings
from harness.scenarios.base import Scenario, Told
from harness.scheduling.base import Scheduler
from harness.task.base import Benchmark
from harness.task.qsl import SampleLibrary
from harness.task.sut import SUT

_PREPARING = 900.0  # seconds that one step of preparing may take

Beat = Callable[[float], None]
"""Says that progress was made, and within how many seconds the next sign of it will come."""


@dataclass(frozen=True)
class Prepared:
    """A benchmark's data and model on an engine, warm; the samples that LoadGen will load are loaded."""

    benchmark: Benchmark
    dataset: manifests.Dataset
    qsl: SampleLibrary
    engine: Engine
    sut: SUT
    scenario: Scenario
    indices: np.ndarray
    """int64 (n,): the loaded samples."""
    slowest: float
    """Seconds of the slowest batch of the warm-up."""
    told: Told
    """What to give to `Scenario.estimate`."""

    def short_test(self, scheduler: Scheduler | None = None, **settings: object) -> Detail:
        """LoadGen's log of a performance test to measure with, by `session.short_test`; the samples stay loaded."""
        from harness.running import session

        scheduler = scheduler or self.scenario.scheduler(session.complete)
        if "server_target_qps" in settings:
            settings["server_target_latency_ns"] = round(self.scenario.bound * 1e9)
        detail = session.short_test(self.scenario.name, scheduler, self.qsl, self.told.ran, **settings)
        self.qsl.load(self.indices)
        return detail


def patience(settings: RunSettings) -> float:
    """Seconds that one step of preparing or scoring may take."""
    return max(_PREPARING, settings.stall_timeout)


def prepare(settings: RunSettings, beat: Beat = lambda within: None, quiet: bool = False) -> Prepared:
    """Open the data set, load the model, compile and warm up; ``quiet`` leaves out the line that says what is run.

    Raises:
        ConfigError: model, data set and settings do not fit each other or the rules.
        EngineError: the engine refuses the model, or fails to run it.
    """
    preparing = patience(settings)
    beat(preparing)
    benchmark: Benchmark = resolve("benchmark", BENCHMARKS, settings.model.benchmark)(
        settings.benchmark_settings, settings.cache_dir
    )
    if settings.rehearsal and settings.dataset is None:
        dataset = find_dataset(settings.model.benchmark, str(benchmark.stand_in(REHEARSAL_TREE / "data")))
    else:
        dataset = find_dataset(settings.model.benchmark, settings.dataset)
    if settings.official and not settings.rehearsal:
        benchmark.check_official(dataset)
    with console.Progress(benchmark.prepared, unit=benchmark.prepared_from) as bar:

        def progress(done: int, total: int) -> None:
            bar.update(done=done, total=total)
            beat(preparing)

        qsl = benchmark.open(dataset, settings.samples, progress)
    if settings.official and benchmark.official_samples not in (None, qsl.count):
        raise ConfigError(
            f"{dataset.path} gives {qsl.count:,} samples where an official run has {benchmark.official_samples:,}: "
            f"an option of {benchmark.name} differs from the rules'; leave out its --set."
        )
    engine_class: type[Engine] = resolve("engine", ENGINES, settings.engine)
    scenario_class: type[Scenario] = resolve("scenario", SCENARIOS, settings.scenario)
    with engine_errors(engine_class.name, f"to load {settings.model.path}"):
        suited = scenario_class.engine_settings(settings.engine_settings, benchmark.max_cost)
        engine = engine_class(settings.model.path, suited)
    sut = benchmark.make_sut(engine, qsl)
    costs = qsl.cost(np.arange(qsl.count))
    scenario = scenario_class(sut, costs, benchmark.max_cost, benchmark.server_bound)
    if not quiet:
        console.note(
            f"{settings.scenario} {settings.mode}: {settings.model.name} on {settings.engine}, data set "
            f"{dataset.name} ({qsl.count} samples)"
        )
    # Batches are made of loaded samples only; LoadGen loads them again itself.
    indices = np.arange(qsl.performance_count)
    qsl.load(indices)
    beat(settings.stall_timeout)
    with console.Progress("compiling" if engine.fixed_shapes else "warming up", unit="shapes") as bar:

        class Signs(Told):
            def compiling(self, done: int, total: int) -> None:
                bar.update(done=done, total=total)
                beat(preparing)

            def ran(self) -> None:
                beat(settings.stall_timeout)

        told = Signs()
        slowest = scenario.get_ready(indices, told)
        bar.update(done=len(scenario.shapes), total=len(scenario.shapes))
    console.detail(f"settings in force: {_words(engine.describe())}")
    console.detail(f"batches: {_words(scenario.describe())}; the slowest of the warm-up took {slowest:.3g} s")
    return Prepared(benchmark, dataset, qsl, engine, sut, scenario, indices, slowest, told)


def _words(facts: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
