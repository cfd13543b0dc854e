"""`harness tune`: finds the best engine, settings and rate for a model and a scenario on this machine."""

import json
import math
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import itemgetter
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel
from rich.table import Table

from harness import __version__
from harness.catalog.datasets import find_dataset
from harness.engines.base import find_engine
from harness.errors import CheckFailed, ConfigError, Interrupted
from harness.host import console
from harness.host.files import native, shown, staging, write_text
from harness.host.streams import native_output_dropped
from harness.host.supervise import Heartbeat, supervised, was_interrupted
from harness.host.usage import CoreMeter
from harness.loadgen.conf import TUNED, read_user_conf
from harness.preparing.prepared import Preparation, Prepared, patience
from harness.preparing.ready import get_ready
from harness.rules.early_stopping import needed_queries
from harness.scenarios.base import ShortTest, find_scenario
from harness.scheduling.peak import highest_passing
from harness.settings import tuned
from harness.settings.request import RunRequest, default_conf, resolve
from harness.settings.run import RunSettings, cluster_name
from harness.settings.tuned import Rate
from harness.task.base import find_benchmark
from harness.tuning.engines import best_engine, contenders
from harness.tuning.journal import SavedTrial, TuningJournal, opened, tuning_alone
from harness.tuning.search import Measurement, Options, coordinate_search, mean, size

_PRECISION, _TESTS = 0.02, 14  # of the search for Server's rate
_RATE_FACTOR = 0.94  # from an unconfirmed rate to the next
_MAX_CONFIRMATIONS = 8
_UNUSABLE = "unusable"
_Kind = TypeVar("_Kind", bound=BaseModel)


@dataclass(frozen=True)
class _MeasuredOptions:
    """The tested options, without the user's own, and their measurement."""

    options: dict[str, str]
    measured: SavedTrial


def _score(measured: SavedTrial) -> Measurement:
    return Measurement(measured.score, measured.disturbed)


_FAILED = SavedTrial(score=0, value=0, failed=True)


def tune(
    request: RunRequest,
    *,
    seconds: float,
    confirm: float,
    measurements: Path,
    state_dir: Path,
    fresh: bool,
    force: bool,
    as_json: bool = False,
) -> tuned.Tuned:
    """Search for settings, find and confirm the rate, and write the result.

    Without an engine in ``request``, all installed ones are tried. Its options are the user's own and are not tuned. A
    trial takes about ``seconds``, the confirmation of Server's rate ``confirm``; ``as_json`` prints the result as JSON.

    Raises:
        Busy: another process tunes the same model and scenario.
        ConfigError: a setting is wrong, or the folder holds settings of another model or engine.
        CheckFailed: nothing works, or no rate of Server meets the bound.
        Interrupted: the user stopped it; the measurements are saved.
    """
    if not (math.isfinite(seconds) and math.isfinite(confirm)):
        raise ConfigError("--seconds and --confirm-seconds must be finite numbers.")
    each_engine = contenders(request)
    settings = each_engine[0][1]
    place = tuned.folder(measurements, settings.system, settings.model.official_name, settings.scenario)
    with tuning_alone(state_dir, settings):
        if not force:
            engine = settings.engine if request.engine else None
            tuned.check_replaceable(place, settings.model.sha256, engine, cluster_name(settings.cluster))
        tunings = [
            _Tuning(asked, settings, seconds, opened(state_dir, settings, asked.options, seconds, fresh))
            for asked, settings in each_engine
        ]
        result, trials = _tuned(tunings, state_dir, place, confirm)
    if as_json:
        console.print_json({**result.model_dump(mode="json"), "folder": place})
    else:
        _show(result, trials, place)
    return result


def _tuned(
    tunings: "Sequence[_Tuning]", state_dir: Path, place: Path, confirm: float
) -> tuple[tuned.Tuned, list[_MeasuredOptions]]:
    """The best of all engines' settings, written to ``place``, and the measurements of that engine."""
    try:
        tuning, found, scores = best_engine(tunings)
        settings = tuning.settings
        value, confirmed = tuning.value(found), None
        if tuning.scenario.paced:
            confirmed = tuning.find_rate(found, value, confirm)
            value = confirmed.rate
    except KeyboardInterrupt:
        kept = shown(tunings[0].journal.path if len(tunings) == 1 else state_dir)
        raise Interrupted(
            f"stopped; the measurements are saved in {kept}, and the same command continues from there."
        ) from None
    result = tuning.result(found, value, confirmed, scores)
    line = f"{settings.model.benchmark}.{settings.scenario}.{result.key} = {value:.6g}"
    comment = f"{TUNED} for {result.model} on {result.engine}"
    tuned.write(place, result, read_user_conf(settings.user_conf).extended(comment, [line]))
    for each in tunings:
        each.journal.discard()
    return result, tuning.trials


