"""The checks of folders, models, data sets and user.conf."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path

from harness.terminal.findings import BAD, GOOD, WARNING, Finding, finding_from_error

_WRITTEN = ("build", "results", "compliance", "measurements", "systems")
_MINIMUM_DISK, _ENOUGH_DISK = 200 * 2**20, 5 * 2**30


def folders(top: Path) -> Iterator[Finding]:
    """Whether all folders that runs write to are writable; runs create missing ones."""
    good = []
    for name in _WRITTEN:
        folder = top / name
        below = sorted(path for path in folder.glob("*") if os.path.isdir(path))  # noqa: PTH112  never raises
        problems = [found for path in (folder, *below) for found in writable(path, path.relative_to(top).as_posix())]
        yield from problems
        good += [] if problems else [f"{name}/"]
    if good:
        yield Finding(GOOD, "folders", f"{', '.join(good)} can be written")


def writable(folder: Path, subject: str) -> Iterator[Finding]:
    """Obstacles to creating files in a folder, found by creating one, since permissions do not show everything."""
    existing = next((path for path in (folder, *folder.parents) if os.path.lexists(str(path))), folder)
    if not existing.is_dir():
        yield Finding(BAD, f"{subject}/", f"{existing} is not a folder", "move it away")
        return
    try:
        with tempfile.NamedTemporaryFile(dir=str(existing), prefix=".doctor-"):
            pass
    except OSError as error:
        cure = f"run `chmod u+w {existing}` as its owner, or mount it writable"
        yield Finding(BAD, f"{subject}/", f"{existing} cannot be written: {error.strerror}", cure)
        return
    if not existing.stat().st_mode & 0o222:
        what = f"{existing} is marked read-only, which only root can ignore"
        yield Finding(WARNING, f"{subject}/", what, f"run `chmod u+w {existing}`")


def disk(top: Path) -> Iterator[Finding]:
    """Space for logs, caches and models."""
    seen = set()
    for name in ("build", "results"):
        folder = next(path for path in (top / name, *(top / name).parents) if path.is_dir())
        device, free = folder.stat().st_dev, shutil.disk_usage(str(folder)).free
        if device in seen:
            continue
        seen.add(device)
        words = f"{free / 2**30:.1f} GiB free at {folder}"
        if free < _MINIMUM_DISK:
            yield Finding(BAD, "disk", f"{words}: too little for the logs of a test", "free some space")
        elif free < _ENOUGH_DISK:
            what = f"{words}: little for large models and the pixels of 50,000 images"
            yield Finding(WARNING, "disk", what, "free some space, or choose another --runs-dir")
        else:
            yield Finding(GOOD, "disk", words)


def models() -> Iterator[Finding]:
    """Whether shipped and fetched models have the right content."""
    from harness.models.verify import verify

    good, problems = verify([])
    for line in problems:
        name, _, sentence = line.partition(": ")
        yield finding_from_error(BAD, "model", f"{name}: {sentence.rstrip('.')}")
    if good:
        yield Finding(GOOD, "models", ", ".join(line.partition(":")[0] for line in good))


def datasets(official: bool = False) -> Iterator[Finding]:
    """Whether the shipped samples are complete, and the full data sets on this machine, as official runs require."""
    from harness import paths
    from harness.catalog import manifests
    from harness.catalog.datasets import find_dataset, location
    from harness.errors import ConfigError, NotOfficial
    from harness.registry import BENCHMARKS
    from harness.task.base import find_benchmark

    lacking = BAD if official else WARNING
    for benchmark in BENCHMARKS:
        for name, entry in manifests.datasets(benchmark).items():
            if entry.kind != "dataset":
                continue
            place = location(benchmark, entry)
            if entry.official and place is None:
                what = f"{name}: {entry.variable} is not set, so only the shipped sample is used"
                cure = f"for official runs, set {entry.variable} to the path of your copy"
                yield Finding(lacking, "data set", what, cure)
                continue
            if entry.official and not entry.variable and place is not None and not place.exists():
                what = f"{name} is not on this machine, so only the shipped sample is used"
                yield Finding(lacking, "data set", what, f"for official runs, run {paths.DATA}")
                continue
            try:
                found = find_dataset(benchmark, name)
                if entry.official:
                    made = find_benchmark(benchmark)
                    made(made.Settings(), paths.CACHE_DIR).check_official(found)
            except NotOfficial as error:
                yield Finding(
                    lacking, "data set", f"{name} cannot be used in an official run: {str(error).rstrip('.')}"
                )
            except ConfigError as error:
                yield finding_from_error(BAD, "data set", str(error).rstrip("."))
            else:
                yield Finding(GOOD, "data set", f"{name}: {found.path}")


def user_conf(official: bool = False) -> Iterator[Finding]:
    """Whether LoadGen understands user.conf, and official runs may use it."""
    from harness.errors import ConfigError
    from harness.loadgen.conf import check_official, read_user_conf
    from harness.registry import BENCHMARKS, SCENARIOS
    from harness.rules.limits import MIN_DURATION_MS
    from harness.settings.request import default_conf

    try:
        conf = read_user_conf(default_conf())
        for model, scenario in product(BENCHMARKS, SCENARIOS) if official else ():
            check_official(conf, model, scenario, MIN_DURATION_MS)
    except ConfigError as error:
        yield finding_from_error(BAD, "user.conf", str(error).rstrip("."))
        return
    for warning in conf.repeated():
        yield finding_from_error(WARNING, "user.conf", warning.rstrip("."))
    yield Finding(GOOD, "user.conf", f"{len(conf.entries)} settings" if conf.path else "none, which is fine")
