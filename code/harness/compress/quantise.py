"""Write a network with 8-bit integers, using operators that both engines run as integers.

These operators were found by measurement: DeepSparse 1.8 gains no speed from QDQ graphs. Matrix products become
MatMulInteger, Cast, Mul with uint8 weights of zero point 128; convolutions QLinearConv with int8 weights and one scale.
Weights are symmetric, activations uint8 and asymmetric. The rest stays in floating point.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from harness.compress.network import Feed, Layer, Network, session
from harness.compress.rounding import Rounded

_CARRIERS = ("Reshape", "Flatten", "Squeeze", "Transpose")
"""Operators that treat 8-bit values like floating-point ones and keep their scale. MaxPool is left out: if it has 8-bit
inputs, DeepSparse 1.8 runs no part of the graph itself."""
_MIDDLE = 128
_MIN_EMBEDDINGS = 1024  # rows of the smallest table worth quantising


@dataclass(frozen=True)
class Range:
    """Minimum and maximum value that the 8 bits of a tensor can represent; 0 is always representable."""

    low: float
    high: float

    @classmethod
    def of(cls, low: float, high: float) -> Range:
        """Includes 0; rounded to four digits, so that the last bits of a processor's sums do not change the model."""
        low, high = min(0.0, float(f"{low:.4g}")), max(0.0, float(f"{high:.4g}"))
        return cls(low, high if high - low > 1e-30 else low + 1.0)

    @property
    def scale(self) -> np.float32:
        """The size of one step."""
        return np.float32((self.high - self.low) / 255)

    @property
    def zero(self) -> np.uint8:
        """The zero point."""
        return np.uint8(round(-self.low / self.scale))

    def rounded(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Float32 values after quantisation to 8 bits and back."""
        zero = float(self.zero)
        steps: NDArray[np.float32] = np.clip(np.rint(values / self.scale) + zero, 0, 255)
        return ((steps - zero) * self.scale).astype(np.float32)


def observe(network: Network, names: Iterable[str], feeds: Iterable[Feed]) -> dict[str, Range]:
    """The ranges of named tensors over all calibration batches."""
    names = sorted(set(names))
    inputs = {value.name for value in network.model.graph.input}
    model = ModelProto.FromString(network.model.SerializeToString())
    known = {value.name for value in model.graph.output} | inputs
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in known)
    running = session(model)
    wanted = [name for name in names if name not in inputs]
    low, high = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    for feed in feeds:
        values = dict(zip(wanted, running.run(wanted, dict(feed)), strict=True)) if wanted else {}
        values.update((name, feed[name]) for name in names if name in inputs)
        for name, value in values.items():
            low[name] = min(low[name], float(value.min()))
            high[name] = max(high[name], float(value.max()))
    return {name: Range.of(low[name], high[name]) for name in names}


def activations(network: Network, layers: Iterable[Layer]) -> set[str]:
    """Tensors whose ranges `quantise` needs for these layers: their inputs, and the outputs of convolutions."""
    plan = _Plan(network, layers)
    names = {layer.source for layer in plan.layers.values()}
    return names | {plan.result(layer) for layer in plan.layers.values() if layer.node.op_type == "Conv"}


def quantise(network: Network, rounded: Mapping[str, Rounded], ranges: Mapping[str, Range]) -> ModelProto:
    """The network with these layers (by output name) and its embedding tables in integers.

    A convolution needs a single scale; a matrix product may have one per output, which is slower in DeepSparse.
    """
    layers = [layer for layer in network.layers if layer.output in rounded]
    writer = _Writer(network, _Plan(network, layers), rounded, ranges)
    for node in network.nodes:
        writer.add(node)
    return writer.model()


class _Plan:
    """Shows which nodes are merged into a convolution."""

    def __init__(self, network: Network, layers: Iterable[Layer]) -> None:
        self.layers = {layer.output: layer for layer in layers}
        readers: dict[str, list[NodeProto]] = {value.name: [] for value in network.model.graph.output}
        outputs = set(readers)
        for node in network.nodes:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        self.clips: dict[str, NodeProto] = {}
        """Relu and Clip nodes that the range of the 8 bits replaces, by the output of their convolution."""
        for layer in self.layers.values():
            after = readers.get(layer.output, [])
            if (
                layer.node.op_type == "Conv"
                and len(after) == 1
                and layer.output not in outputs
                and _starts_at_zero(network, after[0])
            ):
                self.clips[layer.output] = after[0]
        self.absorbed = {id(node) for node in self.clips.values()}

    def result(self, layer: Layer) -> str:
        """The output of a convolution together with the nodes merged into it."""
        clip = self.clips.get(layer.output)
        return clip.output[0] if clip else layer.output


def _starts_at_zero(network: Network, node: NodeProto) -> bool:
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip" or len(node.input) < 3:
        return False
    limits = node.input[1:3]
    return all(map(network.is_constant, limits)) and float(network.floats(limits[0])) == 0


class _Writer:
    """Collects nodes and tensors; tracks in which forms (8 bits, floating point) each value already exists."""

    def __init__(
        self, network: Network, plan: _Plan, rounded: Mapping[str, Rounded], ranges: Mapping[str, Range]
    ) -> None:
        self._network, self._plan, self._rounded, self._ranges = network, plan, rounded, dict(ranges)
        self._nodes: list[NodeProto] = []
        self._tensors: dict[str, TensorProto] = {}
        self._bytes: dict[str, str] = {}
        self._spans: dict[str, Range] = {}
        """The range of each value that exists in 8 bits."""
        self._hidden: set[str] = set()
        """Values that exist in 8 bits only."""
        self._floats: dict[str, str] = {}
        for clip in plan.clips.values():
            if clip.op_type == "Clip":
                high = float(network.floats(clip.input[2]))
                self._ranges[clip.output[0]] = Range(0.0, min(high, self._ranges[clip.output[0]].high))

    def add(self, node: NodeProto) -> None:
        """Write one node of the network."""
        layer = self._plan.layers.get(node.output[0])
        if id(node) in self._plan.absorbed:
            return
        if layer and node.op_type == "Conv":
            self._conv(layer)
        elif layer:
            self._product(layer)
        elif self._carries(node) and self._only_bytes(node.input[0]):
            self._carry(node)
        elif node.op_type == "Gather" and self._is_table(node):
            self._embed(node)
        else:
            self._copy(node)

    def model(self) -> ModelProto:
        """The written nodes as a model with the network's inputs and outputs."""
        network = self._network.model
        made = {name for node in self._nodes for name in node.output}
        for value in network.graph.output:
            if value.name not in made:
                self._write("Identity", [self._float(value.name)], value.name, f"{value.name}.result")
        graph = helper.make_graph(
            self._nodes, network.graph.name, network.graph.input, network.graph.output, list(self._tensors.values())
        )
        model = helper.make_model(graph, opset_imports=network.opset_import, producer_name="mlperf-cpu-harness")
        model.ir_version = network.ir_version
        return model

    def _conv(self, layer: Layer) -> None:
        node, rounded = layer.node, self._rounded[layer.output]
        named = node.name or layer.output
        result = self._plan.result(layer)
        source = self._quantised(layer.source)
        self._hidden.add(layer.source)
        scale = self._scale(layer.source)
        weight = layer.restore(rounded.values, self._network.constant(layer.weight).shape)
        inputs = [
            source,
            *scale,
            self._tensor(f"{named}.weight", weight),
            self._tensor(f"{named}.weight.scale", np.float32(rounded.scale.item())),
            self._tensor("weight.zero", np.int8(0)),
            *self._scale(result),
        ]
        if len(node.input) > 2:
            step = np.float64(rounded.scale.item()) * self._range(layer.source).scale
            bias = np.rint(self._network.floats(node.input[2]) / step)
            limit = np.iinfo(np.int32).max
            inputs.append(self._tensor(f"{named}.bias", np.clip(bias, -limit, limit).astype(np.int32)))
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._spans[result] = self._range(result)
        self._bytes[result] = self._write("QLinearConv", inputs, f"{result}.q", named, **attributes)
        self._hidden.add(result)

    def _product(self, layer: Layer) -> None:
        node, rounded = layer.node, self._rounded[layer.output]
        named = node.name or layer.output
        weight = np.ascontiguousarray((rounded.values.astype(np.int16) + _MIDDLE).astype(np.uint8).T)
        source = self._range(layer.source)
        total = self._write(
            "MatMulInteger",
            [
                self._quantised(layer.source),
                self._tensor(f"{named}.weight", weight),
                self._scale(layer.source)[1],
                self._tensor("weight.middle", np.uint8(_MIDDLE)),
            ],
            f"{layer.output}.sum",
            named,
        )
        total = self._write("Cast", [total], f"{layer.output}.cast", f"{named}.cast", to=TensorProto.FLOAT)
        factor = (rounded.scale.astype(np.float64) * source.scale).astype(np.float32)
        factor = factor[:, 0] if rounded.per_output else factor.reshape(())
        bias = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else None
        scaled = f"{layer.output}.scaled" if bias else layer.output
        inputs = [total, self._tensor(f"{named}.factor", factor)]
        scaled = self._write("Mul", inputs, scaled, f"{named}.scale")
        if bias:
            self._write("Add", [scaled, self._value(bias)], layer.output, f"{named}.bias")

    def _carries(self, node: NodeProto) -> bool:
        return node.op_type in _CARRIERS and len(node.output) == 1

    def _carry(self, node: NodeProto) -> None:
        name = node.output[0]
        carried = NodeProto()
        carried.CopyFrom(node)
        carried.input[0] = self._bytes[node.input[0]]
        carried.output[0] = self._bytes[name] = f"{name}.q"
        self._spans[name] = self._spans[node.input[0]]
        for other in carried.input[1:]:
            self._keep(other)
        self._nodes.append(carried)
        self._hidden.add(name)

    def _is_table(self, node: NodeProto) -> bool:
        table = node.input[0]
        return (
            self._network.is_constant(table)
            and not any(a.name == "axis" and a.i != 0 for a in node.attribute)
            and not self._network.is_constant(node.input[1])
            and self._network.constant(table).dtype == np.float32
            and self._network.constant(table).ndim == 2
            and len(self._network.constant(table)) >= _MIN_EMBEDDINGS
        )

    def _embed(self, node: NodeProto) -> None:
        table = self._network.floats(node.input[0])
        span = Range.of(float(table.min()), float(table.max()))
        steps = np.clip(np.rint(table / span.scale) + span.zero, 0, 255).astype(np.uint8)
        name = node.input[0]
        rows = self._write(
            "Gather",
            [self._tensor(f"{name}.q", steps), node.input[1]],
            f"{node.output[0]}.rows",
            node.name,
            axis=0,
        )
        scale = [self._tensor(f"{name}.scale", span.scale), self._tensor(f"{name}.zero", span.zero)]
        self._write(
            "DequantizeLinear", [rows, *scale], node.output[0], f"{node.name or node.output[0]}.rows.dequantise"
        )

    def _copy(self, node: NodeProto) -> None:
        copy = NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            copy.input[index] = self._value(name)
        self._nodes.append(copy)

    def _only_bytes(self, name: str) -> bool:
        return name in self._bytes and name in self._hidden

    def _quantised(self, name: str) -> str:
        if name not in self._bytes:
            inputs = [self._floats.get(name, name), *self._scale(name)]
            self._spans[name] = self._range(name)
            self._bytes[name] = self._write("QuantizeLinear", inputs, f"{name}.q", f"{name}.quantise")
        return self._bytes[name]

    def _float(self, name: str) -> str:
        if name not in self._hidden or name not in self._bytes:
            return name
        if name not in self._floats:
            inputs = [self._bytes[name], *self._scale(name)]
            self._floats[name] = self._write("DequantizeLinear", inputs, f"{name}.f", f"{name}.dequantise")
        return self._floats[name]

    def _range(self, name: str) -> Range:
        return self._spans.get(name) or self._ranges[name]

    def _scale(self, name: str) -> list[str]:
        span = self._range(name)
        return [self._tensor(f"{name}.scale", span.scale), self._tensor(f"{name}.zero", span.zero)]

    def _value(self, name: str) -> str:
        return self._keep(name) if self._network.is_constant(name) else self._float(name)

    def _keep(self, name: str) -> str:
        if name and self._network.is_constant(name):
            self._tensor(name, self._network.constant(name))
        return name

    def _tensor(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        self._tensors[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def _write(self, operator: str, inputs: list[str], output: str, name: str, **attributes: object) -> str:
        self._nodes.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output
