"""The pixels of a data set's images: made once with all cores, kept in a memory-mapped cache.

The cache holds shards of 1,024 images, each a file written in one step, so that a process that is killed loses at most
one shard of work. A shard's key covers the content of its image files, the profile and the versions of the code that
made it; beside each image's pixels lies their sha256, which is checked whenever they are read.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from harness.errors import ConfigError, RunFailed
from harness.host.console import OnProgress
from harness.host.machine import core_count
from resnet50.preprocess import CODE_VERSION, SIDE, Profile, pixels

SHARD = 1024
_PIXELS = SIDE * SIDE * 3
_ROW = _PIXELS + sha256().digest_size


class Pixels:
    """Every image's pixels, on disk."""

    def __init__(self, shards: Sequence[Path], count: int) -> None:
        self._shards = [(path, np.asarray(_open(path))) for path in shards]
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> NDArray[np.uint8]:
        """(224, 224, 3), RGB: a view of the file, verified.

        Raises:
            RunFailed: the cache was damaged; the shard is then removed.
        """
        path, rows = self._shards[index // SHARD]
        row: NDArray[np.uint8] = rows[index % SHARD]
        if sha256(row[:_PIXELS].data).digest() != row[_PIXELS:].tobytes():
            path.unlink(missing_ok=True)
            raise RunFailed(f"{path} was damaged, and has been removed: run this again, it is made anew.")
        return row[:_PIXELS].reshape(SIDE, SIDE, 3)


def load_pixels(
    files: Sequence[Path],
    profile: Profile,
    cache_dir: Path,
    *,
    progress: OnProgress = lambda done, total: None,
) -> Pixels:
    """Pixels of these image files, in their order; from the cache what is there, the rest is made and kept.

    ``progress(done, total)`` is called from several threads.

    Raises:
        ConfigError: an image is missing or broken; the message names it.
        RunFailed: the cache cannot be written.
    """
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        _remove_left_over(cache_dir)
        shards = []
        done, lock = 0, threading.Lock()

        def count() -> None:
            nonlocal done
            with lock:
                done += 1
                progress(done, len(files))

        with _pool() as pool:
            for start in range(0, len(files), SHARD):
                shards.append(_shard(files[start : start + SHARD], profile, cache_dir, pool, count))
        return Pixels(shards, len(files))
    except OSError as error:
        needed = len(files) * _ROW / 2**20
        raise RunFailed(
            f"the images' pixels cannot be kept in {cache_dir} ({error.strerror}): they need {needed:,.0f} MiB there."
        ) from error


@contextlib.contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """Threads, since Pillow and hashing leave Python's lock free; what waits is dropped when one fails."""
    pool = ThreadPoolExecutor(core_count(), thread_name_prefix="images")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _shard(
    files: Sequence[Path],
    profile: Profile,
    cache_dir: Path,
    pool: ThreadPoolExecutor,
    count: Callable[[], None],
) -> Path:
    contents = list(pool.map(_read, files))
    digests = list(pool.map(lambda data: sha256(data).hexdigest(), contents))
    versions = (CODE_VERSION, PIL.__version__, features.version("libjpeg_turbo") or features.version("jpg"))
    # Where a rule was found does not change what it makes.
    key = sha256(json.dumps([asdict(replace(profile, source="")), versions, digests]).encode()).hexdigest()
    path = cache_dir / f"imagenet-{key[:32]}.npy"
    if _complete(path, len(files)):
        for _ in files:
            count()
        return path
    rows = np.empty((len(files), _ROW), np.uint8)

    def make(position: int) -> None:
        try:
            image = np.ascontiguousarray(pixels(contents[position], profile))
        except ValueError as error:
            raise ConfigError(f"{files[position]} is broken: {error}. Replace it; no image may be left out.") from error
        rows[position, :_PIXELS] = image.reshape(-1)
        rows[position, _PIXELS:] = np.frombuffer(sha256(image.data).digest(), np.uint8)
        count()

    for _ in pool.map(make, range(len(files))):
        pass
    partial = cache_dir / f".{path.stem}.{os.getpid()}.partial"
    try:
        with partial.open("wb") as file:
            np.save(file, rows, allow_pickle=False)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}. No image may be left out.") from error


def _complete(path: Path, count: int) -> bool:
    try:
        return _open(path).shape == (count, _ROW)
    except (OSError, ValueError):
        return False


def _open(path: Path) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.dtype != np.uint8 or rows.ndim != 2:
        raise ValueError(f"{path} is no shard of pixels")
    return rows


def _remove_left_over(cache_dir: Path) -> None:
    """Remove what processes that were killed had begun to write."""
    for partial in cache_dir.glob(".imagenet-*.partial"):
        owner = partial.name.split(".")[-2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            partial.unlink(missing_ok=True)
