"""Writes an ONNX graph node by node, with weights from `Weights`."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import DTypeLike, NDArray
from onnx import ModelProto, ValueInfoProto, helper, numpy_helper

from harness import TOOL, __version__
from harness.models.weights import Draw, Weights

_IR_VERSION = 7  # supported by every engine here


class GraphBuilder:
    """A model under construction; weights are stored in it directly, so that memory holds them once."""

    def __init__(self, name: str, weights: Weights, opset: int) -> None:
        self.weights = weights
        self._model = ModelProto(
            ir_version=_IR_VERSION,
            producer_name=TOOL,
            producer_version=__version__,
            opset_import=[helper.make_opsetid("", opset)],
        )
        self._graph = self._model.graph
        self._graph.name = name
        self._constants: set[str] = set()
        self._numbers: Counter[str] = Counter()

    def input(self, name: str, dtype: DTypeLike, dims: Sequence[int | str]) -> str:
        """Declare an input; a dimension given by name is dynamic."""
        return self._value(self._graph.input, name, dtype, dims)

    def output(self, name: str, dtype: DTypeLike, dims: Sequence[int | str]) -> str:
        """Declare an output, which a node produces."""
        return self._value(self._graph.output, name, dtype, dims)

    def node(
        self, op: str, inputs: Sequence[str], name: str, output: str | None = None, **attributes: int | Sequence[int]
    ) -> str:
        """Add a node with one output, and return the output's name."""
        output = output or f"{name}_output_0"
        self._graph.node.append(helper.make_node(op, inputs, [output], name, **attributes))
        return output

    def scoped(
        self, scope: str, op: str, *inputs: str, output: str | None = None, **attributes: int | Sequence[int]
    ) -> str:
        """Add a node with the name that torch's exporter would use: module, operator, and a number if repeated."""
        name = f"{scope}/{op}"
        number = self._numbers[name]
        self._numbers[name] += 1
        return self.node(op, inputs, f"{name}_{number}" if number else name, output, **attributes)

    def split(self, scope: str, x: str, outputs: Sequence[str]) -> None:
        """Split the last axis into single entries, one per output; DeepSparse 1.8 needs explicit sizes."""
        sizes = self.constant(f"{scope}/sizes", [1] * len(outputs), np.int64)
        self._graph.node.append(helper.make_node("Split", [x, sizes], list(outputs), f"{scope}/Split", axis=-1))

    def weight(
        self, name: str, shape: tuple[int, ...], draw: Draw, *, stored: str | None = None, transposed: bool = False
    ) -> str:
        """Add a weight under the name ``stored``, by default its own, and return that name.

        Raises:
            ConfigError: the weights do not contain the tensor in that shape.
        """
        values = self.weights.tensor(name, shape, draw)
        return self.initializer(stored or name, values.T if transposed else values)

    def initializer(self, name: str, values: NDArray[np.generic]) -> str:
        """Add a tensor as an initializer, and return its name."""
        self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def constant(self, name: str, values: object, dtype: DTypeLike = np.float32) -> str:
        """Add a small tensor that is not trained, once per name, and return the name."""
        if name not in self._constants:
            self._constants.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def finish(self, architecture: str, ignored: Sequence[str] = ()) -> ModelProto:
        """The model, with ``architecture`` and ``weights`` in its metadata.

        Raises:
            ConfigError: the weights have unused tensors that match no pattern in ``ignored``.
        """
        self.weights.finish(ignored)
        helper.set_model_props(self._model, {"architecture": architecture, "weights": self.weights.source})
        return self._model

    @staticmethod
    def _value(values: list[ValueInfoProto], name: str, dtype: DTypeLike, dims: Sequence[int | str]) -> str:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        values.append(helper.make_tensor_value_info(name, kind, dims))
        return name
