"""The pixels of a data set's images: computed once with all cores, stored in a cache on disk.

The cache consists of shards of 1,024 images, each a file that is written atomically, so a killed process loses at most
one shard of work. A shard's key covers the content of its image files, the profile and the versions of the code that
made it. Each image's pixels have a seal, the sha256 of the key, the position and the pixels, which is checked on every
read. So a changed row, a row in another place and a file of another key are all found, although no shard is ever read
as a whole.
"""

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import features

from harness.errors import ConfigError, RunFailed
from harness.files.cache import stored
from harness.files.disk import remove_left_over
from harness.files.fingerprint import FileStamp, Fingerprint
from harness.host.machine import core_count
from harness.terminal import console
from harness.terminal.progress import OnProgress
from resnet50.preprocess import CODE_VERSION, SIDE, PreprocessingProfile, pixels

SHARD = 1024
_FORMAT = 2  # part of the key: increment it whenever the content of a shard's file changes
_IMAGE_BYTES = SIDE * SIDE * 3
_ROW_BYTES = _IMAGE_BYTES + sha256().digest_size


@dataclass(frozen=True)
class _Shard:
    """Up to `SHARD` images."""

    files: Sequence[Fingerprint]
    profile: PreprocessingProfile

    @cached_property
    def key(self) -> str:
        """Identifies the content of the shard's file."""
        decoder = features.version("libjpeg_turbo") or features.version("jpg")
        # The source of a profile's rules does not affect the pixels.
        versions = (_FORMAT, CODE_VERSION, PIL.__version__, decoder)
        facts = [asdict(replace(self.profile, source="")), versions, [file.sha256 for file in self.files]]
        return sha256(json.dumps(facts).encode()).hexdigest()

    @cached_property
    def header(self) -> bytes:
        """The header of the shard's file: that of an array in NumPy's format, uint8 (n, `_ROW_BYTES`)."""
        made = BytesIO()
        np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
            made, {"descr": "|u1", "fortran_order": False, "shape": (len(self.files), _ROW_BYTES)}
        )
        return made.getvalue()

    def seal(self, position: int, image: NDArray[np.uint8]) -> bytes:
        """The digest that is stored with an image's pixels, (`_IMAGE_BYTES`,) or (224, 224, 3), C-contiguous."""
        made = sha256(f"{self.key}:{position}:".encode())
        made.update(image.data)
        return made.digest()

    def decode(self, position: int) -> NDArray[np.uint8]:
        """The pixels of an image, (224, 224, 3), from its own file."""
        file = self.files[position]
        _, content = _read(file.path)
        if sha256(content).hexdigest() != file.sha256:
            raise RunFailed(f"{file.path} changed while it was in use: repeat the run.")
        return _decoded(content, file.path, self.profile)


class Pixels:
    """The pixels of all images, on disk."""

    def __init__(self, shards: Sequence[tuple[_Shard, Path]]) -> None:
        # Plain reads: a file that shrinks while it is mapped would kill the process.
        self._shards = [(shard, path, path.open("rb", buffering=0)) for shard, path in shards]
        self.files = [file for shard, _ in shards for file in shard.files]
        """The image files that they were computed from."""
        self._damaged: set[Path] = set()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.files)

    def read(self, index: int) -> NDArray[np.uint8]:
        """(224, 224, 3), RGB: verified; where the cache is damaged, decoded from the image's own file.

        Raises:
            RunFailed: the cache is damaged, and the image's file has changed since the cache was opened.
            ConfigError: the cache is damaged, and the image's file cannot be read.
        """
        shard, path, file = self._shards[index // SHARD]
        position = index % SHARD
        try:
            row = np.frombuffer(
                os.pread(file.fileno(), _ROW_BYTES, len(shard.header) + position * _ROW_BYTES), np.uint8
            )
        except OSError:
            row = np.empty(0, np.uint8)
        if len(row) == _ROW_BYTES and shard.seal(position, row[:_IMAGE_BYTES]) == row[_IMAGE_BYTES:].tobytes():
            return row[:_IMAGE_BYTES].reshape(SIDE, SIDE, 3)
        self._discard(path)
        return shard.decode(position)

    def _discard(self, path: Path) -> None:
        """Remove a damaged shard: the next run rebuilds it."""
        with self._lock:
            if path in self._damaged:
                return
            self._damaged.add(path)
            console.warn(f"{path} is damaged: its images are decoded again.")
            with contextlib.suppress(OSError):
                path.unlink()


def load_pixels(
    files: Sequence[Path],
    profile: PreprocessingProfile,
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
        remove_left_over(cache_dir)
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
        return Pixels(shards)
    except OSError as error:
        needed = len(files) * _ROW_BYTES / 2**20
        raise RunFailed(
            f"cannot cache the images' pixels in {cache_dir} ({error.strerror or error}): it must be a folder that can "
            f"be written, with {needed:,.0f} MiB free."
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
    profile: PreprocessingProfile,
    cache_dir: Path,
    pool: ThreadPoolExecutor,
    count: Callable[[], None],
) -> tuple[_Shard, Path]:
    """A shard, and its file in the cache, which is written if it is missing or visibly damaged."""
    stamps, contents = zip(*pool.map(_read, files), strict=True)
    digests = pool.map(lambda data: sha256(data).hexdigest(), contents)
    shard = _Shard(list(map(Fingerprint, files, stamps, digests)), profile)
    path = cache_dir / f"imagenet-{shard.key[:32]}.npy"
    if _complete(path, shard):
        for _ in files:
            count()
        return shard, path
    rows = np.empty((len(files), _ROW_BYTES), np.uint8)

    def make(position: int) -> None:
        image = _decoded(contents[position], files[position], profile)
        rows[position, :_IMAGE_BYTES] = image.reshape(-1)
        rows[position, _IMAGE_BYTES:] = np.frombuffer(shard.seal(position, image), np.uint8)
        count()

    for _ in pool.map(make, range(len(files))):
        pass
    with stored(path) as partial, partial.open("xb") as file:
        file.write(shard.header)
        file.write(rows.data)
    return shard, path


def _read(path: Path) -> tuple[FileStamp, bytes]:
    try:
        with path.open("rb") as file:
            return FileStamp.of(os.fstat(file.fileno())), file.read()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): restore it; no image may be skipped.") from error


def decoded_file(file: Path, profile: PreprocessingProfile) -> NDArray[np.uint8]:
    """(224, 224, 3), RGB, from an image's file; ConfigError if it is missing or damaged."""
    return _decoded(_read(file)[1], file, profile)


def _decoded(content: bytes, file: Path, profile: PreprocessingProfile) -> NDArray[np.uint8]:
    try:
        return np.ascontiguousarray(pixels(content, profile))
    except ValueError as error:
        raise ConfigError(f"{file} cannot be used: {error}. Replace it: no image may be skipped.") from error


def _complete(path: Path, shard: _Shard) -> bool:
    """Whether the file has the shard's header and size; NumPy raises errors of every kind for a damaged header."""
    try:
        if not path.is_file() or path.stat().st_size != len(shard.header) + len(shard.files) * _ROW_BYTES:
            return False
        with path.open("rb") as file:
            return file.read(len(shard.header)) == shard.header
    except OSError:
        return False
