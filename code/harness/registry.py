"""Maps names to classes, as "module:Class", so that importing the command line loads no engine and no model."""

from collections.abc import Iterable, Mapping
from importlib import import_module, util
from typing import TypeVar

from harness.errors import ConfigError, did_you_mean

ENGINES = {
    "deepsparse": "harness.engines.deepsparse:DeepSparseEngine",
    "onnxruntime": "harness.engines.onnxruntime:OnnxRuntimeEngine",
    "openvino": "harness.engines.openvino:OpenVinoEngine",
    "null": "harness.engines.null:NullEngine",
}
LIBRARIES = {"deepsparse": "deepsparse", "onnxruntime": "onnxruntime", "openvino": "openvino"}
"""The Python module that an engine needs. Only engines listed here run by default, and are tried by tuning."""
BENCHMARKS = {"bert": "bert.task:Bert", "resnet50": "resnet50.task:ResNet50"}
SCENARIOS = {
    "Offline": "harness.scenarios.offline:Offline",
    "Server": "harness.scenarios.server:Server",
    "SingleStream": "harness.scenarios.stream:SingleStream",
    "MultiStream": "harness.scenarios.stream:MultiStream",
}
MODES = ("performance", "accuracy")


T = TypeVar("T")


def resolve(kind: str, table: Mapping[str, str], name: str, base: type[T]) -> type[T]:
    """The class with that name, or the one given as "module:Class" from outside this project.

    Raises:
        ConfigError: the name is unknown (the message suggests the nearest), or the class is not a ``base``.
    """
    name = choose(kind, table, name)
    module, _, attribute = table.get(name, name).partition(":")
    try:
        found = getattr(import_module(module), attribute)
    except Exception as error:  # an outside module may raise anything while it is imported
        if name in table:
            raise
        reason = str(error).rstrip(".") or type(error).__name__
        raise ConfigError(
            f"{kind} '{name}' cannot be imported ({reason}): check its spelling, module:Class, and PYTHONPATH."
        ) from error
    if not (isinstance(found, type) and issubclass(found, base)):
        article = "an" if kind[0] in "aeiou" else "a"
        raise ConfigError(
            f"{name} is not {article} {kind}: a subclass of {base.__module__}.{base.__qualname__} is needed."
        )
    return found


def choose(kind: str, valid: Iterable[str], name: str) -> str:
    """The valid name that equals ``name``, ignoring case; "module:Class" is returned unchanged.

    Raises:
        ConfigError: the name is unknown.
    """
    names = list(valid)
    if kind == "engine" and ":" in name:
        return name
    for known in names:
        if known.casefold() == name.casefold():
            return known
    raise ConfigError(f"unknown {kind} '{name}': {did_you_mean(name, names)}")


def installed() -> list[str]:
    """The engines of this project whose library is installed, without importing it."""
    return [name for name in ENGINES if name in LIBRARIES and _found(LIBRARIES[name])]


def _found(module: str) -> bool:
    try:
        return util.find_spec(module) is not None
    except ValueError:  # a module without a spec is already imported under that name
        return False
