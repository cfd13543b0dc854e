"""Small graphs of random weights for the tests of compression, and helpers that run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from harness.compress.folding import read_network


def node(operator: str, inputs: str, output: str, name: str | None = None, **attributes: object) -> NodeProto:
    """A node named after its output; inputs and outputs are separated by blanks, "-" is one that is left out."""
    names = ["" if i == "-" else i for i in inputs.split()]
    return helper.make_node(operator, names, output.split(), output.split()[0] if name is None else name, **attributes)


def graph(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Sequence[str | int] | None],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray],
    *,
    opset: int = 13,
    integers: Sequence[str] = (),
) -> ModelProto:
    """A model; its inputs are float32, except those in ``integers``."""
    kinds = {name: TensorProto.INT64 if name in integers else TensorProto.FLOAT for name in inputs}
    proto = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info(name, kinds[name], shape and list(shape)) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(proto, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return model if any(item.domain for item in nodes) else onnx.shape_inference.infer_shapes(model)


def folded(model: ModelProto, folder: Path) -> ModelProto:
    """The model as `read_network` reads it from a file."""
    path = folder / "model.onnx"
    onnx.save(model, str(path))
    return read_network(path)


def run(model: ModelProto, feed: Mapping[str, np.ndarray], *names: str) -> list[np.ndarray]:
    """Outputs, or any other tensors, of a model in ONNX Runtime, without its optimisations."""
    model = ModelProto.FromString(model.SerializeToString())
    known = {value.name for value in model.graph.output}
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    running = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return running.run(list(names) or None, dict(feed))


def constants(model: ModelProto) -> dict[str, np.ndarray]:
    """The constants of a model by name."""
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def operators(model: ModelProto) -> dict[str, int]:
    """How many nodes of each operator a model has."""
    found: dict[str, int] = {}
    for item in model.graph.node:
        found[item.op_type] = found.get(item.op_type, 0) + 1
    return found


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Norm of the difference relative to what is expected."""
    assert found.shape == expected.shape
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def normal(seed: int, *shape: int, scale: float | None = None) -> np.ndarray:
    """float32 of a normal distribution; weights (outputs, inputs...) keep the variance of what they multiply."""
    scale = scale or (2 / max(np.prod(shape[1:]), 1)) ** 0.5
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def mlp(width: int = 32) -> ModelProto:
    """x (N, L, width) to y (N, L, 8): three MatMuls with biases, the second with a residual connection, and a head."""
    return graph(
        [
            node("MatMul", "x w0", "m0"),
            node("Add", "m0 b0", "a0"),
            node("Relu", "a0", "r0"),
            node("MatMul", "r0 w1", "m1"),
            node("Add", "b1 m1", "a1"),
            node("Relu", "a1", "r1"),
            node("MatMul", "r1 w2", "m2"),
            node("Add", "m2 b2", "a2"),
            node("Add", "a2 r0", "s2"),
            node("MatMul", "s2 w3", "m3"),
            node("Add", "m3 b3", "y"),
        ],
        {"x": ("N", "L", width)},
        ["y"],
        {
            "w0": normal(1, width, width),
            "w1": normal(2, width, 2 * width, scale=(2 / width) ** 0.5),
            "w2": normal(3, 2 * width, width, scale=(1 / width) ** 0.5),
            "w3": normal(4, width, 8, scale=(1 / width) ** 0.5),
            "b0": normal(5, width, scale=0.3),
            "b1": normal(6, 2 * width, scale=0.3),
            "b2": normal(7, width, scale=0.3),
            "b3": normal(8, 8, scale=0.3),
        },
    )


def mlp_feeds(batches: int = 4, rows: int = 8, width: int = 32, seed: int = 20) -> list[dict[str, np.ndarray]]:
    """Batches for `mlp` of various lengths, whose features depend on each other."""
    mix = normal(seed, width, width, scale=width**-0.5) + np.eye(width, dtype=np.float32) * 0.3
    return [{"x": normal(seed + 1 + i, rows, 5 + 3 * i, width, scale=1.0) @ mix} for i in range(batches)]


