"""Writes 8 bits in integer operators, the form that DeepSparse 1.8 runs fast; it gains no speed from QDQ graphs.

These operators were found by measurement: a matrix product is MatMulInteger, Add of an int32 bias, Cast, Mul, with
uint8 weights of zero point 128; a convolution is QLinearConv with int8 weights and one scale. A bias that is added in
floating point after the Mul breaks the fusion.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper

from harness.compress.encoding import LARGEST_SUM, Encoder
from harness.compress.network import Layer
from harness.compress.rounding import Rounded

CARRIERS = ("Reshape", "Flatten", "Squeeze", "Transpose")
"""Operators that treat 8-bit values like floating-point ones and keep their scale. MaxPool is left out: if it has 8-bit
inputs, DeepSparse 1.8 runs no part of the graph itself."""
_MIDDLE = 128


class IntegerEncoder(Encoder):
    """Writes MatMulInteger and QLinearConv."""

    def convolution(self, layer: Layer, result: str) -> None:
        """QLinearConv, whose input and output exist in 8 bits only."""
        node, rounded = layer.node, self.plan.rounded[layer.output]
        named = node.name or layer.output
        source = self.quantised(layer.source)
        self.hidden.add(layer.source)
        scale = self.scale(layer.source)
        weight = layer.restore(rounded.values, self.network.constant(layer.weight).shape)
        inputs = [
            source,
            *scale,
            self.tensor(f"{named}.weight", weight),
            *self._weight_scale(rounded, named),
            *self.scale(result),
        ]
        if layer.addend:
            each = rounded.scale[:, 0] if rounded.per_output else rounded.scale.reshape(())
            step = each.astype(np.float64) * self.range(layer.source).scale
            bias = np.rint(self.network.floats(layer.addend) / step)
            inputs.append(self.tensor(f"{named}.bias", np.clip(bias, -LARGEST_SUM, LARGEST_SUM).astype(np.int32)))
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self.spans[result] = self.range(result)
        self.bytes[result] = self.write("QLinearConv", inputs, f"{result}.q", named, **attributes)
        self.hidden.add(result)

    def _weight_scale(self, rounded: Rounded, named: str) -> list[str]:
        """Scale and zero point of a convolution's weights; both are vectors if each output has its own scale."""
        if not rounded.per_output:
            scale = self.tensor(f"{named}.weight.scale", np.float32(rounded.scale.item()))
            return [scale, self.tensor("weight.zero", np.int8(0))]
        scale = self.tensor(f"{named}.weight.scale", rounded.scale[:, 0].astype(np.float32))
        return [scale, self.tensor(f"{named}.weight.zero", np.zeros(len(rounded.scale), np.int8))]

    def linear(self, layer: Layer) -> None:
        """MatMulInteger, Add of the bias in int32 if there is one and it fits, Cast, Mul."""
        node, rounded = layer.node, self.plan.rounded[layer.output]
        named = node.name or layer.output
        weight = np.ascontiguousarray((rounded.values.astype(np.int16) + _MIDDLE).astype(np.uint8).T)
        inputs = [
            self.quantised(layer.source),
            self.tensor(f"{named}.weight", weight),
            self.scale(layer.source)[1],
            self.tensor("weight.middle", np.uint8(_MIDDLE)),
        ]
        total = self.write("MatMulInteger", inputs, f"{layer.output}.sum", named)
        exact = rounded.scale.astype(np.float64) * self.range(layer.source).scale
        exact = exact[:, 0] if rounded.per_output else exact.reshape(())
        factor = self.tensor(f"{named}.factor", exact.astype(np.float32))
        addition, name = self.network.constant_bias(layer)
        bias = self.bias_steps(layer, self.network.floats(name), exact) if name else None
        if bias is not None:
            inputs = [total, self.tensor(f"{named}.bias", bias)]
            total = self.write("Add", inputs, f"{layer.output}.biased", f"{named}.bias")
            self.absorbed |= {addition}
            self._scaled(total, factor, addition, named)
        elif node.op_type == "Gemm" and layer.addend:
            self._scaled(total, factor, f"{layer.output}.scaled", named)
            self.write("Add", [f"{layer.output}.scaled", self.value(layer.addend)], layer.output, f"{named}.bias")
        else:
            self._scaled(total, factor, layer.output, named)

    def product(self, node: NodeProto) -> None:
        """MatMulInteger, Cast, Mul."""
        result, named = node.output[0], node.name or node.output[0]
        zeros = [self.scale(name)[1] for name in node.input]
        inputs = [*(self.quantised(name) for name in node.input), *zeros]
        total = self.write("MatMulInteger", inputs, f"{result}.sum", named)
        left, right = (np.float64(self.range(name).scale) for name in node.input)
        self._scaled(total, self.tensor(f"{named}.factor", np.float32(left * right)), result, named)

    def carry(self, node: NodeProto) -> bool:
        """Reshape and the like, if their input exists in 8 bits only."""
        source, name = node.input[0] if node.input else "", node.output[0]
        if node.op_type not in CARRIERS or len(node.output) > 1 or source not in self.bytes.keys() & self.hidden:
            return False
        carried = NodeProto()
        carried.CopyFrom(node)
        carried.input[0] = self.bytes[source]
        carried.output[0] = self.bytes[name] = f"{name}.q"
        self.spans[name] = self.spans[source]
        for index, other in enumerate(node.input[1:], 1):
            carried.input[index] = self.value(other)
        self.append(carried)
        self.hidden.add(name)
        return True

    def _scaled(self, total: str, factor: str, output: str, named: str) -> None:
        total = self.write("Cast", [total], f"{total}.cast", f"{named}.cast", to=TensorProto.FLOAT)
        self.write("Mul", [total, factor], output, f"{named}.scale")
