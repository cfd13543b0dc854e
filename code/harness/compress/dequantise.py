"""Reads a QDQ graph: which of its layers and products are in 8 bits, and the same network in floating point.

Most quantisers write QuantizeLinear and DequantizeLinear around floating-point operators (QDQ). Here the layers whose
input and weights are quantised like this become a `Plan`, which `quantise` writes in the operators of any engine, with
the same integers, scales and zero points. Everything else keeps its QuantizeLinear and DequantizeLinear.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from harness.compress.network import LINEAR, Layer, Network
from harness.compress.plan import Plan
from harness.compress.ranges import Range
from harness.compress.rounding import Rounded

_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
_CARRIERS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity")
"""Operators that change no value of their first input: a tensor may be quantised before or after them."""
_UNSIGNED = 128
"""The offset from an int8 to the uint8 of the same value; also the zero point of symmetric uint8 weights."""
_DEFAULT = ("", "ai.onnx")


def obstacle(model: ModelProto) -> str:
    """Why a graph cannot be read; "" if it can."""
    foreign = sorted({node.domain for node in model.graph.node} - {*_DEFAULT})
    if foreign:
        return f"it has operators of {', '.join(foreign)}"
    if any(a.HasField("g") or a.graphs for node in model.graph.node for a in node.attribute):
        return "its graph has branches or loops"
    return ""


def read_plan(model: ModelProto) -> Plan | None:
    """The 8-bit part of a QDQ graph: layers with int8 weights, products of activations, and their exact ranges.

    Weights must be symmetric, with one scale or one per output, and activations in 8 bits with one scale. int8
    activations become uint8. The output of a convolution must also be quantised. The model itself is not changed.

    Returns:
        None if there is no such layer or product, or an `obstacle`.
    """
    if obstacle(model):
        return None
    reader = _Reader(ModelProto.FromString(model.SerializeToString()))
    return reader.plan()


def multiplications(model: ModelProto) -> int:
    """The number of matrix products and convolutions that read an output of DequantizeLinear."""
    read = {node.output[0] for node in model.graph.node if node.op_type == _DEQUANTISE}
    return sum(node.op_type in LINEAR and bool(read & {*node.input}) for node in model.graph.node)


@dataclass(frozen=True)
class _QuantisedConstant:
    """A constant in symmetric 8 bits: weights of 0 are the integer 0."""

    values: NDArray[np.int8]
    scale: NDArray[np.float32]
    """Shape (), or one number per position along ``axis``."""
    axis: int

    def transposed(self, order: list[int]) -> _QuantisedConstant:
        return _QuantisedConstant(self.values.transpose(order), self.scale, order.index(self.axis))

    @property
    def floats(self) -> NDArray[np.float32]:
        shape = [-1 if axis == self.axis else 1 for axis in range(self.values.ndim)]
        return self.values.astype(np.float32) * (self.scale.reshape(shape) if self.scale.ndim else self.scale)

    def rounded(self, layer: Layer) -> Rounded | None:
        """The integers in the form of the layer's matrix; None if the scales do not belong to its outputs."""
        values = layer.matrix(self.values)  # type: ignore[arg-type]  # it only moves axes
        first = layer.node.op_type == "Conv" or layer.attribute("transB", 0)
        if not self.scale.ndim:
            return Rounded(np.ascontiguousarray(values), self.scale.reshape(1, 1))
        if self.axis != (0 if first else 1):
            return None
        return Rounded(np.ascontiguousarray(values), self.scale.reshape(-1, 1))


@dataclass(frozen=True)
class _Operand:
    """An input of a layer that is rounded to 8 bits, possibly before `_CARRIERS`."""

    name: str
    """The tensor to read instead, in floating point."""
    range: Range
    first: NodeProto | None = None
    """The carrier that reads the rounded tensor; it will read ``whole`` instead."""
    whole: str = ""
    """The tensor before it is rounded."""


