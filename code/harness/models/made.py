"""Checks of output files: their names, and what they must not replace."""

from pathlib import Path

from harness import TOOL
from harness.catalog import manifests
from harness.errors import ConfigError
from harness.graph import read_graph


def check_output(path: Path) -> None:
    """Check the name of a model file before it is made.

    Raises:
        ConfigError: it is the name of a published model, or does not end in .onnx.
    """
    if path.stem in manifests.models():
        raise ConfigError(f"{path.stem} is reserved for a published model: choose another file name.")
    if path.suffix != ".onnx":
        raise ConfigError(f"{path} must end in .onnx: choose another file name.")


def check_replaceable(path: Path) -> None:
    """Check that a compressed or trained model only replaces a file that this tool made.

    Raises:
        ConfigError: another file exists there.
    """
    found = existing_metadata(path)
    if found is not None and not found.get("tool", "").startswith(TOOL):
        raise ConfigError(f"{path} already exists and was not made by this tool: choose another name, or remove it.")


def existing_metadata(path: Path) -> dict[str, str] | None:
    """The metadata of an existing file, {} if it is not a model; None if the file does not exist.

    Raises:
        ConfigError: its folder cannot be accessed.
    """
    try:
        if not path.exists():
            return None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}; choose another place.") from error
    try:
        return dict(read_graph(path).metadata)
    except ConfigError:
        return {}
