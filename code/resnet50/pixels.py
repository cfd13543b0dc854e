"""The pixels of a data set's images: computed once with all cores, stored in a memory-mapped cache.

The cache consists of shards of 1,024 images, each a file that is written atomically, so a killed process loses at most
one shard of work. A shard's key covers the content of its image files, the profile and the versions of the code that
made it; each image's pixels are stored with their sha256, which is checked on every read.
"""

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
    """The pixels of all images, on disk."""

    def __init__(self, shards: Sequence[Path], count: int) -> None:
        self._shards = [(path, np.asarray(_open(path))) for path in shards]
        self._count = count

    def __len__(self) -> int:
        return self._count

    def read(self, index: int) -> NDArray[np.uint8]:
        """(224, 224, 3), RGB: a verified view of the file.

        Raises:
            RunFailed: the shard was damaged; it has been removed.
        """
        path, rows = self._shards[index // SHARD]
        row: NDArray[np.uint8] = rows[index % SHARD]
        if sha256(row[:_PIXELS].data).digest() != row[_PIXELS:].tobytes():
            path.unlink(missing_ok=True)
            raise RunFailed(f"{path} was damaged and has been removed: rerun the command to rebuild it.")
        return row[:_PIXELS].reshape(SIDE, SIDE, 3)


def load_pixels(
    files: Sequence[Path],
    profile: Profile,
    cache_dir: Path,
    *,
    progress: OnProgress = lambda done, total: None,
) -> Pixels:
    """The pixels of these image files, in their order, from the cache if present, otherwise computed and cached.

    ``progress`` is called from several threads.

    Raises:
        ConfigError: an image is missing or damaged; the message names it.
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
            f"cannot cache the images' pixels in {cache_dir} ({error.strerror}): they need {needed:,.0f} MiB there."
        ) from error


@contextlib.contextmanager
def _pool() -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, since Pillow and hashing release the GIL; pending work is dropped when a task fails."""
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
    # The source of a profile's rules does not affect the pixels.
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
            raise ConfigError(
                f"{files[position]} cannot be used: {error}. Replace it: no image may be skipped."
            ) from error
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
        raise ConfigError(f"{file} cannot be read: {error.strerror}. No image may be skipped.") from error


def _complete(path: Path, count: int) -> bool:
    try:
        return _open(path).shape == (count, _ROW)
    except (OSError, ValueError):
        return False


def _open(path: Path) -> NDArray[np.uint8]:
    rows: NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
    if rows.dtype != np.uint8 or rows.ndim != 2:
        raise ValueError(f"{path} is not a shard of pixels")
    return rows


def _remove_left_over(cache_dir: Path) -> None:
    """Remove partial files of killed processes."""
    for partial in cache_dir.glob(".imagenet-*.partial"):
        owner = partial.name.split(".")[-2]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            partial.unlink(missing_ok=True)
