"""run.json, the record of a test: the model, settings, machine and result. Packages and reports use it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, JsonValue, ValidationError, model_validator

from harness.catalog.manifests import Model
from harness.errors import ConfigError
from harness.files.digest import sha256_of
from harness.loadgen.logs import ACCURACY, DETAIL
from harness.results.layout import RUN, RUN_1
from harness.results.parts import (
    Part,
    RecordedConversion,
    RecordedCores,
    RecordedEnergy,
    RecordedEngine,
    RecordedLimits,
    RecordedMachine,
    RecordedNode,
    RecordedStreams,
)
from harness.rules.audits import AUDITS
from harness.scenarios.base import Metric
from harness.task.base import Choice
from harness.validation import first_error


class Identity(Part):
    """The facts that must be equal in all runs of a scenario: the rules require one system for accuracy and speed."""

    model_sha256: str | None
    engine: str
    engine_settings: dict[str, JsonValue]
    """By name; a file is represented by the sha256 of its content."""
    benchmark_settings: dict[str, JsonValue]
    duration: float | None = None

    def difference(self, other: Identity) -> str | None:
        """The name of the first fact in which ``other`` differs; None if there is none."""
        return next((words for key, words in _WORDS.items() if getattr(self, key) != getattr(other, key)), None)


_WORDS = {
    "model_sha256": "model",
    "engine": "engine",
    "engine_settings": "setting of the engine",
    "benchmark_settings": "setting of the benchmark",
    "duration": "duration",
}


class RecordedModel(Model, Part):
    """The model that ran; every fact that measurements need is required."""

    source: str
    precision: str
    input_data_types: str
    weight_transformations: str
    retraining: str
    equivalent: bool
    caveat: str
    metadata: dict[str, str]

    @classmethod
    def of(cls, model: Model) -> Self:
        """The model that runs."""
        return cls(**model.model_dump())

    @model_validator(mode="after")
    def _random_in_older_records(self) -> Self:
        """Versions up to 0.2 recorded only the caveat, which a model had only if its weights were random."""
        if "random" not in self.model_fields_set:
            self.__dict__["random"] = bool(self.caveat)
        return self


class RecordedDataset(Part):
    """The data set that was used."""

    name: str
    path: str | None = None
    sha256: str | None
    official: bool = False
    """Whether official runs use it."""
    samples: int | None = None
    """The number of samples in all of it, if known."""
    metric: str | None = None
    """The name of its scores, if they are not the benchmark's accuracy."""
    samples_used: int
    samples_sha256: str | None = None
    """sha256 over the samples' files, if each has its own; ``sha256`` is then that of the list of labels."""

    @property
    def content(self) -> tuple[str | None, str | None]:
        """The hashes that are equal in two runs on the same data."""
        return self.sha256, self.samples_sha256


class RecordedMetric(Part):
    """The scenario's metric."""

    name: str
    value: float | None
    unit: str

    @classmethod
    def of(cls, metric: Metric) -> Self:
        """A metric, to be recorded."""
        return cls(name=metric.name, value=metric.value, unit=metric.unit)


class RecordedResult(Part):
    """The measurements or scores."""

    metric: RecordedMetric
    latency_ms: dict[str, float] | None = None
    """By percentile, such as "99.00"."""
    duration_s: float | None
    loadgen_s: float | None = None
    """Seconds from the first query to the last answer by the realtime clock, which LoadGen uses."""
    monotonic_s: float | None = None
    """The same by a clock that cannot be set."""
    samples: int
    batches: int | None = None
    cost: int | None = None
    """The cost of the samples, in ``cost_unit``."""
    cost_unit: str = ""
    padded_to_real: float | None = None
    """Computed ÷ real cost."""
    accuracy: dict[str, float] | None
    """In percent, by metric; None for performance runs."""
    accuracy_scope: str | None = None
    cores: RecordedCores | None = None
    """None in records of older versions, and if the system does not show it."""
    energy: RecordedEnergy | None = None
    """None in records of older versions, and if the machine does not show it."""

    @property
    def scores(self) -> str:
        """The scores of an accuracy run, with units."""
        return ", ".join(f"{name} {value:.3f} %" for name, value in (self.accuracy or {}).items())


class RecordedChoice(Part):
    """A choice that changes a score: see `harness.task.base.Choice`."""

    name: str
    value: str
    source: str

    @classmethod
    def of(cls, choice: Choice) -> Self:
        """A choice, to be recorded."""
        return cls(name=choice.name, value=choice.value, source=choice.source)

    @property
    def text(self) -> str:
        """Value and source."""
        return f"{self.value} ({self.source})"


class RecordedAgreement(Part):
    """The deviation of the engine's outputs from ONNX Runtime's."""

    model_config = ConfigDict(populate_by_name=True)

    reference: str | None = Field(None, alias="with")
    """The engine that the outputs were compared with."""
    differences: list[Annotated[list[int | float], Field(min_length=3, max_length=3)]] = Field(default_factory=list)
    """[batch, length, difference] for each shape."""


