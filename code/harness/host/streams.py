"""``rich`` consoles on stdout and stderr that survive redirection, narrow encodings and closed pipes.

They print text literally (no markup, no emoji codes, no highlighting) and never break a plain line, so that paths
stay copyable. Styles come as ``rich`` objects or ``style=``.
"""

import re
import sys
from collections.abc import Callable
from typing import Any, Literal, TextIO, cast

from rich.console import Console

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\].*?(?:\x07|\x1b\\))")

Name = Literal["stdout", "stderr"]


def open_console(name: Name, on_line: Callable[[str], None] | None = None) -> Console:
    """A console on ``sys.stdout`` or ``sys.stderr``; ``on_line`` gets each line that is printed, without styles."""
    console = Console(stderr=name == "stderr", soft_wrap=True, markup=False, emoji=False, highlight=False)
    console.file = cast(TextIO, _Stream(name, console, on_line))
    return console


class _Stream:
    """``sys.stdout`` or ``sys.stderr`` as it is at the moment of writing.

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
