"""Settings that a tuning found: measurements/<system>/<benchmark>/<Scenario>/{tuned.json,user.conf}.

`harness tune` writes them, and a run of the same model in the same scenario uses them by itself, on the machine that
they were found on.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from harness.errors import ConfigError
from harness.host import machine
from harness.host.download import sha256_of
from harness.host.files import write_text

FILE, CONF = "tuned.json", "user.conf"
_TOGETHER = {"streams", "threads", "instances", "scheduler", "pin"}


class Machine(BaseModel):
    """What a machine must have in common with the one that settings were tuned on."""

    model_config = ConfigDict(frozen=True)

    cpu: str
    cores: int
    numa_nodes: int

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        return cls.model_validate(machine.describe())

    def __str__(self) -> str:
        """In words."""
        nodes = f" in {self.numa_nodes} NUMA nodes" if self.numa_nodes > 1 else ""
        return f"{self.cpu}, {self.cores} cores{nodes}"


class Tuned(BaseModel):
    """What a tuning found, and how."""

    model_config = ConfigDict(frozen=True)

    model: str
    model_sha256: str | None
    dataset: str
    dataset_sha256: str | None = None
    samples: int | None = None
    base_conf: str | None = None
    """`digest` of the project's user.conf when the settings were tuned."""
    engine: str
    scenario: str
    options: dict[str, str]
    """Options of the engine and the benchmark, as `--set` takes them."""
    key: str
    value: float
    """What user.conf holds."""
    score: float
    unit: str
    default_score: float
    """The score without any options."""
    confirmed: dict[str, JsonValue] | None = None
    """The test that confirmed the value, if there was one."""
    trials: list[dict[str, JsonValue]] = []
    machine: Machine
    harness: str
    time: str

    def mismatch(self, sha256: str | None, engine: str | None, *, anywhere: bool = False) -> str | None:
        """Why these settings are not for a run of that model on that engine (None: any) here; None if they are.

        ``anywhere`` leaves the machine out.
        """
        if sha256 != self.model_sha256:
            return f"were tuned for another model, {self.model}"
        if engine not in (None, self.engine):
            return f"were tuned for {self.engine}"
        if not anywhere and self.machine != Machine.here():
            return f"were tuned on another machine ({self.machine}), so tune here or give --tuned"
        return None

    def words(self) -> str:
        """The options as they would be typed."""
        return words(self.options)


def words(options: Mapping[str, str]) -> str:
    """Options as they would be typed."""
    return " ".join(shlex.quote(f"{name}={value}") for name, value in options.items()) or "the defaults"


def folder(measurements: Path, system: str | None, benchmark: str, scenario: str) -> Path:
    """Where the settings of a scenario lie; ``benchmark`` is the official name."""
    return measurements / (system or machine.default_system_name()) / benchmark / scenario


def read(place: Path) -> Tuned | None:
    """The settings in a folder, None where there are none.

    Raises:
        ConfigError: the file cannot be read.
    """
    path = place / FILE
    try:
        if not path.exists():
            return None
        return Tuned.model_validate_json(path.read_text("utf-8"))
    except (OSError, ValueError, ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{path} is no settings file of this harness ({reason}): tune again, or delete it.") from None


def write(place: Path, tuned: Tuned, conf: str) -> None:
    """Write the settings, the user.conf first: what reads them looks for the other file.

    Raises:
        ConfigError: the folder cannot be written.
    """
    write_text(place / CONF, conf)
    write_text(place / FILE, json.dumps(tuned.model_dump(), indent=2, ensure_ascii=False) + "\n")


def merged(options: Mapping[str, str], tuned: Tuned) -> dict[str, str]:
    """What the user typed, over what was tuned; of the settings that belong together, only the user's."""
    alone = _TOGETHER if _TOGETHER & options.keys() else set()
    return {**{name: value for name, value in tuned.options.items() if name not in alone}, **options}


def digest(path: Path | None) -> str | None:
    """sha256 of a file, None where there is none."""
    return sha256_of(path) if path else None
