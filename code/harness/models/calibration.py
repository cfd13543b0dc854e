"""Calibration data: samples of a benchmark's data set as model inputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness import paths
from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.compress.network import Feed
from harness.errors import ConfigError
from harness.task.base import Benchmark, find_benchmark
from harness.task.feeds import GraphOnly, feed
from harness.terminal import console
from harness.terminal.progress import Progress
from harness.validation import validated

_BATCH_SIZE = 8


@dataclass(frozen=True)
class Calibration:
    """Calibration batches, and a description of their origin."""

    feeds: Sequence[Feed]
    description: str


def calibration(model: manifests.Model, path: Path, dataset: str | None, samples: int) -> Calibration:
    """About ``samples`` samples of a data set, spread evenly over it, for the graph at ``path``.

    The default is the shipped data set: a model must not be calibrated with the data that it is scored on. Samples of
    the same cost share a batch, so that nothing is padded.

    Raises:
        ConfigError: the data set does not exist, ``samples`` is not positive, or the graph does not match.
    """
    benchmark, found = check_calibration(model, dataset, samples)
    if found.official:
        console.warn(
            f"official runs are scored on {found.name}: the rules allow only samples of MLPerf's calibration list here."
        )
    engine = GraphOnly(path)
    with Progress(benchmark.prepared, unit=benchmark.prepared_from) as bar:
        qsl = benchmark.open(found, None, engine.inputs, lambda done, total: bar.update(done=done, total=total), path)
    count = min(samples, qsl.count, qsl.performance_count)
    indices = np.unique(np.linspace(0, qsl.count - 1, count).round().astype(np.int64))
    sut = benchmark.make_sut(engine, qsl)
    qsl.load(indices)
    costs = qsl.cost(indices)
    feeds = []
    for cost in np.unique(costs):
        same = indices[costs == cost]
        for start in range(0, len(same), _BATCH_SIZE):
            feeds.append(feed(sut, same[start : start + _BATCH_SIZE]))
    return Calibration(feeds, f"{len(indices)} samples of {found.name}")


def check_calibration(model: manifests.Model, dataset: str | None, samples: int) -> tuple[Benchmark, manifests.Dataset]:
    """The benchmark and the data set, checked before any data is prepared.

    Raises:
        ConfigError: the data set does not exist, ``samples`` is not positive, or a benchmark setting is wrong.
    """
    if samples < 1:
        raise ConfigError(f"--samples {samples}: calibration needs at least one sample.")
    kind = find_benchmark(model.benchmark)
    benchmark = kind(validated(kind.Settings, model.settings), paths.CACHE_DIR)
    return benchmark, find_dataset(model.benchmark, dataset or _shipped(model.benchmark))


def _shipped(benchmark: str) -> str:
    entries = manifests.datasets(benchmark).items()
    return next(name for name, e in entries if e.kind == "dataset" and not e.urls and not e.variable)
