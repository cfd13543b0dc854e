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
from pathlib import Path

from harness import paths
from harness.errors import ConfigError, HarnessError, Interrupted, RunFailed
from harness.host.supervise import was_interrupted
from harness.results.finished import TREES, Finished, read

Outcome = Finished
"""A run that ended, VALID or not: its record, metrics, latencies, LoadGen's values and its timeline."""


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
    code, out, err = _execute([sys.executable, "-m", "harness.cli", "run", "--json", *words])
    logs = _logs_folder(out)
    if code > 1 or logs is None:
        raise _error(code, err)
    return read(Path(logs), runs_dir or paths.ROOT / "build" / "runs", TREES)


def _execute(words: list[str]) -> tuple[int, str, str]:
    """Run a command to its end; returns its exit code, stdout and stderr.

    Raises:
        Interrupted: the user interrupted it; the command cleans up first.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=environment
    ) as process:
        try:
            out, err = process.communicate()
        except BaseException as error:
            # A notebook is interrupted alone, without the processes that it started.
            process.send_signal(signal.SIGINT)
            err = process.communicate()[1]
            if isinstance(error, KeyboardInterrupt):
                raise Interrupted(_last_error(err) or "interrupted: the test had just ended.") from None
            raise
    return process.returncode, out, err


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _logs_folder(out: str) -> str | None:
    """The folder of the result that a command printed as JSON; None if it printed none."""
    try:
        return str(json.loads(out)["logs"])
    except (ValueError, KeyError, TypeError):
        return None


def _error(code: int, err: str) -> HarnessError:
    """The error that ended a command, with the message that the command printed."""
    message = _last_error(err) or err.strip() or f"the test ended with exit code {code} and printed no error."
    kind = ConfigError if code == ConfigError.exit_code else Interrupted if was_interrupted(code) else RunFailed
    return kind(message)


def _last_error(err: str) -> str:
    """The last error that a command printed; "" if it printed none."""
    errors = [line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error: ")]
    return errors[-1] if errors else ""
