"""The tests of a campaign, and the log of their events."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from harness.errors import ConfigError
from harness.results.layout import RUN_1, Scene
from harness.results.record import Record
from harness.scenarios.base import Metric
from harness.settings.run import RunSettings


class StepState(StrEnum):
    """The state of a test."""

    TO_DO = "to do"
    INTERRUPTED = "interrupted"
    DONE = "done"
    FAILED = "failed"
    BLOCKED = "blocked"


@dataclass
class Step:
    """One test of a campaign."""

    settings: RunSettings
    needs: list[Step] = field(default_factory=list)
    """Tests whose results this one is compared with."""
    state: StepState = StepState.TO_DO
    record: Record | None = None
    seconds: float | None = None
    """Duration, if known."""
    reason: str = ""
    """Why it failed, or why it must be repeated."""
    replaces: bool = False
    """Whether it replaces a result that no longer counts."""

    @property
    def test(self) -> str:
        """performance, accuracy, TEST01 or TEST04."""
        return self.settings.test

    @property
    def name(self) -> str:
        """The name in the event log and on the console."""
        return f"{self.settings.scene.benchmark} {self.settings.scenario} {self.test}"

    @property
    def target(self) -> Path:
        """The folder of its result."""
        target = self.settings.target
        assert target is not None
        return target

    @property
    def folder(self) -> Path:
        """The folder of its record once it is done."""
        return self.target / RUN_1 if self.settings.audit else self.target

    @property
    def result(self) -> str:
        """The metric or the accuracy in words, or the reason for a failure."""
        if self.record is None:
            return self.reason
        result = self.record.result
        metric = result.metric
        return result.scores or str(Metric(metric.name, metric.value, metric.unit))


@dataclass(frozen=True)
class InferredResult:
    """A result that needs no test, since it follows from another one."""

    scene: Scene
    origin: Scene
    """The measured result."""

    @property
    def name(self) -> str:
        """The name on the console."""
        return f"{self.scene.benchmark} {self.scene.scenario}"

    @property
    def source(self) -> str:
        """The origin's benchmark, scenario, or both: whichever differ from this result's."""
        differs = [o for o, s in zip(_named(self.origin), _named(self.scene), strict=True) if o != s]
        return " ".join(differs)


def _named(scene: Scene) -> tuple[str, str]:
    return scene.benchmark, scene.scenario


class EventLog:
    """A file of events, one line of JSON each; an event is on disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, step: Step, event: str, **facts: object) -> None:
        """Add an event of a test.

        Raises:
            ConfigError: the file cannot be written.
        """
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "test": step.name, "event": event, **facts}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a+b") as file:
                # After a power failure the last line may be incomplete; it must not swallow the next one.
                file.seek(0, os.SEEK_END)
                if file.tell() and (file.seek(-1, os.SEEK_END), file.read())[1] != b"\n":
                    file.write(b"\n")
                file.write((json.dumps(line, ensure_ascii=False) + "\n").encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ConfigError(
                f"{self._path} cannot be written ({error.strerror}): choose another folder with --state-dir."
            ) from error

    def last(self) -> dict[str, dict[str, object]]:
        """The last event of each test; skips lines that cannot be read."""
        found: dict[str, dict[str, object]] = {}
        with contextlib.suppress(OSError):
            for line in self._path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
                    event = json.loads(line)
                    found[event["test"]] = event
        return found
