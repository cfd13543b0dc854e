"""The compressor's view of a graph: its linear layers, and a walk through it with calibration data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from harness.host.machine import core_count

LINEAR = ("MatMul", "Gemm", "Conv")
_QUANTISED = (
    "QLinear",
    "QAttention",
    "QGemm",
    "Quantize",
    "Dequantize",
    "DynamicQuantize",
    "MatMulInteger",
    "ConvInteger",
)
"""Prefixes of the names of operators on 8-bit numbers."""
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
Feed = Mapping[str, NDArray[np.generic]]
"""The tensors of one batch by the names of the graph's inputs."""
_T = TypeVar("_T")
_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class _Window:
    """A convolution's window on its input and how it moves, with one number per spatial axis."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]
    """The pads at the start of each axis, then those at the end."""

    def patches(self, value: NDArray[np.float32], limit: int | None) -> NDArray[np.float32]:
        """The windows of a value (n, channel, ...) at about ``limit`` places, as (n, height x width x channel)."""
        half = len(self.kernel)
        value = np.pad(value, [(0, 0), (0, 0), *zip(self.pads[:half], self.pads[half:], strict=True)])
        reach = [(size - 1) * dilation + 1 for size, dilation in zip(self.kernel, self.dilations, strict=True)]
        windows = np.lib.stride_tricks.sliding_window_view(value, (1, 1, *reach)).squeeze((2 + half, 3 + half))
        places = (slice(None), slice(None), *(slice(None, None, stride) for stride in self.strides))
        windows = windows[places + tuple(slice(None, None, dilation) for dilation in self.dilations)]
        # (n, channel, places..., kernel...) to (n, places..., kernel..., channel)
        windows = windows.transpose((0, *range(2, 2 + half), *range(2 + half, 2 + 2 * half), 1))
        shape = windows.shape[: 1 + half]
        count = int(np.prod(shape))
        # Select before copying: the windows together are larger than the input by up to the kernel's size.
        chosen = np.arange(0, count, max(1, count // (limit or count)))
        patches: NDArray[np.float32] = windows[np.unravel_index(chosen, shape)].reshape(len(chosen), -1)
        return patches


def is_quantised(operators: Iterable[str]) -> bool:
    """Whether a graph with these operators computes in 8 bits, or holds weights in them."""
    return any(operator.startswith(_QUANTISED) for operator in operators)


def node_name(node: NodeProto) -> str:
    """A node's name, without the parts that exporters add."""
    return str(node.name or node.output[0]).strip("/").removesuffix(f"/{node.op_type}")


@dataclass(frozen=True)
class Multiplication:
    """A node that multiplies matrices."""

    node: NodeProto

    @property
    def output(self) -> str:
        """Its output tensor."""
        return str(self.node.output[0])

    @property
    def name(self) -> str:
        """The node's name, without the parts that exporters add."""
        return node_name(self.node)


