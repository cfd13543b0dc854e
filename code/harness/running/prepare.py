"""From settings to a prepared scenario: shared by tests, tuning trials and benchmarks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import inf

import numpy as np
from pydantic import ValidationError

from harness.catalog.datasets import find_dataset
from harness.catalog.manifests import Dataset
from harness.cluster.link import Link
from harness.engines.base import Engine, EngineSettings, engine_errors, find_engine
from harness.errors import ConfigError, EngineError
from harness.host import console, memory
from harness.host.files import native
from harness.host.fingerprint import Fingerprint, check_unchanged
from harness.host.supervise import Beat
from harness.loadgen.logs import Detail
from harness.results.record import RecordedEngine, record_text
from harness.rules.rehearsal import REHEARSAL_TREE
from harness.running.conversion import Conversion, conversion
from harness.running.shared import Shared
from harness.running.streams import Build, affordable, quick_enough, with_streams
from harness.scenarios.base import Listener, Scenario, ShortTest, find_scenario
from harness.scheduling.base import Scheduler
from harness.scheduling.compiling import DEVELOPMENT_COMPILE_SECONDS
from harness.scheduling.overload import Overload, Overloaded, most_queries
from harness.settings.identity import setting_files
from harness.settings.run import RunSettings
from harness.task.base import Benchmark, Choice, find_benchmark
from harness.task.qsl import SampleLibrary
from harness.task.shape import Integers
from harness.task.sut import SUT

_STEP_SECONDS = 900.0  # maximum of one preparation step
_CLOSE_SECONDS = 30.0  # maximum of closing an engine
_REPLACED = "another number of streams is used"


def no_beat(within: float, doing: str = "") -> None:
    """A `Beat` that nobody waits for."""


@dataclass(frozen=True)
class Prepared:
    """A benchmark's data and model on an engine, warmed up, with the samples loaded that LoadGen will load."""

    benchmark: Benchmark
    dataset: Dataset
    qsl: SampleLibrary
    scenario: Scenario
    indices: Integers
    """The loaded samples, int64 (n,)."""
    slowest: float
    """Seconds of the slowest batch in the warm-up."""
    listener: Listener
    """Receives the progress of `Scenario.estimate`."""
    inputs: tuple[Fingerprint, ...]
    """All files that the result depends on: model, data set, vocabulary."""
    conversion: Conversion | None
    """The file that the engine reads in place of the model's, if any."""
    description: Mapping[str, object]
    """The engine's description, taken before the test: an error in it afterwards could lose the result."""
    choices: tuple[Choice, ...] = ()
    doubts: tuple[str, ...] = ()
    """Signs that a setting does not belong to the model."""
    links: Sequence[Link] = ()
    """The nodes that compute, if this process does not."""

    @property
    def sut(self) -> SUT:
        """The scenario's; in a cluster it only describes what the nodes run."""
        return self.scenario.sut

    @property
    def engine(self) -> Engine:
        """The SUT's."""
        return self.scenario.sut.engine

    def short_test(self, test: ShortTest, scheduler: Scheduler | None = None) -> Detail:
        """LoadGen's log of a short performance test (`session.short_test`); the samples stay loaded.

        Without a ``scheduler`` of its own, a test that cannot meet the bound is given up, and ends with its last query.
        """
        from harness.running import session

        overload, ended = None, None
        if self.scenario.paced and test.rate and scheduler is None:
            most = most_queries(test.rate, test.seconds, 1)
            overload = Overload(most, self.scenario.bound, self.scenario.percentile or 0)
        running = scheduler or self.scenario.scheduler(session.complete)

        def progress() -> None:
            nonlocal ended
            self.listener.ran()
            try:
                if overload and not ended:
                    overload.look(running.counters)
            except Overloaded as error:
                ended = error
                running.give_up()

        detail = session.short_test(self.scenario, test, running, self.qsl, progress)
        self.qsl.load(self.indices)
        # The rate of the queries that were computed, not of those that were then given up.
        return replace(detail, values={**detail.values, self.scenario.result: ended.reached}) if ended else detail

    def close(self, beat: Beat, stall_timeout: float) -> None:
        """Close the engine, once the result is safe: an error is only a warning."""
        beat(min(stall_timeout, _CLOSE_SECONDS))
        _close(self.engine, "the result is kept")


def patience(settings: RunSettings) -> float:
    """Maximum seconds of one step of preparing or scoring."""
    return max(_STEP_SECONDS, settings.stall_timeout)


