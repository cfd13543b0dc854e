"""Tests run from Python, such as from a notebook: `run` returns the facts that `harness report` shows.

>>> outcome = run(engine="onnxruntime", duration=10, options={"max_batch": 8})  # doctest: +SKIP
>>> outcome.verdict, outcome.metrics[0].value, outcome.latency_ms  # doctest: +SKIP
('VALID', 61.3, {})
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from harness import paths
from harness.errors import ConfigError, HarnessError, Interrupted, RunFailed
from harness.host.supervise import was_interrupted
from harness.results.finished import TREES, Finished, read
from harness.terminal import console
from harness.terminal.log_file import messages


@dataclass(frozen=True)
class Outcome(Finished):
    """A run that ended, VALID or not: its record, metrics, latencies, LoadGen's values, timeline and warnings."""

    warnings: tuple[str, ...] = ()
    """The warnings of the command, in order, such as one of too many threads."""


def run(
    model: str | Path | None = None,
    *,
    engine: str | None = None,
    scenario: str | None = None,
    mode: str | None = None,
    dataset: str | Path | None = None,
    samples: int | None = None,
    duration: float | None = None,
    options: Mapping[str, str | int | float | bool | Path] | None = None,
    user_conf: Path | None = None,
    runs_dir: Path | None = None,
    tuned: bool | None = None,
) -> Outcome:
    """Run one development test like `harness run`, in its own process, and wait until it ends.

    The arguments are the options of the command, with its defaults; ``options`` are those of `--set`, and ``duration``
    is in seconds. An engine may be "module:Class"; its module is found on this process's ``sys.path``.

    The test's warnings are in the outcome. Once it has ended, even without a result, they are also logged as warnings
    by the logger "harness", which prints them to stderr.

    Raises:
        ConfigError: a setting is wrong.
        RunFailed: the test did not complete, so there is no result.
        Interrupted: the test was interrupted.
    """
    given = {
        **{"model": model, "engine": engine, "scenario": scenario, "mode": mode, "dataset": dataset},
        **{"samples": samples, "duration": duration, "user-conf": user_conf, "runs-dir": runs_dir},
    }
    words = [f"--{name}={value}" for name, value in given.items() if value is not None]
    words += [f"--set={name}={_text(value)}" for name, value in (options or {}).items()]
    words += [] if tuned is None else ["--tuned" if tuned else "--no-tuned"]
    ended = _execute(["run", "--json", *words])
    logs = _logs_folder(ended.out)
    for warning in ended.warnings:
        console.warn(warning)
    if ended.interrupted:
        raise Interrupted(ended.error or f"interrupted: {'the test had just ended' if logs else 'nothing was kept'}.")
    if ended.code > 1 or logs is None:
        raise _error(ended)
    finished = read(Path(logs), runs_dir or paths.ROOT / "build" / "runs", TREES)
    return Outcome(**vars(finished), warnings=ended.warnings)


@dataclass(frozen=True)
class _Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str
    warnings: tuple[str, ...]
    errors: tuple[str, ...]
    interrupted: bool
    """Whether the user interrupted this process meanwhile."""

    @property
    def error(self) -> str:
        """Its last error; "" if it had none."""
        return self.errors[-1] if self.errors else ""


def _execute(words: list[str]) -> _Ended:
    """Run a command of the harness to its end, also if this process is interrupted: the command then cleans up.

    Its messages come from its log file. On stderr they can be coloured, since notebooks set FORCE_COLOR, and between
    the lines of native code.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with TemporaryDirectory(prefix="harness-") as folder:
        log = Path(folder) / "log"
        command = [sys.executable, "-m", "harness.cli", f"--log-file={log}", *words]
        interrupted = False
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
        ) as process:
            try:
                out, err = process.communicate()
            except BaseException as error:
                # A notebook is interrupted alone, without the processes that it started.
                process.send_signal(signal.SIGINT)
                out, err = process.communicate()
                if not isinstance(error, KeyboardInterrupt):
                    raise
                interrupted = True
        warnings, errors = (tuple(messages(log, level)) for level in ("WARNING", "ERROR"))
    return _Ended(process.returncode, out, err, warnings, errors, interrupted)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _logs_folder(out: str) -> str | None:
    """The folder of the result that a command printed as JSON; None if it printed none."""
    try:
        return str(json.loads(out)["logs"])
    except (ValueError, KeyError, TypeError):
        return None


def _error(ended: _Ended) -> HarnessError:
    """The error that ended a command, with the message that the command printed."""
    code = ended.code
    message = ended.error or ended.err.strip() or f"the test ended with exit code {code} and printed no error."
    kind = ConfigError if code == ConfigError.exit_code else Interrupted if was_interrupted(code) else RunFailed
    return kind(message)