class _Tuning:
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
        self._seen: dict[str, _MeasuredOptions] = {}

    @property
    def engine(self) -> str:
        """The engine's name."""
        return self.settings.engine

    def compare(self, options: Options, number: int) -> Measurement | None:
        """The score of the options in round ``number`` of the comparisons with other engines; None if they fail.

        The search does not share these measurements.
        """
        measured = self.trial(options, -1 - number)
        return None if measured.failed else _score(measured)

    def _agrees(self, choice: Options) -> bool:
        return all(self._request.options.get(name, value) == value for name, value in choice.items())

    @property
    def trials(self) -> list[_MeasuredOptions]:
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
            trials=[{"options": t.options, **t.measured.model_dump(exclude_defaults=True)} for t in self.trials],
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
            self._dimensions, lambda options, number: _score(self.trial(options, number)), self._in_force
        )
        if score <= 0:
            raise CheckFailed("none of the tested settings is usable; see the messages above.")
        return found

    def score(self, options: Options) -> float:
        """The mean score of the options, without measurements that others disturbed if there are others."""
        return mean([_score(measured) for measured in self._of(options)])

    def value(self, options: Options) -> float:
        """The value of the scenario's key that suits the options: that of the fastest undisturbed measurement.

        If all were disturbed, that of the fastest of them, with a warning unless the value is confirmed later.
        """
        working = [measured for measured in self._of(options) if not measured.failed]
        quiet = [measured.value for measured in working if not measured.disturbed]
        if not quiet and not self.scenario.paced:
            console.warn(
                "other processes, or the host, disturbed every measurement of the best settings: on a quiet machine, "
                f"this {self.scenario.key} may make runs too short, and so INVALID; if so, tune again."
            )
        values = quiet or [measured.value for measured in working]
        return max(values, key=lambda value: self.scenario.generated(value, 1.0))

    def _of(self, options: Options) -> list[SavedTrial]:
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
            self._seen[name] = _MeasuredOptions(dict(options), measured)
            self._report(options, measured, again=number > 0, known=known is not None)
        return measured

    def _report(self, options: Options, measured: SavedTrial, *, again: bool, known: bool) -> None:
        best = max(trial.measured.score for trial in self.trials)
        found = f"{measured.score:,.4g} {self.scenario.score_unit}" if measured.score else _UNUSABLE
        when = f"{', again' if again else ''}{', saved earlier' if known else ''}"
        others = f"; other processes took {measured.lost:.0%} of the cores" if measured.disturbed else ""
        console.note(f"{self.engine}, {tuned.words(options)}{when}: {found} (best so far: {best:,.4g}{others})")

    def find_rate(self, options: Options, guess: float, confirm: float) -> Rate:
        """The highest rate of Server that passes short tests, and a longer one by LoadGen's verdict."""
        console.note(f"searching for the highest target_qps; a test of {confirm:g} s or more then confirms it")
        outcome = self._child(Rate, _find_rate, self._settings_of(options), guess, self._seconds, confirm, self.journal)
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
        return self._child(SavedTrial, _trial, settings, self._seconds) or _FAILED

    def _child(self, kind: type[_Kind], work: Callable[..., int], settings: RunSettings, *args: object) -> _Kind | None:
        """The result of ``work``, run in a child process; None if that failed and printed why."""
        # Beside the journal, so that the next tuning removes the files of a killed one.
        with staging(self.journal.path) as folder:
            result = folder / "result.json"
            code = supervised(work, settings, *args, result, cleanup=lambda: None).code
            if was_interrupted(code):
                raise KeyboardInterrupt
            return kind.model_validate_json(result.read_bytes()) if code == 0 and result.exists() else None


def _prepared(settings: RunSettings, result: Path, heartbeat: Heartbeat) -> Prepared:
    tempfile.tempdir = str(native(result.parent))  # this process may be killed: the parent removes its files
    with native_output_dropped(not console.output().verbose):
        # All shapes, as in an official run, for which settings are tuned. The search itself tries numbers of streams.
        how = Preparation(heartbeat.beat, quiet=True, compile_seconds=math.inf, choose_streams=False)
        return get_ready(settings, how)


