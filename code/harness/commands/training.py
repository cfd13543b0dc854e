"""`harness models train`."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from harness.commands.models import BenchmarkOptions, For
from harness.commands.options import AsJson, parse_options
from harness.errors import ConfigError, Interrupted, MissingDependencyError
from harness.files.disk import user_path
from harness.paths import advice
from harness.terminal import console

if TYPE_CHECKING:
    from harness.training.train import Trained

_STARTS = ("dense", "one-shot")

_Recipe = Annotated[str | None, typer.Argument(help="A recipe: its name (--list) or a TOML file.", show_default=False)]
_Weights = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|random",
        help="A checkpoint in safetensors; or a dense FP32 model, by name or path. random: only to measure speed.",
        show_default=False,
    ),
]
_Data = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="A file in the format of SQuAD v1.1, or a folder of images.", show_default=False),
]
_Output = Annotated[Path | None, typer.Option(help="Output file.", show_default="build/models/RECIPE-trained.onnx")]
_Steps = Annotated[
    int | None,
    typer.Option(min=1, help="Stretch or shorten the recipe to this many steps.", show_default="the recipe's"),
]
_Seed = Annotated[
    int | None,
    typer.Option(min=0, help="Seed of the data order and of the held-back part.", show_default="the recipe's"),
]
_Method = Annotated[
    str | None,
    typer.Option(
        help="How pruning chooses weights: magnitude, second-order, layer-wise or acdc, to compare them.",
        show_default="the recipe's",
    ),
]
_Start = Annotated[
    str, typer.Option(help="dense, or one-shot: begin with the one-shot pruning of `models compress`, and recover.")
]
_SaveEvery = Annotated[
    float | None, typer.Option(min=0, metavar="SECONDS", help="Time between checkpoints.", show_default="180")
]


def models_train(
    recipe: _Recipe = None,
    weights: _Weights = None,
    data: _Data = None,
    output: _Output = None,
    engine: For = None,
    steps: _Steps = None,
    seed: _Seed = None,
    method: _Method = None,
    start: _Start = "dense",
    option: BenchmarkOptions = None,
    save_every: _SaveEvery = None,
    listed: Annotated[bool, typer.Option("--list", help="List the recipes.")] = False,
    as_json: AsJson = False,
) -> None:
    """Prune and quantise a model by training: gradual pruning, distillation, quantisation-aware training.

    A checkpoint is written every few minutes; after an interruption the same command continues, with the same result.
    """
    if listed:
        _list(as_json)
        return
    if recipe is None or weights is None or data is None:
        raise ConfigError("give a recipe, --weights and --data: `harness models train --list` lists the recipes.")
    if start not in _STARTS:
        raise ConfigError(f"--start {start}: choose from {', '.join(_STARTS)}.")
    _check_torch()
    from harness.training.recipe import read_recipe
    from harness.training.state import CheckpointFolder
    from harness.training.train import TrainingRequest, model_path, train

    chosen = read_recipe(recipe)
    chosen = chosen.with_method(method) if method is not None else chosen
    chosen = chosen.with_steps(steps) if steps is not None else chosen
    chosen = chosen.model_copy(update={"seed": seed}) if seed is not None else chosen
    path = output or model_path(chosen)
    training = TrainingRequest(
        chosen, weights, user_path(data), path, engine, start == "one-shot", parse_options(option or []), save_every
    )
    try:
        trained = train(training)
    except KeyboardInterrupt:
        kept = CheckpointFolder(path).path.exists()
        what = "the newest checkpoint was kept; the same command continues from it" if kept else "nothing was kept"
        raise Interrupted(f"interrupted: {what}.") from None
    _show(trained, as_json)


def _show(trained: "Trained", as_json: bool) -> None:
    if as_json:
        facts = {"path": trained.path, "metadata": trained.metadata}
        console.print_json({**facts, **asdict(trained.history), "per_second": trained.history.per_second})
        return
    for name in ("training", "compression", "held_back"):
        if name in trained.metadata:
            console.out.print(f"{name.replace('_', ' ')}: {trained.metadata[name]}")
    console.out.print(f"{trained.path}: {trained.path.stat().st_size / 2**20:.1f} MiB")


def _list(as_json: bool) -> None:
    from harness.training.recipe import recipes

    found = recipes()
    if as_json:
        console.print_json({name: recipe.model_dump(mode="json") for name, recipe in found.items()})
        return
    table = Table("name", "steps", "batch", "description", box=None, pad_edge=False)
    for name, recipe in found.items():
        table.add_row(name, f"{recipe.steps:,}", str(recipe.batch), recipe.description)
    console.print_table(table)


def _check_torch() -> None:
    try:
        import torch  # noqa: F401
    except ImportError as error:
        install = advice("run `make setup TRAIN=1`", "`pip install 'torch>=2.6,<3'`")
        raise MissingDependencyError(f"training needs PyTorch ({error}): {install}.") from error
