"""run.json of official runs: what was run, how, and on what. Measurements are made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import ConfigError
from harness.host.download import sha256_of
from harness.loadgen.logs import ACCURACY, DETAIL
from harness.results.layout import RUN

if TYPE_CHECKING:
    pass

Record = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Identity(_Part):
    model_sha256: str | None
    engine: str
    engine_settings: dict[str, Any]
    benchmark_settings: dict[str, Any]


class _Model(_Part):
    name: str
    path: str
    sha256: str | None
    benchmark: str
    official_name: str
    source: str
    precision: str
    input_data_types: str
    weight_transformations: str
    retraining: str
    equivalent: bool
    settings: dict[str, str | int] = {}
    caveat: str
    remark: str = ""
    metadata: dict[str, str]


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
    memory_bytes: int | None = None


class _Metric(_Part):
    name: str
    value: float | None
    unit: str


class _Result(_Part):
    metric: _Metric
    accuracy: dict[str, float] | None
    accuracy_scope: str | None = None
    latency_ms: dict[str, float] | None = None
    samples: int
    batches: int | None = None
    cost: int | None = None
    cost_unit: str = ""
    padded_to_real: float | None = None
    duration_s: float | None


class _Agreement(_Part):
    differences: list[Annotated[list[float], Field(min_length=3, max_length=3)]] = []  # batch, length, difference


class _Form(_Part):
    """What a record must hold so that measurements and reports can be made from it."""

    harness: str
    time: str = ""
    command: str
    scenario: str
    mode: Literal["performance", "accuracy"]
    audit: str | None
    valid: bool
    for_submission: bool
    rehearsal: bool
    notice: str | None
    identity: _Identity
    model: _Model
    engine: _Named
    benchmark_settings: dict[str, Any] | None = None
    shapes: list[list[int]] | None = None
    dataset: _Dataset
    machine: _Machine
    loadgen: dict[str, Any]
    result: _Result
    agreement: _Agreement | None = None
    reasons: list[str] | None = None


_WORDS = {
    "model_sha256": "model",
    "engine": "engine",
    "engine_settings": "setting of the engine",
    "benchmark_settings": "setting of the benchmark",
    "duration": "duration",
}


def unlike(one: Record, other: Record) -> str | None:
    """What two runs of one result differ in beside their `identity` and may not, in words; None if they agree."""
    facts = {
        "data set": lambda r: r["dataset"]["sha256"],
        "processor": lambda r: (r["machine"]["cpu"], r["machine"]["cores"]),
        "version of the engine": lambda r: r["engine"].get("version"),
        "version of a package": lambda r: r["machine"]["packages"],
        "code of the harness": lambda r: r.get("code"),
    }
    return next((words for words, of in facts.items() if of(one) != of(other)), None)


def reference(results: Path, test: str) -> dict[str, str]:
    """sha256 of the logs of a scenario's results that a compliance test is compared with; without those that miss."""
    files = {"performance": results / "performance" / "run_1" / DETAIL}
    if test == "TEST01":
        files["accuracy"] = results / "accuracy" / ACCURACY
    return {name: sha256_of(path) for name, path in files.items() if path.is_file()}


def read_record(folder: Path) -> Record | None:
    """The record in a folder of logs; None where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / RUN
    try:
        record = json.loads(path.read_bytes()) if path.exists() else None
    except (OSError, ValueError, RecursionError) as error:
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
    return next((words for key, words in _WORDS.items() if record["identity"].get(key) != other.get(key)), None)
