"""A test runs in a process of its own, and this one watches over it.

LoadGen cannot be stopped from outside, engines are native code that can crash, hang, or keep Python's lock, and
Ctrl-C must work through all of it. So the parent only waits: it ends the child when the user asks, when the child
makes no progress, and it says what happened when the child died.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from typing import Any

from harness.errors import HarnessError, os_words
from harness.host import console

INTERRUPTED = 130


class Heartbeat:
    """Shared by the two processes: the child promises to make progress within a number of seconds."""

    def __init__(self, context: multiprocessing.context.BaseContext) -> None:
        self._values = context.RawArray("d", [time.monotonic(), 600.0])
        self._fate = context.Lock()

    def beat(self, within: float) -> None:
        """Progress was made; the next sign of it comes ``within`` seconds."""
        self._values[0], self._values[1] = time.monotonic(), within

    def publish(self) -> None:
        """From here on the result is being moved: the child is no longer interrupted."""
        self._fate.acquire()

    def interrupt(self) -> bool:
        """Whether the child may be ended; never again once it publishes, and it cannot publish once it may."""
        return self._fate.acquire(block=False)

    def overdue(self) -> tuple[float, float]:
        """Seconds since the last sign, and the seconds that were promised."""
        return time.monotonic() - self._values[0], self._values[1]


def supervised(work: Callable[..., int], *args: Any, cleanup: Callable[[], None]) -> int:
    """Run ``work(*args, heartbeat)`` in a child process and return its exit code.

    ``cleanup`` is called at the end, however the child ended: what it had not finished may not stay behind.
    """
    context = multiprocessing.get_context("spawn")
    heartbeat = Heartbeat(context)
    stopped: list[int] = []
    child = context.Process(target=_child, args=(work, args, heartbeat, console.output()), name="test")
    # Ctrl-C reaches every process of the terminal, and only the parent may act on it: the child inherits the blocked
    # signals. Starting the tracker of multiprocessing unblocks them, so that has to come first.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    previous = {s: signal.signal(s, lambda number, _: stopped.append(number)) for s in _watched()}
    try:
        child.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        reason = _watch(child, heartbeat, stopped)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    if child.is_alive():
        child.kill()
        child.join()
    cleanup()
    if reason is None and child.exitcode in (0, 1, 2):
        if stopped:
            console.error("interrupted: the test had just ended, and what came of it is kept.")
            return _code(stopped[0])
        return child.exitcode
    console.err.show_cursor(True)
    if stopped:
        console.error("interrupted: the test was ended, and nothing of it was kept.")
        return _code(stopped[0])
    if reason:
        console.error(reason)
        return 1
    console.error(f"{_death(child.exitcode or 0)} Nothing of the test was kept.")
    return 1


def _code(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else 128 + number


_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_SUSPENDED = 5.0  # seconds without a look at the child that can only mean that both processes were stopped


def _watched() -> set[signal.Signals]:
    """The signals that end a test: not those that were ignored before, as a hang-up is under nohup."""
    return {number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}


def _watch(child: multiprocessing.process.BaseProcess, heartbeat: Heartbeat, stopped: list[int]) -> str | None:
    """Wait for the child; a text when it has to be ended."""
    reported, looked = 0.0, time.monotonic()
    while True:
        child.join(0.1)
        if time.monotonic() - looked > _SUSPENDED:
            heartbeat.beat(heartbeat.overdue()[1])
        looked = time.monotonic()
        if child.exitcode is not None:
            return None
        if stopped and heartbeat.interrupt():
            return "interrupted"
        silent, promised = heartbeat.overdue()
        if silent > promised:
            return (
                f"no progress for {promised:.0f} s: the test was ended, and nothing of it was kept. If the engine only "
                "needs longer, raise --stall-timeout."
            )
        if silent < reported:
            reported = 0.0
        if silent > max(10.0, promised / 4) and silent > 2 * reported:
            reported = silent
            console.warn(f"no progress for {silent:.0f} s; the test is ended after {promised:.0f} s without any.")


def _child(work: Callable[..., int], args: tuple[Any, ...], heartbeat: Heartbeat, output: console.Output) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code = 1
    try:
        console.configure(output)
        code = work(*args, heartbeat)
    except HarnessError as error:
        console.error(str(error))
        code = error.exit_code
    except MemoryError:
        console.error("the machine has not enough memory for this test.")
    except OSError as error:
        console.error(os_words(error))
    except Exception:  # noqa: BLE001  a defect of the harness: the trace is what helps to mend it
        console.trace()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # LoadGen's thread may wait for ever for a sample that will not come.
        os._exit(code)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _death(code: int) -> str:
    number = -code
    if number < 0:
        return f"the test's process ended by itself, with exit code {code}, most likely inside the engine."
    if number == signal.SIGKILL:
        return "the test's process was killed; the machine has probably run out of memory."
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"the test's process crashed ({name}), most likely inside the engine."
