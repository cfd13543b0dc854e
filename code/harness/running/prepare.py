"""From settings to a prepared scenario: shared by tests, tuning trials and benchmarks."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import ValidationError

from harness.catalog.datasets import find_dataset
from harness.catalog.manifests import Dataset
from harness.engines.base import Engine, engine_errors, find_engine
from harness.errors import ConfigError, EngineError
from harness.host import console
from harness.loadgen.logs import Detail
from harness.results.record import RecordedEngine
from harness.rules.rehearsal import REHEARSAL_TREE
from harness.running.settings import RunSettings
from harness.scenarios.base import Listener, Scenario, find_scenario
from harness.scheduling.base import Scheduler
from harness.task.base import Benchmark, find_benchmark
from harness.task.qsl import SampleLibrary
from harness.task.shape import Integers
from harness.task.sut import SUT

_PREPARING = 900.0  # maximum seconds of one preparation step

Beat = Callable[[float], None]
"""Reports progress, and the maximum seconds until the next report."""


@dataclass(frozen=True)
class Prepared:
    """A benchmark's data and model on an engine, warmed up, with the samples loaded that LoadGen will load."""

    benchmark: Benchmark
    dataset: Dataset
    qsl: SampleLibrary
    engine: Engine
    sut: SUT
    scenario: Scenario
    indices: Integers
    """The loaded samples, int64 (n,)."""
    slowest: float
    """Seconds of the slowest batch in the warm-up."""
    listener: Listener
    """Receives the progress of `Scenario.estimate`."""

    def short_test(self, scheduler: Scheduler | None = None, /, **settings: float) -> Detail:
        """LoadGen's log of a short performance test (`session.short_test`); the samples stay loaded."""
        from harness.running import session

        scheduler = scheduler or self.scenario.scheduler(session.complete)
        if "server_target_qps" in settings:
            settings["server_target_latency_ns"] = round(self.scenario.bound * 1e9)
        detail = session.short_test(self.scenario.name, scheduler, self.qsl, self.listener.ran, **settings)
        self.qsl.load(self.indices)
        return detail


def patience(settings: RunSettings) -> float:
    """Maximum seconds of one step of preparing or scoring."""
    return max(_PREPARING, settings.stall_timeout)


def prepare(settings: RunSettings, beat: Beat = lambda within: None, quiet: bool = False) -> Prepared:
    """Load the model, open the data set, compile and warm up; ``quiet`` omits the line that describes the run.

    Raises:
        ConfigError: model, data set and settings do not match each other or the rules.
        EngineError: the engine rejects the model, or fails to run it.
    """
    beat(patience(settings))
    benchmark = find_benchmark(settings.model.benchmark)(settings.benchmark_settings, settings.cache_dir)
    dataset = _dataset(settings, benchmark)
    scenario_class, engine_class = find_scenario(settings.scenario), find_engine(settings.engine)
    with engine_errors(engine_class.name, f"to load {settings.model.path}"):
        suited = scenario_class.engine_settings(settings.engine_settings, benchmark.max_cost)
        engine = engine_class(settings.model.path, suited)
    beat(patience(settings))
    qsl = _open(settings, benchmark, dataset, engine, beat)
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
    slowest, listener = _warm_up(settings, scenario, indices, beat)
    return Prepared(benchmark, dataset, qsl, engine, sut, scenario, indices, slowest, listener)


def _dataset(settings: RunSettings, benchmark: Benchmark) -> Dataset:
    if settings.rehearsal and settings.dataset is None:
        return find_dataset(benchmark.name, str(benchmark.stand_in(REHEARSAL_TREE / "data")))
    dataset = find_dataset(benchmark.name, settings.dataset)
    if settings.official and not settings.rehearsal:
        benchmark.check_official(dataset)
    return dataset


def _open(settings: RunSettings, benchmark: Benchmark, dataset: Dataset, engine: Engine, beat: Beat) -> SampleLibrary:
    with console.Progress(benchmark.prepared, unit=benchmark.prepared_from) as bar:

        def progress(done: int, total: int) -> None:
            bar.update(done=done, total=total)
            beat(patience(settings))

        qsl = benchmark.open(dataset, settings.samples, engine.inputs, progress)
    if settings.official and benchmark.official_samples not in (None, qsl.count):
        raise ConfigError(
            f"{dataset.path} gives {qsl.count:,} samples instead of the {benchmark.official_samples:,} of an official "
            f"run: an option of {benchmark.name} deviates from the rules; omit its --set."
        )
    return qsl


def _warm_up(settings: RunSettings, scenario: Scenario, indices: Integers, beat: Beat) -> tuple[float, Listener]:
    """Seconds of the slowest batch, and the listener for later progress."""
    engine = scenario.sut.engine
    beat(settings.stall_timeout)
    with console.Progress("compiling" if engine.fixed_shapes else "warming up", unit="shapes") as bar:

        class Reporter(Listener):
            def compiling(self, done: int, total: int) -> None:
                bar.update(done=done, total=total)
                beat(patience(settings))

            def ran(self) -> None:
                beat(settings.stall_timeout)

        listener = Reporter()
        slowest = scenario.get_ready(indices, listener)
        bar.update(done=len(scenario.shapes), total=len(scenario.shapes))
    console.detail(f"settings in force: {_words(_described(engine))}")
    console.detail(f"batches: {_words(scenario.describe())}; the slowest warm-up batch took {slowest:.3g} s")
    return slowest, listener


def _described(engine: Engine) -> Mapping[str, object]:
    """The engine's description, which must fit the record: found before the test, an error costs no result."""
    described = engine.describe()
    try:
        RecordedEngine.model_validate_json(json.dumps(described, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise EngineError(
            f"describe() of engine {engine.name} returns {name} {first['input']!r}, which run.json cannot hold "
            f"({first['msg']}): return another value."
        ) from error
    return described


def _words(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
