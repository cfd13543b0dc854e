"""Prepares a test on this machine from its settings, for runs, tuning trials, benchmarks and nodes of a cluster."""

from collections.abc import Callable, Sequence
from functools import partial
from math import inf

import numpy as np

from harness.catalog.manifests import Dataset
from harness.engines.base import Engine, EngineSettings, engine_errors, find_engine
from harness.errors import ConfigError, EngineError
from harness.files.disk import native
from harness.graph import read_nodes
from harness.host import memory
from harness.host.supervise import Beat
from harness.preparing import engine_calls
from harness.preparing.conversion import Conversion, conversion
from harness.preparing.prepared import AS_A_RUN, Preparation, Prepared, Subject, patience
from harness.preparing.streams import Build, affordable, quick_enough, with_streams
from harness.results.parts import RecordedEngine
from harness.scenarios.base import Listener, Scenario, WarmUp, find_scenario
from harness.scheduling.compiling import DEVELOPMENT_COMPILE_SECONDS
from harness.settings.run import RunSettings
from harness.task.qsl import SampleLibrary
from harness.task.shape import Integers
from harness.terminal import console
from harness.terminal.progress import Progress

_REPLACED = "another number of streams is used"


def prepare(settings: RunSettings, how: Preparation = AS_A_RUN) -> Prepared:
    """Load the model, open the data set, compile and warm up.

    Raises:
        ConfigError: model, data set and settings do not match each other or the rules.
        EngineError: the engine rejects the model, or fails to run it.
        RunFailed: a file changed after it was hashed.
    """
    how.beat(patience(settings))
    subject = Subject.of(settings)
    possible = _possible(settings, subject.benchmark.max_cost, how.choose_streams)
    layouts = affordable(with_streams(possible, how.shared.streams), _size(settings), memory.available())
    converted = conversion(settings, how.quiet)
    load = partial(_load, settings, converted, how.beat)
    loaded = [load(layouts[0])]
    qsl = open_samples(settings, subject, loaded[0], how.beat)
    # Reject settings that do not fit the model before an engine fails on its inputs.
    doubts = subject.benchmark.doubts(subject.benchmark.make_sut(loaded[0], qsl))
    if not how.quiet:
        announce(settings, subject.dataset, qsl.count)
    # Batches consist of loaded samples only; LoadGen later loads them again itself.
    indices = np.arange(qsl.performance_count)
    qsl.load(indices)
    build = _builder(settings, how, subject, qsl, lambda layout: loaded.pop() if loaded else load(layout))
    scenario, slowest, listener = _warm_up(settings, layouts, build, indices, how.beat)
    if len(possible) > len(layouts) == 1:
        scenario.streams_why = "another run of this result used them"
    engine = scenario.sut.engine
    description = engine_calls.described(engine, engine.settings)
    _explain(description, scenario, slowest)
    if not how.quiet:
        engine_calls.remark(engine)
    how.beat(patience(settings))
    return Prepared(
        benchmark=subject.benchmark,
        dataset=subject.dataset,
        qsl=qsl,
        scenario=scenario,
        indices=indices,
        slowest=slowest,
        listener=listener,
        inputs=subject.unchanged(qsl, *([converted.file] if converted else ())),
        conversion=converted,
        description=description,
        choices=subject.benchmark.scoring_choices(scenario.sut),
        doubts=doubts,
    )


def _possible(settings: RunSettings, max_cost: int, choose_streams: bool) -> list[EngineSettings]:
    """The engine's settings for each layout of streams that may be chosen, the preferred one first."""
    scenario = find_scenario(settings.scenario)
    suited = scenario.engine_settings(settings.engine_settings, max_cost)
    # Only under a latency bound can streams be too slow; tuning has compared them already.
    free = scenario.paced and choose_streams and settings.tuned is None
    return settings.engine_settings.layouts(suited) if free else [suited]


