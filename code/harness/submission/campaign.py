"""All official runs that a submission needs, one after another, each in a process of its own.

What is done is told by the results themselves: a test is done when its folder in results/ or compliance/ holds a valid
record of the same model, engine and settings. So a campaign can be killed at any moment, and goes on where it was. The
journal (build/campaign/<system>.jsonl) adds only what the results cannot tell: what failed, what was cut off, and how
long each test took.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from harness import paths
from harness.catalog import manifests
from harness.catalog.models import find_model
from harness.errors import ConfigError, Interrupted, did_you_mean, on_interrupt
from harness.host import console
from harness.host.files import locked
from harness.host.supervise import INTERRUPTED
from harness.registry import SCENARIOS, choose
from harness.results.layout import RUN, Classic
from harness.results.record import Record, read_record, reference
from harness.rules.audits import AUDITS
from harness.rules.limits import MIN_DURATION_MS
from harness.rules.rounds import DIVISIONS, RULES, SYSTEM_TYPES, installed_round
from harness.running.identity import identity
from harness.running.places import remove_left_over
from harness.running.request import RunRequest, resolve
from harness.running.run import run
from harness.running.settings import RunSettings
from harness.scenarios.base import Metric
from harness.task.base import find_benchmark

_PREPARING = 30.0  # seconds of a test beside LoadGen's, where no other was run yet

_BUSY = "another campaign is at work here: wait for it, or end it."

DONE, LEFT, FAILED, CUT, BLOCKED = "done", "to do", "failed", "interrupted", "blocked"


@dataclass
class Step:
    """One test of a campaign."""

    settings: RunSettings
    needs: list[Step] = field(default_factory=list)
    """Tests whose results this one is compared with."""
    state: str = LEFT
    record: Record | None = None
    seconds: float | None = None
    """How long it took, if it is known."""
    reason: str = ""
    """Why it failed."""

    @property
    def test(self) -> str:
        """performance, accuracy, TEST01 or TEST04."""
        return self.settings.audit or self.settings.mode

    @property
    def name(self) -> str:
        """What the journal calls it, and people."""
        return f"{self.settings.scene.benchmark} {self.settings.scenario} {self.test}"

    @property
    def folder(self) -> Path:
        """Where its record is once it is done."""
        target = self.settings.target
        assert target is not None
        return target / "performance" / "run_1" if self.settings.audit else target

    @property
    def result(self) -> str:
        """What came of it, in words."""
        if self.record is None:
            return self.reason
        result = self.record.result
        metric = result.metric
        return result.scores or str(Metric(metric.name, metric.value, metric.unit))


class Journal:
    """What happened, a line of JSON each; written through to the disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, step: Step, event: str, **facts: Any) -> None:
        """Add an event of a test.

        Raises:
            ConfigError: the file cannot be written.
        """
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "test": step.name, "event": event, **facts}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                # A line that a power failure cut short must not swallow the next one.
                file.seek(0, os.SEEK_END)
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n":
                    file.write(b"\n")
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror}.") from error

    def last(self) -> dict[str, dict[str, Any]]:
        """The last event of each test; lines that cannot be read are left out."""
        found: dict[str, dict[str, Any]] = {}
        with contextlib.suppress(OSError):
            for line in self._path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):
                    event = json.loads(line)
                    found[event["test"]] = event
        return found


