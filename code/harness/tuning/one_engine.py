"""The tuning of one engine: its settings are measured, each in a process of its own, and the best are kept."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from harness import __version__
from harness.catalog.datasets import find_dataset
from harness.engines.base import find_engine
from harness.errors import CheckFailed, ConfigError
from harness.files.disk import shown, write_text
from harness.host.supervise import Heartbeat
from harness.host.usage import CoreMeter
from harness.preparing.prepared import patience
from harness.scenarios.base import find_scenario
from harness.settings import tuned
from harness.settings.request import RunRequest, default_conf, resolve
from harness.settings.run import RunSettings, cluster_name
from harness.settings.tuned import Rate
from harness.task.base import find_benchmark
from harness.terminal import console
from harness.tuning.child import get_quietly_ready, in_child
from harness.tuning.journal import SavedTrial, TuningJournal
from harness.tuning.rate import RateRequest, find_rate
from harness.tuning.search import Measurement, Options, coordinate_search, mean, size

UNUSABLE = "unusable"
"""What is shown in place of a score of 0."""
_FAILED = SavedTrial(score=0, value=0, failed=True)


@dataclass(frozen=True)
class MeasuredOptions:
    """The tested options, without the user's own, and their measurement."""

    options: dict[str, str]
    measured: SavedTrial


def measurement(measured: SavedTrial) -> Measurement:
    """What the search compares of a trial."""
    return Measurement(measured.score, measured.disturbed)


