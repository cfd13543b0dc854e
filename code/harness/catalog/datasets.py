"""Fetching data sets into build/data."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.catalog import manifests
from harness.catalog import models as catalog
from harness.errors import ConfigError, did_you_mean
from harness.host.download import download, sha256_of
from harness.registry import BENCHMARKS


def overview() -> list[dict[str, Any]]:
    """Every data set: name, benchmark, samples, where it is here or how to get it, description."""
    return [
        {
            "name": name,
            "benchmark": benchmark,
            "samples": entry.samples,
            "here": _here(benchmark, entry),
            "description": entry.description,
        }
        for benchmark in BENCHMARKS
        for name, entry in manifests.datasets(benchmark).items()
    ]


def _here(benchmark: str, entry: manifests.DatasetEntry) -> str:
    path = catalog.location(benchmark, entry)
    if path is None or (entry.variable and not path.exists()):
        return f"no: set {entry.variable}"
    return str(path) if path.exists() else "no: run `make data`"


def fetch(name: str | None) -> Iterator[tuple[str, Path]]:
    """Fetch one file of the manifests, or all that are not shipped: each one's name and place, as soon as it is here.

    Raises:
        ConfigError: there is none of that name.
        RunFailed: no address delivered it.
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
        if name not in (None, key):
            continue
        target = catalog.location(benchmark, entry)
        target.parent.mkdir(parents=True, exist_ok=True)
        shipped = manifests.folder(benchmark) / entry.shipped if entry.shipped else None
        if not target.exists() and shipped and shipped.is_file() and sha256_of(shipped) == entry.sha256:
            partial = target.with_name(f"{target.name}.copy")
            shutil.copyfile(shipped, partial)
            partial.replace(target)
        else:
            download(entry.urls, target, sha256=entry.sha256, size=entry.size, description=key)
        yield key, target
