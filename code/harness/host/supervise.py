"""Run a test in a child process and supervise it.

LoadGen cannot be stopped from outside, engines are native code that can crash, exit, hang, or hold the GIL, and Ctrl-C
must always work. So the parent only waits: it ends the child on an interrupt or if the child makes no progress,
and it reports the cause if the child dies. The child reports its own outcome through shared memory: an exit code proves
nothing, since native code can exit with any code.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from harness.errors import HarnessError, os_words
from harness.host.parent import end_with_parent
from harness.terminal import console
from harness.terminal.streams import keep_streams

INTERRUPTED = 130
"""The exit code after Ctrl-C; after any other signal it is 128 + the signal's number, which for SIGHUP is 129."""


def was_interrupted(code: int) -> bool:
    """Whether an exit code of a test says that a signal stopped the test."""
    return code > 128


class ChildOutcome(NamedTuple):
    """The outcome of a child."""

    code: int
    """Its exit code."""
    where: Path | None = None
    """The folder of its result, if it published one."""
    gone: bool = False
    """Whether that folder no longer exists."""
    record: Path | None = None
    """The folder that it reported for its record."""


class Beat(Protocol):
    """Reports progress, and the maximum seconds until the next report; see `Heartbeat.beat`."""

    def __call__(self, within: float, doing: str = "") -> None:
        """``within`` is in seconds; ``doing`` says which engine does what until then."""


class Heartbeat:
    """Shared by both processes: the child promises to make progress in time, and reports its outcome."""

    def __init__(self, context: multiprocessing.context.BaseContext) -> None:
        self._values = context.RawArray("d", [time.monotonic(), 600.0])
        self._publish_lock = context.Lock()
        self._publishing = False
        self._code = context.RawValue("i", -1)
        self._ended = context.RawValue("i", 0)
        self._moved = context.RawArray("q", 3)
        self._where = context.RawArray("c", 8192)
        self._record = context.RawArray("c", 8192)
        self._doing = context.RawArray("c", 8192)

    def beat(self, within: float, doing: str = "") -> None:
        """Report progress, and promise the next report after at most ``within`` seconds.

        ``doing`` says which engine does what until then, and what to do if it fails: it is part of the message if the
        process dies meanwhile.
        """
        self._values[0], self._values[1] = time.monotonic(), within
        self._doing.value = os.fsencode(doing)[:8191]

    @property
    def doing(self) -> str:
        """The child's activity, according to its last `beat`."""
        return os.fsdecode(self._doing.value)

    def publish(self, code: int, folder: Path, place: Path) -> None:
        """Call right before a finished result is renamed from ``folder`` to ``place``.

        From then on the child cannot be interrupted, and once the folder is in its place the outcome is ``code``,
        whatever happens to the child.
        """
        if not self._publishing:
            self._publish_lock.acquire()
            self._publishing = True
        found = folder.stat()
        self._where.value = os.fsencode(place)
        self._moved[:] = [code, found.st_dev, found.st_ino]

    def report(self, code: int, record: Path | None = None) -> None:
        """Report the outcome, and the folder of its record, before anything else that could end the process."""
        if record:
            self._record.value = os.fsencode(record)
        self._code.value = code

    def end(self) -> None:
        """Call last: the process then ends as planned."""
        self._ended.value = 1

    @property
    def reported(self) -> bool:
        """Whether the child called `report`."""
        return bool(self._code.value >= 0)

    @property
    def ended(self) -> bool:
        """Whether the child called `end`."""
        return bool(self._ended.value)

    def verdict(self) -> ChildOutcome | None:
        """The outcome, once the child has reported it or its result is in its place."""
        place, record = (Path(os.fsdecode(it.value)) if it.value else None for it in (self._where, self._record))
        code, *moved = self._moved
        with contextlib.suppress(OSError):
            found = place.stat() if place else None
            if found and [found.st_dev, found.st_ino] == moved:
                return ChildOutcome(self._code.value if self.reported else code, place, record=record)
        if not self.reported:
            return None
        gone = place is not None and not place.exists()
        return ChildOutcome(self._code.value, place if gone else None, gone, record)

    def interrupt(self) -> bool:
        """Whether the child may be killed: only before it calls `publish`, which blocks once this has returned True."""
        return self._publish_lock.acquire(block=False)

    def overdue(self) -> tuple[float, float]:
        """Seconds since the last report, and the seconds promised by it."""
        return time.monotonic() - self._values[0], self._values[1]


