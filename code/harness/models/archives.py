"""Unpacks archives with a model: nothing in them is trusted, and only the model is extracted."""

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from harness.catalog.models import IdentifiedModel
from harness.errors import ConfigError
from harness.graph import relative

MAX_UNPACKED_BYTES = 16 * 2**30
"""Maximum unpacked size of an archive in bytes: more than any model here, less than would fill a disk."""
_MAX_MEMBERS = 10_000  # of an archive
_CHUNK_BYTES = 128 * 1024
_MAX_TAR_HEADER_BYTES = 256 * 1024  # for one member: its long name and its pax records
_MAX_ZIP_HEADER_BYTES = 4 * 2**20  # for all members: 10,000 need about 1 MB
_MAX_XZ_BYTES = 256 * 2**20  # memory to unpack xz; its highest preset needs 65 MiB
_XZ = (b"\xfd7zXZ\0", b"\x5d\0\0")
_PACKED: dict[bytes | tuple[bytes, ...], Callable[..., IO[bytes]]] = {
    b"\x1f\x8b": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    b"BZh": lambda file: cast(IO[bytes], bz2.BZ2File(file)),
    _XZ: lambda file: cast(IO[bytes], lzma.LZMAFile(file)),  # noqa: SIM115
}
_BROKEN = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    NotImplementedError,
    RecursionError,
    ValueError,
)


Reader = Callable[[], Iterator[bytes]]


class _Oversized(Exception):
    """A header is larger than any in an archive of a model."""


_ZIP = b"PK\x03\x04"  # the start of a zip archive


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    pieces: Reader | None
    """Yields its content; None for a folder."""


def is_archive(path: Path) -> bool:
    """Whether to unpack a file; never if its name ends in .onnx, regardless of its content."""
    if path.suffix == ".onnx":
        return False
    try:
        with path.open("rb") as file:
            if file.read(len(_ZIP)) == _ZIP:  # `zipfile.is_zipfile` needs its end, which a broken download lacks
                return True
        if zipfile.is_zipfile(path):
            return True
        with _tar(path):
            return True
    except (_Oversized, RecursionError):
        return True
    except (*_BROKEN, OSError):
        return False