class Record(Part):
    """A finished test. Fields that only some tests or versions have are optional."""

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
    engine_choice: str | None = None
    """How the engine was chosen; None if the user named it."""
    benchmark_settings: dict[str, JsonValue] | None = None
    choices: list[RecordedChoice] = Field(default_factory=list)
    """Choices that change the score, with their sources."""
    doubts: list[str] = Field(default_factory=list)
    """Signs that one of these choices is wrong."""
    engine: RecordedEngine
    converted: RecordedConversion | None = None
    """None if the engine read the model's own file."""
    shapes: list[list[int]] | None = None
    """[batch, length] of each shape."""
    streams: RecordedStreams | None = None
    """The engine's streams, if they were chosen for a latency bound."""
    limits: RecordedLimits | None = None
    """The batch limits, if they were chosen by measurement."""
    measured_seconds: list[list[int | float]] | None = None
    """[batch, length, median of the measured seconds] of each shape, in scenarios that measure them."""
    estimated_target_qps: float | None = None
    """The value for this key of user.conf that the harness estimated; None if the user had set one."""
    estimated_target_latency: float | None = None
    """The same for the scenarios with this key."""
    missed_target_qps: float | None = None
    """The rate, chosen by the harness, at which a first test missed the latency bound."""
    missed_target_latency: float | None = None
    """Always None: these scenarios have no bound."""
    result: RecordedResult
    loadgen: dict[str, JsonValue]
    machine: RecordedMachine
    """The machine that LoadGen ran on."""
    nodes: list[RecordedNode] = Field(default_factory=list)
    """The nodes that computed; empty if that machine did."""
    machines: int | None = None
    """The number of machines, including the one that LoadGen ran on; None for one machine."""
    cluster_samples: str | None = None
    """The payload sent to the nodes: data, or indices (to be agreed with the working group before a submission)."""
    valid: bool
    reasons: list[str] | None = None
    """Why it is not valid."""
    agreement: RecordedAgreement | None = None
    reference: dict[str, str] | None = None
    """For a compliance test: sha256 of the logs it was compared with."""
    digests: dict[str, str] | None = None
    """sha256 of the test's files when it was recorded, by name; None in records of older versions."""

    @property
    def test(self) -> str:
        """performance, accuracy, TEST01 or TEST04."""
        return self.audit or self.mode

    @property
    def estimated(self) -> float | None:
        """The value for the scenario's key of user.conf that the harness estimated; None if the user had set one."""
        return self.estimated_target_qps if self.estimated_target_qps is not None else self.estimated_target_latency

    @property
    def performance(self) -> bool:
        """Whether it measured speed rather than accuracy."""
        return self.mode == "performance"

    @property
    def disturbed(self) -> str:
        """The processes that took cores from a performance run, as the start of a sentence; "" if none disturbed it."""
        cores = self.result.cores
        return f"{cores.use.words} during the test" if self.performance and cores and cores.disturbed else ""


def first_difference(one: Record, other: Record) -> str | None:
    """The name of the first fact outside `Identity` in which two runs of one result must not differ but do, or None."""
    facts: dict[str, Callable[[Record], object]] = {
        "data set": lambda r: r.dataset.content,
        "processor": lambda r: (r.machine.cpu, r.machine.cores),
        "version of the engine": lambda r: r.engine.version,
        "version of a package": lambda r: r.machine.packages,
        "code of the harness": lambda r: r.code,
        "number of nodes": lambda r: (len(r.nodes), r.machines),
        "node": lambda r: sorted(map(repr, (node.alike for node in r.nodes))),
        "kind of data sent to the nodes": lambda r: r.cluster_samples,
    }
    return next((words for words, of in facts.items() if of(one) != of(other)), None)


def reference(results: Path, test: str) -> dict[str, str]:
    """sha256 of the logs in a scenario's results that a compliance test is compared with; missing logs are omitted."""
    files = {"performance": results / RUN_1 / DETAIL, "accuracy": results / "accuracy" / ACCURACY}
    return {run: sha256_of(files[run]) for run in AUDITS[test].references if files[run].is_file()}


def read_record(folder: Path) -> Record | None:
    """The record in a folder of logs; None if there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / RUN
    try:
        content = path.read_bytes() if path.exists() else None
        if content is not None:
            json.loads(content)  # unlike pydantic's errors, its errors say where the file is damaged
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): move the result elsewhere and repeat the run.") from error
    if content is None:
        return None
    try:
        return Record.model_validate_json(content)
    except ValidationError as error:
        where = first_error(error).where or "the whole file"
        raise ConfigError(
            f"{path} is not a record of this harness, or one of an older version ({where}): move the result "
            "elsewhere and repeat the run."
        ) from None
