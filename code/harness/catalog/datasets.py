"""Data sets: found by name or path, and fetched into build/data."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.catalog import manifests
from harness.catalog.contract import benchmark_class
from harness.catalog.manifests import Dataset, DatasetEntry
from harness.errors import ConfigError, did_you_mean
from harness.files.digest import sha256_of
from harness.files.disk import readable, staging, user_path
from harness.files.download import RemoteFile, download
from harness.files.fingerprint import Fingerprint, combined
from harness.registry import BENCHMARKS


@dataclass(frozen=True)
class DatasetRow:
    """A row in the list of all data sets."""

    name: str
    benchmark: str
    samples: int | None
    here: str
    """Its path on this machine, or how to get it."""
    description: str


def overview() -> list[DatasetRow]:
    """Every data set of the manifests."""
    return [
        DatasetRow(name, benchmark, entry.samples, _here(benchmark, entry), entry.description)
        for benchmark in BENCHMARKS
        for name, entry in manifests.datasets(benchmark).items()
    ]


def _here(benchmark: str, entry: DatasetEntry) -> str:
    path = location(benchmark, entry)
    if path is None or (entry.variable and not path.exists()):
        return f"no: set {entry.variable}"
    return str(path) if path.exists() else f"no: run {paths.DATA}"


def fetch(name: str | None) -> Iterator[tuple[str, Path]]:
    """Fetch one file of the manifests, or all that are not shipped; yields each name and path once it is fetched.

    Raises:
        ConfigError: no file to fetch has this name.
        RunFailed: no URL delivered it.
    """
    entries = {
        key: (benchmark, entry)
        for benchmark in BENCHMARKS
        for key, entry in manifests.datasets(benchmark).items()
        if entry.urls
    }
    if name is not None and name not in entries:
        raise ConfigError(f"no data set '{name}' to fetch: {did_you_mean(name, entries)}")
    for key, (benchmark, entry) in entries.items():
        if name in (None, key):
            yield key, _fetched(key, benchmark, entry)


def _fetched(name: str, benchmark: str, entry: DatasetEntry) -> Path:
    target = _target(entry)
    target.parent.mkdir(parents=True, exist_ok=True)
    shipped = manifests.folder(benchmark) / entry.shipped if entry.shipped else None
    if not target.exists() and shipped and shipped.is_file() and sha256_of(shipped) == entry.sha256:
        with staging(target) as room:
            shutil.copyfile(shipped, room / target.name)
            (room / target.name).replace(target)
    else:
        download(RemoteFile(entry.urls, sha256=entry.sha256, size=entry.size), target, description=name)
    return target


@readable()
def find_dataset(benchmark: str, name: str | None) -> Dataset:
    """A data set by name or path; None selects the first of the manifest that exists on this machine.

    Raises:
        ConfigError: the name or file does not exist, cannot be read, or has not been fetched.
    """
    known = {key: entry for key, entry in manifests.datasets(benchmark).items() if entry.kind == "dataset"}
    if name is None:
        name = next((key for key, entry in known.items() if _exists(benchmark, entry)), next(iter(known)))
    if name in known:
        entry = known[name]
        path = location(benchmark, entry)
        if path is None:
            raise ConfigError(f"the location of data set {name} is unknown: give its path, or set {entry.variable}.")
        if entry.variable and not path.exists():
            raise ConfigError(f"{entry.variable} is {path}, which does not exist: set it to the path of {name}.")
        if not path.exists():
            raise ConfigError(f"data set {name} is not on this machine: run {paths.DATA}, or give the path of a copy.")
        return _dataset(benchmark, name, path, entry)
    path = user_path(name)
    if not path.exists():
        raise ConfigError(f"no data set or file '{name}': {did_you_mean(name, known)} Or give the path of a file.")
    return _dataset(benchmark, path.stem, path.resolve(), None)


def _dataset(benchmark: str, name: str, path: Path, entry: DatasetEntry | None) -> Dataset:
    cls = benchmark_class(benchmark)
    path = cls.dataset_file(path)
    files = tuple(map(Fingerprint.of, cls.dataset_parts(path)))
    digest = files[0].sha256 if path.is_file() else combined([file.sha256 for file in files])
    if entry is None:  # a copy of a known data set is that data set
        same = (e for e in manifests.datasets(benchmark).values() if e.kind == "dataset" and e.sha256 == digest)
        entry = next(same, None)
    elif entry.sha256 and digest != entry.sha256:
        raise ConfigError(f"{path} is not {name} (its sha256 differs): delete it and run {paths.DATA}.")
    facts = entry.model_dump(include={"official", "samples", "metric"}) if entry else {}
    return Dataset(name=name, path=path, sha256=digest, files=files, **facts)


def location(benchmark: str, entry: DatasetEntry) -> Path | None:
    """Path of a data set, fetched or not; None if the user must set its variable but has not."""
    if entry.variable:
        text = os.environ.get(entry.variable, "").strip()
        return user_path(text).absolute() if text else None
    return _target(entry) if entry.urls else manifests.folder(benchmark) / (entry.file or "")


def _target(entry: DatasetEntry) -> Path:
    """Path to which a data set is fetched."""
    return paths.DATA_DIR / (entry.file or "")


def _exists(benchmark: str, entry: DatasetEntry) -> bool:
    path = location(benchmark, entry)
    return path is not None and (bool(entry.variable) or path.is_file())
