"""An ONNX graph that runs in PyTorch with its weights as parameters, so that it can be trained without conversion."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np
import torch
from onnx import ModelProto, NodeProto, TensorProto, numpy_helper
from torch import Tensor

from harness.compress.network import Layer, Network
from harness.trainable.fusion import Fused, groups
from harness.trainable.node import Function
from harness.trainable.operators import function_of

Change = Callable[[Tensor], Tensor]
"""A change of a tensor before it is used."""
_Place = tuple[str, int]
_Key = tuple[frozenset[str], frozenset[_Place], frozenset[str]]
"""Identifies a list of steps: the wanted tensors, and where values and results are changed."""
_FIXED = {("BatchNormalization", 3), ("BatchNormalization", 4), ("Pow", 1), ("Clip", 1), ("Clip", 2), ("Pad", 2)}
"""Inputs that are not trained: the operators' settings, and stored statistics."""


@dataclass(frozen=True)
class _Operation:
    """One node, or several that one function replaces."""

    function: Function
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer: Layer | None
    fused: bool
    changed: tuple[tuple[int, _Place], ...] = ()
    """Inputs that are changed before they are read: their positions, and their keys in `GraphModule.values`."""
    release: tuple[str, ...] = ()
    """Tensors that no later step reads."""


class GraphModule(torch.nn.Module):
    """A folded graph (`harness.compress.folding.read_network`) in PyTorch.

    The trained parameters are the float32 weights and biases: constants with more than one value, and those of linear
    layers. Other constants stay as they are: numbers in formulas, integers, the statistics of batch normalisation.

    Changes to the computation, such as masks and rounding, are registered in four dictionaries:

    - ``weights``: by a layer's output, applied to its matrix (outputs, inputs); a mask. `store` also applies it.
    - ``rounding``: likewise, applied after ``weights``, and left out by `store`.
    - ``values``: by (a node's first output, number of its input), applied to what the node reads there. A change that
      is registered for several readers of one tensor is applied once.
    - ``results``: by a tensor's name, applied to it where it is computed, so that all its readers see the change.
    """

    def __init__(self, network: Network) -> None:
        """Copy the network.

        Raises:
            ConfigError: the graph has an operator that cannot be trained.
        """
        super().__init__()
        model = ModelProto()
        model.CopyFrom(network.model)
        self.network = Network(model)
        self.weights: dict[str, Change] = {}
        self.rounding: dict[str, Change] = {}
        self.values: dict[_Place, Change] = {}
        self.results: dict[str, Change] = {}
        opset = model.opset_import[0].version
        self._functions = [function_of(node, opset) for node in self.network.nodes]
        self._layers = {layer.output: layer for layer in self.network.layers}
        self._groups = list(groups(self.network))
        self._outputs = [value.name for value in model.graph.output]
        self._programs: dict[_Key, list[_Operation]] = {}
        self._mangled: dict[str, str] = {}
        self._integers: dict[str, Tensor] = {}
        """Constants that stay on the CPU, where shapes are."""
        self._read_constants()

    def _read_constants(self) -> None:
        trained = self._trained()
        for tensor in self.network.model.graph.initializer:
            value = torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
            if not value.is_floating_point():
                self._integers[tensor.name] = value
                continue
            name = self._mangled[tensor.name] = f"t{len(self._mangled)}_{re.sub(r'[^0-9A-Za-z]', '_', tensor.name)}"
            if tensor.name in trained:
                self.register_parameter(name, torch.nn.Parameter(value))
            else:
                self.register_buffer(name, value, persistent=False)

    def _trained(self) -> set[str]:
        network = self.network
        own = {layer.weight for layer in network.layers}
        own |= {name for layer in network.layers for name in (network.bias(layer),) if name}
        reads = {(name, node.op_type, index) for node in network.nodes for index, name in enumerate(node.input)}
        fixed = {name for name, operator, index in reads if (operator, index) in _FIXED}
        found = set()
        for name in {name for name, _, _ in reads if network.is_constant(name)} - fixed:
            tensor = network.tensor(name)
            if tensor.data_type == TensorProto.FLOAT and (name in own or np.prod(tensor.dims, dtype=np.int64) > 1):
                found |= {name} if np.isfinite(network.floats(name)).all() else set()
        return found

    def names(self) -> list[str]:
        """The names of the trained constants, in the order of the parameters."""
        return [name for name, mangled in self._mangled.items() if mangled in self._parameters]

    def trained(self, frozen: Sequence[str] = ()) -> list[torch.nn.Parameter]:
        """The parameters without those whose names match a shell pattern in ``frozen``."""
        names = [name for name in self.names() if not any(fnmatchcase(name, pattern) for pattern in frozen)]
        return [self.parameter(name) for name in names]

    def parameter(self, name: str) -> torch.nn.Parameter:
        """The parameter of a trained constant."""
        found = self._parameters[self._mangled[name]]
        assert found is not None
        return found

    def weight(self, layer: Layer) -> torch.nn.Parameter:
        """A layer's weight, in the shape in which the graph stores it."""
        return self.parameter(layer.weight)

    def matrix(self, layer: Layer) -> Tensor:
        """A layer's weight as float32 (outputs, inputs), like `Network.matrix`: differentiable, not yet changed."""
        return as_matrix(layer, self.weight(layer))

    def forward(self, feed: Mapping[str, Tensor], wanted: Collection[str] = ()) -> dict[str, Tensor]:
        """The graph's outputs and the ``wanted`` tensors, by name.

        ``feed`` are the graph's inputs by name. Other tensors are released when no later node reads them; what the
        gradient needs, autograd keeps.
        """
        key = frozenset(wanted), frozenset(self.values), frozenset(self.results)
        if key not in self._programs:
            self._programs[key] = self._program(*key)
        values: dict[str, Tensor] = {**self._integers, **feed}
        for name, mangled in self._mangled.items():
            values[name] = getattr(self, mangled)
        changed: dict[_Place, Tensor] = {}
        for step in self._programs[key]:
            self._run(step, values, changed)
        return {name: values[name] for name in dict.fromkeys((*self._outputs, *wanted))}

    def _run(self, step: _Operation, values: dict[str, Tensor], changed: dict[_Place, Tensor]) -> None:
        inputs = [values[name] if name else None for name in step.inputs]
        for index, place in step.changed:
            change, name = self.values[place], step.inputs[index]
            if (name, id(change)) not in changed:
                changed[name, id(change)] = change(values[name])
            inputs[index] = changed[name, id(change)]
        if step.layer is not None:
            inputs[1] = self._used(step.layer, as_matrix=step.fused)
        found = step.function(*inputs)
        for name, value in zip(step.outputs, (found,) if isinstance(found, Tensor) else found, strict=False):
            if name:
                values[name] = self.results[name](value) if name in self.results else value
        for name in step.release:
            values.pop(name, None)
        if step.release and changed:
            for place in [place for place in changed if place[0] in step.release]:
                del changed[place]

    def masked(self, layer: Layer) -> Tensor:
        """A layer's matrix after the change in ``weights``."""
        matrix = self.matrix(layer)
        return self.weights[layer.output](matrix) if layer.output in self.weights else matrix

    def _used(self, layer: Layer, *, as_matrix: bool) -> Tensor:
        if not as_matrix and layer.output not in self.weights and layer.output not in self.rounding:
            return self.weight(layer)
        matrix = self.masked(layer)
        if layer.output in self.rounding:
            matrix = self.rounding[layer.output](matrix)
        return matrix if as_matrix else restored(layer, matrix, self.weight(layer).shape)

    def _program(self, wanted: frozenset[str], changed: frozenset[_Place], results: frozenset[str]) -> list[_Operation]:
        """The steps that compute the outputs and the wanted tensors, in order."""
        needed = wanted | results | set(self._outputs)
        readers = {output for output, _ in changed}
        fused: dict[str, Fused] = {}
        covered: set[str] = set()
        for group in self._groups:
            # The input of a linear layer may be changed within its group, that of other nodes not.
            apart = needed if group.layer else needed | readers
            if group.inner.isdisjoint(apart) and group.output not in readers:
                fused[group.output] = group
                covered |= group.inner
        steps = [
            self._step(node, function, fused.get(node.output[0]), changed)
            for node, function in zip(self.network.nodes, self._functions, strict=True)
            if node.output[0] not in covered
        ]
        return _pruned(steps, wanted | set(self._outputs))

    def _step(self, node: NodeProto, function: Function, group: Fused | None, changed: frozenset[_Place]) -> _Operation:
        output = node.output[0]
        if group is not None and group.layer is not None:
            places = _places(group.layer.output, group.inputs[:1], changed)
            return _Operation(group.function, group.inputs, (output,), group.layer, True, places)
        if group is not None:
            return _Operation(group.function, group.inputs, (output,), None, True)
        layer = self._layers.get(output)
        layer = layer if layer is not None and self._mangled[layer.weight] in self._parameters else None
        inputs = tuple(node.input)
        return _Operation(function, inputs, tuple(node.output), layer, False, _places(output, inputs, changed))

    def store(self) -> ModelProto:
        """A copy of the network with the current parameters, float32, after the changes in ``weights``."""
        model = ModelProto()
        model.CopyFrom(self.network.model)
        values = {name: self.parameter(name).detach() for name in self.names()}
        with torch.no_grad():
            for output in self.weights:
                layer = self._layers[output]
                values[layer.weight] = restored(layer, self.masked(layer), self.weight(layer).shape)
        for tensor in model.graph.initializer:
            if tensor.name in values:
                value = values[tensor.name].to("cpu", torch.float32).contiguous().numpy()
                tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        return model

    @torch.no_grad()
    def load(self, model: ModelProto) -> None:
        """Copy the parameters of a model that has all of them under the same names, such as one from `store`."""
        found = {tensor.name: tensor for tensor in model.graph.initializer}
        for name in self.names():
            value = torch.from_numpy(np.array(numpy_helper.to_array(found[name])))
            self.parameter(name).copy_(value)