@dataclass(frozen=True)
class Campaign:
    """The tests of a division for a set of models on a system."""

    steps: list[Step]
    journal: Journal
    folder: Path
    """Where journals and locks lie."""
    retry: bool = False
    """Whether tests that failed are run again."""
    as_json: bool = False
    """Whether all is printed as JSON, once, at the end."""

    @property
    def rehearsal(self) -> bool:
        """Whether it measures nothing."""
        return self.steps[0].settings.rehearsal

    def look(self) -> None:
        """Find out what is done.

        Raises:
            ConfigError: a place is taken by a run of another model, engine or settings.
        """
        last = self.journal.last()
        for step in self.steps:
            event = last.get(step.name, {})
            record = read_record(step.folder)
            if record is None and step.folder.exists():
                raise ConfigError(f"{step.folder} has no record (run.json): move it away, it is not of this harness.")
            if record is not None:
                if other := record.identity.difference(identity(step.settings)):
                    raise ConfigError(
                        f"{step.folder} holds a run with another {other}: move it away, or give the campaign what that "
                        "run had."
                    )
                test = step.settings.audit
                results = Classic(step.settings.tree).results(step.settings.scene)
                if test and record.reference != reference(results, test):
                    raise ConfigError(
                        f"{step.settings.target} was compared with results that have been replaced since: move it away."
                    )
                step.state, step.record = DONE, record
                step.seconds = event.get("seconds") if event.get("event") == DONE else None
            elif event.get("event") == FAILED and not self.retry:
                step.state, step.reason = FAILED, str(event.get("reason", ""))
            else:
                step.state = CUT if event.get("event") == "started" else LEFT

    def run(self) -> int:
        """Run what is not done, each test once.

        Returns:
            0 when all tests are done and valid, 1 when some are not, 2 when a test refuses its settings.

        Raises:
            ConfigError: another campaign is at work, or a place is taken.
            Interrupted: by the user.
        """
        kept = "what is done is kept; the same command goes on from there."
        with on_interrupt(kept), contextlib.ExitStack() as locks:
            # Two measurements at a time would disturb each other, and so would a rehearsal beside one.
            locks.enter_context(locked(self.folder / ".lock", _BUSY, shared=self.rehearsal))
            if self.rehearsal:
                for scene in sorted({step.settings.scene for step in self.steps}):
                    scope = "-".join((scene.system, scene.benchmark, scene.scenario))
                    locks.enter_context(locked(self.folder / f".{scope}.lock", _BUSY))
            remove_left_over({step.settings.runs_dir for step in self.steps})
            self.look()
            if not self.as_json:
                self.show()
            refused = self._run_what_is_left()
            console.note("")
            self.show()
        if refused:
            console.error(f"{refused.name} cannot be run like this: mend it, and give the same command again.")
            return ConfigError.exit_code
        return 0 if all(step.state == DONE for step in self.steps) else 1

    def _run_what_is_left(self) -> Step | None:
        """Run test after test, up to one that refuses its settings, which is returned."""
        for number, step in enumerate(self.steps, start=1):
            if step.state in (DONE, FAILED):
                continue
            if missing := [need.test for need in step.needs if need.state != DONE]:
                step.state, step.reason = BLOCKED, f"needs {' and '.join(missing)}"
                continue
            console.note(f"\n[{number}/{len(self.steps)}] {step.name}: {self._how_long(step)}")
            if self._run(step) == ConfigError.exit_code:
                return step
        return None

    def show(self) -> None:
        """Print every test with its state."""
        if self.as_json:
            console.print_json(self.facts())
            return
        table = Table("test", "state", "time", "result", box=None, pad_edge=False)
        for step in self.steps:
            seconds = step.seconds if step.state == DONE else self._estimate(step)
            took = console.duration(seconds) if seconds is not None else ""
            table.add_row(step.name, step.state, took if step.state == DONE else f"about {took}", step.result)
        console.print_table(table)
        left = [step for step in self.steps if step.state in (LEFT, CUT)]
        done = sum(step.state == DONE for step in self.steps)
        failed, blocked = (sum(step.state == state for step in self.steps) for state in (FAILED, BLOCKED))
        words = [f"{done} of {len(self.steps)} tests are done"]
        if failed:
            words.append(f"{failed} failed: mend the cause, then give --retry")
        if blocked:
            words.append(f"{blocked} cannot be run without what they need")
        if left:
            words.append(f"{len(left)} are left, about {console.duration(sum(map(self._estimate, left)))}")
        console.out.print(f"{'; '.join(words)}.")

    def facts(self) -> dict[str, Any]:
        """Every test with its state, as `--json` prints them; ``result`` is that of its record."""
        return {
            "system": self.steps[0].settings.scene.system,
            "rehearsal": self.rehearsal,
            "done": sum(step.state == DONE for step in self.steps),
            "tests": [
                {
                    "benchmark": step.settings.scene.benchmark,
                    "scenario": step.settings.scenario,
                    "test": step.test,
                    "state": step.state,
                    "seconds": step.seconds if step.state == DONE else None,
                    "expected_seconds": None if step.state == DONE else self._estimate(step),
                    "result": step.record.values()["result"] if step.record else None,
                    "reason": step.reason,
                    "folder": step.settings.target,
                }
                for step in self.steps
            ],
        }

    def _run(self, step: Step) -> int:
        """Run a test and note what came of it; returns its exit code."""
        self.journal.write(step, "started")
        start = time.time()
        try:
            code = run(step.settings)
        except ConfigError as error:
            console.error(str(error))
            code = error.exit_code
        seconds = round(time.time() - start, 1)
        step.record = read_record(step.folder)
        if code >= INTERRUPTED:
            if step.record is not None:
                step.state = DONE
                self.journal.write(step, DONE, seconds=seconds)
            done = sum(each.state == DONE for each in self.steps)
            kept = f"{done} of {len(self.steps)} tests are kept; the same command goes on from there."
            raise Interrupted(f"interrupted: {kept}")
        step.seconds = seconds
        if step.record is not None:
            step.state = DONE
            self.journal.write(step, DONE, seconds=seconds)
            return 0
        if code == ConfigError.exit_code:
            step.reason = "it refuses its settings; its output tells why"
            self.journal.write(step, "refused", seconds=seconds)
            return code
        step.state = FAILED
        step.reason = step.reason or _reason(step, start) or "its output tells why"
        self.journal.write(step, FAILED, seconds=seconds, code=code, reason=step.reason)
        return code

    def _how_long(self, step: Step) -> str:
        rest = [other for other in self.steps if other.state in (LEFT, CUT)]
        words = f"about {console.duration(self._estimate(step))}"
        if step.state == CUT:
            words = f"it was cut off, so once more, {words}"
        return f"{words}; {console.duration(sum(map(self._estimate, rest)))} for all that is left"

    def _estimate(self, step: Step) -> float:
        """Seconds that a test takes."""
        settings = step.settings
        if step.test != "accuracy":
            return (settings.duration or MIN_DURATION_MS / 1000) + _PREPARING
        performance = next((s.record for s in self.steps if s.settings.scene == settings.scene and s.record), None)
        if performance is None or not performance.result.duration_s:
            return (settings.duration or MIN_DURATION_MS / 1000) + _PREPARING
        rate = performance.result.samples / performance.result.duration_s
        return performance.dataset.samples_used / rate + _PREPARING


