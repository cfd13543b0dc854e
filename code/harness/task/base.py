"""The contract of a benchmark: everything that the harness asks of BERT, ResNet50 and future models."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from harness import paths
from harness.catalog.contract import BenchmarkSettings, ModelInterface
from harness.catalog.manifests import Dataset, datasets
from harness.compress.scaling import Scaling
from harness.engines.base import Engine
from harness.errors import ConfigError, NotOfficial
from harness.graph import Tensor
from harness.registry import BENCHMARKS, resolve
from harness.task.qsl import SampleLibrary
from harness.task.sut import SUT
from harness.task.training import TrainingData
from harness.terminal.progress import OnProgress


@dataclass(frozen=True)
class Accuracy:
    """The result of scoring an accuracy log."""

    metrics: dict[str, float]
    """Value in percent by name; the metric that has the official targets comes first."""
    scope: str
    """The scored samples, such as "191 questions"."""
    warnings: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    """Signs that the score reflects a wrong setting instead of the model, each a sentence with what to try."""


ASSUMED = "assumed"
GIVEN = "given by --set"
FROM_GRAPH = "from the graph"
"""Sources of a `Choice`."""


@dataclass(frozen=True)
class Choice:
    """A choice that changes a score, such as the preprocessing."""

    name: str
    value: str
    source: str
    """Who made it: `ASSUMED`, `GIVEN`, or where it was found, such as "from models.toml"."""

    @property
    def assumed(self) -> bool:
        """Whether it is only an assumption: neither the user nor the model determines it."""
        return self.source == ASSUMED

    def __str__(self) -> str:
        """Name and value, and the source if it is not an assumption."""
        return f"{self.name} {self.value}" if self.assumed else f"{self.name} {self.value} ({self.source})"


def find_benchmark(name: str) -> type[Benchmark]:
    """The benchmark with that name.

    Raises:
        ConfigError: the name is unknown; the message suggests the nearest.
    """
    return resolve("benchmark", BENCHMARKS, name, Benchmark)  # type: ignore[type-abstract]  # used only in issubclass()


class Benchmark(ModelInterface):
    """A task with its data, its model interface and its metric."""

    name: ClassVar[str]
    """LoadGen's name of the model; with any other, LoadGen silently applies other settings."""
    max_cost: ClassVar[int]
    """Maximum cost of a sample: tokens for BERT, 1 for an image."""
    server_bound: ClassVar[float]
    """Server's latency bound for 99 % of the queries, in seconds, as set in LoadGen's mlperf.conf."""
    max_response: ClassVar[int]
    """Maximum size of a response, in bytes."""
    prepared: ClassVar[str]
    """The form that a data set is converted to before it can be loaded: features, pixels."""
    prepared_from: ClassVar[str]
    """The items that it is converted from, in the plural: questions, images."""

    def __init__(self, settings: BenchmarkSettings, cache_dir: Path, sources: Mapping[str, str] | None = None) -> None:
        """``sources`` says who chose each setting that is not a default: see `Choice.source`."""
        self.settings = settings
        self.cache_dir = cache_dir
        self._sources = sources or {}

    def source(self, setting: str) -> str:
        """Who chose a setting's value; `ASSUMED` for a default."""
        return self._sources.get(setting, ASSUMED)

    def check_official(self, dataset: Dataset) -> None:
        """Check that official runs may use this data set.

        Raises:
            NotOfficial: the rules require another one.
            ConfigError: it is not a complete data set.
        """
        if not dataset.official:
            names = [name for name, entry in datasets(self.name).items() if entry.official]
            raise NotOfficial(
                f"an official run needs the full data set {' or '.join(names)}, but {dataset.path} is a different "
                f"one: run {paths.DATA}, then omit --dataset or give the path of your copy."
            )

    @property
    def official_samples(self) -> int | None:
        """Number of samples in official runs (the full data set); None if the manifest does not say."""
        return next((entry.samples for entry in datasets(self.name).values() if entry.official), None)

    @abstractmethod
    def stand_in(self, folder: Path) -> Path:
        """Build a data set of the official size from the shipped sample, for rehearsals, unless it already exists.

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
        model: Path | None = None,
    ) -> SampleLibrary:
        """The data set as a QSL, limited to about the first ``samples`` if given.

        ``inputs`` are those of the graph that the samples are fed to, and may determine their format in memory; empty
        for an engine without a graph. ``model`` is the graph's file, for what the inputs leave open.
        ``progress(done, total)`` counts ``prepared_from``, from any thread.

        Raises:
            ConfigError: the data set cannot be read, or no SUT of this benchmark accepts such inputs.
        """

    def scalings(self, inputs: Sequence[Tensor], model: Path) -> Mapping[str, Scaling]:
        """The float32 inputs of a graph that could be bytes instead, by name, and how to scale the bytes.

        With uint8 in their place, `open` holds the bytes in memory. ``model`` is the graph's file.

        Raises:
            ConfigError: no SUT of this benchmark accepts such inputs.
        """
        return {}

    @abstractmethod
    def make_sut(self, engine: Engine, qsl: SampleLibrary) -> SUT:
        """The model's SUT on this engine."""

    def scoring_choices(self, sut: SUT) -> tuple[Choice, ...]:
        """The choices that change the scores of this SUT's model."""
        return ()

    def doubts(self, sut: SUT) -> tuple[str, ...]:
        """Signs that a setting does not belong to the SUT's model, one sentence each; a quick check before every test.

        Raises:
            ConfigError: the setting cannot be right.
        """
        return ()

    def sampled_doubts(self, sut: SUT, dataset: Dataset) -> tuple[str, ...]:
        """The same, from the answers to a few samples, before an accuracy test; the SUT is prepared."""
        return ()

    @abstractmethod
    def score(self, log: Path, dataset: Dataset, samples: int | None, output: Path, note: str | None) -> Accuracy:
        """Score LoadGen's accuracy log and write accuracy.txt in the official form to ``output``.

        Raises:
            CheckFailed: no correct score can be computed from the log.
        """

    @abstractmethod
    def score_partial(self, log: Path, dataset: Dataset) -> str:
        """The text of accuracy.txt for a log of some samples, each at least once, such as TEST01's.

        Raises:
            CheckFailed: no correct score can be computed from the log.
        """

    def training_data(self, path: Path, graph: Path, hold_out: float, max_cost: int | None, seed: int) -> TrainingData:
        """The samples at ``path``, with or without labels, as inputs of the graph in the file ``graph``.

        About the share ``hold_out`` of them, drawn by ``seed``, is held back; none without labels. Samples cost at most
        ``max_cost``, by default as much as the model accepts.

        Raises:
            ConfigError: the data cannot be read or divided, does not suit the graph, or the benchmark has no training.
        """
        raise ConfigError(f"models of {self.name} cannot be trained here: choose a model of another benchmark.")
