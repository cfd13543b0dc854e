"""What was made by this tool, and what must not be replaced by it."""

from __future__ import annotations

from pathlib import Path

from harness.catalog import manifests
from harness.errors import ConfigError
from harness.graph import read_graph

TOOL = "mlperf-cpu-harness"


def check_output(path: Path) -> None:
    """Make sure that a file which is to be made is called as a model, and not as a published one.

    Raises:
        ConfigError: it is not.
    """
    if path.stem in manifests.models():
        raise ConfigError(f"{path.stem} is the name of a published model, which this is not: name the file otherwise.")
    if path.suffix != ".onnx":
        raise ConfigError(f"{path} is no name for a model: let it end in .onnx.")


def check_replaceable(path: Path) -> None:
    """Make sure that a compressed model replaces nothing that was not made here.

    Raises:
        ConfigError: there is such a file.
    """
    found = existing_metadata(path)
    if found is not None and not found.get("tool", "").startswith(TOOL):
        raise ConfigError(f"{path} is there, and was not made by this tool: name another file, or remove it.")


def existing_metadata(path: Path) -> dict[str, str] | None:
    """What a file says of itself, {} if it is no model; None if there is no file.

    Raises:
        ConfigError: its folder may not be looked at.
    """
    try:
        if not path.exists():
            return None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place.") from error
    try:
        return read_graph(path).metadata
    except ConfigError:
        return {}
