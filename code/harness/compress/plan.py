"""Which parts of a network become 8 bits, independent of the operators they are written in."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from onnx import NodeProto

from harness.compress.network import Layer, Network
from harness.compress.ranges import Range
from harness.compress.rounding import Rounded


@dataclass(frozen=True)
class Plan:
    """The layers and products of activations that become 8 bits, by output name, and the ranges of their tensors."""

    network: Network
    rounded: Mapping[str, Rounded]
    ranges: Mapping[str, Range] = field(default_factory=dict)
    products: Collection[str] = ()
    pairs: Mapping[str, str] = field(default_factory=dict)
    """Outputs of QuantizeLinear and DequantizeLinear nodes that only round a tensor to its range, and that tensor:
    operators that are not in 8 bits read it in this form."""
    given: Collection[str] = ()
    """The graph's inputs that are already the 8 bits of their range, uint8."""
    tables: bool = True
    """Whether large tables of embeddings become 8 bits."""

    def layer(self, node: NodeProto) -> Layer | None:
        """The 8-bit layer of a node; None if it is not one."""
        name = node.output[0]
        return self.network.layer(name) if name in self.rounded else None

    def clip(self, layer: Layer) -> NodeProto | None:
        """The Relu or Clip after a convolution that the range of its 8 bits replaces."""
        after = self.network.only_reader(layer.output) if layer.node.op_type == "Conv" else None
        return after if after is not None and _starts_at_zero(self.network, after) else None

    def result(self, layer: Layer) -> str:
        """The output of a convolution together with the node merged into it."""
        clip = self.clip(layer)
        return str(clip.output[0]) if clip is not None else layer.output

    def needed(self) -> set[str]:
        """Tensors whose ranges must be known: inputs of layers, and the outputs of convolutions."""
        layers = [self.network.layer(name) for name in self.rounded]
        return {layer.source for layer in layers} | {
            self.result(layer) for layer in layers if layer.node.op_type == "Conv"
        }


def _starts_at_zero(network: Network, node: NodeProto) -> bool:
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip" or len(node.input) < 3:
        return False
    limits = node.input[1:3]
    return all(map(network.is_constant, limits)) and float(network.floats(limits[0])) == 0