def supervised(work: Callable[..., int], *args: Any, cleanup: Callable[[], None]) -> ChildOutcome:
    """Run ``work(*args, heartbeat)`` in a child process and return the outcome that it reported, once it is printed.

    ``cleanup`` is called however the child ended: it removes unfinished files.
    """
    context = multiprocessing.get_context("spawn")
    heartbeat = Heartbeat(context)
    stopped: list[int] = []
    # Unpickling the settings imports the engine's module, so the child does it only once it can handle any failure.
    task = pickle.dumps((work, args))
    given = (os.getpid(), task, heartbeat, console.output())
    child = context.Process(target=_child, args=given, name="test")
    # Ctrl-C reaches every process of the terminal, and only the parent may act on it: the child inherits the blocked
    # signals. Starting the tracker of multiprocessing unblocks them, so that has to come first.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    previous = {s: signal.signal(s, lambda number, _: stopped.append(number)) for s in _watched()}
    try:
        child.start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        reason = _watch(child, heartbeat, stopped)
        if child.is_alive():
            child.kill()
            child.join()
        cleanup()
        how = reason or _crash_message(child.exitcode or 0, heartbeat.doing)
        return _outcome(how, heartbeat.verdict(), heartbeat.ended, stopped)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _outcome(how: str, verdict: ChildOutcome | None, ended: bool, stopped: list[int]) -> ChildOutcome:
    """Print ``how`` the child ended, unless it has reported that itself; returns the verdict with the exit code."""
    if not ended:
        console.err.show_cursor(True)
    if verdict is None:
        what = "interrupted: the test was stopped, and nothing was kept." if stopped else f"{how} Nothing was kept."
        console.error(what)
        return ChildOutcome(_code(stopped[0]) if stopped else 1)
    if verdict.gone:
        console.error(f"the result was in {verdict.where}, but that folder was removed before the run had ended.")
        return verdict._replace(code=1, where=None)
    kept = f"its result is in {verdict.where}" if verdict.where else "its outcome stands"
    if stopped:
        console.error(f"interrupted: the test had just ended, and {kept}.")
        return verdict._replace(code=_code(stopped[0]))
    if not ended:
        console.warn(f"the test had ended, and {kept}; afterwards: {how}")
    return verdict


def _code(number: int) -> int:
    return INTERRUPTED if number == signal.SIGINT else 128 + number


_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
_SUSPENDED_SECONDS = 5.0  # between two checks of the child: a longer gap means that machine or process was suspended
_PRINTING_SECONDS = 2.0  # for an interrupted child to print a result that it has published


def _watched() -> set[signal.Signals]:
    """The signals that end a test, without those already ignored, such as SIGHUP under nohup."""
    return {number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN}


def _watch(child: multiprocessing.process.BaseProcess, heartbeat: Heartbeat, stopped: list[int]) -> str | None:
    """Wait for the child; returns why it must be killed, or None if it ended by itself."""
    warned, looked, interrupted = 0.0, time.monotonic(), 0.0
    while True:
        child.join(0.1)
        if time.monotonic() - looked > _SUSPENDED_SECONDS:
            heartbeat.beat(heartbeat.overdue()[1], heartbeat.doing)
        looked = time.monotonic()
        if child.exitcode is not None:
            return None
        if stopped:
            interrupted = interrupted or looked
            if heartbeat.interrupt() or (heartbeat.reported and looked > interrupted + _PRINTING_SECONDS):
                return "interrupted."
        silent, promised = heartbeat.overdue()
        if silent > promised:
            return _stall_message(promised, heartbeat.reported)
        if silent < warned:
            warned = 0.0
        if silent > max(10.0, promised / 4) and silent > 2 * warned:
            warned = silent
            console.warn(f"no progress for {silent:.0f} s; the test will be stopped after {promised:.0f} s.")


def _stall_message(promised: float, reported: bool) -> str:
    if reported:
        return f"no progress for {promised:.0f} s, most likely inside the engine, so its process was stopped."
    return (
        f"no progress for {promised:.0f} s: the test was stopped. If the engine only needs more time, raise "
        "--stall-timeout."
    )


def _child(parent: int, task: bytes, heartbeat: Heartbeat, output: console.Output) -> None:
    end_with_parent(parent)  # its thread waits for this process, and so ends only with its process
    keep_streams()
    code = 1
    try:
        console.configure(output)
        work, args = pickle.loads(task)
        code = work(*args, heartbeat)
    except HarnessError as error:
        console.error(str(error))
        code = error.exit_code
    except MemoryError:
        console.error("this machine does not have enough memory for the test: free some, or use smaller batches.")
    except OSError as error:
        console.error(os_words(error))
    except Exception:  # noqa: BLE001  a bug in the harness: the traceback helps to fix it
        console.trace()
    except BaseException as error:  # noqa: BLE001  signals are blocked, so it is not Ctrl-C
        text = f" ({error})" if str(error) else ""
        console.error(f"{type(error).__name__}{text} ended the test, most likely raised by the engine.")
    finally:
        if not heartbeat.reported:
            heartbeat.report(code)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        heartbeat.end()
        # LoadGen's thread may wait forever for a sample that was never answered.
        os._exit(code)


def _crash_message(code: int, doing: str) -> str:
    number, where = -code, f" while {doing}." if doing else ", most likely inside the engine."
    if number <= 0:
        return f"the test's process exited with code {code}{where}"
    if number == signal.SIGKILL:
        return "the test's process was killed; the machine has probably run out of memory."
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    return f"the test's process crashed ({name}){where}"
