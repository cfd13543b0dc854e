"""Run a test in a child process and supervise it.

LoadGen cannot be stopped from outside, engines are native code that can crash, hang, or hold the GIL, and Ctrl-C must
always work. So the parent only waits: it ends the child when the user interrupts or the child makes no progress, and
it reports the cause when the child dies.
"""

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
    """Shared by both processes: the child promises to make progress within a number of seconds."""

    def __init__(self, context: multiprocessing.context.BaseContext) -> None:
        self._values = context.RawArray("d", [time.monotonic(), 600.0])
        self._fate = context.Lock()

    def beat(self, within: float) -> None:
        """Report progress, and promise the next report after at most ``within`` seconds."""
        self._values[0], self._values[1] = time.monotonic(), within

    def publish(self) -> None:
        """Call before the result is moved into place: the child can no longer be interrupted."""
        self._fate.acquire()

    def interrupt(self) -> bool:
        """Whether the child may be ended; true only before `publish`, which blocks from then on."""
        return self._fate.acquire(block=False)

    def overdue(self) -> tuple[float, float]:
        """Seconds since the last report, and the seconds promised by it."""
        return time.monotonic() - self._values[0], self._values[1]


def supervised(work: Callable[..., int], *args: Any, cleanup: Callable[[], None]) -> int:
    """Run ``work(*args, heartbeat)`` in a child process and return its exit code.

    ``cleanup`` is called however the child ended: it removes unfinished files.
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
            console.error("interrupted: the test had just ended, and its result was kept.")
            return _code(stopped[0])
        return child.exitcode
    console.err.show_cursor(True)
    if stopped:
        console.error("interrupted: the test was stopped, and nothing was kept.")
        return _code(stopped[0])
    if reason:
        console.error(reason)
        return 1
    console.error(f"{_death(child.exitcode or 0)} Nothing was kept.")
    return 1


def _code(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else 128 + number


_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_SUSPENDED = 5.0  # seconds between two looks at the child that only a suspended machine or process explains


def _watched() -> set[signal.Signals]:
    """The signals that end a test, without those already ignored, such as SIGHUP under nohup."""
    return {number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}


def _watch(child: multiprocessing.process.BaseProcess, heartbeat: Heartbeat, stopped: list[int]) -> str | None:
    """Wait for the child; a text says why it must be ended, None that it ended by itself."""
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
                f"no progress for {promised:.0f} s: the test was stopped, and nothing was kept. If the engine only "
                "needs more time, raise --stall-timeout."
            )
        if silent < reported:
            reported = 0.0
        if silent > max(10.0, promised / 4) and silent > 2 * reported:
            reported = silent
            console.warn(f"no progress for {silent:.0f} s; the test will be stopped after {promised:.0f} s.")


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
        console.error("this machine does not have enough memory for the test.")
    except OSError as error:
        console.error(os_words(error))
    except Exception:  # noqa: BLE001  a defect of the harness: the traceback helps to fix it
        console.trace()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        # LoadGen's thread may wait forever for a sample that was never answered.
        os._exit(code)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _death(code: int) -> str:
    number = -code
    if number < 0:
        return f"the test's process exited with code {code}, most likely inside the engine."
    if number == signal.SIGKILL:
        return "the test's process was killed; the machine has probably run out of memory."
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"the test's process crashed ({name}), most likely inside the engine."
