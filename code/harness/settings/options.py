"""The options of `--set`: a list of all, and which belong to the engine and which to the benchmark."""

import types
import typing
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from harness.catalog.contract import BenchmarkSettings
from harness.engines.base import Engine, EngineSettings, find_engine
from harness.errors import ConfigError, did_you_mean
from harness.registry import BENCHMARKS, ENGINES
from harness.task.base import Benchmark, find_benchmark
from harness.validation import validated


def options_help() -> list[tuple[str, str, str]]:
    """Every option of `--set`: (owner, name, description)."""
    owners: dict[str, type[BaseModel]] = {name: find_engine(name).Settings for name in ENGINES}
    owners |= {name: find_benchmark(name).Settings for name in BENCHMARKS}
    rows = []
    for owner, settings in owners.items():
        for name, field in settings.model_fields.items():
            default = "" if field.default is None else f" [{field.default}]"
            rows.append((owner, name, f"{_type(field.annotation)}: {field.description}{default}"))
    return rows


def split(
    options: Mapping[str, str],
    engine: type[Engine],
    benchmark: type[Benchmark],
    defaults: Mapping[str, str | int],
) -> tuple[EngineSettings, BenchmarkSettings]:
    """Settings of the engine and of the benchmark; ``defaults`` are the benchmark's for the model.

    Raises:
        ConfigError: an option belongs to neither, or its value is wrong.
    """
    engine_values: dict[str, str | int] = {}
    benchmark_values: dict[str, str | int] = dict(defaults)
    for name, value in options.items():
        owner = engine_values if name in engine.Settings.model_fields else benchmark_values
        if owner is benchmark_values and name not in benchmark.Settings.model_fields:
            valid = [*engine.Settings.model_fields, *benchmark.Settings.model_fields]
            raise ConfigError(f"unknown option '{name}' for engine {engine.name}: {did_you_mean(name, valid)}")
        owner[name] = value
    return validated(engine.Settings, engine_values), validated(benchmark.Settings, benchmark_values)


def _type(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(part) for part in typing.get_args(annotation) if part is not type(None))
    if origin is typing.Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    return getattr(annotation, "__name__", str(annotation))
