"""Files that the user named: read, or written in one step, with errors that say what to do."""

from __future__ import annotations

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.errors import ConfigError


@contextlib.contextmanager
def locked(path: Path, told: str, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock that the kernel frees when the process ends, however it ends; ``shared`` ones go together.

    Raises:
        ConfigError: another process holds it, in the words of ``told``; or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}.") from error
    with file:
        try:
            fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(told) from error
        yield


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Make one sentence of whatever the operating system says when a file that the user named is looked at."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or "a file")[:200]
        raise ConfigError(f"{where} cannot be read ({error.strerror}): check the path and its permissions.") from error


def user_path(text: str) -> Path:
    """A path as a user types it, with ~ for a home."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of a user who does not exist
        return Path(text)


def read_input(path: str | Path, what: str) -> bytes:
    """The bytes of a file that the user named; ConfigError where they cannot be had."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}; check the path.") from error


def check_writable(path: Path) -> None:
    """Make sure that a file can be written there, before much work is done for it.

    Raises:
        ConfigError: it cannot.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write {path}: {error.strerror}; choose another place.")


def write_text(path: str | Path, text: str) -> None:
    """Writes ``text`` as UTF-8, with the folders above it; after a ConfigError the old file is still there."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Writes a file in one step, with the folders above it; after a ConfigError the old file is still there."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as room:
            new = Path(room) / path.name
            new.write_bytes(content)
            new.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
