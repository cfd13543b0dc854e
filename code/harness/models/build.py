"""Building models: the published graph with a checkpoint's weights, or with random ones to measure speed."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__
from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.catalog.models import model_file
from harness.errors import ConfigError, did_you_mean
from harness.host import console
from harness.host.files import write_bytes
from harness.models.made import TOOL, check_output, existing_metadata
from harness.models.weights import Checkpoint, RandomWeights, Weights

if TYPE_CHECKING:
    from onnx import ModelProto
SAMPLES = 256
"""Of calibration data, unless told otherwise."""
_RANDOM_SAMPLES = 8  # what random weights make of the data is alike for all samples


def build(
    name: str,
    weights: str,
    output: Path | None,
    seed: int,
    *,
    dense: bool = False,
    dataset: str | None = None,
    samples: int | None = None,
) -> Path:
    """Write the graph of a known model, in one step, and return where it is.

    One that has a recipe is compressed by it: random weights by their magnitude, which is all that they have, with a
    few samples to calibrate; a checkpoint's with second-order information. ``dense`` leaves that out.

    ``weights`` is "random", for which ``seed`` counts, or the path of a checkpoint (see `Checkpoint`). The file's
    metadata say how it is to be used and where its weights are from; that they are random is what `catalog.find_model`
    makes the caveat of all results of. A model with random weights replaces nothing but another; one with a
    checkpoint's replaces what was built here under the same name.

    Raises:
        ConfigError: no such model can be built, or not with these weights or this seed, or the file cannot be written
            or is another model.
    """
    known = manifests.models()
    buildable = {key: entry for key, (_, entry) in known.items() if entry.builder}
    if name in known and name not in buildable:
        raise ConfigError(f"the graph of {name} is not known here: choose from {', '.join(buildable)}.")
    if name not in buildable:
        raise ConfigError(f"no model '{name}' to build: {did_you_mean(name, buildable)}")
    random = weights == "random"
    if random and seed < 0:
        raise ConfigError(f"--seed {seed}: give a number from 0 on.")
    entry = buildable[name]
    recipe = None if dense else entry.recipe
    if recipe is None and (dataset is not None or samples is not None):
        raise ConfigError(f"{name} is not compressed here: leave out --calibration and --samples.")
    if recipe:
        find_dataset(known[name][0], dataset)
    kind = f"{'dense-' if entry.recipe and dense else ''}{'random' if random else 'built'}"
    path = (output or model_file(f"{name}-{kind}")).absolute()
    check_output(path)
    _check_kind(path, None if random else name)
    source = RandomWeights(seed) if random else _checkpoint(weights)
    with console.working(f"building {name}"):
        content = _graph(name, entry, source).SerializeToString(deterministic=True)
    if recipe:
        _compress(recipe, content, path, random, dataset, samples)
    else:
        write_bytes(path, content)
    return path


def _compress(
    recipe: manifests.Recipe, dense: bytes, path: Path, random: bool, dataset: str | None, samples: int | None
) -> None:
    from harness.compress.compress import CompressSettings
    from harness.models.compression import compress_file

    settings = CompressSettings(
        sparsity=recipe.sparsity,
        block=recipe.block,
        precision=recipe.precision,
        method="magnitude" if random else "second-order",
    )
    if samples is None:
        samples = _RANDOM_SAMPLES if random else SAMPLES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as room:
            file = Path(room) / "dense.onnx"
            file.write_bytes(dense)
            compress_file(str(file), path, settings, dataset, samples)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place.") from error


def _checkpoint(weights: str) -> Checkpoint:
    path = Path(weights)
    if len(path.parts) == 1 and not path.exists():
        raise ConfigError(
            f"--weights {weights}: give random, or the path of a checkpoint: a .safetensors file or its folder."
        )
    return Checkpoint(path)


def _graph(name: str, entry: manifests.ModelEntry, weights: Weights) -> ModelProto:
    from onnx import helper

    module, _, function = (entry.builder or "").partition(":")
    build_graph: Callable[[Weights], ModelProto] = getattr(import_module(module), function)
    model = build_graph(weights)
    built = {pair.key: pair.value for pair in model.metadata_props}
    # What is built is dense; that it is compressed is for the one to say who does it.
    precision = "fp32" if entry.recipe else entry.precision
    facts = {**entry.settings, "model": name, "precision": precision, "tool": f"{TOOL} {__version__}"}
    helper.set_model_props(model, {**{key: str(value) for key, value in facts.items()}, **built})
    return model


def _check_kind(path: Path, name: str | None) -> None:
    """Whether a model may be written there: ``name`` with a checkpoint's weights, or with None random ones."""
    found = existing_metadata(path)
    if found is None:
        return
    if name is None:
        same, what = found.get("weights", "").startswith("random"), "no model with random weights"
    else:
        same = found.get("tool", "").startswith(TOOL) and found.get("model") == name
        what = f"no {name} that was built here"
    if not same:
        raise ConfigError(f"{path} is there, and is {what}: name another file, or remove it.")
