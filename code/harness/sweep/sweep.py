"""The tests of a run file, each in its own process: ended tests are kept, and the same command continues."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from hashlib import sha256
from pathlib import Path
from statistics import mean

from rich.table import Table

from harness import paths
from harness.errors import Busy, ConfigError, HarnessError, Interrupted, RunFailed
from harness.files.disk import locked, write_text
from harness.host.supervise import was_interrupted
from harness.loadgen.conf import read_user_conf
from harness.report.facts import metric_text
from harness.report.page import page
from harness.report.text import as_csv
from harness.results.finished import TREES, Finished, read
from harness.running.alone import run_alone
from harness.running.load import Load
from harness.scenarios.base import find_scenario
from harness.settings.request import resolve
from harness.settings.run import RunSettings
from harness.settings.runfile import REPEAT, SweepPoint, Value, varying
from harness.sweep.journal import EndedTest, SweepJournal, key
from harness.terminal import console

_PREPARING_SECONDS = 10.0  # estimate for a test outside LoadGen
_NONE = "-"
_JOURNAL_FILE = "journal.json"


class SweepTestState(StrEnum):
    """The state of a test."""

    TO_DO = "to do"
    DONE = "done"
    FAILED = "failed"


@dataclass
class SweepTest:
    """One test of a sweep."""

    values: Mapping[str, Value]
    """The values of the keys in which the tests of the file differ."""
    settings: RunSettings
    key: str
    state: SweepTestState = SweepTestState.TO_DO
    finished: Finished | None = None
    seconds: float | None = None
    """How long it took, if this command ran it."""

    @property
    def took(self) -> float | None:
        """Seconds that the test took, measured or estimated from its record; None if it is not done."""
        lasted = self.finished.record.result.duration_s if self.finished else None
        return self.seconds or (lasted + _PREPARING_SECONDS if lasted else None)

    def alike(self, other: SweepTest) -> tuple[bool, ...]:
        """Whether two tests are equal in each setting that decides how long they take, the most important first."""
        mine, theirs = self.settings, other.settings
        names = ("mode", "scenario", "duration", "engine")
        same = (getattr(mine, name) == getattr(theirs, name) for name in names)
        return *same, mine.model.name == theirs.model.name

    @property
    def name(self) -> str:
        """Its values in words."""
        return ", ".join(f"{name} {value}" for name, value in self.values.items())


@dataclass(frozen=True)
class Sweep:
    """The tests of a run file."""

    file: Path
    tests: list[SweepTest]
    folder: Path
    """The folder of its journal, table and report."""
    journal: SweepJournal = field(repr=False)

    @classmethod
    def of(cls, file: Path, points: Sequence[SweepPoint], above: Path | None = None) -> Sweep:
        """The sweep of a file, with its folder in ``above`` (default: build/sweeps); nothing is run.

        If another file of that name has the folder, a hash of this file's path is added.

        Raises:
            ConfigError: a test cannot be run as the file says; the message says which one.
        """
        names = varying(points)
        tests = []
        for point in points:
            values = {name: point.values[name] for name in names if name in point.values}
            try:
                settings = resolve(replace(point.request, shown="nothing"))
            except ConfigError as error:
                words = ", ".join(f"{name} {value}" for name, value in values.items())
                which = f"{file}, test with {words}" if words else file
                raise type(error)(f"{which}: {error}") from error
            tests.append(SweepTest(values, settings, key(settings, point.values.get(REPEAT))))
        journal = _journal(file, above or paths.ROOT / "build" / "sweeps")
        return cls(file, tests, journal.path.parent, journal)

    def look(self, retry: bool = False, fresh: bool = False) -> None:
        """Find out which tests have ended; ``retry`` leaves failed and INVALID ones to do, ``fresh`` all."""
        for test in self.tests:
            entry = None if fresh else self.journal.find(test.key)
            if entry is None or (retry and entry.code):
                continue
            test.finished = _finished(test.settings.runs_dir / entry.run) if entry.run else None
            if entry.run is None:
                test.state = SweepTestState.FAILED
            elif test.finished:
                test.state = SweepTestState.DONE

    def run(self) -> int:
        """Run the tests that are left, each once, then write table and report.

        Returns:
            0 if all tests are done and none is INVALID, otherwise 1.

        Raises:
            Busy: another sweep is running.
            ConfigError: a file cannot be written.
            Interrupted: by the user.
        """
        with locked(self.folder.parent / ".lock", "another sweep, which would slow this one, is running"):
            try:
                self._run_left()
                self._write()
            except KeyboardInterrupt:
                raise Interrupted(f"interrupted: {self._kept}") from None
        return 0 if all(test.finished and test.finished.record.valid for test in self.tests) else 1

    def _run_left(self) -> None:
        left = self._left
        if left < len(self.tests):
            console.note(f"{len(self.tests) - left} of {len(self.tests)} tests of {self.file} have already ended.")
        for number, test in enumerate(self.tests, start=1):
            if test.state is SweepTestState.TO_DO:
                rest = f"; {self._time_left()} for all that remain" if self._left > 1 else ""
                length = console.duration(self._seconds(test))
                console.note(f"\n[{number}/{len(self.tests)}] {test.name}: about {length}{rest}")
                self._run(test)

    @property
    def _left(self) -> int:
        return sum(test.state is SweepTestState.TO_DO for test in self.tests)

    @property
    def _kept(self) -> str:
        return f"{len(self.tests) - self._left} of {len(self.tests)} tests are kept; the same command continues there."

    def _time_left(self) -> str:
        return console.duration(sum(self._seconds(test) for test in self.tests if test.state is SweepTestState.TO_DO))

    def _seconds(self, test: SweepTest) -> float:
        """Expected seconds of a test, by the most similar finished tests of its mode, else by its settings."""
        done = [(test.alike(each), each.took) for each in self.tests if each.took is not None]
        closest = max((alike for alike, _ in done), default=(False,))
        if not closest[0]:
            return _seconds(test.settings)
        return mean(took for alike, took in done if took is not None and alike == closest)

    def _run(self, test: SweepTest) -> None:
        """Run a test and record its outcome; one that cannot be run prints the reason and does not stop the others."""
        began = time.monotonic()
        try:
            ended = run_alone(test.settings)
            code, folder = ended.code, ended.folder
        except Busy as error:  # which says nothing about the test: it stays to do
            console.error(str(error))
            return
        except ConfigError as error:
            console.error(str(error))
            code, folder = error.exit_code, None
        if was_interrupted(code):
            raise Interrupted(f"interrupted: {self._kept}")
        test.finished = _finished(folder) if folder else None
        test.state = SweepTestState.DONE if test.finished else SweepTestState.FAILED
        test.seconds = time.monotonic() - began if test.finished else None
        name = folder.name if folder and test.finished else None
        self.journal.add(test.key, EndedTest(run=name, code=code))
        if test.finished:
            console.note(f"{test.finished.verdict}: {_result(test.finished)}")

    def _write(self) -> None:
        runs = [test.finished for test in self.tests if test.finished]
        if runs:
            write_text(self.folder / "report.html", page(runs))
            write_text(self.folder / "runs.csv", as_csv(runs))

    def show(self, as_json: bool = False) -> None:
        """Print all tests with their results, and where the report is."""
        if as_json:
            console.print_json([_plain(test) for test in self.tests])
            return
        names = list(dict.fromkeys(name for test in self.tests for name in test.values))
        table = Table(*names, "result", "metric", "p99", box=None, pad_edge=False)
        for test in self.tests:
            values = [str(test.values.get(name, _NONE)) for name in names]
            table.add_row(*values, *_cells(test))
        console.print_table(table)
        if left := self._left:
            console.out.print(f"{left} of {len(self.tests)} tests remain, about {self._time_left()}.")
        elif failed := sum(not test.finished or not test.finished.record.valid for test in self.tests):
            console.out.print(f"{failed} of {len(self.tests)} tests failed or are INVALID: --retry repeats them.")
        if not left and any(test.finished for test in self.tests):
            console.out.print(f"report {self.folder / 'report.html'}, table {self.folder / 'runs.csv'}")


def _journal(file: Path, above: Path) -> SweepJournal:
    journal = SweepJournal(above / file.stem / _JOURNAL_FILE, file)
    if not journal.of_another_file:
        return journal
    digest = sha256(str(file.resolve()).encode()).hexdigest()[:8]
    return SweepJournal(above / f"{file.stem}-{digest}" / _JOURNAL_FILE, file)


def _finished(folder: Path) -> Finished | None:
    """The run in a folder; None if it was removed or cannot be read."""
    with contextlib.suppress(ConfigError, RunFailed):
        return read(folder, folder.parent, TREES)
    return None


def _result(run: Finished) -> str:
    """Metric or scores in words."""
    disturbed = " (disturbed)" if run.disturbed else ""
    texts = [
        metric_text(metric) if run.performance else f"{metric.name} {metric_text(metric)}" for metric in run.metrics
    ]
    return ", ".join(texts) + disturbed


def _cells(test: SweepTest) -> tuple[str, str, str]:
    run = test.finished
    if run is None:
        return str(test.state), "", ""
    latency = run.latency_ms.get("99.00") if not run.scenario.one_query else None
    return run.verdict, _result(run), "" if latency is None else f"{latency:,.2f} ms"


def _plain(test: SweepTest) -> dict[str, object]:
    run = test.finished
    found: dict[str, object] = {"test": dict(test.values), "state": test.state}
    if run:
        found |= {
            "run": run.name,
            "verdict": run.verdict,
            "reasons": run.reasons,
            "metrics": {metric.name: {"value": metric.value, "unit": metric.unit} for metric in run.metrics},
            "latency_ms": run.latency_ms,
            "disturbed": run.disturbed or None,
            "command": run.record.command,
        }
    return found


def _seconds(settings: RunSettings) -> float:
    """Expected seconds of a test by its settings; for an accuracy run, whose speed is unknown, the usual duration."""
    try:
        conf = read_user_conf(settings.user_conf)
    except HarnessError:  # the test itself will report the mistake in user.conf
        return settings.seconds + _PREPARING_SECONDS
    return Load.of(settings, conf, find_scenario(settings.scenario), None).planned_seconds + _PREPARING_SECONDS