@dataclass(frozen=True)
class Layer(Multiplication):
    """A linear layer: a node that multiplies its input by a constant."""

    source: str
    """Its input tensor."""
    weight: str

    def attribute(self, name: str, default: _T) -> _T:
        """An attribute of the node."""
        found: _T = next((helper.get_attribute_value(a) for a in self.node.attribute if a.name == name), default)
        return found

    @property
    def addend(self) -> str:
        """The third input of a Conv or Gemm, which is added to its outputs; "" if there is none."""
        return "".join(self.node.input[2:3])

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 for other layers."""
        return self.attribute("group", 1) if self.node.op_type == "Conv" else 1

    def matrix(self, weight: NDArray[np.float32]) -> NDArray[np.float32]:
        """The weight as float32 (outputs, inputs); a convolution's inputs are (height, width, channel)."""
        if self.node.op_type == "Conv":
            return weight.transpose(0, *range(2, weight.ndim), 1).reshape(len(weight), -1)
        if self.node.op_type == "Gemm" and self.attribute("transB", 0):
            return weight
        return weight.T

    def restore(self, matrix: NDArray[_Number], shape: Sequence[int]) -> NDArray[_Number]:
        """The weight of that shape from its matrix."""
        if self.node.op_type == "Conv":
            outputs, channels, *kernel = shape
            weight = matrix.reshape(outputs, *kernel, channels)
            return np.ascontiguousarray(np.moveaxis(weight, -1, 1))
        if self.node.op_type == "Gemm" and self.attribute("transB", 0):
            return np.ascontiguousarray(matrix)
        return np.ascontiguousarray(matrix.T)

    def rows(self, value: NDArray[np.float32], kernel: Sequence[int], limit: int | None = None) -> NDArray[np.float32]:
        """The layer's input as rows that the matrix multiplies, float32 (n, inputs).

        For a convolution only at about ``limit`` places, spread evenly.
        """
        if self.node.op_type != "Conv":
            return value.reshape(-1, value.shape[-1])
        shape, ones = tuple(kernel), [1] * len(kernel)
        strides, dilations = tuple(self.attribute("strides", ones)), tuple(self.attribute("dilations", ones))
        pads = self._pads(value.shape[2:], shape, strides, dilations)
        return _Window(shape, strides, dilations, pads).patches(value, limit)

    def _pads(
        self, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
    ) -> tuple[int, ...]:
        kind = self.attribute("auto_pad", b"NOTSET").decode()
        if not kind.startswith("SAME"):
            return tuple(self.attribute("pads", [0] * (2 * len(kernel))))
        lack = [
            max((-(-size // stride) - 1) * stride + (places - 1) * dilation + 1 - size, 0)
            for size, places, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        less, more = [size // 2 for size in lack], [size - size // 2 for size in lack]
        return (*less, *more) if kind == "SAME_UPPER" else (*more, *less)


class Network:
    """A folded graph whose weights can be replaced."""

    def __init__(self, model: ModelProto) -> None:
        """Index the graph; the model is not copied."""
        self.model = model
        self.nodes = list(model.graph.node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._shifts: dict[str, NDArray[np.float32]] = {}
        self._readers: dict[str, list[NodeProto | None]] = {value.name: [None] for value in model.graph.output}
        """The nodes that read a tensor; None stands for the caller of the graph."""
        for node in self.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self.layers = [layer for node in self.nodes if (layer := self._layer(node))]
        self.layers = [layer for layer in self.layers if len(self._readers[layer.weight]) == 1]
        self._by_output = {layer.output: layer for layer in self.layers}

    def _layer(self, node: NodeProto) -> Layer | None:
        if node.op_type not in LINEAR or node.input[1] not in self._constants:
            return None
        weight = self._constants[node.input[1]]
        if len(weight.dims) < 2 or weight.data_type != TensorProto.FLOAT or node.input[0] in self._constants:
            return None
        if node.op_type == "Conv" and any(name and name not in self._constants for name in node.input[2:]):
            return None
        layer = Layer(node, node.input[0], node.input[1])
        plain = node.op_type != "Gemm" or (
            not layer.attribute("transA", 0)
            and layer.attribute("alpha", 1.0) == 1.0
            and layer.attribute("beta", 1.0) == 1.0
        )
        flat = node.op_type == "Conv" or len(weight.dims) == 2
        return layer if plain and flat else None

    def layer(self, output: str) -> Layer:
        """The layer that computes a tensor."""
        return self._by_output[output]

    def only_reader(self, name: str) -> NodeProto | None:
        """The node that reads a tensor, if it reads it once and nothing else does, not even the graph's caller."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 else None

    def tensor(self, name: str) -> TensorProto:
        """A constant as stored in the graph."""
        return self._constants[name]

    def constant(self, name: str) -> NDArray[np.generic]:
        """The value of a constant."""
        value: NDArray[np.generic] = numpy_helper.to_array(self._constants[name])
        return value

    def floats(self, name: str) -> NDArray[np.float32]:
        """The value of a float32 constant, such as a layer's weight or bias."""
        value: NDArray[np.float32] = numpy_helper.to_array(self._constants[name])
        return value

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is a constant."""
        return name in self._constants

    def matrix(self, layer: Layer) -> NDArray[np.float32]:
        """The layer's weight as float32 (outputs, inputs)."""
        return layer.matrix(self.floats(layer.weight))

    def replace(self, layer: Layer, matrix: NDArray[np.float32]) -> None:
        """Replace the layer's weight; ``matrix`` is float32 (outputs, inputs)."""
        tensor = self._constants[layer.weight]
        tensor.CopyFrom(numpy_helper.from_array(layer.restore(matrix.astype(np.float32), tensor.dims), layer.weight))

    def changed(
        self, layer: Layer, matrix: NDArray[np.float32], shift: NDArray[np.float32]
    ) -> dict[str, NDArray[np.float32]]:
        """The constants, by name, that `replace` and `shift` would write."""
        shape = self._constants[layer.weight].dims
        constants = {layer.weight: layer.restore(matrix, shape)}
        name = self.bias(layer)
        return {**constants, name: self.floats(name) + shift} if name else constants

    def bias(self, layer: Layer) -> str | None:
        """The name of the constant added to each of the layer's outputs; None if there is none that can be changed."""
        if layer.node.op_type != "MatMul":
            name: str | None = layer.addend
        else:
            name = self._addition(layer.output)[0]
        outputs = self._constants[layer.weight].dims[self._outputs_axis(layer)]
        own = name in self._constants and sum(name in node.input for node in self.nodes) == 1
        return name if own and list(self._constants[name].dims) == [outputs] else None

    def constant_bias(self, layer: Layer) -> tuple[str, str]:
        """The addition of a constant to the outputs of a matrix product that nothing else reads.

        Returns the sum's tensor and the float32 constant, which adds one number to each output; ("", "") if there is
        none.
        """
        if layer.node.op_type == "MatMul":
            name, total = self._addition(layer.output)
        else:
            name, total = layer.addend, layer.output
        if name is None or name not in self._constants:
            return "", ""
        value, outputs = self._constants[name], self._constants[layer.weight].dims[self._outputs_axis(layer)]
        each = list(value.dims[-1:]) == [outputs] and int(np.prod(value.dims)) == outputs
        return (total, name) if each and value.data_type == TensorProto.FLOAT else ("", "")

    def shift(self, layer: Layer, change: NDArray[np.float32]) -> None:
        """Add float32 (outputs,) to the layer's bias, if it has one."""
        if name := self.bias(layer):
            value = (self.floats(name) + change).astype(np.float32)
            self._constants[name].CopyFrom(numpy_helper.from_array(value, name))
            self._shifts[layer.output] = self.shifted(layer) + change

    def shifted(self, layer: Layer) -> NDArray[np.float32] | float:
        """The change of the layer's bias so far."""
        return self._shifts.get(layer.output, 0.0)

    def added(self, layer: Layer) -> str | None:
        """The residual tensor that is added to the layer's outputs after its bias; None if there is none."""
        output = layer.output
        if layer.node.op_type == "MatMul" and self.bias(layer):
            output = self._addition(output)[1]
        other = self._addition(output)[0]
        return None if other is None or other in self._constants else other

    def _addition(self, name: str) -> tuple[str | None, str]:
        """(other addend, sum) if the only reader of a tensor is an Add; otherwise (None, the tensor)."""
        node = self.only_reader(name)
        if node is None or node.op_type != "Add":
            return None, name
        return node.input[1] if node.input[0] == name else node.input[0], node.output[0]

    @staticmethod
    def _outputs_axis(layer: Layer) -> int:
        first = layer.node.op_type == "Conv" or layer.attribute("transB", 0)
        return 0 if first else 1

    def kernel(self, layer: Layer) -> tuple[int, ...]:
        """Height and width of a convolution's kernel; () for others."""
        return tuple(self._constants[layer.weight].dims[2:])

    def inner(self) -> list[Layer]:
        """Layers that neither read the graph's input nor produce its output, without grouped convolutions."""
        first = {value.name for value in self.model.graph.input}
        heads = self._heads()
        return [
            layer
            for layer in self.layers
            if layer.groups == 1 and layer.source not in first and layer.output not in heads
        ]

    def _heads(self) -> set[str]:
        """Outputs of layers with no other layer between them and the graph's outputs."""
        outputs = {layer.output for layer in self.layers}
        makers = {name: node for node in self.nodes for name in node.output}
        seen, waiting = set(), [value.name for value in self.model.graph.output]
        while waiting:
            name = waiting.pop()
            if name not in seen and name in makers:
                seen.add(name)
                waiting += () if name in outputs else makers[name].input
        return seen & outputs


class Walk:
    """Runs a network piece by piece over all calibration batches; keeps only the tensors that later pieces read."""

    def __init__(self, network: Network, feeds: Sequence[Feed]) -> None:
        """Start before the first node."""
        self._network = network
        self._position = 0
        self.values: list[dict[str, NDArray[np.generic]]] = [dict(feed) for feed in feeds]
        """For each batch, the computed tensors that are still needed, by name."""

    def advance(self, stop: int) -> None:
        """Run the nodes before number ``stop`` that have not run yet, with their current weights."""
        nodes = self._network.nodes
        start, self._position = self._position, max(self._position, stop)
        if stop <= start:
            return
        piece = nodes[start:stop]
        made = {name for node in piece for name in node.output if name}  # an omitted output has no name
        later = {name for node in nodes[stop:] for name in node.input}
        later |= {value.name for value in self._network.model.graph.output}
        known = self.values[0]
        inputs = sorted({name for node in piece for name in node.input if name in known})
        outputs = sorted(made & later)
        if outputs:
            running = session(self._piece(piece, inputs, outputs))
        for values in self.values:
            found = running.run(outputs, {name: values[name] for name in inputs}) if outputs else []
            for name in [name for name in values if name not in later]:
                del values[name]
            values.update(zip(outputs, found, strict=True))

    def outputs(
        self, batches: Sequence[int], changed: Mapping[str, NDArray[np.float32]]
    ) -> list[list[NDArray[np.generic]]]:
        """The graph's floating-point outputs for the batches with these numbers, with some constants ``changed``.

        The network and the walk themselves do not change.
        """
        outputs = [v.name for v in self._network.model.graph.output if v.type.tensor_type.elem_type in _FLOATS]
        rest = self._network.nodes[self._position :]
        made = {name for node in rest for name in node.output}
        wanted = [name for name in outputs if name in made]
        known = self.values[0]
        inputs = sorted({name for node in rest for name in node.input if name in known})
        piece = self._piece(rest, inputs, wanted)
        for tensor in piece.graph.initializer:
            if tensor.name in changed:
                tensor.CopyFrom(numpy_helper.from_array(changed[tensor.name].astype(np.float32), tensor.name))
        running = session(piece) if wanted else None
        found = []
        for batch in batches:
            values = dict(self.values[batch])
            if running:
                values.update(zip(wanted, running.run(wanted, {name: values[name] for name in inputs}), strict=True))
            found.append([values[name] for name in outputs])
        return found

    def _piece(self, nodes: list[NodeProto], inputs: list[str], outputs: list[str]) -> ModelProto:
        network = self._network
        constants = sorted({name for node in nodes for name in node.input if network.is_constant(name)})
        dtypes = {name: helper.np_dtype_to_tensor_dtype(self.values[0][name].dtype) for name in inputs}
        graph = helper.make_graph(
            nodes,
            "piece",
            [helper.make_tensor_value_info(name, dtypes[name], None) for name in inputs],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [network.tensor(name) for name in constants],
        )
        return helper.make_model(graph, opset_imports=network.model.opset_import, ir_version=network.model.ir_version)


def session(model: ModelProto) -> ort.InferenceSession:
    """An ONNX Runtime session of a model on all cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = core_count()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def groups(layers: Sequence[Layer], nodes: Sequence[NodeProto]) -> Iterator[tuple[int, list[Layer]]]:
    """Layers grouped by input tensor, with the node number of each group's first layer, in the order of the graph."""
    number = {id(node): index for index, node in enumerate(nodes)}
    found: dict[str, list[Layer]] = {}
    for layer in sorted(layers, key=lambda layer: number[id(layer.node)]):
        found.setdefault(layer.source, []).append(layer)
    for members in found.values():
        yield number[id(members[0].node)], members
