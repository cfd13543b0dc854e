"""Runs from Python, such as from a notebook: `run` returns what `harness report` would show.

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
from harness.results.finished import TREES, Finished, read

Outcome = Finished
"""A run that ended, VALID or not: its record, metrics, latencies, LoadGen's values and its timeline."""
_INTERRUPTED = 128  # exit codes above it are of a signal


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
    """Run one development test as `harness run` does, in a process of its own, and wait for its end.

    The arguments are the options of the command, with its defaults; ``options`` are those of `--set`, and ``duration``
    is in seconds. An engine may be "module:Class"; its module is looked for where this process finds its own.

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
    code, out, err = _ended([sys.executable, "-m", "harness.cli", "run", "--json", *words])
    shown = _shown(out)
    if code > 1 or shown is None:
        raise _error(code, err)
    return read(Path(shown), runs_dir or paths.ROOT / "build" / "runs", TREES)


def _ended(words: list[str]) -> tuple[int, str, str]:
    """Run a command; returns its exit code and what it wrote.

    Raises:
        Interrupted: by the user; the command has then cleaned up.
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
                raise Interrupted(_said(err) or "interrupted: the test had just ended.") from None
            raise
    return process.returncode, out, err


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _shown(out: str) -> str | None:
    """The folder of the result that a command printed as JSON; None if it printed none."""
    try:
        return str(json.loads(out)["logs"])
    except (ValueError, KeyError, TypeError):
        return None


def _error(code: int, err: str) -> HarnessError:
    """What a command said before it failed, as the error that made it."""
    message = _said(err) or err.strip() or f"the test ended with exit code {code}, and said nothing."
    kind = ConfigError if code == ConfigError.exit_code else Interrupted if code > _INTERRUPTED else RunFailed
    return kind(message)


def _said(err: str) -> str:
    """The last error that a command printed; "" if it printed none."""
    said = [line.removeprefix("error: ") for line in err.splitlines() if line.startswith("error: ")]
    return said[-1] if said else ""
