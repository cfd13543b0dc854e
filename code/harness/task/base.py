"""The contract of a benchmark: what the harness must be able to ask of BERT, of ResNet50, and of what comes next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from harness.catalog.manifests import Dataset, datasets
from harness.engines.base import Engine
from harness.errors import ConfigError, NotOfficial
from harness.graph import Tensor
from harness.host.console import OnProgress
from harness.registry import BENCHMARKS, resolve
from harness.task.qsl import SampleLibrary
from harness.task.sut import SUT


class BenchmarkSettings(BaseModel):
    """Settings of a benchmark; each adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Accuracy:
    """What scoring an accuracy log gave."""

    metrics: dict[str, float]
    """Name to value, in percent, the one that the targets are set for first."""
    scope: str
    """What was scored, such as "191 questions"."""
    warnings: tuple[str, ...] = ()


def find_benchmark(name: str) -> type[Benchmark]:
    """The benchmark of that name.

    Raises:
        ConfigError: there is none; the message gives the nearest.
    """
    return resolve("benchmark", BENCHMARKS, name, Benchmark)  # type: ignore[type-abstract]  # it is only compared with


class Benchmark(ABC):
    """A task with its data, its model interface and its metric."""

    name: ClassVar[str]
    """LoadGen's model string: anything else would silently get other settings."""
    official_name: ClassVar[str]
    """What results of a model that is named by its path are filed under."""
    max_cost: ClassVar[int]
    """The largest cost of a sample: tokens for BERT, 1 for an image."""
    server_bound: ClassVar[float]
    """Seconds within which 99 % of the queries of Server must be answered, as LoadGen's mlperf.conf sets it."""
    max_response: ClassVar[int]
    """The largest response, in bytes."""
    prepared: ClassVar[str]
    """What is made of a data set before it can be loaded: features, pixels."""
    prepared_from: ClassVar[str]
    """What it is made of, in the plural: questions, images."""
    Settings: ClassVar[type[BenchmarkSettings]] = BenchmarkSettings

    def __init__(self, settings: BenchmarkSettings, cache_dir: Path) -> None:
        self.settings = settings
        self.cache_dir = cache_dir

    @classmethod
    @abstractmethod
    def accepts(cls, inputs: Sequence[Tensor]) -> bool:
        """Whether a graph with these inputs looks like one of this benchmark's; its SUT then checks it closely."""

    @classmethod
    def dataset_file(cls, path: Path) -> Path:
        """The file, or the folder, that stands for the data set at a path that exists.

        Raises:
            ConfigError: nothing there can be this benchmark's data set.
        """
        if not path.is_file():
            raise ConfigError(f"{path} is no file; give the path of a data set.")
        return path

    def check_official(self, dataset: Dataset) -> None:
        """Make sure that official runs may use this data set.

        Raises:
            NotOfficial: the rules demand another.
            ConfigError: it is no whole data set at all.
        """
        if not dataset.official:
            names = [name for name, entry in datasets(self.name).items() if entry.official]
            raise NotOfficial(
                f"an official run needs the full data set {' or '.join(names)}, and {dataset.path} is another: "
                "run `make data`, then leave out --dataset or name your copy of it."
            )

    @property
    def official_samples(self) -> int | None:
        """How many samples official runs have: those of the full data set; None if the manifest does not tell."""
        return next((entry.samples for entry in datasets(self.name).values() if entry.official), None)

    @abstractmethod
    def stand_in(self, folder: Path) -> Path:
        """Make, if it is not there yet, a data set of the official size out of the shipped sample, for rehearsals.

        Returns:
            Its path below ``folder``.
        """

    @abstractmethod
    def open(
        self,
        dataset: Dataset,
        samples: int | None,
        inputs: Sequence[Tensor],
        progress: OnProgress = lambda done, total: None,
    ) -> SampleLibrary:
        """The data set as a QSL; with ``samples``, about that many from its beginning.

        ``inputs`` are those of the graph that the samples will be fed to, which may decide how they are held in memory;
        none for an engine without a graph. ``progress(done, total)`` counts in ``prepared_from``, from any thread.

        Raises:
            ConfigError: the data set cannot be read, or no SUT of this benchmark takes such inputs.
        """

    @abstractmethod
    def make_sut(self, engine: Engine, qsl: SampleLibrary) -> SUT:
        """The model's SUT on this engine."""

    @abstractmethod
    def score(self, log: Path, dataset: Dataset, samples: int | None, output: Path, note: str | None) -> Accuracy:
        """Score LoadGen's accuracy log and write accuracy.txt in the official form to ``output``.

        Raises:
            CheckFailed: the log cannot be scored honestly.
        """

    @abstractmethod
    def score_partial(self, log: Path, dataset: Dataset) -> str:
        """The text of accuracy.txt for a log of some samples, each once or more, such as TEST01's.

        Raises:
            CheckFailed: the log cannot be scored honestly.
        """
