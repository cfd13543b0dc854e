"""All terminal output: results go to stdout, everything else (progress, notes, errors) to stderr.

Messages for stderr pass through the logger "harness": `configure` decides whether details are shown, and can add a log
file that receives all of them and the output to stdout, with timestamps.
"""

import json
import logging
import os
from pathlib import Path
from typing import Any, NamedTuple

from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from harness.errors import ConfigError
from harness.terminal.log_file import FORMATTER
from harness.terminal.streams import open_console


class Output(NamedTuple):
    """The arguments of `configure`: verbosity and log file."""

    verbose: bool = False
    log_file: Path | None = None


_output = Output()
_log = logging.getLogger("harness")
_log.setLevel(logging.DEBUG)
_LOGGED = "only_logged"
"""Attribute of records that go to the log file only."""


def only_logged(text: str) -> None:
    """Write to the log file, if there is one, and not to the terminal."""
    _log.info("%s", text, extra={_LOGGED: True})


def _log_result(line: str) -> None:
    if _output.log_file:
        only_logged(line)


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
