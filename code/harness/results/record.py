"""run.json of a test: what was run, how, on what, and what came of it. Measurements and reports are made from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from harness.catalog.manifests import Model
from harness.errors import ConfigError
from harness.host.download import sha256_of
from harness.loadgen.logs import ACCURACY, DETAIL
from harness.results.layout import RUN
from harness.rules.audits import AUDITS


class _Part(BaseModel):
    """Keys that this version does not know are kept: a record may come from a newer one."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    def __getitem__(self, key: str) -> Any:
        try:
            return getattr(self, key)
        except AttributeError:
            raise KeyError(key) from None

    def get(self, key: str, default: Any = None) -> Any:
        return getattr(self, key, default)

    def items(self) -> Any:
        return self.model_dump(mode="json", exclude_unset=True).items()

    def values(self) -> dict[str, JsonValue]:
        """As run.json holds it."""
        return self.model_dump(mode="json", exclude_unset=True)


class Identity(_Part):
    """What the runs of a scenario have in common: the rules forbid another system in accuracy than in performance."""

    model_sha256: str | None
    engine: str
    engine_settings: dict[str, JsonValue]
    """By name; files by the sha256 of their content."""
    benchmark_settings: dict[str, JsonValue]
    duration: float | None = None

    def difference(self, other: Identity) -> str | None:
        """In words, what ``other`` has another of; None if nothing."""
        return next((words for key, words in _WORDS.items() if getattr(self, key) != getattr(other, key)), None)


_WORDS = {
    "model_sha256": "model",
    "engine": "engine",
    "engine_settings": "setting of the engine",
    "benchmark_settings": "setting of the benchmark",
    "duration": "duration",
}


class RecordedModel(Model, _Part):
    """The model that ran; every fact that measurements are made from must be there."""

    source: str
    precision: str
    input_data_types: str
    weight_transformations: str
    retraining: str
    equivalent: bool
    caveat: str
    metadata: dict[str, str]

    @property
    def random(self) -> bool:
        """Whether its weights are random."""
        return self.caveat.startswith("random")


class RecordedDataset(_Part):
    """The data set."""

    name: str
    path: str | None = None
    sha256: str | None
    samples_used: int


class RecordedEngine(_Part):
    """The engine; its settings in force are further keys."""

    name: str
    version: str | None = None

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version or ''}".rstrip()


class RecordedMachine(_Part):
    """The machine and the versions that a result depends on."""

    cpu: str
    cores: int
    numa_nodes: int | None = None
    memory_bytes: int | None = None
    os: str
    python: str
    packages: dict[str, str]


class RecordedMetric(_Part):
    """The scenario's metric."""

    name: str
    value: float | None
    unit: str


class RecordedResult(_Part):
    """What was measured or scored."""

    metric: RecordedMetric
    latency_ms: dict[str, float] | None = None
    """By percentile, such as "99.00"."""
    duration_s: float | None
    samples: int
    batches: int | None = None
    cost: int | None = None
    """Of the samples, in ``cost_unit``."""
    cost_unit: str = ""
    padded_to_real: float | None = None
    """Computed ÷ real cost."""
    accuracy: dict[str, float] | None
    """In percent, by metric; of accuracy runs."""
    accuracy_scope: str | None = None

    @property
    def scores(self) -> str:
        """What an accuracy run scored, with units."""
        return ", ".join(f"{name} {value:.3f} %" for name, value in (self.accuracy or {}).items())


class RecordedAgreement(_Part):
    """How far the engine's outputs were from ONNX Runtime's."""

    differences: list[Annotated[list[int | float], Field(min_length=3, max_length=3)]] = []
    """(batch, length, difference) of each shape."""


class Record(_Part):
    """A finished test. Fields that only some tests or versions have are optional; a scenario adds keys of its own."""

    harness: str
    time: str = ""
    command: str
    code: str | None = None
    """sha256 over the project's code."""
    for_submission: bool
    rehearsal: bool
    notice: str | None
    scenario: str
    mode: Literal["performance", "accuracy"]
    audit: str | None
    identity: Identity
    model: RecordedModel
    dataset: RecordedDataset
    tuned: str | None = None
    benchmark_settings: dict[str, JsonValue] | None = None
    engine: RecordedEngine
    shapes: list[list[int]] | None = None
    """(batch, length) of each shape."""
    result: RecordedResult
    loadgen: dict[str, JsonValue]
    machine: RecordedMachine
    valid: bool
    reasons: list[str] | None = None
    """Why it is not valid."""
    agreement: RecordedAgreement | None = None
    reference: dict[str, str] | None = None
    """Of a compliance test: sha256 of the logs that it was compared with."""

    @property
    def test(self) -> str:
        """performance, accuracy, TEST01 or TEST04."""
        return self.audit or self.mode

    @property
    def performance(self) -> bool:
        """Whether it measured speed, and not accuracy."""
        return self.mode == "performance"


def unlike(one: Record, other: Record) -> str | None:
    """In words, the first thing beside their `Identity` that two runs of one result may not differ in and do."""
    facts: dict[str, Callable[[Record], object]] = {
        "data set": lambda r: r.dataset.sha256,
        "processor": lambda r: (r.machine.cpu, r.machine.cores),
        "version of the engine": lambda r: r.engine.version,
        "version of a package": lambda r: r.machine.packages,
        "code of the harness": lambda r: r.code,
    }
    return next((words for words, of in facts.items() if of(one) != of(other)), None)


def reference(results: Path, test: str) -> dict[str, str]:
    """sha256 of the logs in a scenario's results that a compliance test is compared with; missing ones are left out."""
    files = {"performance": results / "performance" / "run_1" / DETAIL, "accuracy": results / "accuracy" / ACCURACY}
    return {run: sha256_of(files[run]) for run in AUDITS[test].references if files[run].is_file()}


def read_record(folder: Path) -> Record | None:
    """The record in a folder of logs; None if it has none.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / RUN
    try:
        content = path.read_bytes() if path.exists() else None
        if content is not None:
            json.loads(content)  # its own errors say where
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): move the result away, and run it again.") from error
    if content is None:
        return None
    try:
        return Record.model_validate_json(content)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        raise ConfigError(
            f"{path} is not a record of this harness, or one of an older version ({where}): move the result away, and "
            "run it again."
        ) from None
