"""The files that a node needs: at the driver's paths if they exist there, otherwise in a cache that the driver fills.

A file is identified by its sha256. Files that must be in one folder, such as a model and its weights, share the first
part of their names.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from harness.errors import ConfigError, RunFailed
from harness.files.digest import sha256_of
from harness.files.disk import staging
from harness.paths import ROOT

CACHE = ROOT / "build" / "cluster"
Needed = tuple[str, Path, str]
"""Name below `CACHE`, path on the driver's machine, sha256."""


def missing(files: Sequence[Needed], cache: Path = CACHE) -> list[str]:
    """The names of the files that the driver must send."""
    return [
        name
        for group in _groups(files)
        if not _in_place(group)
        for name, _, digest in group
        if not _is(cache / name, digest)
    ]


def store(name: str, sha256: str, chunks: Iterable[bytes], cache: Path = CACHE) -> None:
    """Store a file that the driver sent.

    Raises:
        RunFailed: its sha256 is not the announced one.
        ConfigError: it cannot be written.
    """
    target = _cached_path(cache, name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with staging(target) as room:
            new = room / target.name
            with new.open("wb") as file:
                for chunk in chunks:
                    file.write(chunk)
            if sha256_of(new) != sha256:
                raise RunFailed(f"{name} arrived damaged: its sha256 is not that of the driver's file; run again.")
            new.replace(target)
    except OSError as error:
        raise ConfigError(f"{target} cannot be written: {error.strerror}.") from error


def located(files: Sequence[Needed], cache: Path = CACHE) -> Mapping[Path, Path]:
    """The path of each file on this machine, by its path on the driver's.

    Raises:
        ConfigError: one is missing.
    """
    found: dict[Path, Path] = {}
    for group in _groups(files):
        here = _in_place(group)
        for name, path, digest in group:
            place = path if here else cache / name
            if not here and not _is(place, digest):
                raise ConfigError(f"{path} is missing on this node, or differs from the driver's: copy it there.")
            found[path] = place
    return found


def _groups(files: Sequence[Needed]) -> Iterable[list[Needed]]:
    groups: dict[str, list[Needed]] = defaultdict(list)
    for file in files:
        groups[file[0].partition("/")[0]].append(file)
    return groups.values()


def _in_place(group: Sequence[Needed]) -> bool:
    return all(_is(path, digest) for _, path, digest in group)


def _is(path: Path, digest: str) -> bool:
    try:
        return path.is_file() and sha256_of(path) == digest
    except OSError:
        return False


def _cached_path(cache: Path, name: str) -> Path:
    """The path of a cached file; its name comes from another machine and must not lead out of the folder."""
    target = (cache / name).resolve()
    if not target.is_relative_to(cache.resolve()):
        raise ConfigError(f"'{name}' is not a name below {cache}.")
    return target
