"""The contract of a benchmark: what the harness must be able to ask of BERT, of ResNet50, and of what comes next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from harness.catalog import Dataset
from harness.engines.base import Engine
from harness.qsl import SampleLibrary
from harness.sut import SUT


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


class Benchmark(ABC):
    """A task with its data, its model interface and its metric."""

    name: ClassVar[str]
    """LoadGen's model string: anything else would silently get other settings."""
    official_name: ClassVar[str]
    """What results of a model that is named by its path are filed under."""
    max_cost: ClassVar[int]
    """The largest cost of a sample: tokens for BERT."""
    Settings: ClassVar[type[BenchmarkSettings]] = BenchmarkSettings

    def __init__(self, settings: BenchmarkSettings, cache_dir: Path) -> None:
        self.settings = settings
        self.cache_dir = cache_dir

    @abstractmethod
    def open(self, dataset: Dataset, samples: int | None) -> SampleLibrary:
        """The data set as a QSL; with ``samples``, about that many from its beginning."""

    @abstractmethod
    def make_sut(self, engine: Engine, qsl: SampleLibrary) -> SUT:
        """The model's SUT on this engine."""

    @abstractmethod
    def score(self, log: Path, dataset: Dataset, samples: int | None, output: Path, note: str | None) -> Accuracy:
        """Score LoadGen's accuracy log and write accuracy.txt in the official form to ``output``.

        Raises:
            CheckFailed: the log cannot be scored honestly.
        """
