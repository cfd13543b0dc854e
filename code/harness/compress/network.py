"""A graph as the compressor sees it: folded, its linear layers, and a walk through it with calibration data."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from harness.errors import ConfigError
from harness.host.machine import core_count

_LEAST_OPSET = 10
_LINEAR = ("MatMul", "Gemm", "Conv")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
Feed = Mapping[str, np.ndarray]
"""The tensors of one batch by the names of the graph's inputs."""


def read_network(path: Path) -> ModelProto:
    """The graph with its constants folded and normalisations merged into convolutions, default operators only.

    Folding is ONNX Runtime's; its fusions of MatMul with Add are left out, since MatMul is what gets quantised.

    Raises:
        ConfigError: the file is no ONNX model that ONNX Runtime runs, or one with branches, loops or foreign operators.
    """
    model = _fold(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) < len(model.graph.input):  # weights that are inputs with a default are not folded
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 4)
        with tempfile.TemporaryDirectory() as folder:
            onnx.save(model, str(Path(folder) / "model.onnx"))
            model = _fold(Path(folder) / "model.onnx")
    branching = {node.op_type for node in model.graph.node for a in node.attribute if a.HasField("g")}
    if branching:
        raise ConfigError(f"{path} has {', '.join(sorted(branching))}: only graphs without branches can be compressed.")
    foreign = {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    if foreign:
        raise ConfigError(
            f"{path} has operators of {', '.join(sorted(foreign))}: give the FP32 model as it was exported, "
            "not one that was optimised or quantised."
        )
    _check_floats(path, model)
    # DeepSparse refuses newer operator sets, even ones that no node uses.
    versions = [opset.version for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    if versions[0] < _LEAST_OPSET:
        raise ConfigError(
            f"{path} has operator set {versions[0]}: export it with {_LEAST_OPSET} or later, which has 8-bit operators."
        )
    del model.opset_import[:]
    model.opset_import.append(helper.make_opsetid("", versions[0]))
    model.ir_version = min(model.ir_version, 8)
    return model


def _check_floats(path: Path, model: ModelProto) -> None:
    """Weights of other types would be left alone. ONNX Runtime casts those that its CPU kernels do not take."""
    others = {
        tensor.name: TensorProto.DataType.Name(tensor.data_type).lower()
        for tensor in model.graph.initializer
        if tensor.data_type in (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    }
    casts = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "Cast"}
    read = {name for node in model.graph.node if node.op_type in _LINEAR for name in node.input[1:2]}
    for name in sorted(casts.get(name, name) for name in read):
        if name in others:
            raise ConfigError(
                f"{path} has weights in {others[name]} ({name}): give the model in FP32, as it was before it was "
                "converted."
            )


def _fold(path: Path) -> ModelProto:
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(Path(folder) / "folded.onnx")
        options.log_severity_level = 4
        try:
            ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"], disabled_optimizers=["MatMulAddFusion"]
            )
        except Exception as error:  # ONNX Runtime's own errors have no common class
            raise ConfigError(f"{path} is no model that can be compressed ({type(error).__name__}): {error}") from error
        return onnx.load(options.optimized_model_filepath)


@dataclass(frozen=True)
class Layer:
    """A linear layer: a node that multiplies its input with a constant."""

    node: NodeProto
    source: str
    """The tensor that it multiplies."""
    weight: str

    @property
    def output(self) -> str:
        """The tensor that it gives."""
        return self.node.output[0]

    @property
    def name(self) -> str:
        """The node's name, without what only exporters need."""
        return (self.node.name or self.output).strip("/").removesuffix(f"/{self.node.op_type}")

    def attribute(self, name: str, default: object) -> object:
        """An attribute of the node."""
        return next((helper.get_attribute_value(a) for a in self.node.attribute if a.name == name), default)

    @property
    def groups(self) -> int:
        """Groups of a convolution; 1 for all others."""
        return int(self.attribute("group", 1)) if self.node.op_type == "Conv" else 1

    def matrix(self, weight: np.ndarray) -> np.ndarray:
        """The weight as float32 (outputs, inputs); a convolution's inputs are (height, width, channel)."""
        if self.node.op_type == "Conv":
            return weight.transpose(0, *range(2, weight.ndim), 1).reshape(len(weight), -1)
        if self.node.op_type == "Gemm" and self.attribute("transB", 0):
            return weight
        return weight.T

    def restore(self, matrix: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """The weight of that shape from its matrix."""
        if self.node.op_type == "Conv":
            outputs, channels, *kernel = shape
            weight = matrix.reshape(outputs, *kernel, channels)
            return np.ascontiguousarray(np.moveaxis(weight, -1, 1))
        if self.node.op_type == "Gemm" and self.attribute("transB", 0):
            return np.ascontiguousarray(matrix)
        return np.ascontiguousarray(matrix.T)

    def rows(self, value: np.ndarray, kernel: Sequence[int], most: int | None = None) -> np.ndarray:
        """What the matrix multiplies, float32 (n, inputs), of the layer's input; of a convolution's at about ``most``
        places, spread evenly."""
        if self.node.op_type != "Conv":
            return value.reshape(-1, value.shape[-1])
        strides = tuple(self.attribute("strides", [1] * len(kernel)))
        dilations = tuple(self.attribute("dilations", [1] * len(kernel)))
        return _patches(
            value, kernel, strides, self._pads(value.shape[2:], kernel, strides, dilations), dilations, most
        )

    def _pads(self, shape: Sequence[int], kernel, strides, dilations) -> tuple[int, ...]:
        kind = self.attribute("auto_pad", b"NOTSET").decode()
        if not kind.startswith("SAME"):
            return tuple(self.attribute("pads", [0] * (2 * len(kernel))))
        lack = [
            max((-(-size // stride) - 1) * stride + (places - 1) * dilation + 1 - size, 0)
            for size, places, stride, dilation in zip(shape, kernel, strides, dilations, strict=True)
        ]
        less, more = [size // 2 for size in lack], [size - size // 2 for size in lack]
        return (*less, *more) if kind == "SAME_UPPER" else (*more, *less)


def _patches(value: np.ndarray, kernel, strides, pads, dilations, most: int | None) -> np.ndarray:
    half = len(kernel)
    value = np.pad(value, [(0, 0), (0, 0), *((pads[i], pads[half + i]) for i in range(half))])
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(value, reach, axis=tuple(range(2, 2 + half)))
    places = (slice(None), slice(None), *(slice(None, None, s) for s in strides))
    windows = windows[places + tuple(slice(None, None, d) for d in dilations)]
    # (n, channel, places..., kernel...) to (n, places..., kernel..., channel)
    order = (0, *range(2, 2 + half), *range(2 + half, 2 + 2 * half), 1)
    windows = windows.transpose(order)
    shape = windows.shape[: 1 + half]
    count = int(np.prod(shape))
    # Chosen before they are copied: all of them are as many times the input as the kernel has places.
    chosen = np.arange(0, count, max(1, count // (most or count)))
    return windows[np.unravel_index(chosen, shape)].reshape(len(chosen), -1)


class Network:
    """A folded graph whose weights can be replaced."""

    def __init__(self, model: ModelProto) -> None:
        """Index the graph; the model is used as it is, not copied."""
        self.model = model
        self.nodes = list(model.graph.node)
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._shifts: dict[str, np.ndarray] = {}
        self._readers: dict[str, list[NodeProto | None]] = {value.name: [None] for value in model.graph.output}
        """Who reads a tensor; None is who runs the graph."""
        for node in self.nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
        self.layers = [layer for node in self.nodes if (layer := self._layer(node))]
        self.layers = [layer for layer in self.layers if len(self._readers[layer.weight]) == 1]

    def _layer(self, node: NodeProto) -> Layer | None:
        if node.op_type not in _LINEAR or node.input[1] not in self._constants:
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

    def constant(self, name: str) -> np.ndarray:
        """The value of a constant."""
        return numpy_helper.to_array(self._constants[name])

    def is_constant(self, name: str) -> bool:
        """Whether a tensor is one."""
        return name in self._constants

    def matrix(self, layer: Layer) -> np.ndarray:
        """The layer's weight as float32 (outputs, inputs)."""
        return layer.matrix(self.constant(layer.weight))

    def replace(self, layer: Layer, matrix: np.ndarray) -> None:
        """Give the layer another weight, float32 (outputs, inputs)."""
        tensor = self._constants[layer.weight]
        tensor.CopyFrom(numpy_helper.from_array(layer.restore(matrix.astype(np.float32), tensor.dims), layer.weight))

    def changed(self, layer: Layer, matrix: np.ndarray, shift: np.ndarray) -> dict[str, np.ndarray]:
        """The constants, by name, that `replace` and `shift` would write."""
        shape = self._constants[layer.weight].dims
        constants = {layer.weight: layer.restore(matrix, shape)}
        name = self.bias(layer)
        return {**constants, name: self.constant(name) + shift} if name else constants

    def bias(self, layer: Layer) -> str | None:
        """The constant that is added to each of the layer's outputs, by name; None if there is none to change."""
        if layer.node.op_type != "MatMul":
            name = layer.node.input[2] if len(layer.node.input) > 2 else None
        else:
            after = self._only_reader(layer.output)
            name = self._other(after, layer.output) if after else None
        outputs = self._constants[layer.weight].dims[self._outputs_axis(layer)]
        own = name in self._constants and sum(name in node.input for node in self.nodes) == 1
        return name if own and list(self._constants[name].dims) == [outputs] else None

    def shift(self, layer: Layer, change: np.ndarray) -> None:
        """Add float32 (outputs,) to the layer's bias; without a bias nothing is done."""
        if name := self.bias(layer):
            value = (self.constant(name) + change).astype(np.float32)
            self._constants[name].CopyFrom(numpy_helper.from_array(value, name))
            self._shifts[layer.output] = self.shifted(layer) + change

    def shifted(self, layer: Layer) -> np.ndarray | float:
        """By how much the layer's bias was changed."""
        return self._shifts.get(layer.output, 0.0)

    def added(self, layer: Layer) -> str | None:
        """The tensor that is added to the layer's outputs after its bias: that of a residual connection."""
        output = layer.output
        if layer.node.op_type == "MatMul" and self.bias(layer):
            output = self._only_reader(output).output[0]
        after = self._only_reader(output)
        other = self._other(after, output) if after else None
        return None if other is None or other in self._constants else other

    def _only_reader(self, name: str) -> NodeProto | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 else None

    @staticmethod
    def _other(node: NodeProto, name: str) -> str | None:
        """What an Add adds to this tensor."""
        if node.op_type != "Add":
            return None
        return node.input[1] if node.input[0] == name else node.input[0]

    @staticmethod
    def _outputs_axis(layer: Layer) -> int:
        first = layer.node.op_type == "Conv" or layer.attribute("transB", 0)
        return 0 if first else 1

    def kernel(self, layer: Layer) -> tuple[int, ...]:
        """Height and width of a convolution's kernel; () for others."""
        return tuple(self._constants[layer.weight].dims[2:])

    def inner(self) -> list[Layer]:
        """Layers that neither take the graph's input nor give its output, and are no grouped convolutions."""
        first = {value.name for value in self.model.graph.input}
        heads = self._heads()
        return [
            layer
            for layer in self.layers
            if layer.groups == 1 and layer.source not in first and layer.output not in heads
        ]

    def _heads(self) -> set[str]:
        """Outputs of layers after which no other layer follows on the way to the graph's outputs."""
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
    """Runs a network piece by piece over all calibration batches; holds only the tensors that later pieces read."""

    def __init__(self, network: Network, feeds: Sequence[Feed]) -> None:
        """Start before the first node."""
        self._network = network
        self._position = 0
        self.values: list[dict[str, np.ndarray]] = [dict(feed) for feed in feeds]
        """For each batch the tensors that are known and still needed, by name."""

    def advance(self, stop: int) -> None:
        """Run the nodes before number ``stop`` that have not run yet, with the weights that they have now."""
        nodes = self._network.nodes
        start, self._position = self._position, max(self._position, stop)
        if stop <= start:
            return
        piece = nodes[start:stop]
        made = {name for node in piece for name in node.output if name}  # one that is left out has none
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

    def outputs(self, batches: Sequence[int], changed: Mapping[str, np.ndarray]) -> list[list[np.ndarray]]:
        """The graph's floating-point outputs for these batches, by their numbers, if constants were ``changed``.

        Neither the network nor the walk is.
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
            [network._constants[name] for name in constants],
        )
        return helper.make_model(graph, opset_imports=network.model.opset_import, ir_version=network.model.ir_version)


def session(model: ModelProto) -> ort.InferenceSession:
    """A model in ONNX Runtime on all cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = core_count()
    options.log_severity_level = 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def groups(layers: Sequence[Layer], nodes: Sequence[NodeProto]) -> Iterator[tuple[int, list[Layer]]]:
    """Layers that read the same tensor, with the number of the first one's node, in the order of the graph."""
    number = {id(node): index for index, node in enumerate(nodes)}
    found: dict[str, list[Layer]] = {}
    for layer in sorted(layers, key=lambda layer: number[id(layer.node)]):
        found.setdefault(layer.source, []).append(layer)
    for members in found.values():
        yield number[id(members[0].node)], members
