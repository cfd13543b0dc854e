"""Trained models for the recovery table: a recipe, optionally with another pruning method, trained once and kept."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError, RunFailed
from harness.terminal import console
from harness.training.recipe import Recipe, read_recipe

_METHODS = ("magnitude", "second-order", "layer-wise")


@dataclass(frozen=True)
class RecipeVariant:
    """A recipe, as changed by the command line."""

    given: str
    """The recipe's name or path."""
    recipe: Recipe
    method: str | None = None
    steps: int | None = None

    @classmethod
    def parse(cls, text: str, steps: int | None) -> RecipeVariant:
        """``RECIPE``, or ``RECIPE:METHOD`` with another pruning method.

        Raises:
            ConfigError: there is no such recipe or method, or it cannot be trained in so many steps.
        """
        given, separator, method = text.rpartition(":")
        if not separator or method not in _METHODS:
            given, method = text, ""
        recipe = read_recipe(given)
        recipe = recipe.with_method(method) if method else recipe
        return cls(given, recipe.with_steps(steps) if steps else recipe, method or None, steps)

    @property
    def precision(self) -> str:
        """The precision of the trained file."""
        return "int8" if self.recipe.quantisation else "fp32"

    def __str__(self) -> str:
        """The training's name in the table."""
        pruning = self.recipe.pruning
        if pruning is None:
            return f"{self.recipe.name}, trained"
        blocks = f", blocks of {pruning.block}" if pruning.block > 1 else ""
        return f"{self.recipe.name}, trained: {pruning.sparsity:.0%} {pruning.method}{blocks}"

    def arguments(self, weights: Path, data: Path, output: Path) -> list[str]:
        """The arguments of `harness` for this training."""
        words = ["models", "train", self.given, "--weights", str(weights), "--data", str(data), "--output", str(output)]
        words += ["--method", self.method] if self.method else []
        return words + (["--steps", str(self.steps)] if self.steps else [])

    def file(self, weights: Path, data: Path, folder: Path) -> Path:
        """The trained model below ``folder``; if it is missing, it is trained first, or its training is continued.

        Its name contains those of the dense model, the recipe and the data, so that an interrupted training is found.

        Raises:
            RunFailed: the training failed; its own output says why.
        """
        steps = str(self.steps) if self.steps else None
        words = weights.stem, data.stem, self.recipe.name, self.method, steps
        name = "-".join(filter(None, words))
        path = folder / f"{name}-{self.recipe.digest[:8]}.onnx"
        if not path.is_file():
            console.note(f"training {self} on {data} ...")
            command = [sys.executable, "-m", "harness.cli", *self.arguments(weights, data, path)]
            if subprocess.run(command, check=False).returncode:
                raise RunFailed(f"harness {' '.join(command[3:])} failed.")
        return path


def duration(path: Path) -> str:
    """How long a model was trained, from the report beside it: ``2 h 31 min, 1,200 steps``.

    Raises:
        ConfigError: the report is missing, or is not a training's report.
    """
    report = path.with_suffix(".training.json")
    try:
        facts = json.loads(report.read_text("utf-8"))
        return f"{console.duration(facts['seconds'] + facts['preparing'])}, {facts['step']:,} steps"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{report} is not the report of a training: remove {path} to train again.") from error