class _Reader:
    """Changes a copy of the graph: weights become floats, and 8-bit layers read their inputs before rounding."""

    def __init__(self, model: ModelProto) -> None:
        self._model, self._graph = model, model.graph
        kept = next(opset.version for opset in model.opset_import if opset.domain in _DEFAULT)
        del model.opset_import[:]  # DeepSparse refuses newer operator sets, even ones that no node uses
        model.opset_import.append(helper.make_opsetid("", kept))
        model.ir_version = min(model.ir_version, 8)
        self._tensors: dict[str, TensorProto] = {}
        self._take_constants()
        self._makers = {name: node for node in self._graph.node for name in node.output}
        self._given = {value.name for value in self._graph.output}
        self._ranges: dict[str, Range] = {}
        self._pairs: dict[str, str] = {}
        """The outputs of QuantizeLinear and DequantizeLinear that only round a tensor, and that tensor."""
        self._bytes: set[str] = set()
        """The graph's inputs in uint8 that are only dequantised."""

    def plan(self) -> Plan | None:
        self._count_readers()
        weights = self._restore_weights()
        self._find_pairs()
        rounded: dict[str, Rounded] = {}
        multiplied: set[str] = set()
        layers = {layer.output: layer for layer in self._network().layers if layer.output in weights}
        for node in list(self._graph.node):
            layer = layers.get(node.output[0])
            if layer is not None:
                if (made := self._layer(layer, weights[layer.output])) is not None:
                    rounded[node.output[0]] = made  # not layer.output: `_layer` may rename a convolution's output
            elif node.op_type == "MatMul" and self._product(node):
                multiplied.add(node.output[0])
        if not rounded and not multiplied:
            return None
        self._remove_unread()
        left = {name for node in self._graph.node for name in node.output}
        pairs = {name: tensor for name, tensor in self._pairs.items() if name in left}
        return Plan(
            self._network(), rounded, self._ranges, frozenset(multiplied), pairs, frozenset(self._bytes), tables=False
        )

    def _network(self) -> Network:
        return Network(self._model)

    def _take_constants(self) -> None:
        """Turn Constant nodes into initialisers, and rename all constants so that no new tensor takes their names."""
        graph = self._graph
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                tensor = graph.initializer.add()
                tensor.CopyFrom(node.attribute[0].t)
                tensor.name = node.output[0]
        known = {tensor.name for tensor in graph.initializer}
        given = {value.name for value in graph.output}
        kept = [n for n in graph.node if n.op_type != "Constant" or n.output[0] not in known or n.output[0] in given]
        inputs = [value for value in graph.input if value.name not in known]
        for node in kept:
            for index, name in enumerate(node.input):
                if name in known:
                    node.input[index] = f"{name}.given"
        for tensor in graph.initializer:
            tensor.name = f"{tensor.name}.given"
            self._tensors[tensor.name] = tensor
        for field, values in ((graph.node, kept), (graph.input, inputs)):
            values = [type(value).FromString(value.SerializeToString()) for value in values]
            del field[:]
            field.extend(values)
        for node in graph.node:
            if node.op_type in LINEAR:
                node.name = node.output[0]  # names of nodes need not be unique

    def _count_readers(self) -> None:
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self._graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def _only_reader(self, name: str) -> NodeProto | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self._given else None

    def _value(self, name: str) -> NDArray[np.generic] | None:
        """The value of a constant; None if the tensor is not one."""
        tensor = self._tensors.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def _grid(self, node: NodeProto) -> tuple[NDArray[np.float32], NDArray[np.generic]] | None:
        """The scale and zero point of a node; None if they are not constant, or it has attributes of newer opsets."""
        scale = self._value(node.input[1])
        zero = self._value(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if any(a.name not in ("axis", "saturate") and (a.i or a.type != a.INT) for a in node.attribute):
            return None
        if scale is None or scale.dtype != np.float32 or (zero is None and "".join(node.input[2:3])):
            return None
        scale = scale.astype(np.float32)
        if zero is None:  # its type is then that of the dequantised tensor
            values = self._value(node.input[0]) if node.op_type == _DEQUANTISE else None
            zero = np.zeros(scale.shape, np.uint8 if values is None else values.dtype)
        return scale, zero

    def _integers(self, name: str) -> _QuantisedConstant | None:
        """The symmetric 8-bit weight that a tensor is dequantised from; None if it is not one."""
        node = self._makers.get(name)
        if node is None:
            return None
        if node.op_type == "Transpose":
            found = self._integers(node.input[0])
            order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            return found and found.transposed(order or list(range(found.values.ndim))[::-1])
        if node.op_type != _DEQUANTISE or (grid := self._grid(node)) is None:
            return None
        values, (scale, zero) = self._stored(node.input[0]), grid
        if values is None or values.ndim < 2 or values.dtype != zero.dtype:
            return None
        middle = {"int8": 0, "uint8": _UNSIGNED}.get(values.dtype.name)
        if middle is None or (zero != middle).any():
            return None
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % values.ndim
        if scale.size == 1:
            scale = scale.reshape(())
        elif scale.shape != (values.shape[axis],):
            return None
        return _QuantisedConstant((values.astype(np.int16) - middle).astype(np.int8), scale, axis)

    def _stored(self, name: str) -> NDArray[np.generic] | None:
        """A constant, or one that the graph itself quantises."""
        node = self._makers.get(name)
        if node is None or node.op_type != _QUANTISE:
            return self._value(name)
        floats, grid = self._value(node.input[0]), self._grid(node)
        if floats is None or grid is None or grid[1].dtype not in (np.int8, np.uint8):
            return None
        scale, zero = grid
        if scale.size > 1:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % floats.ndim
            shape = [-1 if number == axis else 1 for number in range(floats.ndim)]
            scale, zero = scale.reshape(shape), zero.reshape(shape)
        steps = np.rint(floats.astype(np.float32) / scale) + zero.astype(np.float32)
        limits = np.iinfo(zero.dtype)  # type: ignore[type-var]  # it is an integer
        rounded: NDArray[np.generic] = np.clip(steps, limits.min, limits.max).astype(zero.dtype)
        return rounded

    def _restore_weights(self) -> dict[str, _QuantisedConstant]:
        """Replace dequantised weights and biases by constants; returns the integers of weights, by layer output."""
        found = {}
        for node in self._graph.node:
            if node.op_type in LINEAR and len(self._readers[node.input[1]]) == 1:
                integers = self._integers(node.input[1])
                if integers is not None:
                    found[node.output[0]] = integers
                    node.input[1] = self._constant(f"{node.input[1]}.given", integers.floats)
        for node in self._graph.node:
            if node.op_type == _DEQUANTISE and node.output[0] not in self._given:
                values, grid = self._stored(node.input[0]), self._grid(node)
                if values is not None and values.ndim < 2 and grid is not None and values.dtype == grid[1].dtype:
                    steps = values.astype(np.float64) - grid[1].astype(np.float64)
                    name = self._constant(f"{node.output[0]}.given", (steps * grid[0]).astype(np.float32))
                    for reader in self._readers.get(node.output[0], []):
                        _replace(reader, node.output[0], name)
        self._count_readers()
        return found

    def _constant(self, name: str, value: NDArray[np.generic]) -> str:
        tensor = self._graph.initializer.add()
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name))
        self._tensors[name] = tensor
        return name

    def _find_pairs(self) -> None:
        """Find pairs of QuantizeLinear and DequantizeLinear with one scale; only the first scale of a tensor counts."""
        for value in self._graph.input:
            after = self._readers.get(value.name, [])
            spans = {self._range(reader) if reader.op_type == _DEQUANTISE else None for reader in after}
            if value.type.tensor_type.elem_type == TensorProto.UINT8 and len(spans) == 1 and (span := spans.pop()):
                self._ranges[value.name] = span
                self._pairs |= {reader.output[0]: value.name for reader in after}
                self._bytes.add(value.name)
        for node in self._graph.node:
            if node.op_type != _QUANTISE or node.input[0] in self._tensors or (span := self._range(node)) is None:
                continue
            after = self._readers.get(node.output[0], [])
            if not after or node.output[0] in self._given:
                continue
            if any(reader.op_type != _DEQUANTISE or self._range(reader) != span for reader in after):
                continue
            if self._ranges.setdefault(node.input[0], span) == span:
                self._pairs |= {name: node.input[0] for reader in (node, *after) for name in reader.output}

    def _range(self, node: NodeProto) -> Range | None:
        grid = self._grid(node)
        if grid is None or grid[0].size != 1 or grid[1].size != 1 or not grid[0].item() > 0:
            return None
        zero = int(grid[1].item())
        if grid[1].dtype == np.int8:
            zero += _UNSIGNED
        elif grid[1].dtype != np.uint8:
            return None
        return Range.of_steps(np.float32(grid[0].item()), zero)

    def _operand(self, name: str) -> _Operand | None:
        """The operand behind a layer's input; None if that is not rounded to 8 bits."""
        first, rounded = None, name
        while rounded not in self._pairs:
            node = self._makers.get(rounded)
            if node is None or node.op_type not in _CARRIERS or self._only_reader(rounded) is None:
                return None
            first, rounded = node, node.input[0]
        whole = self._pairs[rounded]
        return _Operand(whole if first is None else name, self._ranges[whole], first, whole)

    def _read(self, node: NodeProto, index: int, operand: _Operand) -> None:
        """Rewire a node to read an operand before it is rounded."""
        if operand.first is not None:
            operand.first.input[0] = operand.whole
        self._ranges[operand.name] = operand.range
        node.input[index] = operand.name

    def _product(self, node: NodeProto) -> bool:
        """Whether a product of two activations is in 8 bits; if so, rewire it to read them before rounding."""
        operands = [self._operand(name) for name in node.input]
        for index, operand in enumerate(operands):
            if None not in operands and operand is not None:
                self._read(node, index, operand)
        return None not in operands

    def _layer(self, layer: Layer, integers: _QuantisedConstant) -> Rounded | None:
        """The weights of an 8-bit layer, which is rewired to read its input before rounding; None for other layers."""
        operand, rounded = self._operand(layer.source), integers.rounded(layer)
        if operand is None or rounded is None:
            return None
        if layer.node.op_type == "Conv":
            result = self._result(layer.output)
            if result is None:
                return None
            if result != layer.output:  # its 8 bits end where the Relu or Clip does
                self._makers[result].output[0] = f"{result}.unread"
                layer.node.output[0] = result
                self._makers[result] = layer.node
        self._read(layer.node, 0, operand)
        return rounded

    def _result(self, name: str) -> str | None:
        """The output of a convolution, or of the Relu or Clip after it, if it is read in 8 bits only; else None."""
        node = self._only_reader(name)
        if node is not None and node.op_type in ("Relu", "Clip") and node.input[0] == name:
            after = self._only_reader(node.output[0])
            if after is None or after.output[0] not in self._pairs:
                return None
            return str(node.output[0]) if self._redundant(node, self._ranges[node.output[0]]) else None
        return name if node is not None and self._pairs.get(node.output[0]) == name else None

    def _redundant(self, node: NodeProto, span: Range) -> bool:
        """Whether the limits of the 8 bits make a Relu or Clip redundant."""
        if int(span.zero) != 0 or node.op_type == "Relu":
            return int(span.zero) == 0
        limits = [self._value(name) if name else None for name in node.input[1:3]]
        if len(limits) < 2 or any(limit is None or limit.size != 1 for limit in limits):
            return False
        low, high = (float(np.asarray(limit, np.float64).item()) for limit in limits)
        return low <= 0 and high >= span.high - float(span.scale) / 2

    def _remove_unread(self) -> None:
        """Remove nodes that nothing reads any more."""
        read = set(self._given)
        kept = []
        for node in reversed(self._graph.node):
            if read & {*node.output}:
                read |= {*node.input}
                kept.append(NodeProto.FromString(node.SerializeToString()))
        del self._graph.node[:]
        self._graph.node.extend(reversed(kept))


def _replace(node: NodeProto, old: str, new: str) -> None:
    for index, name in enumerate(node.input):
        if name == old:
            node.input[index] = new
