"""Checkpoints of a training: replaced atomically, and only continued by the same training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from harness.errors import ConfigError, os_words
from harness.files.disk import locked, remove_left_over, staging, sync_entry

SUFFIX = ".training"
"""Suffix of the folder of checkpoints, in place of the model's ".onnx"."""
DENSE = "dense.onnx"
"""File in that folder: the dense model, if it was built from a framework's checkpoint."""
_FILE = "checkpoint.pt"
_LOCK = "lock"
_IN_RECIPE = {"number of steps", "seed"}
"""Parts of the identity that also change the recipe's digest: messages name them instead of the recipe."""


class CheckpointFolder:
    """The folder beside a model that holds the newest checkpoint of its training."""

    def __init__(self, output: Path) -> None:
        self.folder = output.with_suffix(SUFFIX)
        self.path = self.folder / _FILE
        """The newest checkpoint, if there is one."""

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Lock the folder, creating it if missing; removes it at the end if it holds no checkpoint.

        Raises:
            Busy: another process trains there.
            ConfigError: the folder holds other files, or it cannot be written.
        """
        self._check_own()
        what = f"another process is training {self.folder.with_suffix('.onnx')}"
        try:
            with locked(self.folder / _LOCK, what):
                try:
                    yield
                finally:
                    if not self.path.exists():
                        self._remove()
        finally:
            with suppress(OSError):  # only an empty folder can be removed: no other training has begun in it
                self.folder.rmdir()

    def _check_own(self) -> None:
        """Reject a folder that no training made."""
        if self.path.exists() or not self.folder.is_dir():
            return
        names = sorted(entry.name for entry in self.folder.iterdir())
        other = [name for name in names if name not in (DENSE, _LOCK) and not name.endswith(".partial")]
        if other:
            raise ConfigError(
                f"{self.folder} holds {other[0]} but no checkpoint, so no training made it: choose another "
                "--output, or move the folder."
            )

    def _remove(self) -> None:
        """Remove the files of a training."""
        remove_left_over(self.folder)
        with suppress(OSError):
            (self.folder / DENSE).unlink(missing_ok=True)


class Checkpoints(CheckpointFolder):
    """The checkpoints of one training, in their folder.

    A checkpoint is a dictionary of tensors, numbers, texts and containers of these. Its ``identity``
    holds whatever determines the training's result, such as the recipe's digest and the seed.
    """

    def __init__(self, output: Path, identity: Mapping[str, str]) -> None:
        super().__init__(output)
        self._identity = dict(identity)
        self.took = 0.0
        """Seconds that the last write took."""

    def load(self) -> dict[str, Any] | None:
        """The newest checkpoint; None if there is none.

        Raises:
            ConfigError: it belongs to another training, or is damaged.
        """
        if not self.path.exists():
            return None
        try:
            # Tensors and plain values only: a file of unknown origin must not run code.
            state: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            found = state.pop("identity")
        except (OSError, RuntimeError, LookupError, EOFError, UnpicklingError) as error:
            raise ConfigError(
                f"{self.path} cannot be read as a checkpoint: remove {self.folder} to start again."
            ) from error
        other = [name for name, value in self._identity.items() if found.get(name) != value]
        if _IN_RECIPE.intersection(other):
            other = [name for name in other if name != "recipe"]
        if other:
            raise ConfigError(
                f"{self.folder} holds a training with another {', '.join(other)}: repeat the command that began it, "
                "remove the folder, or choose another --output."
            )
        return state

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the checkpoint; the old one stays until the new one is on the disk.

        Raises:
            ConfigError: it cannot be written.
        """
        began = time.monotonic()
        try:
            with staging(self.path) as room:
                new = room / _FILE
                torch.save({"identity": self._identity, **state}, new)
                sync_entry(new)
                new.replace(self.path)
            sync_entry(self.folder)
        except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
            why = os_words(error) if isinstance(error, OSError) else f"{error}."
            raise ConfigError(f"the checkpoint {self.path} cannot be written: {why}") from error
        self.took = time.monotonic() - began
