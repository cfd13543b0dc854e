"""Names to classes, as "module:Class", so that importing the command line loads no engine and no model."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module, util
from typing import Any

from harness.errors import ConfigError, did_you_mean

ENGINES = {
    "deepsparse": "harness.engines.deepsparse:DeepSparseEngine",
    "onnxruntime": "harness.engines.onnxruntime:OnnxRuntimeEngine",
    "null": "harness.engines.null:NullEngine",
}
BENCHMARKS = {"bert": "bert.task:Bert", "resnet50": "resnet50.task:ResNet50"}
SCENARIOS = {
    "Offline": "harness.scenarios.offline:Offline",
    "Server": "harness.scenarios.server:Server",
    "SingleStream": "harness.scenarios.stream:SingleStream",
    "MultiStream": "harness.scenarios.stream:MultiStream",
}
MODES = ("performance", "accuracy")


def resolve(kind: str, table: dict[str, str], name: str) -> Any:
    """The class behind a name, or behind "module:Class" for one that is kept outside this project.

    Raises:
        ConfigError: there is no such name; the message gives the nearest.
    """
    name = choose(kind, table, name)
    module, _, attribute = table.get(name, name).partition(":")
    try:
        return getattr(import_module(module), attribute)
    except Exception as error:  # whatever a module from outside raises while it is imported
        if name in table:
            raise
        raise ConfigError(f"{kind} '{name}' cannot be imported: {error}.") from error


def choose(kind: str, valid: Iterable[str], name: str) -> str:
    """The valid name that ``name`` is, whatever its case; "module:Class" is taken as it is.

    Raises:
        ConfigError: there is none.
    """
    names = list(valid)
    if kind == "engine" and ":" in name:
        return name
    for known in names:
        if known.casefold() == name.casefold():
            return known
    raise ConfigError(f"unknown {kind} '{name}': {did_you_mean(name, names)}")


def default_engine() -> str:
    """DeepSparse where it is installed, otherwise ONNX Runtime."""
    return "deepsparse" if util.find_spec("deepsparse") else "onnxruntime"
