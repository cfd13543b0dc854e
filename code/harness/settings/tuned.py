"""Settings found by tuning: measurements/<system>/<benchmark>/<Scenario>/{tuned.json,user.conf}.

`harness tune` writes them, and a run of the same model in the same scenario uses them automatically, on the machine
that they were tuned on.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError

from harness.errors import ConfigError
from harness.files.digest import sha256_of
from harness.files.disk import write_text
from harness.host import machine
from harness.registry import ENGINES, LIBRARIES, SCENARIOS, choose, installed
from harness.terminal import console
from harness.validation import first_error

FILE, CONF = "tuned.json", "user.conf"
_CURE = "tune again, or delete it."
_TUNED_TOGETHER = {"streams", "threads", "instances", "scheduler", "pin"}
"""Options that were tuned for each other: if the user sets one of them, none of the tuned ones is used."""


def _known(kind: str, names: Iterable[str], name: str) -> str:
    try:
        return choose(kind, names, name)
    except ConfigError as error:
        raise ValueError(str(error).removesuffix(".")) from None


class Machine(BaseModel):
    """The facts that must be equal on two machines for settings tuned on one to be used on the other."""

    model_config = ConfigDict(frozen=True)

    cpu: str
    cores: int
    numa_nodes: int

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        here = machine.describe()
        return cls(cpu=here.cpu, cores=here.cores, numa_nodes=here.numa_nodes)

    def __str__(self) -> str:
        """CPU, cores and NUMA nodes as text."""
        nodes = f" in {self.numa_nodes} NUMA nodes" if self.numa_nodes > 1 else ""
        return f"{self.cpu}, {self.cores} cores{nodes}"


class Rate(BaseModel):
    """A test of Server at one rate."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    rate: Annotated[float, Field(gt=0)]
    seconds: Annotated[float, Field(ge=0)]
    held: bool
    """Whether the 99th percentile was within the bound."""
    valid: bool
    """LoadGen's verdict, which also requires enough queries."""
    p99_ms: Annotated[float, Field(ge=0)]
    """99th percentile latency in milliseconds; for a test that was cut short, only known to be over the bound."""
    samples_per_second: Annotated[float, Field(ge=0)] | None
    queries: int | None


class Tuned(BaseModel):
    """The result of a tuning, and how it was found."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    model: str
    model_sha256: str | None
    dataset: str
    dataset_sha256: str | None = None
    samples: int | None = None
    base_conf: str | None = None
    """`digest` of the project's user.conf at the time of tuning."""
    engine: Annotated[str, AfterValidator(lambda name: _known("engine", ENGINES, name))]
    scenario: Annotated[str, AfterValidator(lambda name: _known("scenario", SCENARIOS, name))]
    options: dict[str, str]
    """Options of the engine and the benchmark, as for `--set`."""
    key: str
    value: float
    """The value of ``key`` in user.conf."""
    score: float
    unit: str
    default_score: float
    """The score without any options."""
    engines: dict[str, float] = {}
    """The score of each engine that was tried; empty if the user named one."""
    confirmed: dict[str, JsonValue] | None = None
    """The test that confirmed the value, if there was one."""
    trials: list[dict[str, JsonValue]] = []
    rates: list[Rate] = []
    """The tests of the search for Server's rate, with ``options``; empty in files of older versions."""
    machine: Machine
    cluster: str | None = None
    """The nodes that they were tuned for, as `RunSettings.cluster`; None for one machine."""
    harness: str
    time: str

    def mismatch(
        self, sha256: str | None, engine: str | None, cluster: str | None = None, *, anywhere: bool = False
    ) -> str | None:
        """Why these settings do not apply to a run of that model on that engine (None: any) here; None if they do.

        ``cluster`` names the run's nodes. ``anywhere`` ignores the machine.
        """
        if sha256 != self.model_sha256:
            return f"were tuned for another model, {self.model}"
        if engine not in (None, self.engine):
            return f"were tuned for {self.engine}"
        if cluster != self.cluster:
            return f"were tuned for {self.cluster or 'one machine'}, and this run has {cluster or 'one machine'}"
        if self.engine in LIBRARIES and self.engine not in installed():
            return f"were tuned for {self.engine}, which is not installed"
        if not anywhere and self.machine != Machine.here():
            return f"were tuned on another machine ({self.machine}), so tune here or pass --tuned"
        return None

    def words(self) -> str:
        """The options as a user would type them."""
        return words(self.options)


def words(options: Mapping[str, str]) -> str:
    """Options as a user would type them."""
    return " ".join(shlex.quote(f"{name}={value}") for name, value in options.items()) or "the defaults"


def folder(measurements: Path, system: str | None, benchmark: str, scenario: str) -> Path:
    """The folder of a scenario's settings; ``benchmark`` is the official name."""
    return measurements / (system or machine.default_system_name()) / benchmark / scenario


def read(place: Path) -> Tuned | None:
    """The settings in a folder; None if there are none.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = place / FILE
    try:
        if not path.exists():
            return None
        return Tuned.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = first_error(error)
        where = first.where or "the whole file"
        raise ConfigError(
            f"{path} is not a settings file of this harness ({where}: {first.message}): {_CURE}"
        ) from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): {_CURE}") from error


def check_replaceable(place: Path, sha256: str | None, engine: str | None, cluster: str | None = None) -> None:
    """Check that no settings of another model or cluster, or of another ``engine`` if one is given, would be lost.

    Raises:
        ConfigError: the folder holds such settings.
    """
    try:
        existing = read(place)
    except ConfigError as error:
        console.warn(f"{error} It will be replaced.")
        return
    if not existing:
        return
    if (existing.model_sha256, existing.cluster) != (sha256, cluster) or engine not in (None, existing.engine):
        on = f" of {existing.cluster}" if existing.cluster else ""
        raise ConfigError(
            f"{place} holds the settings of {existing.model} on {existing.engine}{on}: pass another --system, or "
            "--force to replace them."
        )


def write(place: Path, tuned: Tuned, conf: str) -> None:
    """Write the settings, user.conf first, since readers look for tuned.json.

    Raises:
        ConfigError: the folder cannot be written.
    """
    write_text(place / CONF, conf)
    write_text(place / FILE, json.dumps(tuned.model_dump(), indent=2, ensure_ascii=False) + "\n")


def merged(options: Mapping[str, str], tuned: Tuned) -> dict[str, str]:
    """The tuned options, replaced by the user's; if one of `_TUNED_TOGETHER` is the user's, all of them are."""
    alone = _TUNED_TOGETHER if _TUNED_TOGETHER & options.keys() else set()
    return {**{name: value for name, value in tuned.options.items() if name not in alone}, **options}


def digest(path: Path | None) -> str | None:
    """sha256 of a file; None if there is none."""
    return sha256_of(path) if path else None
