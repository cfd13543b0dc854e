"""Groups of nodes that one PyTorch function replaces, in less memory and time.

Exporters write layer normalisation and GELU as many small operators; training would keep the result of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import NodeProto, helper
from torch import Tensor
from torch.nn import functional

from harness.compress.network import Layer, Network
from harness.trainable.node import Function


@dataclass(frozen=True)
class Fused:
    """Nodes with one result: ``inner`` are the outputs of the others, which nothing else reads."""

    function: Function
    inputs: tuple[str, ...]
    output: str
    inner: frozenset[str]
    layer: Layer | None = None
    """The linear layer among the nodes, whose second input is then its matrix (outputs, inputs)."""


def groups(network: Network) -> Iterator[Fused]:
    """The groups of a network; no two have a node in common."""
    makers = {name: node for node in network.nodes for name in node.output}
    for node in network.nodes:
        found = None
        if node.op_type == "ReduceMean":
            found = _layer_norm(network, node)
        elif node.op_type == "Erf":
            found = _gelu(network, node, makers)
        if found:
            yield found
    yield from _biased(network)


def _biased(network: Network) -> Iterator[Fused]:
    """Matrix products and the constant that is added to them."""
    for layer in network.layers:
        if layer.node.op_type == "MatMul":
            total, name = network.constant_bias(layer)
            if total and len(network.tensor(name).dims) == 1:
                inputs = (layer.source, layer.weight, name)
                yield Fused(functional.linear, inputs, total, frozenset([layer.output]), layer)


def _layer_norm(network: Network, mean: NodeProto) -> Fused | None:
    """The layer normalisation over the last axis that begins with this mean."""
    x, rest = mean.input[0], network.only_reader(mean.output[0])
    if not _of_last_axis(network, mean) or rest is None or list(rest.input) != [x, mean.output[0]]:
        return None
    if rest.op_type != "Sub":
        return None
    squares = [node for node in network.nodes if rest.output[0] in node.input and _squares(network, node)]
    variance = network.only_reader(squares[0].output[0]) if len(squares) == 1 else None
    if variance is None or not _of_last_axis(network, variance):
        return None
    shifted = network.only_reader(variance.output[0])
    epsilon = _other(network, shifted, "Add", variance.output[0])
    root = _reader(network, shifted, "Sqrt")
    quotient = _reader(network, root, "Div")
    if epsilon is None or root is None or quotient is None or list(quotient.input) != [rest.output[0], root.output[0]]:
        return None
    product = _reader(network, quotient, "Mul")
    total = _reader(network, product, "Add")
    if shifted is None or product is None or total is None:
        return None
    weight, bias = _vector(network, product, quotient.output[0]), _vector(network, total, product.output[0])
    if weight is None or bias is None or network.tensor(weight).dims != network.tensor(bias).dims:
        return None
    inner = (mean, rest, squares[0], variance, shifted, root, quotient, product)
    if len([node for node in network.nodes if rest.output[0] in node.input]) > 2 or _is_output(network, rest):
        return None

    def run(value: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        return functional.layer_norm(value, scale.shape, scale, offset, epsilon)

    return Fused(run, (x, weight, bias), total.output[0], frozenset(node.output[0] for node in inner))


def _gelu(network: Network, erf: NodeProto, makers: dict[str, NodeProto]) -> Fused | None:
    """The GELU, x (1 + erf(x / sqrt 2)) / 2, around this Erf."""
    scaled = makers.get(erf.input[0])
    if scaled is None or network.only_reader(scaled.output[0]) is None:
        return None
    x = scaled.input[0]
    root = {"Div": math.sqrt(2), "Mul": math.sqrt(0.5)}.get(scaled.op_type)
    if root is None or not _is_close(_other(network, scaled, scaled.op_type, x), root):
        return None
    total = _reader(network, erf, "Add")
    product = _reader(network, total, "Mul")
    if total is None or product is None or not _is_close(_other(network, total, "Add", erf.output[0]), 1.0):
        return None
    nodes = [scaled, erf, total, product]
    other = _partner(product, total.output[0])
    half = makers.get(other)
    if other == x:  # x (1 + erf), then halved
        nodes.append(_reader(network, product, "Mul"))
        factor = _other(network, nodes[-1], "Mul", product.output[0])
    elif half is not None and half.op_type == "Mul" and network.only_reader(other) is not None:  # x / 2 first
        nodes.insert(0, half)
        factor = _other(network, half, "Mul", x)
    else:  # (1 + erf) / 2 first
        nodes.append(_reader(network, product, "Mul"))
        factor = _other(network, product, "Mul", total.output[0])
        if nodes[-1] is not None and _partner(nodes[-1], product.output[0]) != x:
            return None
    if nodes[-1] is None or not _is_close(factor, 0.5):
        return None
    inner = frozenset(node.output[0] for node in nodes[:-1])
    return Fused(functional.gelu, (x,), nodes[-1].output[0], inner)


def _is_close(value: float | None, expected: float) -> bool:
    return value is not None and math.isclose(value, expected, rel_tol=1e-5)


def _reader(network: Network, node: NodeProto | None, operator: str) -> NodeProto | None:
    """The only reader of a node's output, if that is such an operator."""
    reader = None if node is None else network.only_reader(node.output[0])
    return reader if reader is not None and reader.op_type == operator else None


def _partner(node: NodeProto, name: str) -> str:
    """The other of a node's two inputs."""
    return str(node.input[1] if node.input[0] == name else node.input[0])


def _other(network: Network, node: NodeProto | None, operator: str, name: str) -> float | None:
    """The number that is the other input of such an operator; None for another operator, or if it is not a number."""
    if node is None or node.op_type != operator or len(node.input) != 2 or name not in node.input:
        return None
    other = _partner(node, name)
    if not network.is_constant(other) or network.constant(other).size != 1:
        return None
    return float(network.constant(other).item())


def _vector(network: Network, node: NodeProto, name: str) -> str | None:
    """The constant of one axis that is a node's other input."""
    other = _partner(node, name)
    return other if network.is_constant(other) and network.constant(other).ndim == 1 else None


def _squares(network: Network, node: NodeProto) -> bool:
    if node.op_type == "Mul":
        return bool(node.input[0] == node.input[1])
    return _is_close(_other(network, node, "Pow", node.input[0]), 2.0)


def _of_last_axis(network: Network, node: NodeProto) -> bool:
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    axes = attributes.get("axes")
    if len(node.input) > 1 and network.is_constant(node.input[1]):
        axes = network.constant(node.input[1]).tolist()
    return node.op_type == "ReduceMean" and axes == [-1] and attributes.get("keepdims", 1) == 1


def _is_output(network: Network, node: NodeProto) -> bool:
    return any(value.name == node.output[0] for value in network.model.graph.output)
