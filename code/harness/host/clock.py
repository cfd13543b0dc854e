"""Checks the realtime clock, which LoadGen uses, against one that nobody can set; and a clock without stopped time.

An NTP client, a person or a resuming machine may set the realtime clock during a test. LoadGen does not notice: setting
it back by one second in a test of six seconds makes Offline 20 % faster, and the result is still VALID.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from harness.errors import RunFailed

_TOLERANCE, _SHORTEST = 0.005, 0.005
"""Allowed deviation: a fraction of the test's seconds, and the minimum in seconds."""
_MAX_CLOCK_DRIFT = 0.001
"""The kernel's NTP discipline changes the clock's rate by up to 500 ppm, and adjtime() by up to another 500 ppm."""
_READING_SECONDS = 2e-4  # difference that comes from reading the two clocks one after the other
_CHECK_SECONDS = 1.0  # between two checks of a running clock
_MIN_GAP_SECONDS = 5.0  # a shorter gap between checks is not a stop
_IDLE_CPU_SHARE = 0.1  # CPU seconds per second below which a process counts as stopped
_RAW_CLOCK = time.CLOCK_MONOTONIC_RAW  # unlike CLOCK_MONOTONIC it does not follow NTP's rate


@dataclass(frozen=True)
class Timing:
    """The duration of a test, in seconds, by a clock that nobody sets."""

    shortest: float
    """From the arrival of the first query until the last answer was ready."""
    longest: float
    """From the end of loading the samples until LoadGen unloads them."""
    moved: float
    """Total change of the realtime clock in this time, from being set or running fast or slow; in either direction."""

    def check(self, loadgen: float | None) -> None:
        """Check the duration that LoadGen measured; None if its log shows none.

        Raises:
            RunFailed: the two durations differ, or the realtime clock was moved.
        """
        allowed = max(_TOLERANCE * self.shortest, _SHORTEST)
        measured = self.shortest if loadgen is None else loadgen
        if self.moved > allowed or not self.shortest - allowed <= measured <= self.longest + allowed:
            lasted = "unknown" if loadgen is None else f"{loadgen:.3f} s"
            moved = f" (it moved by {self.moved:.3f} s in all)" if self.moved else ""
            raise RunFailed(
                f"the realtime clock was changed during the test{moved}: the test took {self.shortest:.3f} s by the "
                f"monotonic clock, but {lasted} by LoadGen, which uses the realtime clock, so its result is wrong. Let "
                "time synchronisation settle (or stop it for the test), do not suspend the machine, and run it again."
            )


class Stopwatch:
    """Times a test, and adds up how far the realtime clock is moved meanwhile; usable by several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running = False
        self._last = self._began = _readings()
        self._moved = 0.0

    def start(self) -> None:
        """Start or restart."""
        with self._lock:
            self._last = self._began = _readings()
            self._running, self._moved = True, 0.0

    def look(self) -> None:
        """Compare the clocks; a step back and forth between two looks goes unnoticed."""
        with self._lock:
            if not self._running:
                return
            last, now = self._last, _readings()
            elapsed = now.steady - last.steady
            moved = abs(now.realtime - last.realtime - elapsed)
            if moved > now.doubt + last.doubt + _READING_SECONDS + _MAX_CLOCK_DRIFT * elapsed:
                self._moved += moved
            self._last = now

    def stop(self) -> None:
        """Stop; later calls of `look` are ignored."""
        self.look()
        with self._lock:
            self._running = False

    def timing(self, shortest: float) -> Timing:
        """The timing of a test whose queries took ``shortest`` seconds."""
        return Timing(shortest, self._last.steady - self._began.steady, self._moved)


@dataclass(frozen=True)
class _Readings:
    """Two clocks read at about the same time, in seconds."""

    steady: float
    realtime: float
    doubt: float
    """Maximum seconds between the two readings."""


def _readings() -> _Readings:
    """The best of a few readings: the thread may lose its core between reading the two clocks."""
    best = None
    for _ in range(5):
        before, realtime, after = time.clock_gettime_ns(_RAW_CLOCK), time.time_ns(), time.clock_gettime_ns(_RAW_CLOCK)
        found = _Readings((before + after) / 2e9, realtime / 1e9, (after - before) / 2e9)
        if best is None or found.doubt < best.doubt:
            best = found
        if best.doubt < 2e-5:
            break
    assert best is not None
    return best


class RunningClock:
    """Counts seconds, except while this process is stopped (Ctrl-Z, `kill -STOP`), for work that takes hours.

    A process cannot ask how long it was stopped. So a thread checks every second: if it did not run for five seconds,
    and the process used next to no CPU time meanwhile, it was stopped. CLOCK_MONOTONIC does not count suspended time.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, used: Callable[[], float] = time.process_time
    ) -> None:
        """``used`` gives the processor seconds of this process."""
        self._clock, self._used = clock, used
        self._lock, self._over = threading.Lock(), threading.Event()
        self._last, self._last_used = clock(), used()
        self._stopped = 0.0
        self._thread: threading.Thread | None = None

    def __call__(self) -> float:
        """The seconds so far, from an arbitrary start."""
        with self._lock:
            now, used = self._clock(), self._used()
            gap = now - self._last
            if self._thread and gap > _MIN_GAP_SECONDS and used - self._last_used < _IDLE_CPU_SHARE * gap:
                self._stopped += gap
            self._last, self._last_used = now, used
            return now - self._stopped

    def __enter__(self) -> Self:
        """Start watching for stops."""
        self()
        self._over.clear()
        self._thread = threading.Thread(target=self._watch, name="running-clock", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        """Stop watching: from here on, stopped time counts again."""
        self._over.set()
        if self._thread:
            self._thread.join()
        self._thread = None

    def _watch(self) -> None:
        while not self._over.wait(_CHECK_SECONDS):
            self()
