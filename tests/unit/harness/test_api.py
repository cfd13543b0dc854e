"""Tests from Python: warnings, errors, and how one is interrupted. A script stands in for the command."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from finished import run_folder

from harness.api import run
from harness.errors import ConfigError, Interrupted, RunFailed

COMMAND = """#!/bin/sh
for word in "$@"; do case "$word" in --log-file=*) log="${{word#*=}}";; esac; done
{body}
"""
CALLER = """
import sys
from harness.api import run
from harness.errors import Interrupted
sys.executable = {command!r}
try:
    run(engine="null")
except Interrupted as error:
    print(f"Interrupted: {{error}}")
"""
INTERRUPTED = """
trap 'touch "{folder}/cleaned"; {on_interrupt}; exit 130' INT
touch "{folder}/started"
while :; do sleep 0.05; done
"""
LOG = """\
2026-11-25T12:00:00.001 DEBUG MainProcess: harness run
2026-11-25T12:00:00.002 WARNING MainProcess: user.conf: line 2 replaces line 1.
2026-11-25T12:00:00.003 INFO test: warming up: 2 s elapsed
2026-11-25T12:00:00.004 WARNING test: more than two threads
would share a core: lower streams.
2026-11-25T12:00:00.005 INFO test: {"logs": "warning: no"}
"""
WARNINGS = ("user.conf: line 2 replaces line 1.", "more than two threads\nwould share a core: lower streams.")


def command(folder: Path, body: str) -> Path:
    path = folder / "command"
    path.write_text(COMMAND.format(body=body))
    path.chmod(0o755)
    return path


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, log: str, out: str, code: int) -> None:
    """Replace the command by one that writes a log file, and among the lines of native code, a result."""
    (folder / "log").write_text(log)
    (folder / "out").write_text(out)
    body = f'cat "{folder}/log" > "$log"\necho "warning: of native code" >&2\ncat "{folder}/out"\nexit {code}'
    monkeypatch.setattr(sys, "executable", str(command(folder, body)))


def warned(caplog: pytest.LogCaptureFixture) -> tuple[str, ...]:
    records = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert {record.name for record in records} <= {"harness"}
    return tuple(record.getMessage() for record in records)


def test_warnings_are_in_the_outcome_and_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = run_folder(tmp_path / "runs")
    stand_in(monkeypatch, tmp_path, LOG, json.dumps({"logs": str(folder)}), 0)
    outcome = run(engine="null", runs_dir=tmp_path / "runs")
    assert (outcome.name, outcome.verdict) == (folder.name, "VALID")
    assert outcome.warnings == WARNINGS == warned(caplog)


@pytest.mark.parametrize(("code", "kind"), [(1, RunFailed), (2, ConfigError), (129, Interrupted)])
def test_warnings_before_an_error_are_logged(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
    kind: type[Exception],
) -> None:
    errors = "2026-11-25T12:00:01.000 ERROR test: first.\n2026-11-25T12:00:01.000 ERROR MainProcess: the cause.\n"
    stand_in(monkeypatch, tmp_path, LOG + errors, "", code)
    with pytest.raises(kind, match=r"^the cause\.$") as caught:
        run(engine="null")
    assert type(caught.value) is kind
    assert warned(caplog) == WARNINGS


def test_a_command_that_fails_before_it_logs_anything_is_quoted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = 'echo "ImportError: libz.so" >&2\nexit 1'
    monkeypatch.setattr(sys, "executable", str(command(tmp_path, body)))
    with pytest.raises(RunFailed, match=r"^ImportError: libz\.so$"):
        run(engine="null")


@pytest.mark.parametrize(
    ("on_interrupt", "message"),
    [
        (
            'echo "2026-11-25T12:00:00.001 ERROR MainProcess: interrupted: what it kept." >> "$log"',
            "interrupted: what it kept.",
        ),
        ('echo \'{"logs": "x"}\'', "interrupted: the test had just ended."),
        ("echo 'KeyboardInterrupt' >&2", "interrupted: nothing was kept."),
    ],
)
def test_ctrl_c_lets_the_command_clean_up_and_is_an_error_of_the_harness(
    tmp_path: Path, on_interrupt: str, message: str
) -> None:
    body = INTERRUPTED.format(folder=tmp_path, on_interrupt=on_interrupt.replace("'", "'\\''"))
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER.format(command=str(command(tmp_path, body)))],
        stdout=subprocess.PIPE,
        text=True,
        # As in a terminal, also where the tests were started with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "started").exists():
        assert caller.poll() is None
        time.sleep(0.01)
    caller.send_signal(signal.SIGINT)
    assert caller.communicate(timeout=60)[0] == f"Interrupted: {message}\n"
    assert (tmp_path / "cleaned").exists()
