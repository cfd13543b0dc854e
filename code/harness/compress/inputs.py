"""Gives a graph byte inputs: images as uint8 pixels, which the graph itself normalises."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from harness.compress.network import Network
from harness.compress.ranges import Range
from harness.compress.scaling import Scaling

_MAX_DISTANCE = 0.02
"""Maximum distance of a mean from a whole number, in steps between two bytes, to count as that number. The rounding
to 8 bits that this replaces moves values by up to half a step."""
_MOVES = ("Transpose", "Identity")
"""Operators before the first layer that change no value."""


def range_of(scaling: Scaling) -> Range | None:
    """The range whose 8 bits are the bytes themselves.

    None if the channels differ, or their mean is not a byte: zeros that pad the float input stand for the mean, and
    would then not be the single zero point of the 8 bits.
    """
    mean, deviation = scaling.mean[0], scaling.deviation[0]
    zero = round(mean)
    alike = {*scaling.mean} == {mean} and {*scaling.deviation} == {deviation}
    if not alike or not 0 <= zero <= 255 or abs(mean - zero) > _MAX_DISTANCE:
        return None
    return Range.of_steps(np.float32(1 / deviation), zero)


def byte_ranges(network: Network, scalings: Mapping[str, Scaling]) -> dict[str, Range]:
    """The ranges of the inputs whose 8 bits can be their bytes, and of tensors that hold the same values."""
    found = {name: span for name, scaling in scalings.items() if (span := range_of(scaling))}
    for node in network.nodes:
        if node.op_type in _MOVES and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return found


def take_bytes(model: ModelProto, scalings: Mapping[str, Scaling]) -> None:
    """Change float32 inputs of a model to uint8, which the graph converts to the same floats up to rounding.

    OpenVINO merges these operators with the QuantizeLinear after them. DeepSparse 1.8 would abort on a
    BatchNormalization in their place.
    """
    graph = model.graph
    first: list[NodeProto] = []
    for value in graph.input:
        if value.name not in scalings:
            continue
        scaling, name = scalings[value.name], value.name
        value.type.tensor_type.elem_type = TensorProto.UINT8
        for node in graph.node:
            for index, read in enumerate(node.input):
                if read == name:
                    node.input[index] = f"{name}.normalised"
        shape = [1] * len(value.type.tensor_type.shape.dim)
        shape[scaling.axis] = len(scaling.mean)
        for part, numbers in (("mean", scaling.mean), ("factor", tuple(1 / each for each in scaling.deviation))):
            constant = np.array(numbers, np.float32).reshape(shape)
            graph.initializer.append(numpy_helper.from_array(constant, f"{name}.{part}"))
        first += [
            helper.make_node("Cast", [name], [f"{name}.float"], f"{name}.float", to=TensorProto.FLOAT),
            helper.make_node("Sub", [f"{name}.float", f"{name}.mean"], [f"{name}.centred"], f"{name}.centre"),
            helper.make_node("Mul", [f"{name}.centred", f"{name}.factor"], [f"{name}.normalised"], f"{name}.normalise"),
        ]
    nodes = [*first, *(NodeProto.FromString(node.SerializeToString()) for node in graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