def prepare(
    settings: RunSettings,
    beat: Beat = no_beat,
    quiet: bool = False,
    shared: Shared | None = None,
    compile_seconds: float | None = None,
    choose_streams: bool = True,
) -> Prepared:
    """Load the model, open the data set, compile and warm up; ``quiet`` omits the line that describes the run.

    ``shared`` is what the other runs of the same result chose. ``compile_seconds`` roughly limits the time for
    compiling shapes; None for the limit of the run's mode. ``choose_streams`` allows fewer streams than the engine's
    default if a latency bound requires it.

    Raises:
        ConfigError: model, data set and settings do not match each other or the rules.
        EngineError: the engine rejects the model, or fails to run it.
        RunFailed: a file changed after it was hashed.
    """
    beat(patience(settings))
    shared = shared or Shared()
    given = (*settings.model.files, *setting_files(settings))
    kind = find_benchmark(settings.model.benchmark)
    benchmark = kind(settings.benchmark_settings, settings.cache_dir, settings.sources)
    dataset = dataset_of(settings, benchmark)
    scenario_class, engine_class = find_scenario(settings.scenario), find_engine(settings.engine)
    possible = _possible(settings, scenario_class, benchmark.max_cost, choose_streams)
    layouts = affordable(with_streams(possible, shared.streams), _size(settings), memory.available())
    converted = conversion(settings, quiet)
    loaded = [_load(settings, engine_class, converted, layouts[0], beat)]
    qsl = open_samples(settings, benchmark, dataset, loaded[0], beat)
    # Settings that cannot fit the model are refused before an engine fails on its inputs.
    doubts = benchmark.doubts(benchmark.make_sut(loaded[0], qsl))
    allowed = inf if settings.official else DEVELOPMENT_COMPILE_SECONDS
    costs, seconds = qsl.cost(np.arange(qsl.count)), allowed if compile_seconds is None else compile_seconds

    def build(layout: EngineSettings) -> Scenario:
        engine = loaded.pop() if loaded else _load(settings, engine_class, converted, layout, beat)
        sut = benchmark.make_sut(engine, qsl)
        scenario = scenario_class(sut, costs, benchmark.max_cost, benchmark.server_bound)
        scenario.compile_seconds, scenario.limits, scenario.pilots = seconds, shared.limits, not settings.accuracy
        return scenario

    if not quiet:
        announce(settings, dataset, qsl.count)
    # Batches are made of loaded samples only; LoadGen loads them again itself.
    indices = np.arange(qsl.performance_count)
    qsl.load(indices)
    scenario, slowest, listener = _warm_up(settings, engine_class, layouts, build, indices, beat)
    engine = scenario.sut.engine
    if len(possible) > len(layouts) == 1:
        scenario.streams_why = "another run of this result used them"
    description = _described(engine, engine.settings)
    _explain(description, scenario, slowest)
    if not quiet:
        _remark(engine)
    beat(patience(settings))
    inputs = (*given, *([converted.file] if converted else []), *dataset.files, *qsl.files)
    check_unchanged(inputs)
    return Prepared(
        benchmark=benchmark,
        dataset=dataset,
        qsl=qsl,
        scenario=scenario,
        indices=indices,
        slowest=slowest,
        listener=listener,
        inputs=inputs,
        conversion=converted,
        description=description,
        choices=benchmark.scoring_choices(scenario.sut),
        doubts=doubts,
    )


def _possible(
    settings: RunSettings, scenario: type[Scenario], max_cost: int, choose_streams: bool
) -> list[EngineSettings]:
    """The engine's settings with each layout of streams that may be chosen, the preferred one first."""
    suited = scenario.engine_settings(settings.engine_settings, max_cost)
    # Only under a latency bound can streams be too slow; tuning has compared them already.
    free = scenario.paced and choose_streams and settings.tuned is None
    return settings.engine_settings.layouts(suited) if free else [suited]


def announce(settings: RunSettings, dataset: Dataset, samples: int) -> None:
    """Print the line that describes the run."""
    console.note(
        f"{settings.scenario} {settings.mode}: {settings.model.name} on {settings.engine}, data set "
        f"{dataset.name} ({samples} samples)"
    )


def _explain(description: Mapping[str, object], scenario: Scenario, slowest: float) -> None:
    console.detail(f"settings in force: {_words(description)}")
    if scenario.choice:
        console.detail(scenario.choice.words(scenario.sut.unit))
    console.detail(f"batches: {_words(scenario.describe())}; the slowest warm-up batch took {slowest:.3g} s")


