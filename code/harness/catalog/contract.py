"""The part of a benchmark's class that the catalog needs (`harness.task.base.Benchmark` is one floor up)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from harness.graph import Tensor
from harness.registry import BENCHMARKS, load


class BenchmarkClass(Protocol):
    """The class of a benchmark."""

    @property
    def official_name(self) -> str:
        """The benchmark that results of a model given by its path are filed under."""

    @property
    def Settings(self) -> type[BaseModel]:  # noqa: N802 (the class attribute's name)
        """The settings that a model's metadata may contain."""

    def accepts(self, inputs: Sequence[Tensor], /) -> bool:
        """Whether a graph with these inputs may be a model of this benchmark."""

    def dataset_file(self, path: Path, /) -> Path:
        """The file or folder of the data set at an existing path; ConfigError if it does not contain one."""


def benchmark_class(name: str) -> BenchmarkClass:
    """The class of the benchmark with this name."""
    found: BenchmarkClass = load("benchmark", BENCHMARKS, name)
    return found
