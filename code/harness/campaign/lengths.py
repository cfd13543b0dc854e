"""The time that the tests of a campaign take, from their settings, their results, and earlier runs on this machine."""

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from harness.campaign.steps import Step
from harness.errors import ConfigError
from harness.loadgen.conf import read_user_conf
from harness.results.layout import RUN
from harness.results.record import Record, read_record
from harness.rules.rounds import RULES
from harness.running.load import Load
from harness.scenarios.base import Estimate, Scenario, find_scenario
from harness.settings import tuned
from harness.settings.identity import identity
from harness.terminal import console

_PREPARING_SECONDS = 30.0  # estimated time of a test outside LoadGen, until one has been measured
_MAX_RUNS = 200  # the newest only: reading more takes time, and older ones come from older versions


@dataclass(frozen=True)
class Length:
    """How long a test takes."""

    seconds: float
    """The expected duration; the shortest possible one if the rate is unknown."""
    known: bool
    """Whether the rate is known."""
    min_seconds: float | None = None
    """The minimum duration of a performance run, by the rules or by a rehearsal's --duration."""
    min_count: int = 1
    counted: str = "samples"
    """The unit of ``min_count``: samples or queries."""

    def __str__(self) -> str:
        """The duration: ``about 11 min 30 s``, or ``unknown`` if it depends only on an unknown rate."""
        return words(self.seconds, self.known) if self.known or self.min_seconds else "unknown"

    @property
    def minimum(self) -> str:
        """The required minimum: ``10 min 00 s, 10,833 samples``."""
        parts = [console.duration(self.min_seconds)] if self.min_seconds else []
        return ", ".join([*parts, f"{self.min_count:,} {self.counted}"] if self.min_count > 1 else parts)


def words(seconds: float, known: bool) -> str:
    """An expected duration.

    >>> words(630, True), words(630, False)
    ('about 10 min 30 s', '10 min 30 s or more')
    """
    return f"about {console.duration(seconds)}" if known else f"{console.duration(seconds)} or more"


@dataclass(frozen=True)
class Rates:
    """Samples per second of models on this machine, from a campaign's results and from earlier runs."""

    steps: list[Step]
    _earlier: dict[Path, list[Record]] = field(default_factory=dict)

    def length(self, step: Step) -> Length:
        """The length of a test that is not done."""
        settings, scenario = step.settings, find_scenario(step.settings.scenario)
        rate = self._rate(step)
        estimated = _estimate(scenario, rate) if rate else None
        try:
            load = Load.of(settings, read_user_conf(settings.user_conf), scenario, estimated)
        except ConfigError:  # the test itself will report the mistake in user.conf
            return Length(settings.seconds + self._preparing(step), False, settings.seconds)
        if settings.accuracy:
            return _accuracy(load, step, rate, self._preparing(step))
        if estimated:  # a measured rate is more accurate than the one in user.conf
            load = replace(load, per_second=estimated.per_second)
        counted = "samples" if scenario.one_query else "queries"
        seconds = load.planned_seconds + self._preparing(step)
        return Length(seconds, load.per_second is not None, load.seconds, load.min_queries, counted)

    def _preparing(self, step: Step) -> float:
        """Seconds outside LoadGen, such as for compiling and scoring, as in the most similar tests of the campaign."""
        took: dict[tuple[bool, bool], list[float]] = {}
        for each in self.steps:
            lasted = each.record.result.duration_s if each.record else None
            if each.seconds and lasted and each.settings.model.name == step.settings.model.name:
                similarity = (
                    each.settings.accuracy == step.settings.accuracy,
                    each.settings.scenario == step.settings.scenario,
                )
                took.setdefault(similarity, []).append(max(each.seconds - lasted, 0.0))
        # A scenario compiles its own shapes; all accuracy runs are scored and compared with ONNX Runtime.
        return median(took[max(took)]) if took else _PREPARING_SECONDS

    def _rate(self, step: Step) -> float | None:
        """Samples per second of the newest test of the same model, settings and scenario; in Offline, else by tuning.

        None if there is neither. Where LoadGen sets the rate of queries, only tests of the same mode count: a
        performance run has that rate, and an accuracy run the engine's highest.
        """
        scene = step.settings.scene
        mine = (each.record for each in self.steps if each.settings.scene == scene and each.record)
        fitting = (each for each in self._runs(step.settings.runs_dir) if _alike(each, step))
        mode = step.settings.mode if find_scenario(scene.scenario).paced else None
        timed = (each for each in (*mine, *fitting) if each.result.duration_s and mode in (None, each.mode))
        record = next(timed, None)
        if record and record.result.duration_s:
            return record.result.samples / record.result.duration_s
        found = tuned.read(step.settings.tuned.parent) if step.settings.tuned else None
        return found.score if found and find_scenario(scene.scenario).one_query else None

    def _runs(self, folder: Path) -> list[Record]:
        """Earlier valid runs, newest first."""
        if folder not in self._earlier:
            found = self._earlier[folder] = []
            for path in sorted(folder.glob(f"*/{RUN}"), reverse=True)[:_MAX_RUNS]:
                with contextlib.suppress(ConfigError):
                    record = read_record(path.parent)
                    found += [record] if record and record.valid else []
        return self._earlier[folder]


def _alike(record: Record, step: Step) -> bool:
    wanted = identity(step.settings.model_copy(update={"duration": record.identity.duration}))
    return record.scenario == step.settings.scenario and record.identity.difference(wanted) is None


def _estimate(scenario: type[Scenario], rate: float) -> Estimate:
    """A measured rate in samples per second, converted to the scenario's key."""
    per_second = rate / (scenario.samples_per_query or 1)
    return Estimate(1000 / per_second if scenario.latency else per_second, "measured before", per_second)


def _accuracy(load: Load, step: Step, rate: float | None, preparing: float) -> Length:
    """The length of an accuracy run: it answers each sample of the data set once."""
    model = step.settings.model.benchmark
    samples = next(rules.samples for rules in RULES.values() if rules.model == model)
    if load.per_second and rate is None and not load.scenario.paced:
        rate = load.per_second * (load.scenario.samples_per_query or 1)
    seconds = samples / rate if rate else 0.0
    return Length(seconds + preparing, rate is not None, min_count=samples)
