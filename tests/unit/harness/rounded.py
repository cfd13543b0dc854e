"""Small networks that are rounded to 8 bits, and a comparison of what two graphs compute."""

from __future__ import annotations

from hashlib import sha256

from graphs import constants, convnet, embedder, images, mlp, mlp_feeds, texts
from onnx import ModelProto

from harness.compress import rounding
from harness.compress.network import Network
from harness.compress.plan import Plan
from harness.compress.products import products
from harness.compress.ranges import observe

CASES = {
    "mlp": (mlp, mlp_feeds),
    "convnet": (convnet, images),
    "convnet of opset 11": (lambda: convnet(11), images),
    "convnet padded by itself": (lambda: convnet(auto_pad="SAME_UPPER"), images),
    "embedder": (embedder, texts),
}


def round_all(model: ModelProto, feeds, leave=(), *, per_output: bool = False, convolutions: bool = False) -> Plan:
    """Layers and products, but for those to leave, rounded to the nearest; ``convolutions`` may have several scales."""
    network = Network(model)
    layers = [layer for layer in network.layers if layer.output not in leave]
    rounded = {
        layer.output: rounding.nearest(
            network.matrix(layer), per_output=per_output and (convolutions or layer.node.op_type != "Conv")
        )
        for layer in layers
    }
    multiplied = {product.output: product for product in products(network) if product.output not in leave}
    operands = {name for product in multiplied.values() for name in product.node.input}
    needed = Plan(network, rounded).needed() | operands
    return Plan(network, rounded, observe(network, needed, feeds), frozenset(multiplied))


def formula(model: ModelProto) -> list[str]:
    """What each output is computed with, operator by operator and constant by constant, whatever the tensors' names."""
    known = {value.name: value.name for value in model.graph.input}
    for name, value in constants(model).items():
        known[name] = f"{value.dtype}{value.shape}{sha256(value.tobytes()).hexdigest()}"
    for item in model.graph.node:
        attributes = sorted(attribute.SerializeToString() for attribute in item.attribute)
        text = repr((item.op_type, [known[name] for name in item.input], attributes))
        known |= {name: sha256(f"{number}{text}".encode()).hexdigest() for number, name in enumerate(item.output)}
    return [known[value.name] for value in model.graph.output]