def convnet(opset: int = 13, channels: int = 16, **stem: object) -> ModelProto:
    """x (N, 3, 20, 20) to y (N, 10): a stem, a pool, a depthwise convolution, a residual connection, a classifier."""
    c = channels
    return graph(
        [
            node("Conv", "x k0 c0", "v0", strides=[2, 2], **(stem or {"pads": [1, 1, 1, 1]})),
            node("Relu", "v0", "r0"),
            node("MaxPool", "r0", "p0", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
            node("Conv", "p0 k1 c1", "v1", pads=[2, 2, 2, 2], dilations=[2, 2]),
            node("Clip", "v1 zero six", "r1"),
            node("Conv", "r1 k2 c2", "v2", pads=[1, 1, 1, 1], group=c),
            node("Clip", "v2 zero six", "r2"),
            node("Conv", "r2 k3 c3", "v3"),
            node("Add", "v3 p0", "s3"),
            node("Relu", "s3", "r3"),
            node("Conv", "r3 k4 c4", "v4", pads=[1, 0, 2, 1], strides=[2, 1]),
            node("Relu", "v4", "r4"),
            node("GlobalAveragePool", "r4", "g4"),
            node("Flatten", "g4", "f4"),
            node("Gemm", "f4 w5 b5", "y", transB=1),
        ],
        {"x": ("N", 3, 20, 20)},
        ["y"],
        {
            "k0": normal(1, c, 3, 3, 3),
            "k1": normal(2, c, c, 3, 3),
            "k2": normal(3, c, 1, 3, 3),
            "k3": normal(4, c, c, 1, 1, scale=c**-0.5),
            "k4": normal(5, 2 * c, c, 3, 3),
            "w5": normal(6, 10, 2 * c),
            **{f"c{i}": normal(10 + i, c if i < 4 else 2 * c, scale=0.3) for i in range(5)},
            "b5": normal(15, 10, scale=0.3),
            "zero": np.float32(0),
            "six": np.float32(6),
        },
        opset=opset,
    )


def images(batches: int = 2, rows: int = 6, seed: int = 40) -> list[dict[str, np.ndarray]]:
    """Batches for `convnet`."""
    return [{"x": normal(seed + i, rows, 3, 20, 20, scale=1.0)} for i in range(batches)]


def embedder(rows: int = 1100, width: int = 32) -> ModelProto:
    """ids (N, L) to y (N, L, 2): embeddings, one head of attention, a feed-forward layer and a head."""
    w = width
    return graph(
        [
            node("Gather", "table ids", "e"),
            node("MatMul", "e wq", "mq"),
            node("Add", "mq bq", "q"),
            node("MatMul", "e wk", "mk"),
            node("Add", "mk bk", "k"),
            node("MatMul", "e wv", "mv"),
            node("Add", "mv bv", "v"),
            node("Transpose", "k", "kt", perm=[0, 2, 1]),
            node("MatMul", "q kt", "scores"),
            node("Softmax", "scores", "p", axis=-1),
            node("MatMul", "p v", "context"),
            node("MatMul", "context wo", "mo"),
            node("Add", "mo bo", "o"),
            node("Add", "o e", "s"),
            node("MatMul", "s wf", "mf"),
            node("Add", "mf bf", "f"),
            node("Relu", "f", "rf"),
            node("MatMul", "rf wh", "mh"),
            node("Add", "mh bh", "y"),
        ],
        {"ids": ("N", "L")},
        ["y"],
        {
            "table": normal(1, rows, w, scale=1.0),
            **{f"w{n}": normal(i + 2, w, w, scale=w**-0.5) for i, n in enumerate("qkvo")},
            "wf": normal(6, w, 2 * w, scale=(2 / w) ** 0.5),
            "wh": normal(7, 2 * w, 2, scale=w**-0.5),
            **{f"b{n}": normal(i + 10, w, scale=0.2) for i, n in enumerate("qkvo")},
            "bf": normal(16, 2 * w, scale=0.2),
            "bh": normal(17, 2, scale=0.2),
        },
        integers=["ids"],
    )


def texts(batches: int = 3, rows: int = 6, seed: int = 60) -> list[dict[str, np.ndarray]]:
    """Batches for `embedder` of various lengths."""
    rng = np.random.default_rng(seed)
    return [{"ids": rng.integers(0, 1100, (rows, 6 + 4 * i))} for i in range(batches)]
