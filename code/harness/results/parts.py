"""Parts of a run's record: their base class; cores and energy; engine, machine, and the nodes of a cluster."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Annotated, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationInfo, model_validator

from harness.host import machine
from harness.host.energy import Energy
from harness.host.usage import CoreUse
from harness.scenarios.base import StreamChoice
from harness.scheduling.limits import LimitChoice
from harness.task.shape import Shape

_SURROGATE = re.compile("[\ud800-\udfff]")


def record_text(values: object) -> str:
    """Values as JSON that every reader accepts: bytes of a path that are not UTF-8 are written like ``\\xfc``.

    Raises:
        TypeError, ValueError, RecursionError: they cannot be written as JSON.
    """
    text = json.dumps(values, ensure_ascii=False, default=str)
    return _SURROGATE.sub(lambda found: f"\\\\x{ord(found[0]) & 0xFF:02x}", text)


class Part(BaseModel):
    """A part of a record. Unknown keys are kept when it is read, since a record may come from another version."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    extensible: ClassVar[bool] = False
    """Whether it may be made with keys that are not fields."""

    @model_validator(mode="after")
    def _made_of_fields(self, info: ValidationInfo) -> Self:
        """Only JSON comes from another version: in what this one makes, an unknown key is a mistake."""
        if info.mode != "json" and self.model_extra and not self.extensible:
            raise ValueError(f"{type(self).__name__} has no {', '.join(self.model_extra)}")
        return self

    def values(self) -> dict[str, JsonValue]:
        """The content of run.json."""
        return self.model_dump(mode="json", exclude_unset=True, by_alias=True)


class RecordedCores(Part):
    """The mean number of cores in use during the test."""

    own: float
    """Cores used by the test."""
    others: float
    """Cores that other processes took from those that the test may use."""
    stolen: float
    """Cores taken by the host of a virtual machine."""
    of: float
    """The number of cores that the test may use."""
    disturbed: bool
    """Whether others took so many that the result is worse than this machine could reach."""

    @classmethod
    def measured(cls, use: CoreUse) -> Self:
        """A measurement, to be recorded."""
        own, others, stolen, cores = (round(cores, 3) for cores in (use.own, use.others, use.stolen, use.cores))
        return cls(own=own, others=others, stolen=stolen, of=cores, disturbed=use.disturbed)

    @property
    def use(self) -> CoreUse:
        """The recorded measurement."""
        return CoreUse(self.own, self.others, self.stolen, self.of)


class RecordedEnergy(Part):
    """The energy that the machine used during the test, other processes included."""

    joules: float
    seconds: float
    zones: list[str]
    """The kernel's names of the measured power zones, such as package-0."""

    @classmethod
    def measured(cls, energy: Energy) -> Self:
        """A measurement, to be recorded."""
        return cls(joules=energy.joules, seconds=energy.seconds, zones=list(energy.zones))

    @property
    def watts(self) -> float:
        """The mean power."""
        return self.joules / self.seconds

    def words(self, samples: int) -> str:
        """Power and samples per joule."""
        return f"{self.watts:,.1f} W, {samples / self.joules:,.4g} samples/J ({', '.join(self.zones)})"


class RecordedEngine(Part):
    """The engine; the settings in effect are further keys."""

    extensible: ClassVar[bool] = True

    name: str
    version: str | None = None
    precision: str | None = None
    """The type that it uses for FP32 layers, if there is a choice: f32, bf16."""

    @classmethod
    def of(cls, described: Mapping[str, object]) -> Self:
        """From what `Engine.describe` returns.

        Raises:
            ValidationError: a field has another type.
            TypeError, ValueError, RecursionError: JSON cannot hold it.
        """
        return cls.model_validate_json(record_text(described))

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version or ''}".rstrip()


class RecordedConversion(Part):
    """The file that the engine read in place of the model's, made from it before the run."""

    form: str
    """The form of its 8-bit layers: integer."""
    layers: str = ""
    """The number of products and convolutions that were converted to that form: "36 of 38"."""
    sha256: str


