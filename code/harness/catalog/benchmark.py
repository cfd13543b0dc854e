"""What the catalog asks of a benchmark, whose class lies above it (`harness.task.base.Benchmark`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel

from harness.graph import Tensor
from harness.registry import BENCHMARKS, resolve


class BenchmarkClass(Protocol):
    """The class of a benchmark."""

    @property
    def official_name(self) -> str:
        """The name under which results of a model without a name of its own are filed."""

    @property
    def Settings(self) -> type[BaseModel]:  # noqa: N802 (the class attribute's name)
        """The settings that a model's metadata may hold."""

    def accepts(self, inputs: Sequence[Tensor], /) -> bool:
        """Whether a graph with these inputs may be a model of this benchmark."""

    def dataset_file(self, path: Path, /) -> Path:
        """The file or folder of the data set at a path that exists; ConfigError if there is none."""


def benchmark_class(name: str) -> BenchmarkClass:
    """The class of the benchmark with this name."""
    found: BenchmarkClass = resolve("benchmark", BENCHMARKS, name)
    return found
