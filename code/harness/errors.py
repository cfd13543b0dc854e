"""The errors that end a command, each with the exit code that ``main()`` returns for it.

0 is success, 1 means that a run or a check found a problem, 2 that the command or the configuration is wrong.
A message is one sentence that a person can act on: what is wrong, where, and how to fix it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import ClassVar


class HarnessError(Exception):
    """Base of every error that ends the process with a message instead of a traceback."""

    exit_code: ClassVar[int] = 1


class ConfigError(HarnessError):
    """The command, a setting, or a file named by the user is wrong."""

    exit_code = 2


class MissingDependencyError(ConfigError):
    """A package or file that the command needs is not installed here."""


class NotOfficial(ConfigError):
    """Not allowed in an official run, but allowed in a development run."""


class Busy(ConfigError):
    """Another process does what the command asks for, or writes the same files: try again once that has ended."""


class CheckFailed(HarnessError):
    """A check completed and found problems: an INVALID result, a log that cannot be scored."""


class Interrupted(HarnessError):
    """The user stopped the command; the message says what was kept."""

    exit_code = 130


@contextmanager
def on_interrupt(kept: str) -> Iterator[None]:
    """Turn Ctrl-C into an `Interrupted` that says what was ``kept``.

    >>> with on_interrupt("nothing was kept."):
    ...     raise KeyboardInterrupt
    Traceback (most recent call last):
    harness.errors.Interrupted: interrupted: nothing was kept.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {kept}") from None


class RunFailed(HarnessError):
    """A test did not complete, and has no result."""


class EngineError(RunFailed):
    """An engine rejected a model, raised, or returned invalid outputs."""


def os_words(error: OSError) -> str:
    """The operating system's error as a sentence.

    >>> os_words(PermissionError(13, "Permission denied", "/data"))
    'Permission denied: /data.'
    """
    return f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}."


def did_you_mean(value: str, valid: Iterable[str]) -> str:
    """The end of a message about an unknown name: the nearest valid names, or all of them.

    >>> did_you_mean("ofline", ["Offline", "Server"])
    "did you mean 'Offline'?"
    """
    names = list(valid)
    folded = {name.casefold(): name for name in names}
    near = [folded[key] for key in get_close_matches(value.casefold(), folded, n=2, cutoff=0.5)]
    if near:
        return "did you mean " + " or ".join(f"'{name}'" for name in near) + "?"
    return "choose from " + ", ".join(names) + "." if names else "there are none to choose from."
