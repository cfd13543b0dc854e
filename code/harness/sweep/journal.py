"""Records on disk which tests of a sweep have ended, so that an interrupted sweep can continue."""

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.catalog.datasets import find_dataset
from harness.errors import ConfigError
from harness.files.digest import sha256_of
from harness.files.disk import write_text
from harness.host import machine
from harness.settings.identity import identity
from harness.settings.run import RunSettings
from harness.terminal import console


class EndedTest(BaseModel):
    """A test that ended."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    run: str | None
    """The name of its folder in the folder of runs; None if it failed."""
    code: Annotated[int, Field(ge=0)]
    """Its exit code."""


class _SavedSweep(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    file: str | None = None
    """The absolute path of the run file; None until a test has ended."""
    tests: dict[str, EndedTest] = {}


class SweepJournal:
    """The tests that ended, by `key`, each with its last outcome."""

    def __init__(self, path: Path, file: Path) -> None:
        self.path = path
        self._owner = file.resolve()
        self._file = _SavedSweep()
        try:
            if path.exists():
                self._file = _SavedSweep.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            console.warn(f"{path} is damaged, so the tests of this sweep are repeated.")

    @property
    def of_another_file(self) -> bool:
        """Whether the journal belongs to another run file that still exists; a moved file keeps its journal."""
        file = self._file.file
        return file is not None and Path(file) != self._owner and Path(file).is_file()

    def find(self, key: str) -> EndedTest | None:
        """The outcome of a test; None if it has not ended."""
        return self._file.tests.get(key)

    def add(self, key: str, entry: EndedTest) -> None:
        """Write the outcome of a test to the disk.

        Raises:
            ConfigError: the file cannot be written.
        """
        self._file.file = str(self._owner)
        self._file.tests[key] = entry
        write_text(self.path, self._file.model_dump_json(indent=1) + "\n")


def key(settings: RunSettings, repeat: object) -> str:
    """A hash of what a test's result depends on: model, data, engine and settings by content, and this machine.

    The code of the harness is not included: an update must not discard hours of measurements, and reports show its
    version.
    """
    dataset = None
    with suppress(ConfigError):  # a rehearsal makes its own
        dataset = find_dataset(settings.model.benchmark, settings.dataset)
    conf = settings.user_conf
    facts = {
        "identity": identity(settings).model_dump(),
        "scenario": settings.scenario,
        "test": settings.test,
        "kind": (settings.official, settings.rehearsal, settings.system),
        "dataset": (str(dataset.path), dataset.sha256) if dataset else settings.dataset,
        "samples": settings.samples,
        "conf": sha256_of(conf) if conf and conf.is_file() else None,
        "timeline": settings.timeline,
        # Only if there is one: the keys of journals from before profiles remain valid.
        **({"profile": True} if settings.profile else {}),
        "cluster": (settings.cluster, settings.cluster_samples),
        "machine": (machine.cpu_model(), machine.core_count()),
        "repeat": repeat,
    }
    return sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