class RecordedMachine(Part):
    """The machine and the software versions that a result depends on."""

    cpu: str
    cores: int
    numa_nodes: int | None = None
    memory_bytes: int | None = None
    os: str
    python: str
    packages: dict[str, str]

    @classmethod
    def here(cls) -> Self:
        """This machine."""
        facts = machine.describe()
        return cls(
            cpu=facts.cpu,
            cores=facts.cores,
            numa_nodes=facts.numa_nodes,
            memory_bytes=facts.memory_bytes,
            os=facts.os,
            python=facts.python,
            packages=facts.packages,
        )


class RecordedLimits(Part):
    """The batch limits, chosen by measurement."""

    max_batch: Annotated[int, Field(ge=1)]
    max_tokens: Annotated[int, Field(ge=1)]
    measured: list[Annotated[list[int | float], Field(min_length=3, max_length=3)]] = Field(default_factory=list)
    """[max_batch, max_tokens, cost units per second] of each measured pair."""
    why: str = ""

    @classmethod
    def of(cls, choice: LimitChoice) -> Self:
        """A choice, to be recorded."""
        measured: list[list[int | float]] = [[*limits, 1 / seconds] for limits, seconds in choice.seconds.items()]
        chosen = choice.limits
        return cls(max_batch=chosen.max_batch, max_tokens=chosen.max_tokens, measured=measured, why=choice.why)


class RecordedStreams(Part):
    """The number of streams, chosen for a latency bound."""

    streams: Annotated[int, Field(ge=1)]
    why: str = ""

    @classmethod
    def of(cls, choice: StreamChoice) -> Self:
        """A choice, to be recorded."""
        return cls(streams=choice.streams, why=choice.why)


def recorded_shapes(shapes: Iterable[Shape]) -> list[list[int]]:
    """[batch, length] of each shape."""
    return [list(shape) for shape in shapes]


def recorded_seconds(seconds: Mapping[Shape, float]) -> list[list[int | float]]:
    """[batch, length, seconds] of each shape."""
    return [[*shape, taken] for shape, taken in seconds.items()]


class RecordedNode(Part):
    """One of several nodes in a system, and its part of the test."""

    name: str
    host: str
    machine: RecordedMachine
    model_sha256: str
    code: str
    """sha256 over the project's code."""
    streams: int
    rate: float
    """The rate by which the work was divided; only its ratio to the other nodes' rates matters."""
    engine: RecordedEngine
    converted: RecordedConversion | None = None
    """None if its engine read the model's own file."""
    shapes: list[list[int]] | None = None
    """[batch, length] of each shape."""
    measured_seconds: list[list[int | float]] | None = None
    """[batch, length, median of the measured seconds] of each shape, in scenarios that measure them."""
    limits: RecordedLimits | None = None
    """The batch limits, if the node chose them by measurement."""
    chosen_streams: RecordedStreams | None = None
    """The streams, if the node chose them for a latency bound."""
    round_trip_ms: float | None = None
    """The round-trip time of a message without samples, measured before the test."""
    samples: int = 0
    batches: int = 0
    idle_s: float = 0.0
    """Seconds without a sample between the first query and the last answer."""
    ended_s: float = 0.0
    """When it answered its last sample, in seconds after the first query."""
    cores_busy: float | None = None
    """The mean number of cores that it used during the test."""

    @property
    def part(self) -> str:
        """Its part of the test in a few words."""
        busy = f", {self.cores_busy:.2f} of {self.machine.cores} cores busy" if self.cores_busy is not None else ""
        return (
            f"{self.samples:,} samples in {self.batches:,} batches, idle {self.idle_s:.2f} s, ended at "
            f"{self.ended_s:.2f} s{busy}"
        )

    @property
    def alike(self) -> tuple[object, ...]:
        """The facts that must be equal in two runs of one result."""
        return self.machine.cpu, self.machine.cores, self.streams, self.machine.packages
