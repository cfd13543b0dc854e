"""Archives with a model: nothing in them is trusted, and only the model is extracted."""

import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from harness.catalog.models import Identified
from harness.errors import ConfigError

LIMIT = 16 * 2**30
"""Maximum unpacked size of an archive in bytes: more than any model here, less than would fill a disk."""
_MEMBERS = 10_000
_CHUNK = 1024 * 1024
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(path: Path) -> bool:
    """Whether to unpack a file; never if its name ends in .onnx, whatever its content."""
    return path.suffix != ".onnx" and (zipfile.is_zipfile(path) or tarfile.is_tarfile(path))


def unpack(archive: Path, member: str | None, folder: Path, limit: int = LIMIT) -> Identified:
    """Unpack the ONNX file of a tar or zip archive, and the weight files beside it, into ``folder``.

    Raises:
        ConfigError: the archive is broken, too large, refers to files outside its folder, contains links or devices,
            or does not contain exactly one matching ONNX file.
    """
    try:
        with _members(archive) as listed:
            members = _checked(archive, listed, limit)
            model = _choose(archive, members, member)
            found = Identified.of(_extract(archive, members[model], folder))
            for part in found.graph.weight_files:
                beside = str(PurePosixPath(model).parent / relative(archive, part))
                if beside not in members:
                    raise ConfigError(f"{archive} lacks {beside}, a file of weights of {model}: get a complete copy.")
                _extract(archive, members[beside], folder)
            return found
    except _BROKEN as error:
        raise ConfigError(f"{archive} is not a complete tar or zip archive ({error}): download it again.") from error


def relative(holder: Path, name: str) -> PurePosixPath:
    """A relative path that stays inside its folder.

    Raises:
        ConfigError: the path leaves it.
    """
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or any(bad in name for bad in ("\\", "\0", ":")):
        raise ConfigError(f"{holder} refers to a file outside its folder ({name!r}): use another copy.")
    return path


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            yield _zip_members(archive, file)
    else:
        with tarfile.open(archive, "r:*") as file:
            yield _tar_members(archive, file)


def _zip_members(archive: Path, file: zipfile.ZipFile) -> Iterator[_Member]:
    for info in file.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise _refusal(archive, info.filename)
        if info.flag_bits & 1:
            raise ConfigError(f"{archive} is encrypted: unpack it and give the path of the ONNX file.")
        if info.is_dir():
            relative(archive, info.filename)
        else:
            yield _Member(info.filename, info.file_size, partial(file.open, info))


def _tar_members(archive: Path, file: tarfile.TarFile) -> Iterator[_Member]:
    for info in file:
        if info.isdir():
            if info.name != ".":
                relative(archive, info.name)
        elif info.isreg() and not info.issparse():
            yield _Member(info.name, info.size, partial(_opened, file, info))
        else:
            raise _refusal(archive, info.name)


def _opened(file: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    source = file.extractfile(info)
    assert source is not None  # only folders and devices have none
    return source


def _refusal(archive: Path, name: str) -> ConfigError:
    return ConfigError(f"{archive} contains a link or a device ({name!r}): unpack it and give the ONNX file's path.")


def _checked(archive: Path, found: Iterator[_Member], limit: int) -> dict[str, _Member]:
    members: dict[str, _Member] = {}
    total = 0
    for member in found:
        name = str(relative(archive, member.name))
        total += member.size
        if name in members:
            raise ConfigError(f"{archive} contains {name!r} twice: use another copy.")
        if total > limit or len(members) >= _MEMBERS:
            raise ConfigError(
                f"{archive} unpacks to more than {limit:,} bytes or {_MEMBERS:,} files: unpack it and give the path "
                "of the ONNX file."
            )
        members[name] = member
    return members


def _choose(archive: Path, members: dict[str, _Member], wanted: str | None) -> str:
    # macOS adds a file with the same ending beside each file.
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
    with member.open() as source, path.open("xb") as target:
        while chunk := source.read(_CHUNK):
            written += len(chunk)
            if written > member.size:
                break
            target.write(chunk)
    if written != member.size:
        raise ConfigError(f"{member.name} in {archive} does not have its stated size: download the archive again.")
    return path
