"""The folders of a run. Everything is built in a hidden folder first and moved when it is complete."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from pathlib import Path

from harness.errors import ConfigError, RunFailed
from harness.files.disk import (
    claim,
    locked,
    remove_left_over,
    replace_folder,
    restore,
    room_for,
    shown,
    staging,
    sync,
)
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY
from harness.results.layout import CONF, RUN, RUN_1, SCORES
from harness.settings.run import RunSettings
from harness.terminal import console

BeforeMove = Callable[[Path, Path], None]
"""Called with a finished folder and its new path, right before the folder is renamed."""


@dataclass(frozen=True)
class Places:
    """The folders of one run."""

    staging: Path
    """Hidden; exists only during the run, which builds its result there."""
    scratch: Path
    """Hidden; exists until the run's process ends: temporary files, which an engine may need until it is closed."""
    run: Path
    """The run's record: build/runs/<time>-…; in development runs also LoadGen's logs."""
    official: Path | None
    """The destination of an official run's logs: `RunSettings.target`."""
    force: bool = False
    """Whether an existing official result may be replaced."""

    @classmethod
    def choose(cls, settings: RunSettings) -> Places:
        """Choose the folders without creating them; the result of an official test is `reserved`.

        Raises:
            ConfigError: an official result already exists and --force is not given, or it cannot be written.
        """
        kind = "official" if settings.official else "development"
        words = (
            "rehearsal" if settings.rehearsal else kind,
            settings.model.name,
            settings.engine.rpartition(":")[2],
            settings.scenario,
            settings.test,
        )
        name = time.strftime("%Y%m%dT%H%M%S-") + re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(words))
        run = settings.runs_dir / name
        return cls(room_for(run), room_for(run), run, _official_folder(settings), settings.force)

    def create(self) -> None:
        """Create the hidden folders, which this process holds until it ends, and remove those of killed processes.

        Raises:
            ConfigError: the parent folder cannot be written.
        """
        remove_left_over(self.staging.parent)
        try:
            for room in (self.staging, self.scratch):
                claim(room)
        except OSError as error:
            raise ConfigError(
                f"{self.staging.parent} cannot be written ({error.strerror}): choose another folder with --runs-dir."
            ) from error

    def discard(self) -> None:
        """Remove the files of an unfinished run."""
        for room in (self.staging, self.scratch):
            shutil.rmtree(room, ignore_errors=True)

    def collect(self, audit: str | None) -> Path:
        """Put an official run's logs, record and user.conf into one folder, with the layout of `RunSettings.target`.

        Returns:
            That folder, inside the hidden one.
        """
        result = self.staging / "result"
        logs = result / RUN_1 if audit else result
        logs.mkdir(parents=True)
        for file in (SUMMARY, DETAIL, ACCURACY, SCORES):
            if (self.staging / file).exists():
                (self.staging / file).rename(logs / file)
        for file in (RUN, CONF):
            shutil.copyfile(self.staging / file, logs / file)
        return result

    def publish(self, result: Path | None, before: BeforeMove) -> tuple[Path, Path | None]:
        """Move the finished run to its place, and an official ``result`` to results/ or compliance/.

        Returns:
            The folder that holds the logs, and that of the record in the folder of runs: None if it cannot be written.

        Raises:
            RunFailed: the destination cannot be written; the message says where the logs are kept instead.
        """
        if self.official is None or result is None:
            run = self._move(before)
            return run, run
        try:
            _replace(result, self.official, self.force, before)
        except (OSError, RunFailed) as error:
            run, reason = self._move(before), str(error)
            if isinstance(error, OSError):
                reason = f"{self.official} cannot be written: {error.strerror}."
            raise RunFailed(f"{reason} The logs are kept in {run / result.name}.") from error
        shutil.rmtree(result, ignore_errors=True)
        try:
            return self.official, self._move(lambda folder, place: None)
        except OSError as error:
            console.warn(f"{self.run} cannot be written ({error.strerror}); the result is in {self.official}.")
        return self.official, None

    def _move(self, before: BeforeMove) -> Path:
        """Rename the hidden folder to the run's name, or with a number if another run took that name meanwhile."""
        for number in count(1):
            run = self.run if number == 1 else self.run.with_name(f"{self.run.name}-{number}")
            if run.exists():
                continue
            before(self.staging, run)
            try:
                self.staging.rename(run)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
            else:
                return run
        raise AssertionError


def write_json(path: Path, value: object) -> None:
    """Write a record as JSON that people can read."""
    text = json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n"
    # Python's surrogates, which stand for bytes that are not UTF-8, become JSON escapes.
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_space(folder: Path, needed: int) -> None:
    """Check that a run's logs will fit.

    Raises:
        RunFailed: fewer than ``needed`` bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise RunFailed(
            f"{free / 2**20:.0f} MiB are free at {folder}, but the logs may take {needed / 2**20:.0f} MiB: free some "
            "space, or choose another folder with --runs-dir."
        )


@contextlib.contextmanager
def reserved(target: Path | None, tree: Path) -> Iterator[None]:
    """Keep other processes from writing an official result (`RunSettings.target`, below ``tree``), or from moving it.

    Development runs have folders of their own: their target is None, and nothing is reserved.

    Raises:
        Busy: another test or campaign has reserved the result.
        ConfigError: the lock cannot be written.
    """
    if target is None:
        yield
        return
    # Not beside the result: the folders above it are made only for a valid one.
    name = sha256(os.fsencode(target.relative_to(tree))).hexdigest()[:16]
    lock = tree / "build" / "locks" / f"result-{name}.lock"
    with locked(lock, f"another test or campaign is writing {shown(target)}"):
        yield


def recover(target: Path) -> None:
    """Restore the old result if a replacement was killed; the result is `reserved`."""
    restore(target, _old(target))


def _official_folder(settings: RunSettings) -> Path | None:
    folder = settings.target
    if folder is None:
        return None
    recover(folder)
    if folder.exists() and not settings.force:
        raise ConfigError(f"{folder} already holds a result; pass --force to replace it.")
    above = next(parent for parent in folder.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise ConfigError(f"{folder} cannot be created because {above} is not a writable folder: fix its permissions.")
    return folder


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _replace(source: Path, target: Path, force: bool, before: BeforeMove) -> None:
    """Move the folder ``source``, which may be on another file system, to ``target`` in one step."""
    target.parent.mkdir(parents=True, exist_ok=True)
    recover(target)
    if target.exists() and not force:
        raise RunFailed(f"a result appeared in {target} while this test ran, and --force was not given.")
    with _on_file_system_of(source, target) as complete:
        sync(complete)
        before(complete, target)
        try:
            replace_folder(complete, target, _old(target), force=force)
        except OSError as error:
            raise RunFailed(
                f"the result could not be moved to {target}: {os.strerror(error.errno or errno.EIO)}."
            ) from error


@contextlib.contextmanager
def _on_file_system_of(source: Path, target: Path) -> Iterator[Path]:
    """A folder, or a copy of it on the file system of ``target``."""
    if _same_filesystem(source, target.parent):
        yield source
        return
    with staging(target) as room:
        try:
            copy = shutil.copytree(source, room / target.name)
        except OSError as error:
            cause = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
            raise RunFailed(f"the result could not be copied to {target.parent}: {cause}.") from error
        yield copy


def _same_filesystem(a: Path, b: Path) -> bool:
    return a.stat().st_dev == b.stat().st_dev
