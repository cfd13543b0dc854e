"""Writes cache entries atomically: an entry is complete or missing, and replaces any file or folder of that name."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness.files.disk import staging, sync


@contextlib.contextmanager
def stored(entry: Path) -> Iterator[Path]:
    """A path at which to write a file or folder, which then replaces ``entry``.

    Its content reaches the disk before its name does: after a power failure the entry would otherwise be empty.
    Unlike `replace_folder`, this needs no lock: processes that store an entry at once store the same content.

    Raises:
        OSError: it cannot be written.
    """
    with staging(entry) as room:
        new = room / "new"
        yield new
        sync(new)
        _replace(new, entry)


def _replace(new: Path, entry: Path) -> None:
    folder = new.is_dir()
    if folder or (entry.is_dir() and not entry.is_symlink()):
        _remove(entry)  # rename cannot replace a folder, nor put a folder in place of a file
    try:
        new.replace(entry)
    except OSError as error:
        if not folder or error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Another process has stored the same entry in the meantime.


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_entry(file: Path) -> bytes:
    """The content of a file in a cache.

    Raises:
        OSError: it cannot be read, or is not a file: a pipe, for example, would wait for its writer for ever.
    """
    if not file.is_file():
        raise FileNotFoundError(errno.ENOENT, "not a file", str(file))
    return file.read_bytes()
