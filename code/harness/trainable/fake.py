"""Quantisation-aware training: a module whose layers compute with the 8 bits that the compressor will write.

Rounding sits where `harness.compress.encoding` writes QuantizeLinear: at the inputs of layers and products, at the
outputs of convolutions, at weights, and at the rows of large embedding tables. Only biases differ: they stay in float32
here, and the file holds them in steps of int32, which are finer than an activation's by the size of a weight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.compress.encoding import reads_table
from harness.compress.integer import CARRIERS
from harness.compress.network import Layer, Network
from harness.compress.plan import Plan
from harness.compress.products import Product, choose_ranges
from harness.compress.qdq import QdqEncoder
from harness.compress.ranges import REACHES, Range
from harness.compress.rounding import CLIPS
from harness.trainable.graph import GraphModule
from harness.trainable.rounded import ActivationQuantiser, TableQuantiser, WeightQuantiser, in_bytes

_TRIED_ROWS = 64
"""Rows of each batch on which ranges and scales are tried."""


class FakeQuantisation:
    """Rounds layers of a module, and products of activations.

    `observe` finds the ranges from data, `enable` begins to round. From then on the ranges follow the data of steps
    (`following`): each is a moving average of minimum and maximum (Jacob et al., arXiv:1712.05877, section 3.1) times
    the part of it that `observe` found best: some outliers cost the other values precision, others must be kept. The
    scales of weights follow the largest weight. After `freeze`, the ranges of activations stay.

    Scales are chosen by the rules of `harness.compress.compress`, with two differences: matrix products always have one
    for each output, if the file can hold it; and layers whose error is beyond the compressor's tolerance, which it
    leaves in FP32, are rounded here, since training adapts the weights to the rounding.
    """

    def __init__(self, module: GraphModule, layers: Sequence[Layer], products: Sequence[Product]) -> None:
        """``layers`` and ``products`` belong to the module's network, or to an equal one; nothing is rounded yet."""
        self._module, network = module, module.network
        self._layers = [network.layer(layer.output) for layer in layers]
        self._products = list(products)
        self._weights = {layer.output: WeightQuantiser(layer) for layer in self._layers}
        self._plan = Plan(network, {})
        self._enabled = self._frozen = False
        convolutions = [layer for layer in self._layers if layer.node.op_type == "Conv"]
        self._results = {self._plan.result(layer) for layer in convolutions}
        self._inputs = {layer.source for layer in convolutions}
        self._makers = {name: node for node in network.nodes for name in node.output}
        names = [layer.source for layer in self._layers] + [name for item in products for name in item.node.input]
        self._activations = {self._root(name): ActivationQuantiser() for name in [*names, *sorted(self._results)]}

    def _root(self, name: str) -> str:
        """The tensor whose 8 bits a tensor shares: itself, or what a convolution reads or computes, reshaped."""
        root, node = name, self._makers.get(name)
        while node is not None and node.op_type in CARRIERS:
            root = str(node.input[0])
            if root in self._results or root in self._inputs:
                return root
            node = self._makers.get(root)
        return name

    def observe(self, feeds: Iterable[Mapping[str, Tensor | NDArray[np.generic]]]) -> None:
        """Find ranges and scales for these batches, the graph's inputs by name."""
        samples: dict[str, list[Tensor]] = {}
        operands: dict[str, list[Tensor]] = {}
        self.disable()
        for name, activation in self._activations.items():
            activation.low, activation.high, activation.reaches = 0.0, 0.0, (1.0, 1.0)
            activation.seen.clear()
            activation.watch = self._watch(name, activation, samples, operands)
        self._register_activations()
        try:
            with torch.no_grad():
                for feed in feeds:
                    self._module({name: torch.as_tensor(value) for name, value in feed.items()})
                for activation in self._activations.values():
                    activation.watch = None
                self._choose(samples, operands)
                for activation in self._activations.values():
                    activation.settle()
        finally:
            self.disable()

    def _watch(
        self,
        name: str,
        activation: ActivationQuantiser,
        samples: dict[str, list[Tensor]],
        operands: dict[str, list[Tensor]],
    ) -> Callable[[Tensor], None]:
        linear = any(self._root(layer.source) == name and layer.node.op_type != "Conv" for layer in self._layers)
        multiplied = any(name in product.node.input for product in self._products)

        def watch(value: Tensor) -> None:
            activation.widen(value)
            if linear and name not in self._results and name not in self._inputs:
                rows = value.reshape(-1, value.shape[-1])
                samples.setdefault(name, []).append(rows[:: max(1, len(rows) // _TRIED_ROWS)].clone())
            if multiplied:
                operands.setdefault(name, []).append(value[:1].clone())

        return watch

    def _choose(self, samples: Mapping[str, list[Tensor]], operands: Mapping[str, list[Tensor]]) -> None:
        """Choose the part of each range, and the scales of weights."""
        for name, parts in samples.items():
            rows = torch.cat(parts)
            layers = [layer for layer in self._layers if layer.source == name and layer.node.op_type != "Conv"]
            matrices = [self._module.masked(layer) for layer in layers]
            self._activations[name].reaches = _best_reaches(self._activations[name], rows, matrices)
            for layer, matrix in zip(layers, matrices, strict=True):
                self._choose_scale(layer, matrix, rows)
        for layer in self._layers:
            if layer.node.op_type == "Conv" and layer.groups == 1:
                self._choose_scale(layer, self._module.masked(layer), None)
        known = {name: self._activations[name].range for name in (*samples, *self._results, *self._inputs)}
        for product in self._products:
            if product.left not in operands or product.right not in operands:
                continue  # an operand has the 8 bits of a convolution already
            pairs = zip(operands[product.left], operands[product.right], strict=True)
            batches = [{product.left: _array(left), product.right: _array(right)} for left, right in pairs]
            chosen = choose_ranges(product, batches, known)
            for name, span in (chosen[0] if chosen else {}).items():
                if name not in known:
                    known[name] = span
                    self._activations[name].reaches = _reaches(span, batches, name)

    def _choose_scale(self, layer: Layer, matrix: Tensor, rows: Tensor | None) -> None:
        """Choose the scales that change the layer's outputs least, or its weights if there are no rows of its input."""
        energy = float((matrix if rows is None else rows @ matrix.t()).norm()) or 1e-30

        def harm(weight: WeightQuantiser) -> float:
            lost = weight(matrix) - matrix
            return float((lost if rows is None else rows @ lost.t()).norm()) / energy

        weight = self._weights[layer.output]
        opset = self._module.network.model.opset_import[0].version
        weight.per_output = layer.node.op_type != "Conv" and opset >= QdqEncoder.min_opset_of_axes
        weight.clip = min(CLIPS, key=lambda clip: harm(WeightQuantiser(layer, weight.per_output, clip)))

    def enable(self) -> None:
        """Begin to round."""
        self._enabled = True
        self._register_activations()
        for output, weight in self._weights.items():
            self._module.rounding[output] = weight
        for node in self._module.network.nodes:
            if reads_table(self._module.network, node):
                self._module.results[node.output[0]] = TableQuantiser(self._reader_of(node.input[0]))

    def freeze(self) -> None:
        """Fix the ranges of activations from now on."""
        self._frozen = True

    @contextmanager
    def following(self) -> Iterator[None]:
        """The forward passes of one step: at the end, all of them together move the ranges once.

        Other forward passes, as for a score or the Fisher matrix, leave the ranges as they are.
        """
        activations = list(self._activations.values()) if self._enabled and not self._frozen else []
        for activation in activations:
            activation.follows = True
        try:
            yield
            for activation in activations:
                activation.move()
        finally:
            for activation in activations:
                activation.follows = False
                activation.seen.clear()

    def disable(self) -> None:
        """Stop rounding."""
        module = self._module
        self._enabled = False
        for output in self._weights:
            module.rounding.pop(output, None)
        for place in [place for place, change in module.values.items() if isinstance(change, ActivationQuantiser)]:
            del module.values[place]
        for name in [
            name for name, change in module.results.items() if isinstance(change, (ActivationQuantiser, TableQuantiser))
        ]:
            del module.results[name]

    def _reader_of(self, name: str) -> Callable[[], Tensor]:
        return lambda: self._module.parameter(name)

    def _register_activations(self) -> None:
        module = self._module
        for name in self._results:
            module.results[name] = self._activations[name]
        for place, name in self._reads():
            root = self._root(name)
            if root not in self._results:  # those are rounded where they are computed
                module.values[place] = self._activations[root]

    def _reads(self) -> Iterator[tuple[tuple[str, int], str]]:
        """The places where tensors are read in 8 bits, (node's first output, number of the input), and the tensor."""
        layers, multiplied = {layer.output: layer for layer in self._layers}, {item.output for item in self._products}
        hidden: set[str] = set()
        for node in self._module.network.nodes:
            output = str(node.output[0])
            layer = layers.get(output)
            if layer is not None:
                yield (output, 0), layer.source
            if layer is not None and node.op_type == "Conv":
                hidden.add(layer.source)  # all that read it later get its 8 bits
            for index, name in enumerate(node.input):
                if output in multiplied or (name in hidden and layer is None):
                    yield (output, index), name

    def plan(self) -> Plan:
        """The plan to export: the current weights, rounded, and the current ranges."""
        network = Network(self._module.store())
        rounded = {
            output: weight.rounded(self._module.masked(weight.layer)) for output, weight in self._weights.items()
        }
        names = Plan(network, rounded).needed() | {name for item in self._products for name in item.node.input}
        ranges = {name: self._activations[self._root(name)].range for name in names}
        return Plan(network, rounded, ranges, {item.output for item in self._products})

    def state_dict(self) -> dict[str, Any]:
        """Plain data, for checkpoints."""
        return {
            "enabled": self._enabled,
            "frozen": self._frozen,
            "activations": {name: activation.state() for name, activation in self._activations.items()},
            "weights": {output: (weight.per_output, weight.clip) for output, weight in self._weights.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, saved in state["activations"].items():
            self._activations[name].restore(saved)
        for output, (per_output, clip) in state["weights"].items():
            self._weights[output].per_output, self._weights[output].clip = per_output, clip
        if state["enabled"]:
            self.enable()
        if state["frozen"]:
            self.freeze()


def _best_reaches(activation: ActivationQuantiser, rows: Tensor, matrices: Sequence[Tensor]) -> tuple[float, float]:
    """The parts of minimum and maximum with which rounded rows change the layers' outputs least."""
    low, high = activation.low, activation.high
    energies = [float((rows @ matrix.t()).square().sum()) or 1e-30 for matrix in matrices]

    def harm(reaches: tuple[float, float]) -> float:
        lost = in_bytes(rows, Range.of(low * reaches[0], high * reaches[1])) - rows
        parts = zip(matrices, energies, strict=True)
        return sum(float((lost @ matrix.t()).square().sum()) / energy for matrix, energy in parts)

    top = min(((1.0, reach) for reach in REACHES), key=harm)
    return min(((reach, top[1]) for reach in REACHES), key=harm) if low < 0 else top


def _reaches(span: Range, batches: Sequence[Mapping[str, NDArray[np.generic]]], name: str) -> tuple[float, float]:
    """The parts of minimum and maximum that a range of these values represents."""
    low = min(float(values[name].min()) for values in batches)
    high = max(float(values[name].max()) for values in batches)
    return (min(1.0, span.low / low) if low < 0 else 1.0, min(1.0, span.high / high) if high > 0 else 1.0)


def _array(value: Tensor) -> NDArray[np.generic]:
    found: NDArray[np.generic] = value.float().cpu().numpy()
    return found
