"""The measurements of a tuning on disk, so that an interrupted tuning can continue."""

import json
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness import __version__
from harness.catalog.datasets import find_dataset
from harness.files.disk import locked, shown, write_text
from harness.host import machine
from harness.host.usage import NOTABLE_SHARE
from harness.settings.run import RunSettings
from harness.settings.tuned import Rate
from harness.terminal import console
from harness.tuning.search import Options

_Size: TypeAlias = Annotated[float, Field(ge=0)]


class _Saved(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SavedTrial(_Saved):
    """The measurement of a trial, as stored in the journal."""

    score: _Size
    """Higher is better; 0 means unusable."""
    value: _Size
    """The value of the scenario's key in user.conf."""
    failed: bool = False
    lost: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The share of the cores that other processes took meanwhile, 0 to 1."""

    @property
    def disturbed(self) -> bool:
        """Whether other processes took so much of the cores that the score is unreliable."""
        return self.lost > NOTABLE_SHARE


class _SavedTuning(_Saved):
    circumstances: dict[str, Any]
    trials: dict[str, SavedTrial]
    rates: dict[str, Rate]


class TuningJournal:
    """Measurements by name, saved as they are made; those made under other conditions are ignored."""

    def __init__(self, path: Path, circumstances: Mapping[str, Any], fresh: bool) -> None:
        """``circumstances`` are what the measurements depend on; ``fresh`` ignores saved measurements."""
        self.path = path
        self._circumstances = json.loads(json.dumps(circumstances, default=str))
        self.trials: dict[str, SavedTrial] = {}
        self.rates: dict[str, Rate] = {}
        self.unused: str | None = None
        """Why saved measurements are not used, as the end of a sentence; None if they are used or there are none."""
        try:
            saved = _SavedTuning.model_validate_json(path.read_bytes()) if path.exists() and not fresh else None
        except (OSError, ValidationError):
            self.unused = "is damaged"
            return
        if saved and saved.circumstances != self._circumstances:
            self.unused = "was measured under other conditions"
        elif saved:
            self.trials, self.rates = saved.trials, saved.rates

    def __len__(self) -> int:
        return len(self.trials) + len(self.rates)

    def save(self) -> None:
        """Write the file.

        Raises:
            ConfigError: it cannot be written.
        """
        saved = _SavedTuning(circumstances=self._circumstances, trials=self.trials, rates=self.rates)
        write_text(self.path, saved.model_dump_json(indent=1) + "\n")

    def saved_rates(self) -> list[Rate]:
        """The rates in the file, which a child process may have added; empty if it cannot be read."""
        try:
            return list(_SavedTuning.model_validate_json(self.path.read_bytes()).rates.values())
        except (OSError, ValidationError):
            return []

    def discard(self) -> None:
        """Remove the file: the tuning is complete."""
        self.path.unlink(missing_ok=True)


def tuning_alone(folder: Path, settings: RunSettings) -> AbstractContextManager[None]:
    """Lock the journals of a model and a scenario, those of all engines: a tuning of several engines uses them all.

    Raises:
        Busy: another process tunes them.
        ConfigError: the folder cannot be written.
    """
    what = f"another process is tuning {settings.model.name} for {settings.scenario}"
    return locked(folder / f".{_name(settings.model.name, settings.scenario)}.lock", what)


def opened(folder: Path, settings: RunSettings, fixed: Options, seconds: float, fresh: bool) -> TuningJournal:
    """The journal of an engine, with a note on what it holds; ``fixed`` are the user's own options.

    Raises:
        ConfigError: the data set cannot be read.
    """
    dataset = find_dataset(settings.model.benchmark, settings.dataset)
    engine = settings.engine.rpartition(":")[2]
    path = folder / f"{_name(settings.model.name, engine, settings.scenario)}.json"
    circumstances = {
        "harness": __version__,
        "machine": asdict(machine.describe()),
        "model": settings.model.sha256,
        "engine": settings.engine,
        "dataset": [str(dataset.path), dataset.sha256, settings.samples],
        "fixed": dict(fixed),
        **({"cluster": [settings.cluster, settings.cluster_samples]} if settings.cluster else {}),
        "seconds": seconds,
    }
    journal = TuningJournal(path, circumstances, fresh)
    if journal.unused:
        console.note(f"{shown(path)} {journal.unused}, so the tuning starts over.")
    elif len(journal):
        console.note(f"continuing with {len(journal)} measurements of {shown(path)} (--fresh starts over)")
    return journal


def _name(*words: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(words))
