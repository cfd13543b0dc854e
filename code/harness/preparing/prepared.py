"""The subject of a test, the options of its preparation, and the prepared test for LoadGen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from harness.catalog.datasets import find_dataset
from harness.catalog.manifests import Dataset
from harness.cluster.link import Link
from harness.engines.base import Engine
from harness.files.fingerprint import Fingerprint, check_unchanged
from harness.host.supervise import Beat
from harness.loadgen.logs import Detail
from harness.preparing import engine_calls
from harness.preparing.conversion import Conversion
from harness.preparing.shared import Shared
from harness.results.parts import RecordedEngine
from harness.rules.rehearsal import REHEARSAL_TREE
from harness.scenarios.base import Listener, Scenario, ShortTest
from harness.scheduling.base import Scheduler
from harness.scheduling.overload import Overload, Overloaded, query_limit
from harness.settings.identity import setting_files
from harness.settings.run import RunSettings
from harness.task.base import Benchmark, Choice, find_benchmark
from harness.task.qsl import SampleLibrary
from harness.task.shape import Integers
from harness.task.sut import SUT

_STEP_SECONDS = 900.0  # maximum of one preparation step
_CLOSE_SECONDS = 30.0  # maximum of closing an engine


def no_beat(within: float, doing: str = "") -> None:
    """A `Beat` without a supervisor."""


@dataclass(frozen=True)
class Preparation:
    """The options of preparing a test: by default as in a run."""

    beat: Beat = no_beat
    quiet: bool = False
    """Whether to omit the line that describes the run."""
    shared: Shared = field(default_factory=Shared)
    """The choices of the other runs of the same result."""
    compile_seconds: float | None = None
    """The approximate maximum time for compiling shapes; None for the limit of the run's mode."""
    choose_streams: bool = True
    """Whether fewer streams than the engine's default may be chosen if a latency bound requires it."""
    pilots: bool = True
    """Whether an estimated rate is checked before the test, in scenarios with a latency bound."""


AS_A_RUN = Preparation()


@dataclass(frozen=True)
class Subject:
    """The subject of a test: the benchmark, its data set, and the files that the settings name."""

    benchmark: Benchmark
    dataset: Dataset
    given: tuple[Fingerprint, ...]

    @classmethod
    def of(cls, settings: RunSettings) -> Subject:
        """The subject named by these settings; a rehearsal without a data set gets a stand-in.

        Raises:
            ConfigError: the data set is unknown, or the rules do not allow it.
        """
        kind = find_benchmark(settings.model.benchmark)
        benchmark = kind(settings.benchmark_settings, settings.cache_dir, settings.sources)
        given = (*settings.model.files, *setting_files(settings))
        if settings.rehearsal and settings.dataset is None:
            stand_in = str(benchmark.stand_in(REHEARSAL_TREE / "data"))
            return cls(benchmark, find_dataset(benchmark.name, stand_in), given)
        dataset = find_dataset(benchmark.name, settings.dataset)
        if settings.official and not settings.rehearsal:
            benchmark.check_official(dataset)
        return cls(benchmark, dataset, given)

    def unchanged(self, qsl: SampleLibrary, *others: Fingerprint) -> tuple[Fingerprint, ...]:
        """All files that the result depends on: those of the settings, data set and samples, and ``others``.

        Raises:
            RunFailed: one changed after it was hashed.
        """
        files = (*self.given, *others, *self.dataset.files, *qsl.files)
        check_unchanged(files)
        return files


@dataclass(frozen=True)
class Prepared:
    """A benchmark's data and model on an engine, warmed up, with those samples loaded that LoadGen will load."""

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
    description: RecordedEngine
    """The engine's description, taken before the test: an error in it afterwards could lose the result."""
    choices: tuple[Choice, ...] = ()
    doubts: tuple[str, ...] = ()
    """Signs that a setting does not belong to the model."""
    links: Sequence[Link] = ()
    """The nodes that compute, if this process does not."""

    @property
    def sut(self) -> SUT:
        """The scenario's SUT; in a cluster it only describes the nodes' SUTs."""
        return self.scenario.sut

    @property
    def engine(self) -> Engine:
        """The SUT's engine."""
        return self.scenario.sut.engine

    def short_test(self, test: ShortTest, scheduler: Scheduler | None = None) -> Detail:
        """LoadGen's log of a short performance test (`session.short_test`); the samples stay loaded.

        Without its own ``scheduler``, a test that cannot meet the bound is given up, and ends with its last query.
        """
        from harness.preparing import session

        overload, ended = None, None
        if self.scenario.paced and test.rate and scheduler is None:
            limit = query_limit(test.rate, test.seconds, 1)
            overload = Overload(limit, self.scenario.bound, self.scenario.percentile or 0)
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
        # The rate of the computed queries, without those that were given up.
        return replace(detail, values={**detail.values, self.scenario.result_key: ended.reached}) if ended else detail

    def close(self, beat: Beat, stall_timeout: float) -> None:
        """Close the engine, once the result is safe: an error is only a warning."""
        beat(min(stall_timeout, _CLOSE_SECONDS))
        engine_calls.close(self.engine, "the result is kept")


def patience(settings: RunSettings) -> float:
    """Maximum seconds of one step of preparing or scoring."""
    return max(_STEP_SECONDS, settings.stall_timeout)
