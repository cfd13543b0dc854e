"""``rich`` consoles on stdout and stderr that survive redirection, narrow encodings and closed pipes.

They print text literally (no markup, no emoji codes, no highlighting) and never break a plain line, so that paths
stay copyable. Styles come as ``rich`` objects or ``style=``.
"""

import contextlib
import errno
import io
import os
import re
import stat
import sys
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, Literal, TextIO, cast

from rich.console import Console

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\].*?(?:\x07|\x1b\\))")

Name = Literal["stdout", "stderr"]


def open_console(name: Name, on_line: Callable[[str], None] | None = None) -> Console:
    """A console on ``sys.stdout`` or ``sys.stderr``; ``on_line`` gets each line that is printed, without styles."""
    console = Console(stderr=name == "stderr", soft_wrap=True, markup=False, emoji=False, highlight=False)
    console.file = cast(TextIO, _OutputStream(name, console, on_line))
    return console


class _OutputStream:
    """Writes to whatever ``sys.stdout`` or ``sys.stderr`` is at that moment.

    Output to stderr never raises: a closed pipe must not end a test.
    """

    def __init__(self, name: Name, console: Console, on_line: Callable[[str], None] | None) -> None:
        self._name = name
        self._console = console
        self._on_line = on_line
        self._line = ""

    def _now(self) -> TextIO | None:
        stream: TextIO | None = getattr(sys, self._name)
        # A live bar puts a proxy there that prints above the bar, through stderr's console: right for stdout only.
        return stream if self._name == "stdout" else getattr(stream, "rich_proxied_file", stream)

    def __getattr__(self, attribute: str) -> Any:
        if attribute == "rich_proxied_file":
            raise AttributeError(attribute)
        return getattr(self._now(), attribute)

    def isatty(self) -> bool:
        try:
            stream = self._now()
            return stream is not None and stream.isatty()
        except ValueError:
            return False

    def write(self, text: str) -> int:
        unstyled = _ANSI.sub("", text)
        if self._on_line:
            *lines, self._line = (self._line + unstyled).split("\n")
            for line in lines:
                self._on_line(line.rstrip())
        # rich decides on colours when the Console is created; the stream may have been redirected since.
        self._guarded(lambda stream: self._encodable(stream, text if self._console.is_terminal else unstyled))
        return len(text)

    def flush(self) -> None:
        self._guarded(lambda stream: stream.flush())

    @staticmethod
    def _encodable(stream: TextIO, text: str) -> None:
        try:
            stream.write(text)
        except UnicodeEncodeError:
            encoding = stream.encoding or "ascii"
            stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _guarded(self, action: Callable[[TextIO], None]) -> None:
        stream = self._now()
        if stream is None:
            return
        try:
            action(stream)
        except (OSError, ValueError) as error:
            if self._name == "stdout":
                if isinstance(error, OSError):
                    error.filename = "stdout"
                raise


class _DroppingStream(io.FileIO):
    """A stream that drops output that nobody can read any more: a closed pipe must not change an outcome."""

    def write(self, content: Any, /) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno == errno.EPIPE or (error.errno == errno.EIO and self._terminal()):
                return len(memoryview(content).cast("B"))
            raise

    def _terminal(self) -> bool:
        return stat.S_ISCHR(os.fstat(self.fileno()).st_mode)


def keep_streams() -> None:
    """Make this process independent of who reads its output: call it once, at the start.

    Closed descriptors 0 to 2, as under cron, become /dev/null: otherwise other files would get their numbers, and the
    output. Output to a pipe whose reader has ended, or to a closed terminal, is dropped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # opened as the lowest free number
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None or _number(stream) == number:
            setattr(sys, name, _unread(number, stream))
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115


def _number(stream: TextIO) -> int | None:
    with contextlib.suppress(OSError, ValueError):
        stream.flush()
        return stream.fileno()
    return None


def _unread(number: int, old: TextIO | None) -> TextIO:
    buffer = io.BufferedWriter(_DroppingStream(number, "w", closefd=False))
    if not isinstance(old, io.TextIOWrapper):
        return io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    return io.TextIOWrapper(
        buffer,
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.line_buffering,
        write_through=old.write_through,
    )


@contextlib.contextmanager
def native_output_dropped(dropped: bool = True) -> Iterator[None]:
    """Drop what native code prints in the block, such as an engine's backtrace; Python's own output is kept."""
    streams = {1: ("stdout", sys.stdout), 2: ("stderr", sys.stderr)}
    if not dropped or any(stream is None or _number(stream) != number for number, (_, stream) in streams.items()):
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number, (name, _) in streams.items():
        setattr(sys, name, _second_stream(number))
        os.dup2(nowhere, number)
    os.close(nowhere)
    try:
        yield
    finally:
        for number, (name, stream) in streams.items():
            _second_stream(number).flush()
            setattr(sys, name, stream)
            os.dup2(_second_stream(number).fileno(), number)


@cache
def _second_stream(number: int) -> TextIO:
    """A second stream to the target of descriptor 1 or 2. It stays open, since a logger set up meanwhile may keep it.

    If it were closed, the next file, such as LoadGen's log, would get its number, and then the logger's lines.
    """
    return _unread(os.dup(number), {1: sys.stdout, 2: sys.stderr}[number])
