"""The part of `harness.task.base.Benchmark` that the catalog needs, which is on a lower level."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from harness.errors import ConfigError
from harness.graph import Tensor
from harness.registry import BENCHMARKS, resolve


class BenchmarkSettings(BaseModel):
    """Settings of a benchmark; each adds its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def files(self, name: str) -> tuple[Path, ...]:
        """The files that a setting names, whose content is part of a run's identity; none if it is not a path."""
        value = getattr(self, name)
        return (value,) if isinstance(value, Path) else ()


class ModelInterface(ABC):
    """How a benchmark recognises its models and data sets."""

    official_name: ClassVar[str]
    """Name that results are filed under if the model is given by its path."""
    Settings: ClassVar[type[BenchmarkSettings]] = BenchmarkSettings
    one_file: ClassVar[bool] = True
    """Whether a data set is one file, so that it can be sent to another machine."""

    @classmethod
    @abstractmethod
    def accepts(cls, inputs: Sequence[Tensor]) -> bool:
        """Whether a graph with these inputs looks like one of this benchmark; its SUT checks the details later."""

    @classmethod
    def dataset_file(cls, path: Path) -> Path:
        """The file or folder that represents the data set at an existing path.

        Raises:
            ConfigError: the path cannot be a data set of this benchmark.
        """
        if not path.is_file():
            raise ConfigError(f"{path} is not a file: give the path of a data set's file.")
        return path

    @classmethod
    def dataset_parts(cls, path: Path) -> Sequence[Path]:
        """The files, and folders with their names, that determine the order and labels of `dataset_file`'s samples."""
        return [path]


def benchmark_class(name: str) -> type[ModelInterface]:
    """The class of the benchmark with this name."""
    # mypy cannot know that an abstract class is used only in issubclass().
    return resolve("benchmark", BENCHMARKS, name, ModelInterface)  # type: ignore[type-abstract]
