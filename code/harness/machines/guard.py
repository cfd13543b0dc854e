"""The parent of Ray's processes on this machine: `python -m harness.machines.guard FOLDER`, with JSON on stdin.

It ends when the process that started it ends, for whatever reason, and then kills all of its descendants, including
stopped and orphaned ones: Ray's agents would stay for a minute, a stopped process for ever.
Only the standard library is imported, so that it starts at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_LOCK = threading.Lock()
_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


def main() -> None:
    """Start what the lines of standard input say, report what ends, and kill all at the end of the input."""
    signal.pthread_sigmask(signal.SIG_SETMASK, _SIGNALS)  # the harness handles Ctrl-C
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    folder = Path(sys.argv[1])
    started: dict[int, tuple[str, subprocess.Popen[bytes]]] = {}
    for line in sys.stdin:
        for name, command in json.loads(line).items():
            with _LOCK, (folder / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
                # Keep the Popen: a deleted one reaps its process, and `os.wait` would miss the exit status.
                started[process.pid] = (name, process)
        threading.Thread(target=_reap, args=(started,), daemon=True).start()
    while _kill_all():
        time.sleep(0.02)
    shutil.rmtree(folder, ignore_errors=True)


def _reap(started: dict[int, tuple[str, subprocess.Popen[bytes]]]) -> None:
    """Print a line for each process that ends: its name and exit code."""
    while True:
        try:
            pid, status = os.wait()
        except ChildProcessError:
            return  # the next line of input starts another thread
        with _LOCK, contextlib.suppress(OSError):  # a process may end before it is registered
            if known := started.get(pid):  # several threads print whole lines
                print(json.dumps([known[0], os.waitstatus_to_exitcode(status)]), flush=True)


def _kill_all() -> bool:
    """Kill all descendants; False once there are none."""
    found = _descendants(os.getpid())
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(found)


def _descendants(top: int) -> list[int]:
    """All descendants of a process, without zombies, which need no signal."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (entry / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if state not in "ZX":
            children.setdefault(int(parent), []).append(int(entry.name))
    found = list(children.get(top, ()))
    for pid in found:  # the loop appends to it
        found += children.get(pid, ())
    return found


if __name__ == "__main__":
    main()
