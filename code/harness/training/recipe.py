"""Recipes: TOML files that say how a model is pruned, distilled and quantised while it is trained.

A recipe names the source of each of its figures. This module does not import PyTorch.
"""

import hashlib
import tomllib
from collections.abc import Collection
from fnmatch import fnmatchcase
from math import ceil
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import ConfigError, did_you_mean
from harness.files.disk import user_path
from harness.terminal import console
from harness.validation import first_error

FOLDER = Path(__file__).parent / "recipes"
"""The recipes that come with the harness."""


class _RecipeTable(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RatePhase(_RecipeTable):
    """A part of training in which the learning rate falls, once or repeatedly."""

    until: int = Field(gt=0)
    """The step at which the phase ends; it begins where the previous one ends."""
    start: float = Field(gt=0)
    final: float = Field(0.0, ge=0)
    cycle: int = Field(0, ge=0)
    """Steps after which the rate returns to ``start`` and falls again (rewinds); 0: it falls once."""
    shape: Literal["linear", "cosine"] = "linear"


class LearningRate(_RecipeTable):
    """The learning rate rises from 0 in ``warmup`` steps, then falls from ``peak`` to ``final`` at the last step."""

    peak: float = Field(gt=0)
    """The largest learning rate."""
    final: float = Field(0.0, ge=0)
    warmup: int = Field(0, ge=0)
    shape: Literal["linear", "cosine"] = "linear"
    phases: tuple[RatePhase, ...] = ()
    """If given, the rate falls in these phases instead; the warm-up still scales it."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        ends = [phase.until for phase in self.phases]
        if ends != sorted(set(ends)):
            raise ValueError("each phase must end later than the previous one")
        if self.phases and max(phase.start for phase in self.phases) != self.peak:
            raise ValueError("peak must be the largest start of the phases")
        return self


class Fisher(_RecipeTable):
    """The Fisher information matrix that second-order pruning uses (Kurtic et al., arXiv:2203.07259).

    Its gradients are those of labels drawn from the model's own answers.
    """

    samples: int = Field(1024, ge=1)
    """Number of gradients, m."""
    batch: int = Field(1, ge=1)
    """Samples that each of these gradients is averaged over."""
    block: int = Field(50, ge=1)
    """Largest width of the diagonal blocks, B: memory is number of weights x (B + B / 4) x 4 bytes."""
    dampening: float = Field(1e-7, gt=0)
    """Lambda, which is added to the diagonal."""
    memory: float = Field(8.0, gt=0)
    """GiB for the blocks; layers that do not fit are processed in further passes over the samples."""


class Pruning(_RecipeTable):
    """How the sparsity grows.

    "magnitude", "second-order" and "layer-wise" prune every ``every`` steps from ``begin`` to ``end``, from ``initial``
    to ``sparsity`` on a cubic schedule; "layer-wise" prunes as `models compress` does, with a sparsity for each
    layer, regardless of ``scope``. "acdc" alternates phases of ``every`` steps at full sparsity with phases without
    masks, starting sparse at ``begin``, and stays sparse from ``end`` on.
    """

    method: Literal["magnitude", "second-order", "layer-wise", "acdc"]
    sparsity: float = Field(gt=0, lt=1)
    """Final share of zeros among the weights of the layers that are pruned."""
    initial: float = Field(0.0, ge=0, lt=1)
    """Sparsity at ``begin``."""
    begin: int = Field(0, ge=0)
    end: int = Field(ge=0)
    """The last step at which masks change."""
    every: int = Field(ge=1)
    block: Literal[1, 4] = 1
    """Neighbouring inputs of an output that are pruned together."""
    scope: Literal["global", "layer"] = "global"
    """global: the weights of all layers are ranked together; layer: each layer gets the same sparsity."""
    keep: tuple[str, ...] = ()
    """Shell patterns of the names of layers or their weights that are not pruned."""
    fisher: Fisher = Fisher()

    @property
    def slow(self) -> bool:
        """Whether choosing the weights to remove takes as long as many steps."""
        return self.method in ("second-order", "layer-wise")

    def keeps(self, *names: str) -> bool:
        """Whether a layer with these names, its own and its weight's, is excluded from pruning."""
        return any(fnmatchcase(name, pattern) for pattern in self.keep for name in names)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.begin > self.end:
            raise ValueError(f"begin ({self.begin}) is after end ({self.end})")
        if self.initial > self.sparsity:
            raise ValueError(f"initial ({self.initial}) is above sparsity ({self.sparsity})")
        if self.method == "acdc":
            phases, rest = divmod(self.end - self.begin, self.every)
            if rest or phases % 2:
                raise ValueError("acdc needs an even number of phases of 'every' steps between begin and end")
        elif self.method == "second-order" and self.fisher.block < self.block:
            raise ValueError(f"fisher.block ({self.fisher.block}) is smaller than block ({self.block})")
        return self


class Distillation(_RecipeTable):
    """Weights of the losses, and the temperature of the teacher's and the student's logits."""

    temperature: float = Field(1.0, gt=0)
    logits: float = Field(1.0, ge=0)
    """Of the divergence between the teacher's and the student's logits."""
    hidden: float = Field(0.0, ge=0)
    """Of the squared difference between hidden states, layer by layer."""
    labels: float = Field(0.0, ge=0)
    """Of the cross-entropy with the labels; no effect if the data has none."""

    @model_validator(mode="after")
    def _any(self) -> Self:
        if not self.logits + self.hidden + self.labels:
            raise ValueError("at least one of logits, hidden and labels must be above 0")
        return self


class Quantisation(_RecipeTable):
    """Quantisation-aware training, with the arithmetic of the files that `models compress` writes."""

    begin: int = Field(ge=0)
    """First step with quantised weights and activations."""
    freeze: int = Field(ge=0)
    """Step from which the ranges of the activations are fixed."""
    products: bool = True
    """Whether attention's products of two activations are quantised."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.freeze < self.begin:
            raise ValueError(f"freeze ({self.freeze}) is before begin ({self.begin})")
        return self


class Recipe(_RecipeTable):
    """A recipe; steps count from 0, and a step is one batch."""

    name: str
    description: str
    source: str
    """The publications it follows."""
    model: str | None = None
    """The model's name in models.toml; None for any."""
    start: str | None = None
    """The model that checkpoints belong to, if ``model`` has only its ``layers``; None for ``model`` itself."""
    steps: int = Field(ge=1)
    batch: int = Field(ge=1)
    max_cost: int | None = Field(None, ge=1)
    """Largest cost of a sample, such as the number of tokens; None for the benchmark's own."""
    learning_rate: LearningRate
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    """Largest norm of the gradient."""
    pruning: Pruning | None = None
    distillation: Distillation = Distillation()
    quantisation: Quantisation | None = None
    layers: tuple[int, ...] | None = None
    """Encoder layers to keep; None for all."""
    frozen: tuple[str, ...] = ()
    """Shell patterns of the names of parameters that are not trained."""
    sources: dict[str, str]
    """The sources of the figures, by their keys ("pruning.sparsity") or those of their tables ("pruning")."""
    hold_out: float = Field(0.05, ge=0, lt=1)
    """Share of the samples that is not trained on, but scored."""
    seed: int = 0
    augment: bool = False
    """Whether each step takes a random part of an image, mirrored half of the time (`TrainingData.varied`)."""

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.pruning and self.pruning.end > self.steps:
            raise ValueError(f"pruning.end ({self.pruning.end}) is after the last step ({self.steps})")
        if self.quantisation and self.quantisation.freeze > self.steps:
            raise ValueError(f"quantisation.freeze ({self.quantisation.freeze}) is after the last step ({self.steps})")
        phases = self.learning_rate.phases
        if phases and phases[-1].until != self.steps:
            raise ValueError(f"the last phase of the learning rate must end at the last step ({self.steps})")
        if self.layers is not None and (not self.layers or list(self.layers) != sorted(set(self.layers))):
            raise ValueError("layers must be ascending numbers without repetition")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of what determines the training: everything but the texts."""
        left_out = {"name", "description", "source", "sources"}
        if not self.augment:  # so that trainings begun before this setting existed can continue
            left_out.add("augment")
        return hashlib.sha256(self.model_dump_json(exclude=left_out).encode()).hexdigest()

    def with_method(self, method: str) -> "Recipe":
        """The recipe with another pruning method.

        Raises:
            ConfigError: the recipe prunes nothing, or the method does not exist or does not suit it.
        """
        if self.pruning is None:
            raise ConfigError(f"--method {method}: {self.name} prunes nothing; omit this option.")
        change = {"pruning": self.pruning.model_dump() | {"method": method}}
        try:
            return Recipe.model_validate({**self.model_dump(), **change})
        except ValidationError as error:
            raise ConfigError(f"--method {method}: {first_error(error)}.") from error

    def with_steps(self, steps: int) -> "Recipe":
        """The recipe compressed or stretched to another number of steps: all of its steps move in proportion.

        Raises:
            ConfigError: there are too few steps for the recipe's phases.
        """
        if steps == self.steps:
            return self
        factor = steps / self.steps
        change: dict[str, object] = {"steps": steps, "learning_rate": _scaled_rate(self.learning_rate, factor)}
        if self.quantisation:
            change["quantisation"] = self.quantisation.model_dump() | {
                "begin": round(self.quantisation.begin * factor),
                "freeze": round(self.quantisation.freeze * factor),
            }
        if self.pruning:
            change["pruning"] = _scaled_pruning(self.pruning, self.steps, steps)
        try:
            return Recipe.model_validate({**self.model_dump(), **change})
        except ValidationError as error:
            raise ConfigError(
                f"the recipe {self.name} cannot be trained in {steps} steps: {first_error(error)}."
            ) from error


def _scaled_rate(rate: LearningRate, factor: float) -> dict[str, object]:
    phases = [
        phase.model_dump()
        | {"until": round(phase.until * factor), "cycle": max(round(phase.cycle * factor), min(phase.cycle, 1))}
        for phase in rate.phases
    ]
    return rate.model_dump() | {"warmup": round(rate.warmup * factor), "phases": phases}


def _scaled_pruning(pruning: Pruning, before: int, steps: int) -> dict[str, object]:
    """The pruning's fields for another number of steps, with the same number of mask changes if they fit."""
    begin, end = round(pruning.begin * steps / before), round(pruning.end * steps / before)
    if pruning.method == "acdc":
        phases = (pruning.end - pruning.begin) // pruning.every
        every = max(pruning.every * steps // before, 1)
        phases = min(phases, max((steps - begin) // every, 2) // 2 * 2)
        end = begin + phases * every
    else:
        changes = max(ceil((pruning.end - pruning.begin) / pruning.every), 1)
        every = max(ceil((end - begin) / changes), 1)
    return pruning.model_dump() | {"begin": begin, "end": end, "every": every}


def recipes() -> dict[str, Recipe]:
    """The recipes that come with the harness, by name.

    Raises:
        ConfigError: one of them is invalid.
    """
    return {path.stem: _read(path) for path in sorted(FOLDER.glob("*.toml"))}


def read_recipe(name_or_path: str) -> Recipe:
    """A recipe of the harness by its name, or the user's by the path of its TOML file.

    Raises:
        ConfigError: there is no such recipe, or the file is invalid; the message names the file and the key.
    """
    own = {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}
    if name_or_path in own:
        return _read(own[name_or_path])
    path = user_path(name_or_path)
    if path.suffix != ".toml" and not path.is_file():
        raise ConfigError(f"there is no recipe '{name_or_path}': {did_you_mean(name_or_path, own)}")
    return _read(path)


def check_patterns(recipe: Recipe, layers: Collection[str], parameters: Collection[str]) -> None:
    """Check that each pattern of the recipe matches a name of the model; only a note for the harness's own recipes.

    ``layers`` are the names of layers and their weights. A pattern of pruning.keep may also match another parameter,
    such as a table of embeddings, which is never pruned.

    Raises:
        ConfigError: a pattern of the user's recipe matches nothing.
    """
    for key, patterns, names in (
        ("pruning.keep", recipe.pruning.keep if recipe.pruning else (), {*layers, *parameters}),
        ("frozen", recipe.frozen, set(parameters)),
    ):
        for pattern in patterns:
            if any(fnmatchcase(name, pattern) for name in names):
                continue
            message = f"the recipe {recipe.name}: {key}: no name in this model matches {pattern}"
            if not (FOLDER / f"{recipe.name}.toml").exists():
                raise ConfigError(f"{message}; correct or remove it: names are {', '.join(sorted(names)[:3])}, ...")
            console.note(message)


def _read(path: Path) -> Recipe:
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        return Recipe.model_validate({"name": path.stem, **table})
    except OSError as error:
        raise ConfigError(f"the recipe {path} cannot be read: {error.strerror}; check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the recipe {path} is not TOML ({error}): fix it.") from error
    except ValidationError as error:
        raise ConfigError(f"the recipe {path} is invalid: {first_error(error)}.") from error
