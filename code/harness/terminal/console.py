"""All terminal output: results go to stdout, everything else (progress, notes, errors) to stderr.

Messages for stderr pass through the logger "harness": `configure` decides whether details are shown, and can add a log
file that receives all of them and the output to stdout, with timestamps.
"""

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from rich.console import OverflowMethod, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from harness.errors import ConfigError
from harness.terminal.log_file import FORMATTER
from harness.terminal.pace import Pace
from harness.terminal.streams import open_console

OnProgress = Callable[[int, int], None]
"""Called with the amount done and the total."""
_QUIET_FOR_S = 2.0  # before the first plain line
_RATE_AFTER_S = 0.5  # before a rate is shown
_TICK_S = 0.5  # between two updates of elapsed time
_LEFT = " left"
_SMALLEST_BAR, _SPACES = 5, 3  # columns of a progress bar, and between it and the words beside it


class Output(NamedTuple):
    """The arguments of `configure`: verbosity and log file."""

    verbose: bool = False
    log_file: Path | None = None


_output = Output()
_log = logging.getLogger("harness")
_log.setLevel(logging.DEBUG)
_LOGGED = "only_logged"
"""Attribute of records that go to the log file only."""


def _only_logged(text: str) -> None:
    _log.info("%s", text, extra={_LOGGED: True})


def _log_result(line: str) -> None:
    if _output.log_file:
        _only_logged(line)


if os.environ.get("COLUMNS", "").strip("0") == "":  # rich would print nothing at all on 0 columns
    os.environ.pop("COLUMNS", None)

out = open_console("stdout", _log_result)
err = open_console("stderr")


class _Screen(logging.Handler):
    """Prints records to stderr."""

    _PREFIXES = ((logging.ERROR, "error: ", "bold red"), (logging.WARNING, "warning: ", "yellow"))

    def emit(self, record: logging.LogRecord) -> None:
        found = next(((prefix, style) for level, prefix, style in self._PREFIXES if record.levelno >= level), None)
        err.print(Text.assemble(*([found] if found else []), record.getMessage()))


class _LogFileHandler(logging.FileHandler):
    """Appends records to a file; a failure to write does not end the command."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        logging.getLogger().removeHandler(self)
        warn(f"{self.baseFilename} can no longer be written: later output is not in it.")


_screen = _Screen(logging.INFO)
_screen.addFilter(lambda record: not hasattr(record, _LOGGED))
_log.addHandler(_screen)


def configure(output: Output) -> None:
    """Set, from here on, whether details are shown and which file gets a copy of all output.

    Raises:
        ConfigError: the file cannot be written.
    """
    global _output
    root = logging.getLogger()
    for handler in [each for each in root.handlers if isinstance(each, _LogFileHandler)]:
        root.removeHandler(handler)
        handler.close()
    if output.log_file:
        path = output.log_file.absolute()
        output = output._replace(log_file=path)
        try:
            file = _LogFileHandler(path, encoding="utf-8", errors="backslashreplace")
        except OSError as error:
            why = f"--log-file {path} cannot be written ({error.strerror}): choose another place."
            raise ConfigError(why) from error
        file.setFormatter(FORMATTER)
        root.addHandler(file)
    _screen.setLevel(logging.DEBUG if output.verbose else logging.INFO)
    _output = output


def output() -> Output:
    """The current configuration; pass it to `configure` in a child process."""
    return _output


def detail(text: str) -> None:
    """Print a detail to stderr, shown only with -v."""
    _log.debug("%s", text)


def note(text: str) -> None:
    """Print a remark to stderr."""
    _log.info("%s", text)


def warn(text: str) -> None:
    """Print a warning to stderr."""
    _log.warning("%s", text)


def error(text: str) -> None:
    """Print an error to stderr."""
    _log.error("%s", text)


def trace() -> None:
    """Print the exception being handled, which is a bug in the harness, with its traceback."""
    err.print_exception()
    _log.error("a bug in the harness", exc_info=True, extra={_LOGGED: True})


def print_json(value: Any) -> None:
    """Print a result to stdout as JSON, with JSON's own escapes for characters that the stream cannot encode."""
    escaped = not out.encoding.startswith("utf")
    out.print(json.dumps(value, indent=2, ensure_ascii=escaped, default=str))


def print_table(table: Table) -> None:
    """Print a table to stdout: folded to the width of a terminal, or as wide as its cells elsewhere."""
    if out.is_terminal:
        for column in table.columns:
            column.overflow = "fold"
        out.print(table, soft_wrap=False)
    else:
        table.width = Measurement.get(out, out.options.update(width=100_000), table).maximum
        with out.capture() as printed:
            out.print(table, soft_wrap=True)
        for line in printed.get().splitlines():  # the last column is also padded
            out.print(line.rstrip())


def duration(seconds: float, digits: int = 0) -> str:
    """A duration in words; `digits` decimals below one minute.

    >>> duration(5.13, 1), duration(125), duration(3725)
    ('5.1 s', '2 min 05 s', '1 h 02 min')
    """
    if round(seconds, digits) < 60:
        return f"{seconds:.{digits}f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def quantity(value: float, unit: str, *, per_second: bool = False) -> str:
    """A count, or for unit "B" a size in bytes, with its unit; a rate if `per_second`.

    >>> quantity(10570, "questions"), quantity(3 * 2**20, "B"), quantity(0.25, "samples", per_second=True)
    ('10,570 questions', '3.0 MiB', '0.25 samples/s')
    """
    digits = 0
    if unit == "B":
        for prefix in ("", "Ki", "Mi", "Gi"):
            unit, digits = f"{prefix}B", 1 if prefix else 0
            if value < 1024 or prefix == "Gi":
                break
            value /= 1024
    elif per_second:
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}" + ("/s" if per_second else "")


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
        if err.is_interactive and err.file.isatty():
            self._live = Live(
                console=err, get_renderable=self._bar, refresh_per_second=4, redirect_stdout=out.file.isatty()
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
        took = duration(self._ended - self._began, 1)
        line = f"{self._description}: {f'{self._count()} in ' if self._unit else ''}{took}"
        say = detail if self._ended - self._began < _QUIET_FOR_S else note
        (_only_logged if self._live is not None else say)(line)

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
        note(f"{self._description}: {', '.join(self._facts())}")

    def _count(self) -> str:
        """'4,200 of 10,570 questions', or only the number done if it is the total or the total is unknown."""
        done, total = self._done, self._total
        if total is None or done == total:
            return quantity(done, self._unit)
        sizes = quantity(done, self._unit), quantity(total, self._unit)
        return " of ".join(sizes) if self._unit == "B" else f"{done:,.0f} of {sizes[1]}"

    def _facts(self, elapsed: bool = False) -> list[str]:
        now = self._ended if self._ended is not None else self._clock()
        with self._lock:
            given, after = self._facts_given, [self._note] if self._note else []
            facts, left = list(given) or self._own_facts(now), self._seconds_left(now)
        if left is not None and self._ended is None:
            facts.append(f"{duration(max(1, left))}{_LEFT}")
        if not given and (elapsed or self._total is None or not facts):
            facts.append(f"{duration(now - self._began)} elapsed")
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
            facts.append(quantity(rate, self._unit, per_second=True))
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
        width = err.width - len(self._description) - _SPACES
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
