"""Records the content of a file when it is read, so that a later change is found without reading all of it again.

A hash that was taken before use says nothing about what was used: a file can be replaced between hashing and loading,
or edited while a test runs. Therefore the file's metadata are recorded before it is hashed, and compared when the test
is over; only a file whose metadata changed is hashed again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from harness.errors import RunFailed
from harness.host.download import sha256_of


class FileStamp(NamedTuple):
    """Metadata that change whenever a file is replaced or written to."""

    device: int
    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> FileStamp:
        """The stamp in the result of a stat()."""
        return cls(stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The sha256 of a file's content, or of the names in a folder."""

    path: Path
    stamp: FileStamp
    """Taken before ``sha256``."""
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Fingerprint:
        """The fingerprint of a file or folder; raises OSError if it cannot be read."""
        return cls(path, FileStamp.of(path.stat()), _content(path))

    @property
    def changed(self) -> bool:
        """Whether the path now holds something else; a file that was touched, or replaced by a copy, did not change."""
        try:
            return FileStamp.of(self.path.stat()) != self.stamp and _content(self.path) != self.sha256
        except OSError:
            return True


def check_unchanged(files: Iterable[Fingerprint]) -> None:
    """Check that files have not changed since they were read.

    Raises:
        RunFailed: one has changed.
    """
    for file in files:
        if file.changed:
            raise RunFailed(
                f"{file.path} changed while it was in use, so it is unknown what was measured: run again, and do not "
                "change a run's files before it ends."
            )


def combined(hashes: Sequence[object]) -> str:
    """One sha256 for several hashes, or for (name, hash) pairs."""
    return sha256(repr(list(hashes)).encode()).hexdigest()


def _content(path: Path) -> str:
    if path.is_dir():
        return sha256(repr(sorted(entry.name for entry in path.iterdir())).encode()).hexdigest()
    return sha256_of(path)
