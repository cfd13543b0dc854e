"""Quantise EfficientNet-Lite0 to INT8 after training, in operators that both engines run as integers.

DeepSparse supports per-tensor weight scales only; per-channel ones, the usual solution for depthwise convolutions,
leave its fast path. Per-tensor scales are good enough here because of how weights are rounded (see `round_weights`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

FLOAT_CONVOLUTIONS = 2
"""The first ones stay in FP32: they cause most of the error and take little time."""

Ranges = Mapping[str, tuple[float, float]]
"""Minimum and maximum of each tensor, by name."""


def read_network(path: Path) -> onnx.ModelProto:
    """The FP32 graph without the exporter's constant subgraphs and Pads, which ONNX Runtime folds away."""
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        options.log_severity_level = 3
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """The model in ONNX Runtime, on two threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 2
    options.log_severity_level = 3
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def observe(network: onnx.ModelProto, batches: Iterable[np.ndarray]) -> Ranges:
    """The ranges of tensors without a ReLU6 on float32 (n, 3, 224, 224) images; 0 is always included.

    Rounded to three decimals, so that the last bits of a processor's sums do not change the model.
    """
    network = onnx.ModelProto.FromString(network.SerializeToString())
    clipped = {node.input[0] for node in network.graph.node if node.op_type == "Clip"}
    names = [
        node.output[0]
        for node in network.graph.node
        if node.op_type in ("Conv", "Add", "GlobalAveragePool") and node.output[0] not in clipped
    ]
    network.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names)
    running = session(network)
    ranges = dict.fromkeys(names, (0.0, 0.0))
    for batch in batches:
        for name, value in zip(names, running.run(names, {"input": batch}), strict=True):
            low, high = ranges[name]
            ranges[name] = min(low, round(float(value.min()), 3)), max(high, round(float(value.max()), 3))
    return ranges


def round_weights(weight: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """int8 weights and their scale; the weights of each output channel (the first axis) keep their sum.

    Rounding each weight to the nearest shifts a channel's sum and thus the mean of its output, because inputs after a
    ReLU6 are never negative: with per-tensor scales this shift can be as large as a weak channel itself. Therefore as
    many weights are rounded up as the sum requires, those with the largest fractions first.
    """
    scale = np.float32(np.abs(weight).max() / 127)
    exact = weight.reshape(len(weight), -1).astype(np.float64) / scale
    low = np.floor(exact)
    fraction = exact - low
    rank = (-fraction).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")
    rounded = low + (rank < np.rint(fraction.sum(axis=1, keepdims=True)))
    return np.clip(rounded, -127, 127).astype(np.int8).reshape(weight.shape), scale


def quantise(network: onnx.ModelProto, ranges: Ranges, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """The INT8 graph: `input` float32 (batch, 3, 224, 224) to `logits` float32 (batch, 1000).

    Raises:
        ValueError: the network has an operator that EfficientNet-Lite does not have.
    """
    writer = _Writer(network.graph, ranges)
    for node in network.graph.node:
        writer.add(node)
    graph = helper.make_graph(
        writer.nodes,
        "efficientnet-lite0-int8",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 224, 224])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])],
        list(writer.tensors.values()),
    )
    # DeepSparse refuses newer operator sets, even ones that no node uses.
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="mlperf-cpu-harness")
    model.ir_version = 7
    helper.set_model_props(model, dict(metadata))
    return model


class _Writer:
    """Collects nodes and tensors; tracks in which forms (8 bits, FP32) each value already exists."""

    def __init__(self, graph: onnx.GraphProto, ranges: Ranges) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors: dict[str, onnx.TensorProto] = {}
        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        self._clips = {node.input[0]: node for node in graph.node if node.op_type == "Clip"}
        self._ranges = dict(ranges)
        for clip in self._clips.values():
            # With zero point 0, saturation to 8 bits is equivalent to the ReLU6.
            low, high = self._ranges[clip.output[0]] = tuple(float(self._constants[name]) for name in clip.input[1:])
            if (low, high) != (0, 6):
                raise ValueError(f"{clip.name} clips to {low} .. {high}, which is not a ReLU6")
        self._alias: dict[str, str] = {}
        self._bytes: dict[str, str] = {}
        self._floats = {"input": "input"}
        self._convolutions = 0

    def add(self, node: onnx.NodeProto) -> None:
        """Write one node of the FP32 network."""
        writers = {
            "Conv": self._conv,
            "Clip": lambda _: None,  # belongs to its convolution
            "Add": self._sum,
            "GlobalAveragePool": self._pool,
            "Reshape": self._flatten,
            "Gemm": self._classifier,
        }
        if node.op_type not in writers:
            raise ValueError(f"{node.name} is a {node.op_type}, which EfficientNet-Lite does not have")
        writers[node.op_type](node)

    def _conv(self, node: onnx.NodeProto) -> None:
        source, weight, bias = node.input[0], *(self._constants[name] for name in node.input[1:])
        name, clip = node.name, self._clips.get(node.output[0])
        output = clip.output[0] if clip else node.output[0]
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "auto_pad"}
        self._convolutions += 1
        if self._convolutions <= FLOAT_CONVOLUTIONS:
            parameters = [self._tensor(f"{name}.weight", weight), self._tensor(f"{name}.bias", bias)]
            self._write("Conv", [self._as_float(source), *parameters], node.output[0], name, **attributes)
            bounds = [self._tensor("zero", np.float32(0)), self._tensor("six", np.float32(6))]
            self._floats[output] = self._write("Clip", [node.output[0], *bounds], output, f"{name}.relu6")
            return
        rounded, scale = round_weights(weight)
        inputs = [self._as_bytes(source), *self._scale(source)]
        bias_scale = np.float64(scale) * self._step(source)
        inputs += [
            self._tensor(f"{name}.weight", rounded),
            self._tensor(f"{name}.weight.scale", scale),
            self._tensor("weight.zero", np.int8(0)),
            *self._scale(output),
            self._tensor(f"{name}.bias", np.rint(bias / bias_scale).astype(np.int32)),
        ]
        self._bytes[output] = self._write("QLinearConv", inputs, f"{output}.q", name, **attributes)

    def _sum(self, node: onnx.NodeProto) -> None:
        output = node.output[0]
        self._floats[output] = self._write("Add", [self._as_float(name) for name in node.input], output, node.name)
        self._as_bytes(output)
        # Keep the 8 bits only, so that the next sum reads the same values as the next convolution.
        del self._floats[output]

    def _pool(self, node: onnx.NodeProto) -> None:
        output = node.output[0]
        self._floats[output] = self._write("GlobalAveragePool", [self._as_float(node.input[0])], output, node.name)

    def _flatten(self, node: onnx.NodeProto) -> None:
        self._alias[node.output[0]] = node.input[0]

    def _classifier(self, node: onnx.NodeProto) -> None:
        source = self._alias[node.input[0]]
        weight, bias = (self._constants[name] for name in node.input[1:])
        rounded, scale = round_weights(weight)
        flat = self._write("Flatten", [self._as_bytes(source)], "flat", "flatten", axis=1)
        inputs = [flat, self._tensor("classifier.weight", np.ascontiguousarray(rounded.T)), self._scale(source)[1]]
        inputs.append(self._tensor("weight.zero", np.int8(0)))
        total = self._write("MatMulInteger", inputs, "classifier.sum", "classifier")
        total = self._write("Cast", [total], "classifier.float", "classifier.cast", to=TensorProto.FLOAT)
        factor = self._tensor("classifier.factor", np.float32(np.float64(scale) * self._step(source)))
        total = self._write("Mul", [total, factor], "classifier.scaled", "classifier.scale")
        self._write("Add", [total, self._tensor("classifier.bias", bias)], node.output[0], "classifier.add")

    def _step(self, name: str) -> np.float32:
        low, high = self._ranges[name]
        return np.float32((high - low) / 255)

    def _scale(self, name: str) -> list[str]:
        step = self._step(name)
        zero = np.uint8(round(-self._ranges[name][0] / step))
        return [self._tensor(f"{name}.scale", step), self._tensor(f"{name}.zero", zero)]

    def _as_bytes(self, name: str) -> str:
        if name not in self._bytes:
            inputs = [self._floats[name], *self._scale(name)]
            self._bytes[name] = self._write("QuantizeLinear", inputs, f"{name}.q", f"{name}.quantise")
        return self._bytes[name]

    def _as_float(self, name: str) -> str:
        if name not in self._floats:
            inputs = [self._bytes[name], *self._scale(name)]
            self._floats[name] = self._write("DequantizeLinear", inputs, f"{name}.f", f"{name}.dequantise")
        return self._floats[name]

    def _tensor(self, name: str, value: np.ndarray | np.generic) -> str:
        self.tensors[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _write(self, operator: str, inputs: list[str], output: str, name: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output
