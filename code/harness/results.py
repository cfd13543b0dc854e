"""Where a run's files go. Everything is built in a hidden folder first and moved when it is complete."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.config import RunSettings
from harness.errors import ConfigError, RunFailed
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY
from harness.machine import default_system_name

NOTICE = "Development run: not for submission."


@dataclass(frozen=True)
class Places:
    """The folders of one run."""

    staging: Path
    """Hidden, while the run goes on; it exists only until then."""
    run: Path
    """The run's record: build/runs/<time>-…; for a development run with LoadGen's logs."""
    official: Path | None
    """results/<system>/<benchmark>/<Scenario>/{performance/run_1,accuracy} of an official run."""

    @classmethod
    def choose(cls, settings: RunSettings) -> Places:
        """Decide on the folders; none is made yet.

        Raises:
            ConfigError: an official result is there already and --force is not given.
        """
        kind = "official" if settings.official else "development"
        words = (
            kind,
            settings.model.name,
            settings.engine.rpartition(":")[2],
            settings.scenario,
            settings.mode,
        )
        name = time.strftime("%Y%m%dT%H%M%S-") + re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(words))
        staging = settings.runs_dir / f".{name}.{os.getpid()}.partial"
        return cls(staging, settings.runs_dir / name, _official_folder(settings))

    def create(self) -> None:
        """Make the hidden folder.

        Raises:
            ConfigError: the place cannot be written.
        """
        try:
            self.staging.mkdir(parents=True)
        except OSError as error:
            raise ConfigError(f"{self.staging.parent} cannot be written: {error.strerror}.") from error

    def discard(self) -> None:
        """Remove what an unfinished run left."""
        shutil.rmtree(self.staging, ignore_errors=True)

    def publish(self, valid: bool) -> Path:
        """Move the finished run to its place; of an official run that is valid, the logs to results/.

        Returns:
            The folder that holds the logs.
        """
        run, number = self.run, 1
        while run.exists():
            number += 1
            run = self.run.with_name(f"{self.run.name}-{number}")
        logs = run
        if self.official and valid:
            logs = self.official
            result = self.staging / "result"
            result.mkdir()
            for file in (SUMMARY, DETAIL, ACCURACY, "accuracy.txt"):
                if (self.staging / file).exists() and not (file == ACCURACY and "performance" in logs.parts):
                    (self.staging / file).rename(result / file)
            _replace(result, logs)
        self.staging.rename(run)
        return logs


def write_json(path: Path, value: Any) -> None:
    """Write a record that is read by people, too."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n", encoding="utf-8")


def check_space(folder: Path, needed: int) -> None:
    """Make sure that a run's logs will fit.

    Raises:
        RunFailed: fewer than ``needed`` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunFailed(
            f"{free / 2**20:.0f} MiB are free at {folder}, and the logs may take {needed / 2**20:.0f} MiB: free some, "
            "or give another folder with --runs-dir."
        )


def _official_folder(settings: RunSettings) -> Path | None:
    if not settings.official:
        return None
    part = Path("performance/run_1") if settings.mode == "performance" else Path("accuracy")
    system = settings.system or default_system_name()
    folder = settings.results_dir / system / settings.model.official_name / settings.scenario / part
    if folder.exists() and not settings.force:
        raise ConfigError(f"there is a result in {folder} already: keep it, or give --force to replace it.")
    return folder


def _replace(source: Path, target: Path) -> None:
    """Put ``source`` where ``target`` is in one step; what was there goes only once the new is in place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not _same_filesystem(source, target.parent):
        near = target.with_name(f".{target.name}.partial")
        shutil.rmtree(near, ignore_errors=True)
        shutil.copytree(source, near)
        shutil.rmtree(source)
        source = near
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    try:
        source.rename(target)
    except OSError as error:
        if old.exists():
            old.rename(target)
        raise RunFailed(
            f"the result could not be moved to {target}: {os.strerror(error.errno or errno.EIO)}."
        ) from error
    shutil.rmtree(old, ignore_errors=True)


def _same_filesystem(a: Path, b: Path) -> bool:
    return a.stat().st_dev == b.stat().st_dev
