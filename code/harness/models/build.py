"""Building models whose weights cannot be fetched: the published graph with random weights, to measure speed."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from harness import __version__, catalog
from harness.errors import ConfigError, did_you_mean
from harness.files import write_bytes
from harness.graph import read_graph

if TYPE_CHECKING:
    from onnx import ModelProto

MODELS_DIR = catalog.ROOT / "build" / "models"


def build(name: str, weights: str, output: Path | None, seed: int) -> Path:
    """Write the graph of a known model with random weights, in one step, and return where it is.

    Its metadata say how it is to be used and that its weights are random, from which `catalog.find_model` makes the
    caveat of all results. It replaces nothing but a model with random weights.

    Raises:
        ConfigError: no such model can be built, or not with these weights or this seed, or the file cannot be written
            or is another model.
    """
    known = catalog.models()
    buildable = {key: entry for key, (_, entry) in known.items() if entry.builder}
    if name in known and name not in buildable:
        raise ConfigError(f"the graph of {name} is not known here: choose from {', '.join(buildable)}.")
    if name not in buildable:
        raise ConfigError(f"no model '{name}' to build: {did_you_mean(name, buildable)}")
    if weights != "random":
        raise ConfigError(f"--weights {weights}: only random weights can be built; trained ones come as a file.")
    if seed < 0:
        raise ConfigError(f"--seed {seed}: give a number from 0 on.")
    path = (output or MODELS_DIR / f"{name}-random.onnx").absolute()
    if path.suffix != ".onnx":
        raise ConfigError(f"{path} is no name for a model: let it end in .onnx.")
    _check_replaceable(path)
    write_bytes(path, _with_random_weights(buildable[name], seed).SerializeToString(deterministic=True))
    return path


def _with_random_weights(entry: catalog.ModelEntry, seed: int) -> ModelProto:
    from onnx import helper

    module, _, function = (entry.builder or "").partition(":")
    model = getattr(import_module(module), function)(seed)
    built = {pair.key: pair.value for pair in model.metadata_props}
    facts = {**entry.settings, "precision": entry.precision, "tool": f"mlperf-cpu-harness {__version__}"}
    helper.set_model_props(model, {**{key: str(value) for key, value in facts.items()}, **built})
    return model


def _check_replaceable(path: Path) -> None:
    try:
        if not path.exists():
            return
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place.") from error
    try:
        weights = read_graph(path).metadata.get("weights", "")
    except ConfigError:
        weights = ""
    if not weights.startswith("random"):
        raise ConfigError(f"{path} is there, and is no model with random weights: name another file, or remove it.")
