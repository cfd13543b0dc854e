"""Tests from Python: how one is interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

COMMAND = """#!/bin/sh
trap 'touch "{folder}/cleaned"; echo "error: interrupted: nothing was kept." >&2; exit 130' INT
touch "{folder}/started"
while :; do sleep 0.05; done
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


def test_ctrl_c_lets_the_command_clean_up_and_is_an_error_of_the_harness(tmp_path: Path) -> None:
    command = tmp_path / "command"
    command.write_text(COMMAND.format(folder=tmp_path))
    command.chmod(0o755)
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER.format(command=str(command))],
        stdout=subprocess.PIPE,
        text=True,
        # As in a terminal, also where the tests were started with Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while not (tmp_path / "started").exists():
        assert caller.poll() is None
        time.sleep(0.01)
    caller.send_signal(signal.SIGINT)
    assert caller.communicate(timeout=60)[0] == "Interrupted: interrupted: nothing was kept.\n"
    assert (tmp_path / "cleaned").exists()
