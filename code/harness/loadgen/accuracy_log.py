"""Reads LoadGen's mlperf_log_accuracy.json; the common part of all accuracy scripts.

Accepts logs of any submitter: on one line or pretty-printed, with additional keys. Each benchmark decides which
responses a log must contain to have a score.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.errors import CheckFailed, ConfigError, HarnessError, on_interrupt
from harness.files.disk import read_input
from harness.terminal.progress import working


@dataclass(frozen=True)
class LoggedResponses:
    """A log's responses to the samples of a QSL; lists contain sample indices."""

    first: dict[int, bytes]
    """The first response to each sample, in the log's order; b"?" for those in ``broken``."""
    missing: list[int]
    """Samples without a response, in ascending order."""
    repeated: list[int]
    """One for every response after a sample's first, in the log's order."""
    foreign: list[int]
    """One for every response to a sample that is not in the QSL."""
    broken: list[int]
    """Samples whose first response is not hexadecimal."""

    @property
    def empty(self) -> list[int]:
        """Samples whose first response has no bytes."""
        return [index for index, data in self.first.items() if not data]

    @property
    def unusable(self) -> dict[str, list[int]]:
        """The problems, for `refuse`, that rule out a score."""
        return {
            f"responses are to samples outside 0-{len(self.first) + len(self.missing) - 1}": self.foreign,
            "responses are not hexadecimal": self.broken,
            "responses are empty": self.empty,
        }

    @property
    def advice(self) -> str:
        """The fix for a log with such problems."""
        return "check the data set and the number of samples" if self.foreign else "repeat the accuracy run"

    @property
    def prefix(self) -> int:
        """The number of leading samples for which alone this log would be complete; 0 if there is none."""
        held = len(self.first)
        return held if self.missing[:1] == [held] and not self.foreign else 0


def read_responses(log_path: str | Path, count: int) -> LoggedResponses:
    """The log's responses to the samples 0 to ``count`` - 1.

    Raises:
        ConfigError: the file does not exist or is not an accuracy log.
        CheckFailed: the log is empty, damaged or truncated.
    """
    first: dict[int, bytes] = {}
    repeated, foreign, broken = [], [], []
    for entry in _read_log(log_path):
        index = entry["qsl_idx"]
        if not 0 <= index < count:
            foreign.append(index)
        elif index in first:
            repeated.append(index)
        else:
            try:
                first[index] = bytes.fromhex(entry["data"])
            except ValueError:
                first[index] = b"?"
                broken.append(index)
    missing = [i for i in range(count) if i not in first]
    return LoggedResponses(first, missing, repeated, foreign, broken)


def _read_log(log_path: str | Path) -> list[dict[str, Any]]:
    log = read_entries(log_path)
    if not log:
        raise CheckFailed(
            f"the accuracy log {log_path} has no responses, like that of a performance run: run in accuracy mode."
        )
    return log


def read_entries(
    log_path: str | Path, *, repeat: str = "repeat the accuracy run", untruncated: str = "score the original log"
) -> list[dict[str, Any]]:
    """The log's raw entries, each with an integer "qsl_idx" and a string "data"; none for a performance run.

    ``repeat`` and ``untruncated`` are the fixes for a damaged and for a truncated log.

    Raises:
        ConfigError: the file does not exist or is not an accuracy log.
        CheckFailed: the log is an empty file, damaged or truncated.
    """
    raw = read_input(log_path, "accuracy log")
    name, not_a_log = f"the accuracy log {log_path}", f"{log_path} is not LoadGen's mlperf_log_accuracy.json"
    if not raw.strip():
        raise CheckFailed(f"{name} is empty: {repeat}.")
    try:
        log = json.loads(raw)
    except (ValueError, RecursionError) as error:
        if not raw.lstrip().startswith(b"["):
            raise ConfigError(f"{not_a_log}: it is not a JSON list; check the path.") from error
        if b"\n\n...\n\n" in raw:
            raise CheckFailed(f"{name} is truncated for submission: {untruncated}.") from error
        raise CheckFailed(f"{name} is cut off or damaged ({error}): {repeat}.") from error
    if not isinstance(log, list):
        raise ConfigError(f"{not_a_log}: it is not a JSON list; check the path.")
    for place, entry in enumerate(log):
        fields = (entry.get("qsl_idx"), entry.get("data")) if isinstance(entry, dict) else ()
        if [type(field) for field in fields] != [int, str]:
            raise ConfigError(f"{not_a_log}: entry {place} lacks qsl_idx (integer) or data (string); check the path.")
    return log


def refuse(log_path: str | Path, problems: Mapping[str, Sequence[int] | NDArray[np.int64]], advice: str) -> None:
    """Raise an error unless all problems are empty; ``problems`` maps the end of a sentence to the affected samples.

    Raises:
        CheckFailed: at least one problem affects a sample.
    """
    found = "; ".join(counted(what, where) for what, where in problems.items() if len(where))
    if found:
        raise CheckFailed(f"the accuracy log {log_path} has no score: {found}; {advice}.")


def counted(what: str, where: Sequence[int] | NDArray[np.int64]) -> str:
    """The number of affected samples, and the first of them.

    >>> counted("responses are empty", [3, 4])
    '2 responses are empty (qsl_idx 3, 4)'
    """
    first = ", ".join(str(index) for index in where[:5])
    return f"{len(where)} {what} (qsl_idx {first}{', ...' if len(where) > 5 else ''})"


def accuracy_text(result: str, log_path: str | Path, remarks: Iterable[str | None]) -> str:
    """The lines of accuracy.txt: the result in the official form, the log's hash, then remarks for the reader."""
    digest = sha256(read_input(log_path, "accuracy log")).hexdigest()
    return "".join(f"{line}\n" for line in (result, f"hash={digest}", *remarks) if line)


def run_script(score: Callable[[], tuple[str, Sequence[str], int]]) -> int:
    """Run an accuracy script: ``score`` returns the text for stdout, the warnings, and the exit code.

    Returns:
        That exit code; if ``score`` raises an error, the error's exit code, with its message printed to stderr.
    """
    try:
        with on_interrupt("nothing was written."), working("scoring"):
            text, warnings, code = score()
    except HarnessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    with contextlib.suppress(BrokenPipeError):  # the reader, such as head, closed the pipe
        print(text, end="", flush=True)
    return code