def unpack(archive: Path, member: str | None, folder: Path, limit: int = MAX_UNPACKED_BYTES) -> IdentifiedModel:
    """Unpack the ONNX file of a tar or zip archive, and the weight files next to it, into ``folder``.

    Raises:
        ConfigError: the archive is broken, too large, refers to files outside its folder, contains links or devices,
            or does not contain exactly one matching ONNX file.
    """
    try:
        with _members(archive) as listed:
            members = _checked(archive, listed, limit)
            model = _choose(archive, members, member)
            found = IdentifiedModel.of(_extract(archive, members[model], folder))
            for part in _weights(archive, model, found):
                beside = str(PurePosixPath(model).parent / relative(archive, part))
                if beside not in members:
                    raise ConfigError(f"{archive} lacks {beside}, a file of weights of {model}: get a complete copy.")
                _extract(archive, members[beside], folder)
            return found
    except _Oversized as error:
        raise ConfigError(f"{archive} has larger headers than any archive of a model: use another copy.") from error
    except (*_BROKEN, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # a disk error; errors that bz2 and gzip raise have no errno
        raise ConfigError(f"{archive} is not a complete tar or zip archive ({error}): download it again.") from error


def _weights(archive: Path, model: str, found: IdentifiedModel) -> tuple[str, ...]:
    """The weight files of an unpacked model; an error names the model's path in the archive instead of the copy's."""
    try:
        return found.graph.weight_files
    except ConfigError as error:
        raise ConfigError(str(error).replace(str(found.path), f"{model} in {archive}")) from error


class _LimitedFile(io.RawIOBase):
    """A file that refuses to read more than ``limit`` bytes until `refill` is called.

    `tarfile` and `zipfile` read headers of any size into memory: pax headers, GNU long names, maps of sparse files.
    """

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file = file
        self._limit = self._left = limit

    def refill(self) -> None:
        """Allow ``limit`` bytes again."""
        self._left = self._limit

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        one_too_many = self._left + 1
        content = self._file.read(one_too_many if size < 0 else min(size, one_too_many))
        self._left -= len(content)
        if self._left < 0:
            raise _Oversized
        return content

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    if zipfile.is_zipfile(archive):
        with archive.open("rb") as raw, zipfile.ZipFile(metered := _LimitedFile(raw, _MAX_ZIP_HEADER_BYTES)) as file:
            yield _zip_members(archive, file, metered)
    else:
        with _tar(archive) as (tar, metered):
            yield _tar_members(archive, tar, metered)


@contextmanager
def _tar(archive: Path) -> Iterator[tuple[tarfile.TarFile, _LimitedFile]]:
    with ExitStack() as stack:
        raw: IO[bytes] = stack.enter_context(archive.open("rb"))
        start = raw.read(6)
        raw.seek(0)
        if start.startswith(_XZ):
            lzma.LZMADecompressor(memlimit=_MAX_XZ_BYTES).decompress(raw.read(4096), max_length=1)
            raw.seek(0)
        for magic, unpacker in _PACKED.items():
            if start.startswith(magic):
                raw = stack.enter_context(unpacker(raw))
        metered = _LimitedFile(raw, _MAX_TAR_HEADER_BYTES)
        yield stack.enter_context(tarfile.open(fileobj=metered, mode="r:")), metered


def _zip_members(archive: Path, file: zipfile.ZipFile, metered: _LimitedFile) -> Iterator[_Member]:
    for info in file.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refusal(archive, info.filename)
        if info.flag_bits & 1:
            raise ConfigError(f"{archive} is encrypted: unpack it and give the path of the ONNX file.")
        opened = None if info.is_dir() else _reader(partial(file.open, info), metered)
        yield _Member(info.filename, info.file_size, opened)


def _tar_members(archive: Path, file: tarfile.TarFile, metered: _LimitedFile) -> Iterator[_Member]:
    for info in file:
        metered.refill()
        if info.size < 0:
            raise tarfile.ReadError(f"{info.name!r} has a negative size")
        if info.isdir():
            if info.name != ".":
                yield _Member(info.name, 0, None)
        elif info.isreg() and not info.issparse():
            yield _Member(info.name, info.size, _reader(partial(_opened, file, info), metered))
        else:
            raise _refusal(archive, info.name)


def _reader(opened: Callable[[], IO[bytes]], metered: _LimitedFile) -> Reader:
    """The content of a member in pieces."""

    def pieces() -> Iterator[bytes]:
        metered.refill()
        with opened() as source:
            while piece := source.read(_CHUNK_BYTES):
                metered.refill()
                yield piece

    return pieces


def _opened(file: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    source = file.extractfile(info)
    assert source is not None  # only folders and devices have none
    return source


def _refusal(archive: Path, name: str) -> ConfigError:
    return ConfigError(f"{archive} contains a link or a device ({name!r}): unpack it and give the ONNX file's path.")


def _checked(archive: Path, found: Iterator[_Member], limit: int) -> dict[str, _Member]:
    members: dict[str, _Member] = {}
    total = 0
    for number, member in enumerate(found):
        name = str(relative(archive, member.name))
        total += member.size
        if total > limit or number >= _MAX_MEMBERS:
            raise ConfigError(
                f"{archive} unpacks to more than {limit:,} bytes or {_MAX_MEMBERS:,} files: unpack it and give the "
                "path of the ONNX file."
            )
        if member.pieces is None:
            continue
        if name in members:
            raise ConfigError(f"{archive} contains {name!r} twice: use another copy.")
        members[name] = member
    return members


def _choose(archive: Path, members: dict[str, _Member], wanted: str | None) -> str:
    # Archives made on macOS contain a file ._NAME next to each file.
    models = sorted(
        name for name in members if name.endswith(".onnx") and not PurePosixPath(name).name.startswith("._")
    )
    if wanted is not None:
        if wanted not in members:
            raise ConfigError(f"{archive} does not contain {wanted!r}: it has {', '.join(models) or 'no ONNX file'}.")
        return wanted
    if not models:
        raise ConfigError(f"{archive} contains no ONNX file: give another archive.")
    if len(models) > 1:
        names = ", ".join(models)
        raise ConfigError(f"{archive} contains {len(models)} ONNX files ({names}): append # and the name of one.")
    return models[0]


def _extract(archive: Path, member: _Member, folder: Path) -> Path:
    path = folder / relative(archive, member.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    assert member.pieces is not None
    with path.open("xb") as target:
        for piece in member.pieces():
            written += len(piece)
            if written > member.size:
                break
            target.write(piece)
    if written != member.size:
        raise ConfigError(f"{member.name} in {archive} does not have its stated size: download the archive again.")
    return path
