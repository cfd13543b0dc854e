"""Files that the user named: read, or written in one step, with errors that say what to do."""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness.errors import ConfigError


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
