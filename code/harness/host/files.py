"""Reading files named by the user and writing files in one step, with errors that say what to do."""

import contextlib
import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

from harness.errors import ConfigError


@contextlib.contextmanager
def locked(path: Path, message: str, *, shared: bool = False) -> Iterator[None]:
    """Hold a lock that the kernel frees when the process ends, however it ends; ``shared`` locks can coexist.

    Raises:
        ConfigError: another process holds it, with this ``message``; or the file cannot be written.
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
            raise ConfigError(message) from error
        yield


@contextlib.contextmanager
def readable() -> Iterator[None]:
    """Turn any OSError from reading a file named by the user into a one-sentence ConfigError."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or "a file")[:200]
        raise ConfigError(f"{where} cannot be read ({error.strerror}): check the path and its permissions.") from error


def user_path(text: str) -> Path:
    """A path as typed by the user, with ~ expanded."""
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of a user who does not exist
        return Path(text)


def read_input(path: str | Path, what: str) -> bytes:
    """The bytes of a file named by the user; ConfigError if it cannot be read."""
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the {what} {path}: {error.strerror}; check the path.") from error


def check_writable(path: Path) -> None:
    """Check that a file can be written, before spending much work on its content.

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
    """Write ``text`` as UTF-8, creating parent folders; after a ConfigError the old file is unchanged."""
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write a file in one step, creating parent folders; after a ConfigError the old file is unchanged."""
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as room:
            new = Path(room) / path.name
            new.write_bytes(content)
            new.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from error
