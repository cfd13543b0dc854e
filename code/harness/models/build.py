"""Builds models: a published graph with the weights of a checkpoint, or with random ones to measure speed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from harness import TOOL, __version__, paths
from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.catalog.models import model_file
from harness.errors import ConfigError, did_you_mean
from harness.files.disk import remove_left_over, staging, write_bytes
from harness.models.made import check_output, existing_metadata
from harness.models.weights import Checkpoint, RandomWeights, Weights
from harness.terminal.progress import working
from harness.validation import validated

if TYPE_CHECKING:
    from onnx import ModelProto

    from harness.compress.compress import CompressSettings
CALIBRATION_SAMPLES = 256
"""Default number of calibration samples, unless the weights are random."""
_RANDOM_SAMPLES = 8  # with random weights, all samples give similar activations


@dataclass(frozen=True)
class BuildRequest:
    """A known model to build, its weights, and how it is compressed if it has a recipe."""

    name: str
    weights: str
    """"random", or the path of a checkpoint (see `Checkpoint`)."""
    output: Path | None = None
    """None for a file in build/models that is named after the model."""
    seed: int = 0
    """Of random weights."""
    dense: bool = False
    """Whether a model with a recipe is not compressed."""
    dataset: str | None = None
    """The calibration data, by name or path; None for the default."""
    samples: int | None = None
    """The number of calibration samples; None for the default."""
    engine: str | None = None
    """The engine whose 8-bit operators the file has; None for the one that the model was published with."""
    images: str | None = None
    """How the file takes images, "uint8" or "float32"; None for uint8 if it is an 8-bit model."""

    @property
    def random(self) -> bool:
        """Whether the weights are random."""
        return self.weights == "random"


def build(request: BuildRequest) -> Path:
    """Write a known model atomically, and return its path.

    A model with a recipe is also compressed, unless the request says otherwise: random weights by magnitude, since
    nothing else distinguishes them, and with few calibration samples; a checkpoint's by second-order information.

    The file's metadata records the model's settings and the origin of its weights; random ones are the caveat of all
    results. An existing file is replaced only by the same kind: a model with random weights by another one, a model
    built here from a checkpoint by the same model.

    Raises:
        ConfigError: the model cannot be built, or not with these weights or this seed; or the file cannot be written,
            or already holds another model.
    """
    name, random = request.name, request.random
    known = manifests.models()
    buildable = {key: entry for key, (_, entry) in known.items() if entry.builder}
    if name in known and name not in buildable:
        raise ConfigError(f"{name} cannot be built: choose from {', '.join(buildable)}.")
    if name not in buildable:
        raise ConfigError(f"no model '{name}' to build: {did_you_mean(name, buildable)}")
    if random and request.seed < 0:
        raise ConfigError(f"--seed {request.seed}: the seed must be 0 or greater.")
    entry = buildable[name]
    recipe = None if request.dense else entry.recipe
    settings = _settings(request, entry, recipe) if recipe else None
    if recipe is None and (request.dataset, request.samples, request.engine, request.images) != (None,) * 4:
        raise ConfigError(
            f"{name} is built without compression: leave out --calibration, --samples, --for and --input."
        )
    if recipe:
        find_dataset(known[name][0], request.dataset)
    kind = f"{'dense-' if entry.recipe and request.dense else ''}{'random' if random else 'built'}"
    path = (request.output or model_file(f"{name}-{kind}")).absolute()
    check_output(path)
    remove_left_over(paths.MODELS_DIR)
    _check_kind(path, None if random else name)
    source = RandomWeights(request.seed) if random else _checkpoint(request.weights)
    with working(f"building {name}"):
        content = _graph(name, entry, source).SerializeToString(deterministic=True)
    if settings:
        _compress(request, settings, content, path)
    else:
        write_bytes(path, content)
    return path


def _settings(
    request: BuildRequest, entry: manifests.ModelEntry, recipe: manifests.CompressionRecipe
) -> CompressSettings:
    from harness.compress.compress import CompressSettings

    name, engine, images = request.name, request.engine, request.images
    if engine and recipe.precision != "int8":
        raise ConfigError(f"--for {engine}: {name} is built in FP32, which is the same for every engine; leave it out.")
    if images and recipe.precision != "int8":
        raise ConfigError(f"--input {images}: {name} is built in FP32, which keeps its input; leave it out.")
    values: dict[str, object] = {
        "sparsity": recipe.sparsity,
        "block": recipe.block,
        "precision": recipe.precision,
        "method": "magnitude" if request.random else "second-order",
        "input": images,
    }
    if recipe.precision == "int8":
        values["engine"] = engine or (entry.published.engine if entry.published else None)
    return validated(CompressSettings, values)


def _compress(request: BuildRequest, settings: CompressSettings, dense: bytes, path: Path) -> None:
    from harness.models.compression import compress_file

    samples = request.samples
    if samples is None:
        samples = _RANDOM_SAMPLES if request.random else CALIBRATION_SAMPLES
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging(path) as room:
            file = room / "dense.onnx"
            file.write_bytes(dense)
            compress_file(str(file), path, settings, request.dataset, samples)
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
    # The graph is dense; if it is compressed, that step records the precision.
    precision = "fp32" if entry.recipe else entry.precision
    facts = {**entry.settings, "model": name, "precision": precision, "tool": f"{TOOL} {__version__}"}
    random = {manifests.RANDOM_KEY: "yes" if weights.random else "no"}
    helper.set_model_props(model, {**{key: str(value) for key, value in facts.items()}, **built, **random})
    return model


def _check_kind(path: Path, name: str | None) -> None:
    """Check that ``path`` may be replaced by ``name`` built from a checkpoint or, for None, with random weights."""
    found = existing_metadata(path)
    if found is None:
        return
    if name is None:
        same, what = manifests.has_random_weights(found), "a model with random weights"
    else:
        same = found.get("tool", "").startswith(TOOL) and found.get("model") == name
        what = f"a {name} that was built here"
    if not same:
        raise ConfigError(f"{path} already exists and is not {what}: choose another name, or remove it.")
