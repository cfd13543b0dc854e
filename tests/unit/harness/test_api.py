"""Tests from Python: how one is interrupted."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from harness.api import run
from harness.errors import Interrupted

COMMAND = """#!/bin/sh
trap 'touch "{folder}/cleaned"; echo "error: interrupted: nothing was kept." >&2; exit 130' INT
touch "{folder}/started"
while :; do sleep 0.05; done
"""


@pytest.fixture
def interruptible():
    """Ctrl-C as in a terminal, also where the tests were started with it ignored."""
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, previous)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_lets_the_command_clean_up_and_is_an_error_of_the_harness(tmp_path, monkeypatch):
    command = tmp_path / "command"
    command.write_text(COMMAND.format(folder=tmp_path))
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))

    def interrupt():
        while not (tmp_path / "started").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(Interrupted, match=r"^interrupted: nothing was kept\.$"):
        run(engine="null")
    assert (tmp_path / "cleaned").exists()
