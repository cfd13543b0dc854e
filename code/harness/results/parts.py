"""Parts of a run's record: their base class; cores and energy; engine, machine, and the nodes of a cluster."""

from __future__ import annotations

import json
import re
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from harness.host.usage import CoreUse

_SURROGATE = re.compile("[\ud800-\udfff]")


def record_text(values: object) -> str:
    """Values as JSON that every reader accepts: bytes of a path that are not UTF-8 are written like ``\\xfc``.

    Raises:
        TypeError, ValueError, RecursionError: they cannot be written as JSON.
    """
    text = json.dumps(values, ensure_ascii=False, default=str)
    return _SURROGATE.sub(lambda found: f"\\\\x{ord(found[0]) & 0xFF:02x}", text)


class Part(BaseModel):
    """A part of a record. Unknown keys are kept, since a record may come from a newer version."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

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

    @property
    def watts(self) -> float:
        """The mean power."""
        return self.joules / self.seconds

    def words(self, samples: int) -> str:
        """Power and samples per joule."""
        return f"{self.watts:,.1f} W, {samples / self.joules:,.4g} samples/J ({', '.join(self.zones)})"


class RecordedEngine(Part):
    """The engine; the settings in effect are further keys."""

    name: str
    version: str | None = None
    precision: str | None = None
    """The type that it uses for FP32 layers, if there is a choice: f32, bf16."""

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


class RecordedLimits(Part):
    """The batch limits, chosen by measurement."""

    max_batch: Annotated[int, Field(ge=1)]
    max_tokens: Annotated[int, Field(ge=1)]
    measured: list[Annotated[list[int | float], Field(min_length=3, max_length=3)]] = Field(default_factory=list)
    """[max_batch, max_tokens, cost units per second] of each measured pair."""
    why: str = ""


class RecordedStreams(Part):
    """The number of streams, chosen for a latency bound."""

    streams: Annotated[int, Field(ge=1)]
    why: str = ""


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