class EngineTuning:
    """The measurements of one engine's tuning, each made once and in its own process."""

    def __init__(self, request: RunRequest, settings: RunSettings, seconds: float, journal: TuningJournal) -> None:
        self._request, self.settings, self._seconds, self.journal = request, settings, seconds, journal
        self.scenario = find_scenario(settings.scenario)
        engine = find_engine(settings.engine)
        self._max_cost = find_benchmark(settings.model.benchmark).max_cost
        choices = engine.search_space(self._max_cost, self.scenario.one_stream)
        # An option that the user set is not tuned.
        free = [[choice for choice in dimension if self._agrees(choice)] for dimension in choices]
        self._dimensions = [dimension for dimension in free if len(dimension) > 1]
        self._seen: dict[str, MeasuredOptions] = {}

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.settings.engine

    def compare(self, options: Options, number: int) -> Measurement | None:
        """The score of the options in round ``number`` of the comparisons with other engines; None if they fail.

        The search does not share these measurements.
        """
        measured = self.trial(options, -1 - number)
        return None if measured.failed else measurement(measured)

    def _agrees(self, choice: Options) -> bool:
        return all(self._request.options.get(name, value) == value for name, value in choice.items())

    @property
    def trials(self) -> list[MeasuredOptions]:
        """Options, score and value of each measurement."""
        return list(self._seen.values())

    def result(self, found: Options, value: float, confirmed: Rate | None, engines: Mapping[str, float]) -> tuned.Tuned:
        """The result of the tuning; ``engines`` are the scores of all that were tried, if there were several."""
        settings = self.settings
        dataset = find_dataset(settings.model.benchmark, settings.dataset)
        return tuned.Tuned(
            model=settings.model.name,
            model_sha256=settings.model.sha256,
            dataset=dataset.name,
            dataset_sha256=dataset.sha256,
            samples=settings.samples,
            base_conf=tuned.digest(default_conf()),
            engine=settings.engine,
            scenario=settings.scenario,
            options={**self._request.options, **found},
            key=self.scenario.key,
            value=value,
            score=confirmed.rate if confirmed else self.score(found),
            unit=self.scenario.score_unit,
            default_score=self.score({}),
            engines=dict(engines),
            confirmed=confirmed.model_dump() if confirmed else None,
            trials=[{"options": {**t.options}, **t.measured.model_dump(exclude_defaults=True)} for t in self.trials],
            rates=self.journal.saved_rates() if confirmed else [],
            machine=tuned.Machine.here(),
            cluster=cluster_name(self.settings.cluster),
            harness=__version__,
            time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        )

    def search(self) -> dict[str, str]:
        """The best options, without the user's own."""
        console.note(
            f"about {size(self._dimensions)} trials{' of several tests' if self.scenario.paced else ''} of "
            f"{self._seconds:g} s each, plus preparation; Ctrl-C saves the measurements in {shown(self.journal.path)}"
        )
        first = self.trial({}, 0)
        if first.failed:
            raise CheckFailed("the default settings do not work; see the message above.")
        if first.score <= 0:
            console.warn("no rate meets the latency bound with the default settings.")
        found, score = coordinate_search(
            self._dimensions, lambda options, number: measurement(self.trial(options, number)), self._in_force
        )
        if score <= 0:
            raise CheckFailed("none of the tested settings is usable; see the messages above.")
        return found

    def score(self, options: Options) -> float:
        """The mean score of the options, without measurements that others disturbed if there are others."""
        return mean([measurement(measured) for measured in self._saved_trials(options)])

    def value(self, options: Options) -> float:
        """The value of the scenario's key that suits the options: that of the fastest undisturbed measurement.

        If all were disturbed, that of the fastest of them, with a warning unless the value is confirmed later.
        """
        working = [measured for measured in self._saved_trials(options) if not measured.failed]
        quiet = [measured.value for measured in working if not measured.disturbed]
        if not quiet and not self.scenario.paced:
            console.warn(
                "other processes, or the host, disturbed every measurement of the best settings: on a quiet machine, "
                f"this {self.scenario.key} may make runs too short, and so INVALID; if so, tune again."
            )
        values = quiet or [measured.value for measured in working]
        return max(values, key=lambda value: self.scenario.generated(value, 1.0))

    def _saved_trials(self, options: Options) -> list[SavedTrial]:
        return [trial.measured for trial in self.trials if trial.options == dict(options)]

    def trial(self, options: Options, number: int) -> SavedTrial:
        """Measure the options together with the user's own; ``number`` counts measurements of the same options."""
        name = json.dumps([sorted(options.items()), number])
        known = self.journal.trials.get(name)
        measured = known or self._measure(options)
        if not known and not measured.failed:  # failures are tried again: lack of memory, for example, may pass
            self.journal.trials[name] = measured
            self.journal.save()
        if name not in self._seen:
            self._seen[name] = MeasuredOptions(dict(options), measured)
            self._report(options, measured, again=number > 0, known=known is not None)
        return measured

    def _report(self, options: Options, measured: SavedTrial, *, again: bool, known: bool) -> None:
        best = max(trial.measured.score for trial in self.trials)
        found = f"{measured.score:,.4g} {self.scenario.score_unit}" if measured.score else UNUSABLE
        when = f"{', again' if again else ''}{', saved earlier' if known else ''}"
        others = f"; other processes took {measured.lost:.0%} of the cores" if measured.disturbed else ""
        console.note(f"{self.engine}, {tuned.words(options)}{when}: {found} (best so far: {best:,.4g}{others})")

    def find_rate(self, options: Options, guess: float, confirm: float) -> Rate:
        """The highest rate of Server that passes short tests, and a longer one by LoadGen's verdict."""
        console.note(f"searching for the highest target_qps; a test of {confirm:g} s or more then confirms it")
        request = RateRequest(guess=guess, seconds=self._seconds, confirm=confirm)
        settings = self._settings_of(options)
        outcome = in_child(Rate, self.journal.path, find_rate, settings, request, self.journal)
        if outcome is None:
            self.journal.save()  # drops the rates that the child added: they are measured again
            raise CheckFailed("no target_qps was confirmed; see the messages above.")
        return outcome

    def _settings_of(self, options: Options) -> RunSettings:
        return resolve(replace(self._request, options={**self._request.options, **options}))

    def _in_force(self, options: Options) -> str:
        try:
            mine = self._settings_of(options).engine_settings
            settings = self.scenario.engine_settings(mine, self._max_cost)
            return json.dumps(settings.in_force(), default=str)
        except ConfigError as error:
            return str(error)

    def _measure(self, options: Options) -> SavedTrial:
        try:
            settings = self._settings_of(options)
        except ConfigError as error:
            console.warn(str(error))
            return _FAILED
        return in_child(SavedTrial, self.journal.path, measure_trial, settings, self._seconds) or _FAILED


def measure_trial(settings: RunSettings, seconds: float, result: Path, heartbeat: Heartbeat) -> int:
    """Measure settings for about ``seconds`` in a child process, and write the `SavedTrial` to ``result``."""
    ready = get_quietly_ready(settings, result, heartbeat)
    heartbeat.beat(patience(settings))
    with CoreMeter() as meter:
        trial = ready.scenario.trial(ready.indices, seconds, ready.short_test, ready.listener)
    use = None if ready.links else meter.use  # nodes may be processes of this machine, and would count as others
    lost = min(1.0, use.lost / use.cores) if use else 0.0
    write_text(result, SavedTrial(score=trial.score, value=trial.value, lost=lost).model_dump_json())
    heartbeat.report(0)
    ready.close(heartbeat.beat, settings.stall_timeout)
    return 0