def as_matrix(layer: Layer, weight: Tensor) -> Tensor:
    """A tensor with the shape of a layer's weight as (outputs, inputs), in the order of `Network.matrix`."""
    if layer.node.op_type == "Conv":
        return weight.permute(0, *range(2, weight.dim()), 1).reshape(len(weight), -1)
    return weight if _is_transposed(layer) else weight.t()


def restored(layer: Layer, matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """A layer's weight of that shape from its matrix (outputs, inputs)."""
    if layer.node.op_type == "Conv":
        outputs, channels, *kernel = shape
        return matrix.reshape(outputs, *kernel, channels).movedim(-1, 1)
    return matrix if _is_transposed(layer) else matrix.t()


def _is_transposed(layer: Layer) -> bool:
    return layer.node.op_type == "Gemm" and bool(layer.attribute("transB", 0))


def _places(output: str, inputs: Sequence[str], changed: frozenset[_Place]) -> tuple[tuple[int, _Place], ...]:
    return tuple((index, (output, index)) for index in range(len(inputs)) if (output, index) in changed)


def _pruned(steps: Sequence[_Operation], wanted: Collection[str]) -> list[_Operation]:
    """The steps that the wanted tensors need, each with the tensors that it is the last to read."""
    needed, kept = set(wanted), set(wanted)
    found: list[_Operation] = []
    for step in reversed(steps):
        if needed.isdisjoint(step.outputs):
            continue
        release = {name for name in (*step.inputs, *step.outputs) if name not in needed and name not in kept}
        needed |= set(step.inputs)
        found.append(_Operation(**{**vars(step), "release": tuple(sorted(release - {""}))}))
    return found[::-1]