def dataset_of(settings: RunSettings, benchmark: Benchmark) -> Dataset:
    """The data set of the run; of a rehearsal without one, a stand-in.

    Raises:
        ConfigError: it is unknown, or the rules do not allow it.
    """
    if settings.rehearsal and settings.dataset is None:
        return find_dataset(benchmark.name, str(benchmark.stand_in(REHEARSAL_TREE / "data")))
    dataset = find_dataset(benchmark.name, settings.dataset)
    if settings.official and not settings.rehearsal:
        benchmark.check_official(dataset)
    return dataset


def open_samples(
    settings: RunSettings, benchmark: Benchmark, dataset: Dataset, engine: Engine, beat: Beat
) -> SampleLibrary:
    """The samples in the form that the engine's graph takes.

    Raises:
        ConfigError: the data set cannot be read, or has too few samples for an official run.
    """
    with console.Progress(benchmark.prepared, unit=benchmark.prepared_from) as bar:

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


def _load(
    settings: RunSettings, engine_class: type[Engine], converted: Conversion | None, layout: EngineSettings, beat: Beat
) -> Engine:
    beat(patience(settings), _activity(engine_class, "loaded", settings))
    with engine_errors(engine_class.name, f"to load {settings.model.path}", engine_class.alternative):
        engine = engine_class(native(converted.file.path if converted else settings.model.path), layout)
    beat(patience(settings))
    return engine


def _size(settings: RunSettings) -> int:
    return sum(file.path.stat().st_size for file in settings.model.files)


def _close(engine: Engine, consequence: str) -> None:
    try:
        engine.close()
    except BaseException as error:  # noqa: BLE001  an engine may raise anything
        console.warn(f"{engine.name} failed to close ({_in_words(error)}); {consequence}.")


def _warm_up(
    settings: RunSettings,
    engine: type[Engine],
    layouts: Sequence[EngineSettings],
    build: Build,
    indices: Integers,
    beat: Beat,
) -> tuple[Scenario, float, Listener]:
    """The warmed-up scenario, the seconds of its slowest batch, and the listener for later progress."""
    first = _activity(engine, "first ran", settings)
    beat(settings.stall_timeout, first)
    doing, unit = ("compiling", "shapes") if engine.fixed_shapes else ("warming up", "")
    # The number of shapes worth compiling is known only while compiling, and the time to measure them only afterwards.
    with console.Progress(doing, unit=unit, foreseen=False) as bar:

        class Reporter(Listener):
            doing = first

            def compiling(self, done: int, total: int) -> None:
                bar.update(done=done, total=total)
                beat(patience(settings), _activity(engine, "compiled", settings))

            def ran(self) -> None:
                bar.update()
                beat(settings.stall_timeout, self.doing)

        listener = Reporter()
        scenario = quick_enough(layouts, build, partial(_close, consequence=_REPLACED), indices, listener)
        beat(settings.stall_timeout, first)
        slowest = scenario.get_ready(indices, listener)
        listener.doing = ""  # from now on it is not the first time
        bar.update(done=len(scenario.shapes), total=len(scenario.shapes))
    return scenario, slowest, listener


def _activity(engine: type[Engine], verb: str, settings: RunSettings) -> str:
    """What an engine does with the model, and what the user can do if the process crashes meanwhile."""
    hints = [engine.alternative] if engine.alternative else []
    if not console.output().verbose:
        hints.append("harness -v run shows what the engine printed")
    return f"{engine.name} {verb} {settings.model.path}" + (f": {'; '.join(hints)}" if hints else "")


def _remark(engine: Engine) -> None:
    try:
        if remark := engine.remark():
            console.warn(remark)
    except Exception as error:  # noqa: BLE001  an engine may raise anything
        console.warn(f"remark() of engine {engine.name} failed: {_in_words(error)}.")


def _described(engine: Engine, settings: EngineSettings) -> Mapping[str, object]:
    """The engine's description, or its settings if ``describe()`` fails.

    Raises:
        EngineError: run.json cannot hold it; found before the test, so that no result is lost.
    """
    try:
        described = engine.describe()
    except Exception as error:  # noqa: BLE001  an engine may raise anything
        console.warn(f"describe() of engine {engine.name} failed, so run.json lacks its version: {_in_words(error)}.")
        return {"name": engine.name, **settings.model_dump()}
    try:
        RecordedEngine.model_validate_json(record_text(described))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise EngineError(
            f"describe() of engine {engine.name} returns {name} {first['input']!r}, which run.json cannot hold "
            f"({first['msg']}): return another value."
        ) from error
    except (TypeError, ValueError, RecursionError) as error:
        raise EngineError(
            f"describe() of engine {engine.name} returns what run.json cannot hold ({_in_words(error)}): return a "
            "dictionary of strings and numbers."
        ) from error
    return described


def _in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _words(facts: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None)
