"""Converts an 8-bit model that was written for other engines, before a run, to the operators that its engine needs.

Most files with 8-bit layers are QDQ graphs. DeepSparse runs these slowly, without a warning, but runs the same integers
fast in other operators. The converted file is kept in the cache; the run's record and identity name the user's file.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from harness.catalog.arithmetic import read_arithmetic
from harness.engines.base import find_engine
from harness.errors import ConfigError
from harness.files.cache import stored
from harness.files.fingerprint import Fingerprint
from harness.graph import read_metadata
from harness.host.memory import available
from harness.results.parts import RecordedConversion
from harness.settings.identity import code_digest
from harness.settings.run import RunSettings
from harness.terminal import console
from harness.terminal.progress import working

_MAX_FILE_BYTES = 2**31 - 1
"""Bytes of the largest file that ONNX can hold without external tensors."""
_LAYERS_KEY = "converted_layers"
"""The key of a converted file's metadata for `Conversion.layers`."""
_MEMORY_FACTOR = 10
"""Memory that a conversion needs, as a multiple of the file's size: the weights in floating point, and copies."""


@dataclass(frozen=True)
class Conversion:
    """The file that an engine reads in place of the user's."""

    file: Fingerprint
    form: str
    layers: str
    """How many of its products and convolutions have that form: "36 of 38"."""

    def record(self) -> RecordedConversion:
        """For a run's record."""
        return RecordedConversion(form=self.form, layers=self.layers, sha256=self.file.sha256)


def conversion(settings: RunSettings, quiet: bool = False) -> Conversion | None:
    """The model in the 8-bit operators that the engine runs fast, converted now or earlier; None if not converted.

    ``quiet`` omits the line that reports the conversion, or why the file is not converted.

    Raises:
        ConfigError: the model's file, or the cache, cannot be read or written.
    """
    engine, model = find_engine(settings.engine), settings.model
    if engine.form is None or not getattr(settings.engine_settings, "convert", True):
        return None
    if not read_arithmetic(model.path).dequantised:
        return None
    entry = settings.cache_dir / f"{engine.form}-{_key(settings)}.onnx"
    reason = "" if entry.is_file() else _convert(model.path, [file.path for file in model.files], entry)
    if reason:
        if not quiet:
            console.warn(f"{model.name} is written for other engines and {engine.name} may run it slowly: {reason}.")
        return None
    layers = read_metadata(entry).get(_LAYERS_KEY, "")
    if not quiet:
        console.note(
            f"{model.name} is written for other engines (QDQ): {layers} products and convolutions converted to the "
            f"operators that {engine.name} runs fast; --set convert=false runs the file unchanged."
        )
    return Conversion(Fingerprint.of(entry), engine.form, layers)


def _key(settings: RunSettings) -> str:
    """A key for the inputs of a conversion: the model and the code."""
    return sha256(f"{settings.model.sha256} {code_digest()}".encode()).hexdigest()[:32]


def _convert(path: Path, files: list[Path], entry: Path) -> str:
    """Convert a file into the cache; returns "", or the reason why it was not converted."""
    size = sum(file.stat().st_size for file in {path, *files} if file.is_file())
    if size > _MAX_FILE_BYTES:
        return "it has more than 2 GB, which one file cannot hold"
    free = available()
    if free is not None and _MEMORY_FACTOR * size > free:
        return f"converting it needs about {_MEMORY_FACTOR * size / 2**30:.1f} GiB of memory"
    with working("converting the model"):
        try:
            content = _converted(path)
        except Exception as error:  # noqa: BLE001  the run does not depend on it, and graphs fail in many ways
            first = next(iter(str(error).splitlines()), "")
            return f"converting it failed ({f'{type(error).__name__}: {first}'.removesuffix(': ')})"
        if isinstance(content, str):
            return content
        try:
            with stored(entry) as new:
                new.write_bytes(content)
        except OSError as error:
            raise ConfigError(
                f"cannot write {entry}: {error.strerror}; choose another cache, or set convert=false."
            ) from error
    return ""


def _converted(path: Path) -> bytes | str:
    """The content of the converted file, or the reason why the file cannot be converted."""
    import onnx
    from onnx import helper

    from harness.compress.dequantise import multiplications, obstacle, read_plan
    from harness.compress.quantise import quantise

    model = onnx.load(str(path))
    if why := obstacle(model):
        return why
    plan = read_plan(model)
    if plan is None:
        return "none of its layers has symmetric 8-bit weights and inputs in 8 bits"
    result = quantise(plan, "deepsparse")
    facts = {entry.key: entry.value for entry in model.metadata_props}
    layers = f"{len(plan.rounded) + len(plan.products)} of {multiplications(model)}"
    helper.set_model_props(result, {**facts, _LAYERS_KEY: layers})
    names = [name for node in result.graph.node for name in node.output]
    names += [tensor.name for tensor in result.graph.initializer]
    if len({*names}) < len(names):
        return "its tensors have names that the converted graph needs"
    return bytes(result.SerializeToString(deterministic=True))
