"""Reading a model for compression: constants folded, unsupported models rejected."""

import os
import tempfile
from contextlib import AbstractContextManager
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

from harness.compress.network import LINEAR
from harness.errors import ConfigError
from harness.files.disk import staging

_MIN_OPSET = 10


def read_network(path: Path) -> ModelProto:
    """The graph with constants folded and normalisations merged into convolutions, using default operators only.

    Folding is done by ONNX Runtime, without its fusion of MatMul with Add, because MatMul is what gets quantised.

    Raises:
        ConfigError: ONNX Runtime cannot run the file, or the graph has branches, loops or foreign operators.
    """
    model = _fold(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) < len(model.graph.input):  # ONNX Runtime does not fold weights that are inputs with a default
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 4)
        with _room() as folder:
            onnx.save(model, str(folder / "model.onnx"))
            model = _fold(folder / "model.onnx")
    branching = {node.op_type for node in model.graph.node for a in node.attribute if a.HasField("g")}
    if branching:
        names = ", ".join(sorted(branching))
        raise ConfigError(f"{path} has {names} nodes: export a graph without branches and loops.")
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if foreign:
        raise ConfigError(
            f"{path} uses operators of {', '.join(sorted(foreign))}: give the FP32 model as it was exported, "
            "not one that was optimised or quantised."
        )
    _check_floats(path, model)
    # DeepSparse refuses newer operator sets, even ones that no node uses.
    versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    if versions[0] < _MIN_OPSET:
        raise ConfigError(
            f"{path} uses operator set {versions[0]}: export it with {_MIN_OPSET} or later, which has 8-bit operators."
        )
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", versions[0]))
    model.ir_version = min(model.ir_version, 8)
    return model


def _check_floats(path: Path, model: ModelProto) -> None:
    """Reject weights of other types: they would stay unchanged, since ONNX Runtime casts them where needed."""
    others = {
        tensor.name: TensorProto.DataType.Name(tensor.data_type).lower()
        for tensor in model.graph.initializer
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    }
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    read = {name for node in model.graph.node if node.op_type in LINEAR for name in node.input[1:2]}
    for name in sorted(casts.get(name, name) for name in read):
        if name in others:
            raise ConfigError(
                f"{path} has weights in {others[name]} ({name}): give the FP32 model from before the conversion."
            )


def _fold(path: Path) -> ModelProto:
    with _room() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(folder / "folded.onnx")
        options.log_severity_level = 4
        try:
            ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
            )
        except Exception as error:  # ONNX Runtime's own errors have no common class
            why = str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
            raise ConfigError(f"ONNX Runtime cannot load {path} ({why}): export the model again.") from error
        return onnx.load(options.optimized_model_filepath)


def _room() -> AbstractContextManager[Path]:
    """A temporary folder for copies of the model; the next one removes those of processes that were killed."""
    return staging(Path(tempfile.gettempdir()) / f"harness-folding-{os.getuid()}")
