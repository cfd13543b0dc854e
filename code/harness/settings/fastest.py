"""The engine for a run whose user names none: the fastest that is installed for the model."""

from collections.abc import Sequence
from dataclasses import dataclass

from harness.catalog.arithmetic import Arithmetic, read_arithmetic
from harness.catalog.manifests import Model
from harness.engines.base import find_engine
from harness.registry import ENGINES, installed

FORM = "engine_form"
"""The key of a file's metadata with the engine that its operators were written for."""
_MIN_SPARSITY_INT8 = 0.4
"""Share of zeros from which DeepSparse is faster in 8 bits."""
_MIN_SPARSITY_FP32 = 0.75
"""The same in floating point."""


@dataclass(frozen=True)
class Fastest:
    """An engine, and why it is the fastest here, in words."""

    engine: str
    why: str

    def __str__(self) -> str:
        """As one line for the user."""
        return f"engine {self.engine}: {self.why}"


def fastest(model: Model) -> Fastest:
    """The fastest installed engine for a model: by the manifest if it lists engines, else by the file's content.

    Raises:
        ConfigError: the file cannot be read.
    """
    here = installed()
    if model.engines:
        measured = next((name for name in model.engines if name in here), None)
        if measured:
            return Fastest(measured, f"fastest installed for {model.name} (models.toml)")
    found = read_arithmetic(model.path)
    order, why = ranking(found)
    able = [name for name in order if name in ENGINES and not find_engine(name).lacks & found.types]
    if (form := model.metadata.get(FORM)) in able:
        able.sort(key=lambda name: name != form)
        why = f"the file was written for {form}"
    chosen = next((name for name in able if name in here), None)
    if chosen is None:
        # Every installation has ONNX Runtime; if its library is broken, the run says so.
        return Fastest("onnxruntime", "no other engine that is installed can run this model")
    return Fastest(chosen, why if chosen == able[0] else f"{why}; {able[0]} is not installed")


def ranking(found: Arithmetic) -> tuple[Sequence[str], str]:
    """All engines, the fastest for such weights first, and the property that decides it."""
    zeros = f"{found.zeros:.0%} of the weights are zero".replace("%", " %")
    if found.domains:
        return ("onnxruntime", "openvino", "deepsparse"), f"operators of {', '.join(sorted(found.domains))}"
    if found.integer >= 0.5 and found.zeros >= _MIN_SPARSITY_INT8:
        return ("deepsparse", "onnxruntime", "openvino"), f"{zeros}, in 8 bits"
    if found.dequantised >= 0.5:
        return ("openvino", "onnxruntime", "deepsparse"), "weights in 8 bits (QDQ)"
    if found.integer >= 0.5:
        return ("onnxruntime", "openvino", "deepsparse"), "dense weights in 8 bits (integer operators)"
    if found.zeros >= _MIN_SPARSITY_FP32:
        return ("deepsparse", "openvino", "onnxruntime"), zeros
    return ("openvino", "onnxruntime", "deepsparse"), "dense weights in floating point"