def plan(
    request: RunRequest,
    models: Sequence[str],
    *,
    division: str,
    system_type: str,
    scenarios: Sequence[str],
    retry: bool = False,
    only_compliance: bool = False,
    folder: Path = paths.ROOT / "build" / "campaign",
    as_json: bool = False,
) -> Campaign:
    """The campaign of these models, each ``NAME`` or ``NAME@ENGINE``.

    ``request`` is what all tests have in common. Without ``scenarios`` they are those that the closed division requires
    of a benchmark on such a system. Compliance tests belong to the closed
    division.

    Raises:
        ConfigError: a name is wrong, the round has no such scenarios, or two models would share a folder.
    """
    if division not in DIVISIONS:
        raise ConfigError(f"unknown division '{division}': {did_you_mean(division, DIVISIONS)}")
    if system_type not in SYSTEM_TYPES:
        raise ConfigError(f"unknown type of system '{system_type}': {did_you_mean(system_type, SYSTEM_TYPES)}")
    round_ = installed_round()
    steps: list[Step] = []
    owners: dict[tuple[str, str], str] = {}
    for text in models:
        name, at, engine = text.rpartition("@")
        if not at or "/" in engine:
            name, engine = text, ""
        found = find_model(name or manifests.default_model())
        rules = RULES.get(found.official_name)
        if division == "closed" and rules is None:
            raise ConfigError(
                f"{found.name} is filed under {found.official_name}, and the closed division knows {', '.join(RULES)} "
                "only: use --division open."
            )
        official = found.official_name if rules else find_benchmark(found.benchmark).official_name
        wanted = [choose("scenario", SCENARIOS, scenario) for scenario in scenarios]
        demanded = round_.required(official, system_type)
        if not wanted and not demanded:
            raise ConfigError(
                f"{round_.name} has no {official} on systems of type {system_type}: use --system-type edge."
            )
        for scenario in wanted or [each for each in SCENARIOS if each in demanded]:
            asked = replace(request, model=name or None, engine=engine or request.engine, scenario=scenario)
            performance = Step(resolve(asked))
            if division == "closed" and not (found.equivalent or performance.settings.rehearsal):
                console.warn(
                    f"the closed division takes the reference model only, and {found.name} is not known to be that: "
                    "say that it is before you package (submission.md, 6), or use --division open."
                )
            place = (found.official_name, scenario)
            if place in owners:
                raise ConfigError(
                    f"{owners[place]} and {found.name} are both {found.official_name}: give each its own --system."
                )
            owners[place] = found.name
            accuracy = Step(resolve(replace(asked, mode="accuracy")))
            tests = RULES[official].tests if division == "closed" else ()
            audits = [
                Step(
                    resolve(replace(asked, audit=test)),
                    [performance, accuracy] if AUDITS[test].accuracy else [performance],
                )
                for test in tests
            ]
            steps += [performance, accuracy, *audits]
    if not steps:
        raise ConfigError("a campaign needs a model: give --model.")
    first = steps[0].settings
    if only_compliance:
        campaign_steps = [step for step in steps if step.settings.audit]
        for step in steps:
            if not step.settings.audit and read_record(step.folder) is not None:
                step.state = DONE
        steps = campaign_steps
    return Campaign(steps, Journal(folder / f"{first.scene.system}.jsonl"), folder, retry, as_json)


def _reason(step: Step, since: float) -> str:
    """Why a test is not valid, from its record among the runs; "" if it left none."""
    of = identity(step.settings)
    for folder in sorted((path.parent for path in step.settings.runs_dir.glob(f"*/{RUN}")), reverse=True):
        with contextlib.suppress(OSError, ConfigError):
            record = read_record(folder) if (folder / RUN).stat().st_mtime >= since - 1 else None
            if record is None or (record.scenario, record.test) != (step.settings.scenario, step.test):
                continue
            if record.identity.difference(of) is None:
                return "; ".join(record.reasons or ())
    return ""
