"""The progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from rich.console import OverflowMethod, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.terminal import console
from harness.terminal.pace import Pace

OnProgress = Callable[[int, int], None]
"""Called with the amount done and the total."""
_QUIET_FOR_S = 2.0  # before the first plain line
_RATE_AFTER_S = 0.5  # before a rate is shown
_TICK_S = 0.5  # between two updates of elapsed time
_LEFT = " left"
_SMALLEST_BAR, _SPACES = 5, 3  # columns of a progress bar, and between it and the words beside it


class Progress:
    """The progress of some work: a bar on a terminal, a plain line now and then elsewhere.

    `total` is None while unknown; `unit` is a plural noun, "B" for bytes, or "" if nothing is counted; `interval` is
    the seconds between two plain lines. Work of less than two seconds prints no line. The time left is that of `Pace`,
    unless the caller gives it; none is shown if the work is not `foreseen`, that is, if the number of units, or what
    comes after them, is unknown. Every method may be called from any thread.
    """

    def __init__(
        self,
        description: str,
        *,
        total: float | None = None,
        unit: str = "items",
        interval: float = 5.0,
        foreseen: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._description, self._total, self._unit = description, total, unit
        self._interval, self._foreseen, self._clock = interval, foreseen, clock
        self._done = 0.0
        self._note = ""
        self._fraction: float | None = None
        self._share: float | None = None
        self._ends: float | None = None
        self._facts_given: Sequence[str] = ()
        self._lock = threading.Lock()
        self._began = self._rate_from = clock()
        self._rate_base = 0.0
        self._pace = Pace(self._began)
        self._due = float("inf")
        self._ended: float | None = None
        self._live: Live | None = None

    def __enter__(self) -> Self:
        self._began = self._rate_from = self._clock()
        self._pace = Pace(self._began, self._done)
        if console.err.is_interactive and console.err.file.isatty():
            redirect_stdout = console.out.file.isatty()
            self._live = Live(
                console=console.err, get_renderable=self._bar, refresh_per_second=4, redirect_stdout=redirect_stdout
            )
            self._live.start(refresh=True)
        else:
            self._due = self._began + _QUIET_FOR_S
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended = self._clock()
        plain, self._due = self._due < float("inf"), float("inf")
        if self._live is not None:
            self._live.stop()
        if kind is not None or not (plain or self._live is not None):
            return
        took = console.duration(self._ended - self._began, 1)
        line = f"{self._description}: {f'{self._count()} in ' if self._unit else ''}{took}"
        say = console.detail if self._ended - self._began < _QUIET_FOR_S else console.note
        (console.only_logged if self._live is not None else say)(line)

    def advance(self, n: float = 1) -> None:
        """Count `n` more units as done."""
        with self._lock:
            self._done += n
            self._advanced()
        self._line_if_due()

    def update(
        self,
        *,
        done: float | None = None,
        total: float | None = None,
        note: str | None = None,
        share: float | None = None,
        left: float | None = None,
    ) -> None:
        """Set the values given and keep the others; `note` is free text at the end ("" removes it).

        `share` (0 to 1) is the part of the work that is done, for units that take unequal time: percentage and time
        left follow it. `left` is the time left in seconds, if the caller knows it.
        """
        with self._lock:
            self._done = self._done if done is None else done
            self._total = self._total if total is None else total
            self._note = self._note if note is None else note
            self._share = self._share if share is None else share
            self._ends = self._ends if left is None else self._clock() + left
            self._advanced()
        self._line_if_due()

    def _advanced(self) -> None:
        self._pace.note(self._clock(), self._done if self._share is None else self._share)

    def show(self, facts: Sequence[str], *, done: float, fraction: float, left: float | None, note: str = "") -> None:
        """Show the caller's own facts instead of count and rate, for work whose units take unequal time.

        `fraction` (0 to 1) is the length of the bar, `left` the seconds that remain, if known. `done` is only for the
        last line.
        """
        with self._lock:
            self._facts_given, self._done, self._total = tuple(facts), done, done
            self._ends = None if left is None else self._clock() + left
            self._fraction, self._note = fraction, note
        self._line_if_due()

    def start_from(self, done: float) -> None:
        """Set the units done before this attempt: rate and time left are computed from here on."""
        with self._lock:
            self._done = self._rate_base = done
            self._rate_from = self._clock()
            self._pace = Pace(self._rate_from, done)

    def _line_if_due(self) -> None:
        if self._clock() < self._due:
            return
        with self._lock:
            now = self._clock()
            if now < self._due:
                return
            self._due = now + self._interval
        console.note(f"{self._description}: {', '.join(self._facts())}")

    def _count(self) -> str:
        """'4,200 of 10,570 questions', or only the number done if it is the total or the total is unknown."""
        done, total = self._done, self._total
        if total is None or done == total:
            return console.quantity(done, self._unit)
        sizes = console.quantity(done, self._unit), console.quantity(total, self._unit)
        return " of ".join(sizes) if self._unit == "B" else f"{done:,.0f} of {sizes[1]}"

    def _facts(self, elapsed: bool = False) -> list[str]:
        now = self._ended if self._ended is not None else self._clock()
        with self._lock:
            given, after = self._facts_given, [self._note] if self._note else []
            facts, left = list(given) or self._own_facts(now), self._seconds_left(now)
        if left is not None and self._ended is None:
            facts.append(f"{console.duration(max(1, left))}{_LEFT}")
        if not given and (elapsed or self._total is None or not facts):
            facts.append(f"{console.duration(now - self._began)} elapsed")
        return [*facts, *after]

    def _own_facts(self, now: float) -> list[str]:
        """Count and rate."""
        done, total, since = self._done, self._total, now - self._rate_from
        rate = (done - self._rate_base) / since if since >= _RATE_AFTER_S else 0.0
        facts = [self._count()] if self._unit else []
        if total:
            share = done / total if self._share is None or done >= total else self._share
            percent = min(round(100 * share), 100 if done >= total else 99)
            facts = [f"{facts[0]} ({percent} %)" if facts else f"{percent} %"]
        if rate > 0 and self._unit:
            facts.append(console.quantity(rate, self._unit, per_second=True))
        return facts

    def _seconds_left(self, now: float) -> float | None:
        """None if unknown, or nothing is left."""
        if self._ends is not None:
            return self._ends - now
        if not self._foreseen:
            return None
        whole = self._total if self._share is None else 1.0
        if not whole or not self._total or self._done >= self._total or now - self._rate_from < _RATE_AFTER_S:
            return None
        return self._pace.left(now, whole)

    def _bar(self) -> RenderableType:
        given = self._facts(elapsed=True)
        width = console.err.width - len(self._description) - _SPACES
        while len(facts := ", ".join(given)) > width - _SMALLEST_BAR:
            # The first fact (how much is done) and the time left stay.
            less = [place for place, fact in enumerate(given) if place and not fact.endswith(_LEFT)]
            if not less:
                break
            del given[less[-1]]
        row = Table.grid(padding=(0, 1))
        overflows: tuple[OverflowMethod, ...] = ("ellipsis", "crop", "ellipsis")
        for overflow in overflows:
            row.add_column(no_wrap=True, overflow=overflow)
        fraction = self._share if self._fraction is None else self._fraction
        total, done = (self._total, self._done) if fraction is None else (1.0, fraction)
        bar = ProgressBar(total=total, completed=done, width=max(_SMALLEST_BAR, min(30, width - len(facts))))
        row.add_row(Text(self._description), bar, Text(facts))
        return row


@contextmanager
def working(description: str) -> Iterator[None]:
    """Show the elapsed time of work whose progress is unknown."""
    ended = threading.Event()
    with Progress(description, unit="") as bar:

        def tick() -> None:
            while not ended.wait(_TICK_S):
                bar.update()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
