"""The digest of a file's content."""

import hashlib
import os
from pathlib import Path

from harness.terminal.progress import Progress

_LONG_BYTES = 256 * 2**20  # hashing a file of this size takes a second or more, and shows progress


def sha256_of(path: Path) -> str:
    """The sha256 of a file's content, in lower-case hexadecimal digits."""
    return digest_of(path, "sha256")


def digest_of(path: Path, algorithm: str) -> str:
    """The "sha256" or "md5" of a file's content, in lower-case hexadecimal digits."""
    made = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        if (size := os.fstat(file.fileno()).st_size) < _LONG_BYTES:
            return hashlib.file_digest(file, lambda: made).hexdigest()
        with Progress(f"{algorithm} of {path.name}", total=size, unit="B") as bar:
            while chunk := file.read(2**22):
                made.update(chunk)
                bar.advance(len(chunk))
    return made.hexdigest()
