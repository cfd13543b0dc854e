"""Records the content of a file when it is read, so that a later change is found without reading all of it again.

A hash that was taken before use says nothing about what was used: a file can be replaced between hashing and loading,
or edited while a test runs. Therefore the file's metadata are recorded before it is hashed, and compared when the test
is over; only a file whose metadata changed is hashed again. In the same way, a process that needs a file several times,
such as the model of all tests of a sweep, reads it once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import wraps
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, TypeVar, cast

from harness.errors import RunFailed
from harness.files.digest import sha256_of


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


_T = TypeVar("_T")
_SETTLED_NS = 2 * 10**9
"""Age of a file's last change from which its metadata identify its content. Two changes within the resolution of the
file system's times, which is at most that of FAT, 2 seconds, may leave the same metadata."""
_known: dict[tuple[Hashable, Path], tuple[FileStamp, object]] = {}
"""What was read, by function and path, with the stamp taken before."""


def remembered(read: Callable[[Path], _T]) -> Callable[[Path], _T]:
    """Let a function read each file or folder once in this process, and again after its metadata have changed.

    What it returns must depend on that file alone, and must not be modified. Errors are not remembered.
    """

    @wraps(read)
    def looked_up(path: Path) -> _T:
        try:
            stamp = FileStamp.of(path.stat())
        except OSError:
            return read(path)  # which describes the error
        found = _known.get((read, path))
        if found and found[0] == stamp:
            return cast(_T, found[1])
        settled = time.time_ns() - max(stamp.modified_ns, stamp.changed_ns) > _SETTLED_NS
        value = read(path)
        if settled:
            _known[read, path] = (stamp, value)
        return value

    return looked_up


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """The sha256 of a file's content, or of the names in a folder."""

    path: Path
    stamp: FileStamp
    """Taken before ``sha256``."""
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Fingerprint:
        """The fingerprint of a file or folder; raises OSError if it cannot be read.

        Within a process, a file is hashed again only if its metadata have changed.
        """
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


@remembered
def _content(path: Path) -> str:
    if path.is_dir():
        return sha256(repr(sorted(entry.name for entry in path.iterdir())).encode()).hexdigest()
    return sha256_of(path)
