"""8 bits as QuantizeLinear and DequantizeLinear around floating-point operators; OpenVINO and ONNX Runtime fuse them.

Weights are symmetric int8, with one scale or one per output. OpenVINO gains no speed from MatMulInteger.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from onnx import NodeProto

from harness.compress.encoding import Encoder
from harness.compress.network import Layer


class QdqEncoder(Encoder):
    """Writes the operators of the network, their inputs rounded to 8 bits and back."""

    min_opset_of_axes: ClassVar[int] = 13  # of DequantizeLinear

    def convolution(self, layer: Layer, result: str) -> None:
        """Conv; its output is also rounded, so that the engine passes on 8 bits."""
        self.hidden.add(layer.source)
        source, weight = self.dequantised(layer.source), self._weight(layer, axis=0)
        node = NodeProto()
        node.CopyFrom(layer.node)
        node.input[0], node.input[1], node.output[0] = source, weight, f"{result}.exact"
        if layer.addend:
            node.input[2] = self._bias(layer, layer.addend)
        self.append(node)
        self.spans[result] = self.range(result)
        inputs = [f"{result}.exact", *self.scale(result)]
        self.bytes[result] = self.write("QuantizeLinear", inputs, f"{result}.q", f"{result}.quantise")
        self.hidden.add(result)

    def linear(self, layer: Layer) -> None:
        """MatMul or Gemm; a bias that is added after a MatMul stays in floating point."""
        node = NodeProto()
        node.CopyFrom(layer.node)
        transposed = layer.attribute("transB", 0)
        node.input[0], node.input[1] = self.dequantised(layer.source), self._weight(layer, axis=0 if transposed else 1)
        if layer.addend:
            constant = node.op_type == "Gemm" and self.network.constant_bias(layer)[1]
            node.input[2] = self._bias(layer, layer.addend) if constant else self.value(layer.addend)
        self.append(node)

    def product(self, node: NodeProto) -> None:
        """MatMul."""
        self.copy(node, self.dequantised)

    def _weight(self, layer: Layer, axis: int) -> str:
        rounded, named = self.plan.rounded[layer.output], layer.node.name or layer.output
        values = layer.restore(rounded.values, self.network.constant(layer.weight).shape)
        scale = rounded.scale[:, 0] if rounded.per_output else rounded.scale.reshape(())
        inputs = [
            self.tensor(f"{named}.weight", values),
            self.tensor(f"{named}.weight.scale", scale.astype(np.float32)),
            self.tensor(f"{named}.weight.zero", np.zeros(scale.shape, np.int8)),
        ]
        attributes = {"axis": axis} if rounded.per_output else {}
        return self.write(
            "DequantizeLinear", inputs, f"{layer.output}.weight.f", f"{named}.weight.dequantise", **attributes
        )

    def _bias(self, layer: Layer, name: str) -> str:
        """A bias in int32, in steps of the sums, as ONNX Runtime's fusion requires; in FP32 if it is too large."""
        named, scale = layer.node.name or layer.output, self.plan.rounded[layer.output].scale.astype(np.float64)
        step = (scale[:, 0] if scale.size > 1 else scale.reshape(())) * self.range(layer.source).scale
        steps = self.bias_steps(layer, self.network.floats(name).reshape(-1), step)
        if steps is None:
            return self.value(name)
        inputs = [
            self.tensor(f"{named}.bias", steps),
            self.tensor(f"{named}.bias.scale", step.astype(np.float32)),
        ]
        attributes = {"axis": 0} if step.ndim else {}
        return self.write(
            "DequantizeLinear", inputs, f"{layer.output}.bias.f", f"{named}.bias.dequantise", **attributes
        )
