"""Writes a network that is partly in 8 bits: the common part of all operator forms."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from harness import TOOL
from harness.compress.network import Layer, Network
from harness.compress.plan import Plan
from harness.compress.ranges import Range

_MIN_EMBEDDINGS = 1024  # rows of the smallest table worth quantising
LARGEST_SUM = np.iinfo(np.int32).max
"""The largest sum of a layer's products, which are accumulated in int32."""


def reads_table(network: Network, node: NodeProto) -> bool:
    """Whether a node reads rows of a table that becomes 8 bits: a large one of embeddings."""
    if node.op_type != "Gather" or not network.is_constant(node.input[0]) or network.is_constant(node.input[1]):
        return False
    if any(attribute.name == "axis" and attribute.i != 0 for attribute in node.attribute):
        return False
    table = network.constant(node.input[0])
    return table.dtype == np.float32 and table.ndim == 2 and len(table) >= _MIN_EMBEDDINGS


class Encoder(ABC):
    """Collects nodes and tensors; tracks in which forms (8 bits, floating point) each value already exists.

    Activations and large embedding tables are uint8 and asymmetric; values not in the plan stay in floating point.
    """

    min_opset_of_axes: ClassVar[int] = 0
    """The first operator set in which a matrix product may have a scale for each output."""

    def __init__(self, plan: Plan) -> None:
        """Start an empty graph."""
        self.plan, self.network = plan, plan.network
        self.bytes: dict[str, str] = {}
        """The tensor that holds a value in 8 bits."""
        self.hidden: set[str] = set()
        """Values that exist in 8 bits only."""
        self.spans: dict[str, Range] = {}
        """The range of each value that exists in 8 bits."""
        self._ranges = dict(plan.ranges)
        self._nodes: list[NodeProto] = []
        self._tensors: dict[str, TensorProto] = {}
        self._floats: dict[str, str] = {}
        self.absorbed: set[str] = set()
        """Outputs of nodes that were written together with the previous node."""
        for name in plan.given:
            self.bytes[name], self.spans[name] = name, plan.ranges[name]
            self.hidden.add(name)

    @abstractmethod
    def convolution(self, layer: Layer, result: str) -> None:
        """Write a convolution in 8 bits; ``result`` is its output after the node merged into it."""

    @abstractmethod
    def linear(self, layer: Layer) -> None:
        """Write a matrix product with a constant in 8 bits."""

    @abstractmethod
    def product(self, node: NodeProto) -> None:
        """Write a matrix product of two activations in 8 bits."""

    def carry(self, node: NodeProto) -> bool:
        """Write a node that treats 8 bits like floating point; False if it must be written in floating point."""
        return False

    def add(self, node: NodeProto) -> None:
        """Write one node of the network."""
        layer = self.plan.layer(node)
        if node.output[0] in self.absorbed or node.output[0] in self.plan.pairs:
            return
        if layer and node.op_type == "Conv":
            self._merge(layer)
            self.convolution(layer, self.plan.result(layer))
        elif layer:
            self.linear(layer)
        elif node.output[0] in self.plan.products:
            self.product(node)
        elif self.plan.tables and reads_table(self.network, node):
            self._embed(node)
        elif not self.carry(node):
            self.copy(node)

    def model(self) -> ModelProto:
        """The written nodes as a model with the network's inputs and outputs."""
        network = self.network.model
        made = {name for node in self._nodes for name in node.output}
        for value in network.graph.output:
            if value.name not in made:
                self.write("Identity", [self.float(value.name)], value.name, f"{value.name}.result")
        inputs = [ValueInfoProto.FromString(value.SerializeToString()) for value in network.graph.input]
        for value in inputs:
            if value.name in self.plan.given:
                value.type.tensor_type.elem_type = TensorProto.UINT8
        graph = helper.make_graph(
            self._nodes, network.graph.name, inputs, network.graph.output, list(self._tensors.values())
        )
        model = helper.make_model(graph, opset_imports=network.opset_import, producer_name=TOOL)
        model.ir_version = network.ir_version
        return model

    def copy(self, node: NodeProto, reads: Callable[[str], str] | None = None) -> None:
        """Write a node whose inputs ``reads`` maps to tensors, by default in floating point."""
        copy = NodeProto()
        copy.CopyFrom(node)
        for index, name in enumerate(node.input):
            copy.input[index] = (reads or self.value)(name)
        self.append(copy)

    def append(self, node: NodeProto) -> None:
        """Write a node whose inputs exist."""
        self._nodes.append(node)

    def write(self, operator: str, inputs: list[str], output: str, name: str, **attributes: object) -> str:
        """Write a node with one output, and return that."""
        self.append(helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def tensor(self, name: str, value: NDArray[np.generic] | np.generic) -> str:
        """Write a constant, and return its name."""
        self._tensors[name] = numpy_helper.from_array(np.asarray(value), name)
        return name

    def quantised(self, name: str) -> str:
        """The 8-bit tensor of a value, written if it does not exist yet."""
        if name not in self.bytes:
            inputs = [self._floats.get(name, name), *self.scale(name)]
            self.spans[name] = self.range(name)
            self.bytes[name] = self.write("QuantizeLinear", inputs, f"{name}.q", f"{name}.quantise")
        return self.bytes[name]

    def dequantised(self, name: str) -> str:
        """The floating-point tensor of a value after rounding to 8 bits, written if it does not exist yet."""
        if name not in self._floats:
            inputs = [self.quantised(name), *self.scale(name)]
            self._floats[name] = self.write("DequantizeLinear", inputs, f"{name}.f", f"{name}.dequantise")
        return self._floats[name]

    def float(self, name: str) -> str:
        """The floating-point tensor of a value, at the best precision that exists."""
        if name in self.plan.pairs:
            return self.dequantised(self.plan.pairs[name])
        return self.dequantised(name) if name in self.hidden and name in self.bytes else name

    def range(self, name: str) -> Range:
        """The range of a value's 8 bits."""
        return self.spans.get(name) or self._ranges[name]

    def scale(self, name: str) -> list[str]:
        """Write the scale and zero point of a value's 8 bits, and return their names."""
        span = self.range(name)
        return [self.tensor(f"{name}.scale", span.scale), self.tensor(f"{name}.zero", span.zero)]

    def bias_steps(
        self, layer: Layer, bias: NDArray[np.float32], step: NDArray[np.float64]
    ) -> NDArray[np.int32] | None:
        """A bias in steps of the int32 sums, int32 (outputs,); None if the sums could then overflow."""
        span = self.range(layer.source)
        largest = max(int(span.zero), 255 - int(span.zero))
        sums = np.abs(self.plan.rounded[layer.output].values).sum(axis=1, dtype=np.int64) * largest
        steps: NDArray[np.float64] = np.rint(bias / step)
        return steps.astype(np.int32) if np.all(np.abs(steps) + sums <= LARGEST_SUM) else None

    def value(self, name: str) -> str:
        """Any input of a node in floating point: a constant, or a value that was computed."""
        if name and self.network.is_constant(name):
            return self.tensor(name, self.network.constant(name))
        return self.float(name)

    def _merge(self, layer: Layer) -> None:
        clip = self.plan.clip(layer)
        if clip is None:
            return
        name = clip.output[0]
        self.absorbed.add(name)
        if clip.op_type == "Clip":
            high = float(self.network.floats(clip.input[2]))
            self._ranges[name] = Range(0.0, min(high, self._ranges[name].high))

    def _embed(self, node: NodeProto) -> None:
        table = self.network.floats(node.input[0])
        span = Range.of(float(table.min()), float(table.max()))
        steps = np.clip(np.rint(table / span.scale) + span.zero, 0, 255).astype(np.uint8)
        name = node.input[0]
        rows = self.write(
            "Gather",
            [self.tensor(f"{name}.q", steps), node.input[1]],
            f"{node.output[0]}.rows",
            node.name,
            axis=0,
        )
        scale = [self.tensor(f"{name}.scale", span.scale), self.tensor(f"{name}.zero", span.zero)]
        self.write("DequantizeLinear", [rows, *scale], node.output[0], f"{node.name or node.output[0]}.rows.dequantise")