def _trial(settings: RunSettings, seconds: float, result: Path, heartbeat: Heartbeat) -> int:
    ready = _prepared(settings, result, heartbeat)
    heartbeat.beat(patience(settings))
    with CoreMeter() as meter:
        trial = ready.scenario.trial(ready.indices, seconds, ready.short_test, ready.listener)
    use = None if ready.links else meter.use  # nodes may be processes of this machine, and would count as others
    lost = min(1.0, use.lost / use.cores) if use else 0.0
    write_text(result, SavedTrial(score=trial.score, value=trial.value, lost=lost).model_dump_json())
    heartbeat.report(0)
    ready.close(heartbeat.beat, settings.stall_timeout)
    return 0


def _find_rate(
    settings: RunSettings,
    guess: float,
    seconds: float,
    confirm: float,
    journal: TuningJournal,
    result: Path,
    heartbeat: Heartbeat,
) -> int:
    ready = _prepared(settings, result, heartbeat)

    tests = Counter[str]()

    def test(rate: float, seconds: float) -> Rate:
        name = f"rate {rate:.4g} for {seconds:g} s"
        tests[name] += 1
        if tests[name] > 1:
            name += f", test {tests[name]}"
        if name not in journal.rates:
            detail = ready.short_test(ShortTest(rate=float(f"{rate:.4g}"), seconds=seconds))
            journal.rates[name] = Rate(
                rate=float(f"{rate:.4g}"),
                seconds=seconds,
                held=ready.scenario.meets_bound(detail),
                valid=detail.valid,
                p99_ms=detail.latencies["99.00"],
                samples_per_second=ready.scenario.metric(detail).value,
                queries=detail.values.get("result_query_count"),
            )
            journal.save()
        tested = journal.rates[name]
        console.note(
            f"target_qps {tested.rate:g} for {seconds:g} s: 99th percentile {tested.p99_ms:.4g} ms, bound "
            f"{ready.scenario.bound * 1000:g} ms"
        )
        return tested

    rate = highest_passing(lambda rate: test(rate, seconds).held, guess, _PRECISION, _TESTS, retest=True)
    enough = 1.1 * needed_queries(ready.scenario.percentile, 1)  # with fewer, no rate is low enough to be VALID
    for _ in range(_MAX_CONFIRMATIONS):
        if not rate:
            break
        outcome = test(rate, max(confirm, math.ceil(enough / rate)))
        if outcome.valid:
            write_text(result, outcome.model_dump_json())
            return 0
        if outcome.held:
            console.note("too few queries to be sure; lowering the rate")
        else:
            console.note("not VALID; lowering the rate")
            # The throughput of an overloaded system shows how much too high the rate was.
            rate = min(rate, outcome.samples_per_second or rate)
        rate *= _RATE_FACTOR
    console.error("no rate was confirmed: a longer test (--confirm-seconds) gives LoadGen more queries to be sure.")
    return 1


def _show(result: tuned.Tuned, trials: Sequence[_MeasuredOptions], place: Path) -> None:
    table = Table("settings", result.unit, "÷ defaults", box=None, pad_edge=False)
    rows: dict[str, list[Measurement]] = {}
    for trial in trials:
        rows.setdefault(tuned.words(trial.options), []).append(_score(trial.measured))
    means = {words: mean(scores) for words, scores in rows.items()}
    for words, score in sorted(means.items(), key=itemgetter(1), reverse=True):
        ratio = f"{score / result.default_score:.3f}" if result.default_score else ""
        table.add_row(words, f"{score:,.4g}" if score else _UNUSABLE, ratio)
    console.print_table(table)
    if result.engines:
        ranked = sorted(result.engines.items(), key=lambda item: -item[1])
        words = ", ".join(f"{engine} {f'{score:,.4g}' if score else _UNUSABLE}" for engine, score in ranked)
        console.out.print(f"engines, {result.unit}: {words}")
    on = f"{result.engine}, " if result.engines else ""
    console.out.print(f"chosen: {on}{result.words()}; {result.key} = {result.value:.6g}")
    console.out.print(f"written to {shown(place)}; runs of {result.model} in {result.scenario} use it automatically")