def _builder(
    settings: RunSettings,
    how: Preparation,
    subject: Subject,
    qsl: SampleLibrary,
    load: Callable[[EngineSettings], Engine],
) -> Build:
    """The function that makes the scenario for a layout of streams; ``load`` makes the engine."""
    benchmark, kind = subject.benchmark, find_scenario(settings.scenario)
    allowed = inf if settings.official else DEVELOPMENT_COMPILE_SECONDS
    seconds = allowed if how.compile_seconds is None else how.compile_seconds
    warm_up = WarmUp(seconds, how.shared.limits, how.pilots and not settings.accuracy)
    costs = qsl.cost(np.arange(qsl.count))

    def build(layout: EngineSettings) -> Scenario:
        sut = benchmark.make_sut(load(layout), qsl)
        return kind(sut, costs, benchmark.max_cost, benchmark.server_bound, warm_up)

    return build


def announce(settings: RunSettings, dataset: Dataset, samples: int) -> None:
    """Print the line that describes the run."""
    console.note(
        f"{settings.scenario} {settings.mode}: {settings.model.name} on {settings.engine}, data set "
        f"{dataset.name} ({samples} samples)"
    )


def _explain(description: RecordedEngine, scenario: Scenario, slowest: float) -> None:
    facts = ", ".join(f"{name} {value}" for name, value in description.values().items() if value is not None)
    console.detail(f"settings in force: {facts}")
    if scenario.choice:
        console.detail(scenario.choice.words(scenario.sut.unit))
    console.detail(f"batches: {scenario.describe().words}; the slowest warm-up batch took {slowest:.3g} s")


def open_samples(settings: RunSettings, subject: Subject, engine: Engine, beat: Beat) -> SampleLibrary:
    """The samples in the form that the engine's graph requires.

    Raises:
        ConfigError: the data set cannot be read, or has too few samples for an official run.
    """
    benchmark, dataset = subject.benchmark, subject.dataset
    with Progress(benchmark.prepared, unit=benchmark.prepared_from) as bar:

        def progress(done: int, total: int) -> None:
            bar.update(done=done, total=total)
            beat(patience(settings))

        qsl = benchmark.open(dataset, settings.samples, engine.inputs, progress, engine.model)
    if settings.official and benchmark.official_samples not in (None, qsl.count):
        raise ConfigError(
            f"{dataset.path} gives {qsl.count:,} samples instead of the {benchmark.official_samples:,} of an official "
            f"run: an option of {benchmark.name} deviates from the rules; omit its --set."
        )
    return qsl


def _load(settings: RunSettings, converted: Conversion | None, beat: Beat, layout: EngineSettings) -> Engine:
    engine_class = find_engine(settings.engine)
    beat(patience(settings), engine_calls.activity(engine_class, "loaded", settings))
    try:
        with engine_errors(engine_class.name, f"to load {settings.model.path}", engine_class.alternative):
            engine = engine_class(native(converted.file.path if converted else settings.model.path), layout)
    except EngineError:
        read_nodes(settings.model.path)  # if the file is damaged, report that instead of the engine's error
        raise
    beat(patience(settings))
    return engine


def _size(settings: RunSettings) -> int:
    return sum(file.path.stat().st_size for file in settings.model.files)


def _warm_up(
    settings: RunSettings,
    layouts: Sequence[EngineSettings],
    build: Build,
    indices: Integers,
    beat: Beat,
) -> tuple[Scenario, float, Listener]:
    """The warmed-up scenario, the seconds of its slowest batch, and the listener for later progress."""
    engine = find_engine(settings.engine)
    first = engine_calls.activity(engine, "first ran", settings)
    beat(settings.stall_timeout, first)
    doing, unit = ("compiling", "shapes") if engine.fixed_shapes else ("warming up", "")
    # The number of shapes worth compiling is known only while compiling, and the time to measure them only afterwards.
    with Progress(doing, unit=unit, foreseen=False) as bar:

        class Reporter(Listener):
            doing = first

            def compiling(self, done: int, total: int) -> None:
                bar.update(done=done, total=total)
                beat(patience(settings), engine_calls.activity(engine, "compiled", settings))

            def ran(self) -> None:
                bar.update()
                beat(settings.stall_timeout, self.doing)

        listener = Reporter()
        scenario = quick_enough(layouts, build, partial(engine_calls.close, consequence=_REPLACED), indices, listener)
        beat(settings.stall_timeout, first)
        slowest = scenario.get_ready(indices, listener)
        listener.doing = ""  # later batches are not the first
        bar.update(done=len(scenario.shapes), total=len(scenario.shapes))
    return scenario, slowest, listener
