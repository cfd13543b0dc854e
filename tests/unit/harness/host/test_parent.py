"""Processes that end with the one that started them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

CHILD = "from harness.host.parent import end_with_parent; end_with_parent({}); print(); import time; time.sleep(60)"


def test_a_process_is_killed_when_its_parent_ends():
    """The parent starts it, waits until it has called the function, prints its id and is killed."""
    parent = (
        "import subprocess, sys, os, signal\n"
        f"child = subprocess.Popen([sys.executable, '-c', {CHILD.format('')!r}], stdout=subprocess.PIPE)\n"
        "child.stdout.readline()\n"
        "print(child.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, check=False)
    pid, deadline = int(done.stdout), time.monotonic() + 20
    while _runs(pid):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_process_ends_at_once_if_its_parent_has_ended_before():
    done = subprocess.run([sys.executable, "-c", CHILD.format("1 << 30")], timeout=50, check=False)
    assert done.returncode == 1


def test_with_its_real_parent_it_goes_on():
    code = CHILD.format(os.getpid()).replace("60", "0")
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
