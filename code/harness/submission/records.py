"""run.json of official runs: what was run, how, and on what. Measurements are made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from harness.errors import ConfigError
from harness.submission.layout import RUN

if TYPE_CHECKING:
    from harness.config import RunSettings

Record = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True)


class _Identity(_Part):
    model_sha256: str | None
    engine: str
    engine_settings: dict[str, Any]
    benchmark_settings: dict[str, Any]


class _Model(_Part):
    name: str
    sha256: str | None
    benchmark: str
    source: str
    precision: str
    input_data_types: str
    weight_transformations: str
    retraining: str
    equivalent: bool
    caveat: str
    metadata: dict[str, Any]


class _Named(_Part):
    name: str


class _Dataset(_Named):
    sha256: str | None
    samples_used: int


class _Machine(_Part):
    packages: dict[str, str]
    python: str
    os: str
    cpu: str
    cores: int


class _Metric(_Part):
    value: float | None
    unit: str


class _Result(_Part):
    metric: _Metric
    accuracy: dict[str, float] | None
    samples: int
    duration_s: float | None


class _Form(_Part):
    """What a record must hold so that measurements can be made from it."""

    harness: str
    command: str
    scenario: str
    mode: str
    audit: str | None
    valid: bool
    for_submission: bool
    rehearsal: bool
    notice: str | None
    identity: _Identity
    model: _Model
    engine: _Named
    dataset: _Dataset
    machine: _Machine
    loadgen: dict[str, Any]
    result: _Result


_WORDS = {
    "model_sha256": "model",
    "engine": "engine",
    "engine_settings": "setting of the engine",
    "benchmark_settings": "setting of the benchmark",
}


def identity(settings: RunSettings) -> dict[str, Any]:
    """What the runs of a scenario have in common: the rules forbid another system in accuracy than in performance."""
    values = {
        "model_sha256": settings.model.sha256,
        "engine": settings.engine,
        "engine_settings": settings.engine_settings.model_dump(mode="json"),
        "benchmark_settings": settings.benchmark_settings.model_dump(mode="json"),
    }
    return json.loads(json.dumps(values))


def read_record(folder: Path) -> Record | None:
    """The record in a folder of logs; None where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / RUN
    try:
        record = json.loads(path.read_bytes()) if path.exists() else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): move the result away, and run it again.") from error
    if record is None:
        return None
    try:
        _Form.model_validate(record)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        raise ConfigError(
            f"{path} is no record of this harness, or an older one's ({where}): move the result away, and run it again."
        ) from None
    return record


def difference(record: Record, other: dict[str, Any]) -> str | None:
    """What a run has another of than ``other``, an `identity`, in words; None if they agree."""
    return next((words for key, words in _WORDS.items() if record["identity"][key] != other[key]), None)
