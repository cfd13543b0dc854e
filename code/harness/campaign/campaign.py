"""All official runs that a submission needs, one after another, each in its own process.

The results themselves show which tests are done: a test is done when its folder in results/ or compliance/ holds a
valid record of the same settings and of the current model and data. So a campaign can be killed at any moment and
resumes from there. The event log (build/campaign/<system>.jsonl) adds only facts that results cannot show: failures,
interruptions, and the time of each test.
"""

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rich.table import Table

from harness.campaign.done import ExaminedFolder, examine, user_conf_change
from harness.campaign.lengths import Rates, words
from harness.campaign.steps import EventLog, InferredResult, Step, StepState
from harness.errors import ConfigError, Interrupted, on_interrupt, os_words
from harness.files.cache import stored
from harness.files.digest import sha256_of
from harness.files.disk import locked, remove_left_over
from harness.host.supervise import was_interrupted
from harness.loadgen.logs import is_number
from harness.results.layout import RUN
from harness.results.record import read_record
from harness.running.places import recover, reserved
from harness.running.run import Ended, run_test
from harness.terminal import console

_MAX_REPEATS = 2  # of a failed compliance test in a rehearsal
_STARTED = "started"  # an event; when a test ends, the event is named after its state


@dataclass(frozen=True)
class Campaign:
    """The tests of a division for a set of models on a system."""

    steps: list[Step]
    events: EventLog
    folder: Path
    """The folder of event logs and locks."""
    retry: bool = False
    """Whether to repeat tests that failed."""
    as_json: bool = False
    """Whether to print the outcome as JSON, once, at the end."""
    inferred: tuple[InferredResult, ...] = ()
    """Results that `harness package --infer` makes from those of the tests."""
    lacks: tuple[str, ...] = ()
    """Things that a person must still do before the results can be packaged, one sentence each."""

    @property
    def rehearsal(self) -> bool:
        """Whether this is a rehearsal, whose results do not count as measurements."""
        return self.steps[0].settings.rehearsal

    def look(self) -> None:
        """Find out which tests are done, given the current models, data sets and results.

        Raises:
            ConfigError: a folder holds a run of another test, model, engine or settings.
        """
        last, steps = self.events.last(), self._all_steps()
        for step, found in zip(steps, examine(steps), strict=True):
            event = last.get(step.name, {})
            step.reason = _outdated(step, found)
            step.record = None if step.reason else found.record
            step.replaces = step.record is None and bool(step.reason)
            if step.record is not None:
                step.state, step.seconds = StepState.DONE, _seconds(event)
                if difference := user_conf_change(step):
                    console.warn(
                        f"{step.name} counts as done although user.conf has changed ({difference}): to run it again, "
                        f"move {step.target} away."
                    )
            elif event.get("event") == StepState.FAILED and not self.retry:
                step.state, step.reason = StepState.FAILED, str(event.get("reason", ""))
            else:
                step.state = StepState.INTERRUPTED if event.get("event") == _STARTED else StepState.TO_DO

    def run(self) -> int:
        """Run the tests that are not done, each once.

        Returns:
            0 if all tests are done and valid, 1 if some are not, 2 if a test rejects its settings.

        Raises:
            Busy: another campaign is running, or another test that writes one of the results.
            ConfigError: a folder holds a run of another model, engine or settings.
            Interrupted: by the user.
        """
        kept = "finished tests are kept; the same command resumes from there."
        with on_interrupt(kept), contextlib.ExitStack() as locks:
            # Two measurements at a time would disturb each other, as would a rehearsal during a measurement.
            lock = locked(self.folder / ".lock", "another campaign is running", shared=self.rehearsal)
            locks.enter_context(lock)
            # Also those of finished tests: the results that others are compared with must not change meanwhile.
            for step in sorted(self._all_steps(), key=lambda step: step.target):
                locks.enter_context(reserved(step.target, step.settings.tree))
            for runs in {step.settings.runs_dir for step in self.steps}:
                remove_left_over(runs)
            for step in self._all_steps():
                recover(step.target)
            self.look()
            if not self.as_json:
                self.show()
            left = self._count(StepState.TO_DO) + self._count(StepState.INTERRUPTED)
            refused = self._run_remaining()
            console.note("")
            if left:
                self._look_again()
            self.show()
        if refused:
            console.error(f"{refused.name} was rejected; fix its settings and rerun.")
            return ConfigError.exit_code
        return 0 if self._count(StepState.DONE) == len(self.steps) else 1

    def _all_steps(self) -> list[Step]:
        """The tests, each after those that it needs."""
        return list({id(step): step for each in self.steps for step in (*each.needs, each)}.values())

    def _look_again(self) -> None:
        """Mark done tests for repetition if their model, data or result changed while others ran."""
        done = [step for step in self._all_steps() if step.state == StepState.DONE]
        for step, found in zip(done, examine(done), strict=True):
            removed = "" if found.record else "its result was removed while other tests ran"
            again = _outdated(step, found) or removed
            if again:
                step.state, step.record, step.reason = StepState.TO_DO, None, again

    def _run_remaining(self) -> Step | None:
        """Run the remaining tests; stop at one that rejects its settings, and return it."""
        for number, step in enumerate(self.steps, start=1):
            if step.state in (StepState.DONE, StepState.FAILED):
                continue
            if missing := [need for need in step.needs if need.state != StepState.DONE]:
                step.state, step.reason = StepState.BLOCKED, self._needed(missing)
                continue
            console.note(f"\n[{number}/{len(self.steps)}] {step.name}: {self._expectation(step)}")
            code = self._run_with_repeats(step)
            if code == ConfigError.exit_code:
                return step
        return None

    def _run_with_repeats(self, step: Step) -> int:
        """Like `_run`, but repeat a rehearsal's failed compliance test: it is so short that chance may decide."""
        code = self._run(step)
        for _ in range(_MAX_REPEATS if self.rehearsal and step.settings.audit else 0):
            if code in (0, ConfigError.exit_code):
                break
            console.note(f"\n{step.name} again, since a rehearsal's test is so short that chance may decide")
            code = self._run(step)
        return code

    def _needed(self, missing: Sequence[Step]) -> str:
        """The missing tests that another one needs; for those outside this campaign, also why, and how to run them."""
        others = [need for need in missing if not any(need is step for step in self.steps)]
        if not others:
            return f"needs {' and '.join(need.test for need in missing)}"
        words = (f"{need.test} ({need.reason or 'missing'})" for need in missing)
        command = f"make submission {others[0].settings.make_variables}"
        return f"needs {' and '.join(words)}: run `{command}` with the same settings"

    def show(self) -> None:
        """Print all tests with their states, and what must still be done before packaging."""
        if self.as_json:
            console.print_json(self.facts())
            return
        table = Table("test", "state", "time", "minimum", "result", box=None, pad_edge=False)
        for step in self.steps:
            length = None if step.state == StepState.DONE else self._rates.length(step)
            took = console.duration(step.seconds) if step.seconds is not None else ""
            table.add_row(
                step.name, step.state, str(length) if length else took, length.minimum if length else "", step.result
            )
        for each in self.inferred:
            table.add_row(each.name, "inferred", "", "", f"from {each.source}, by `{self._packaging} INFER=1`")
        console.print_table(table)
        parts = [f"{self._count(StepState.DONE)} of {len(self.steps)} tests are done"]
        if failed := self._count(StepState.FAILED):
            parts.append(f"{failed} failed: fix the cause, then pass --retry")
        if blocked := self._count(StepState.BLOCKED):
            parts.append(f"{blocked} cannot run without the tests that they need")
        if left := self._count(StepState.TO_DO) + self._count(StepState.INTERRUPTED):
            parts.append(f"{left} remain, {self._time_left()}")
        console.out.print(f"{'; '.join(parts)}.")
        if self.lacks:
            console.warn("\n  - ".join((f"to do before `{self._packaging}`:", *self.lacks)))

    @property
    def _packaging(self) -> str:
        return f"make package{' REHEARSAL=1' if self.rehearsal else ''}"

    def _count(self, state: StepState) -> int:
        return sum(step.state == state for step in self.steps)

    def facts(self) -> dict[str, object]:
        """All tests with their states, for `--json`; ``result`` is taken from the record."""
        return {
            "system": self.steps[0].settings.scene.system,
            "rehearsal": self.rehearsal,
            "done": self._count(StepState.DONE),
            "lacks": self.lacks,
            "inferred": [
                {"benchmark": each.scene.benchmark, "scenario": each.scene.scenario, "from": each.source}
                for each in self.inferred
            ],
            "tests": [
                {
                    "benchmark": step.settings.scene.benchmark,
                    "scenario": step.settings.scenario,
                    "test": step.test,
                    "state": step.state,
                    "seconds": step.seconds if step.state == StepState.DONE else None,
                    **self._expected(step),
                    "result": step.record.values()["result"] if step.record else None,
                    "reason": step.reason,
                    "folder": step.settings.target,
                }
                for step in self.steps
            ],
        }

    def _expected(self, step: Step) -> dict[str, object]:
        """The length of a test as JSON; ``rate_known`` is false where only the shortest possible duration is known."""
        length = None if step.state == StepState.DONE else self._rates.length(step)
        return {
            "expected_seconds": length and length.seconds,
            "rate_known": length and length.known,
            "least_seconds": length and length.min_seconds,
            "least_count": length and length.min_count,
        }

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.steps)

    def _run(self, step: Step) -> int:
        """Run a test and log the outcome; returns the exit code."""
        if step.replaces:
            self._keep_old(step)
        self.events.write(step, _STARTED)
        start, step.reason = time.time(), ""
        try:
            ended = run_test(step.settings.model_copy(update={"force": True}) if step.replaces else step.settings)
        except ConfigError as error:
            console.error(str(error))
            ended = Ended(error.exit_code, None)
        code = ended.code
        seconds = round(time.time() - start, 1)
        # A failed test leaves the old result in place, and its record is not that of this test.
        step.record = read_record(step.folder) if code == 0 or not step.replaces else None
        if step.record is not None:
            step.state, step.seconds = StepState.DONE, seconds
            self.events.write(step, StepState.DONE, seconds=seconds)
        if was_interrupted(code):
            kept = f"{self._count(StepState.DONE)} of {len(self.steps)} tests are kept"
            raise Interrupted(f"interrupted: {kept}; the same command resumes from there.")
        if step.record is not None:
            return 0
        if code == ConfigError.exit_code:
            step.reason = "settings rejected; see its output"
            self.events.write(step, "refused", seconds=seconds)
            return code
        step.state = StepState.FAILED
        step.reason = step.reason or _reason(ended) or "see its output"
        self.events.write(step, StepState.FAILED, seconds=seconds, code=code, reason=step.reason)
        return code

    def _keep_old(self, step: Step) -> None:
        """Copy a result that will be replaced to the campaign's folder, so that it can still be examined.

        Raises:
            ConfigError: the copy cannot be written.
        """
        target, scene = step.target, step.settings.scene
        digest = sha256_of(step.folder / RUN)[:8]
        kept = self.folder / "replaced" / "-".join((scene.system, scene.benchmark, scene.scenario, step.test, digest))
        try:
            if not kept.exists():
                with stored(kept) as copy:
                    shutil.copytree(target, copy)
        except OSError as error:
            raise ConfigError(f"the old result in {target} cannot be copied to {kept}: {os_words(error)}") from error
        console.note(f"its old result is kept in {kept}")

    def _expectation(self, step: Step) -> str:
        length = str(self._rates.length(step))
        if step.state == StepState.INTERRUPTED:
            length = f"again, since it was interrupted, {length}"
        elif step.replaces:
            length = f"again, since {step.reason}, {length}"
        return f"{length}; {self._time_left()} for all remaining tests"

    def _time_left(self) -> str:
        left = [
            self._rates.length(step) for step in self.steps if step.state in (StepState.TO_DO, StepState.INTERRUPTED)
        ]
        return words(sum(length.seconds for length in left), all(length.known for length in left))


def _outdated(step: Step, found: ExaminedFolder) -> str:
    """Why a result must be replaced, or one that it depends on; "" if it counts or does not exist."""
    redone = [need.test for need in step.needs if need.state != StepState.DONE]
    return found.repeat_because or (f"{' and '.join(redone)} must be repeated first" if found.record and redone else "")


def _seconds(event: Mapping[str, object]) -> float | None:
    """The duration of a done test, if the event log shows it."""
    seconds = event.get("seconds")
    return seconds if event.get("event") == StepState.DONE and is_number(seconds) else None


def _reason(ended: Ended) -> str:
    """Why a test is not valid, according to its record; "" if no record can be read."""
    with contextlib.suppress(ConfigError):
        record = read_record(ended.folder) if ended.folder else None
        return "; ".join(record.reasons or ()) if record else ""
    return ""
