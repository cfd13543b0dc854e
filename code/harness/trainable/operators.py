"""ONNX operators as PyTorch functions.

Each entry of `OPERATORS` reads a node's attributes once and returns the function that runs it; operators that depend on
the operator set get its version. Integer tensors, such as shapes, stay on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor
from torch.nn import functional

from harness.errors import ConfigError
from harness.trainable import layer_functions
from harness.trainable.node import SINCE_AXES_ARE_INPUTS, Function, OnnxNode

_TYPES = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.INT64: torch.int64,
    TensorProto.INT32: torch.int32,
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}


def function_of(node: NodeProto, opset: int) -> Function:
    """The function that runs a node.

    Raises:
        ConfigError: the operator is not supported.
    """
    if node.op_type not in OPERATORS:
        raise ConfigError(
            f"the model cannot be trained: the operator {node.op_type} of the node {node.name or node.output[0]} is "
            "not supported; export the model without it."
        )
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return OPERATORS[node.op_type](OnnxNode(attributes, len(node.output), opset, node.name or node.output[0]))


def _plain(function: Function) -> Callable[[OnnxNode], Function]:
    """An operator without attributes."""
    return lambda node: function


def _on_one_device(*values: Tensor) -> tuple[Tensor, ...]:
    """Tensors on one device: integer constants stay on the CPU until they are combined with others."""
    device = next((value.device for value in values if value.device.type != "cpu"), None)
    return values if device is None else tuple(value.to(device) for value in values)


def _joint(function: Callable[..., Tensor]) -> Callable[[OnnxNode], Function]:
    """An operator without attributes on tensors that may be on different devices."""
    return lambda node: lambda *values: function(*_on_one_device(*values))


def _divide(a: Tensor, b: Tensor) -> Tensor:
    whole = not a.is_floating_point() and not b.is_floating_point()
    return torch.div(a, b, rounding_mode="trunc") if whole else torch.div(a, b)


def _power(a: Tensor, b: Tensor) -> Tensor:
    return a.pow(b.item()) if b.numel() == 1 and b.dim() <= a.dim() and not b.requires_grad else torch.pow(a, b)


def _fold(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[OnnxNode], Function]:
    """An operator with any number of inputs."""

    def run(*values: Tensor) -> Tensor:
        first, *rest = _on_one_device(*values)
        for value in rest:
            first = function(first, value)
        return first

    return _plain(run)


def _cast(node: OnnxNode) -> Function:
    if node.get("to") not in _TYPES:
        raise ConfigError(
            f"the model cannot be trained: the Cast of the node {node.name} to the ONNX type {node.get('to')} is not "
            "supported; export the model without it."
        )
    dtype = _TYPES[node.get("to")]
    return lambda x: x.to(dtype)


def _clip(node: OnnxNode) -> Function:
    bounds = node.get("min"), node.get("max")

    def run(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
        low_bound = bounds[0] if low is None else low.item()
        high_bound = bounds[1] if high is None else high.item()
        return torch.clamp(x, low_bound, high_bound)

    return run


def _softmax(function: Callable[..., Tensor]) -> Callable[[OnnxNode], Function]:
    def build(node: OnnxNode) -> Function:
        if node.opset >= SINCE_AXES_ARE_INPUTS:
            last = node.get("axis", -1)
            return lambda x: function(x, dim=last)
        axis = node.get("axis", 1)  # older softmaxes are over all axes from this one on

        def run(x: Tensor) -> Tensor:
            start = axis % x.dim()
            return function(x.flatten(start), dim=start).reshape(x.shape)

        return run

    return build


def _gather(node: OnnxNode) -> Function:
    axis = node.get("axis", 0)

    def run(data: Tensor, index: Tensor) -> Tensor:
        at = axis % data.dim()
        index = index.to(data.device, torch.int64)
        index = torch.where(index < 0, index + data.shape[at], index)
        if at == 0 and data.dim() == 2 and data.is_floating_point():
            return functional.embedding(index, data)  # whose gradient is faster
        rows = data.index_select(at, index.reshape(-1))
        return rows.reshape(data.shape[:at] + index.shape + data.shape[at + 1 :])

    return run


def _slice(node: OnnxNode) -> Function:
    def run(x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
        first, last = starts.tolist(), ends.tolist()
        along = range(len(first)) if axes is None else axes.tolist()
        by = [1] * len(first) if steps is None else steps.tolist()
        for axis, start, stop, step in zip(along, first, last, by, strict=True):
            places = range(x.shape[axis])[slice(start, stop, step)]
            if step > 0:
                x = x[(slice(None),) * (axis % x.dim()) + (slice(places.start, places.stop, step),)]
            else:
                x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64, device=x.device))
        return x

    return run


def _reshape(node: OnnxNode) -> Function:
    keep = bool(node.get("allowzero", 0))

    def run(x: Tensor, shape: Tensor) -> Tensor:
        sizes = shape.tolist()
        return x.reshape(sizes if keep else [size or x.shape[axis] for axis, size in enumerate(sizes)])

    return run


def _transpose(node: OnnxNode) -> Function:
    axes = node.get("perm")
    return lambda x: x.permute(axes or list(range(x.dim()))[::-1])


def _unsqueeze(node: OnnxNode) -> Function:
    fixed = node.get("axes")

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        places = fixed if axes is None else axes.tolist()
        rank = x.dim() + len(places)
        for axis in sorted(axis % rank for axis in places):
            x = x.unsqueeze(axis)
        return x

    return run


def _squeeze(node: OnnxNode) -> Function:
    fixed = node.get("axes")

    def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
        places = fixed if axes is None else axes.tolist()
        return x.squeeze() if places is None else x.squeeze(tuple(places))

    return run


def _even(size: int, count: int) -> list[int]:
    """Sizes of ``count`` parts, of which only the last may be smaller."""
    part = math.ceil(size / count)
    return [max(min(part, size - index * part), 0) for index in range(count)]


def _split(node: OnnxNode) -> Function:
    axis, fixed, count = node.get("axis", 0), node.get("split"), node.outputs

    def run(x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
        given = fixed if sizes is None else sizes.tolist()
        return torch.split_with_sizes(x, given or _even(x.shape[axis], count), axis)

    return run


def _concat(node: OnnxNode) -> Function:
    axis = node.get("axis", 0)
    return lambda *values: torch.cat(_on_one_device(*values), axis)


def _shape(node: OnnxNode) -> Function:
    part = slice(node.get("start", 0), node.get("end"))
    return lambda x: torch.tensor(x.shape[part], dtype=torch.int64)


def _expand(x: Tensor, shape: Tensor) -> Tensor:
    whole = np.broadcast_shapes(tuple(x.shape), tuple(shape.tolist()))
    return x.expand(whole)


def _filled(node: OnnxNode) -> Function:
    value = numpy_helper.to_array(node.get("value")) if node.get("value") is not None else np.zeros(1, np.float32)
    one = torch.from_numpy(value.copy()).reshape(())
    return lambda shape: one.expand(shape.tolist()).clone()


def _constant(node: OnnxNode) -> Function:
    if "value" not in node.attributes:
        numbers = torch.tensor(next(iter(node.attributes.values())))
        return lambda: numbers
    value = torch.from_numpy(numpy_helper.to_array(node.get("value")).copy())
    return lambda: value


def _range(start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _reduce(function: Callable[..., Tensor]) -> Callable[[OnnxNode], Function]:
    def build(node: OnnxNode) -> Function:
        fixed, keep = node.get("axes"), bool(node.get("keepdims", 1))

        def run(x: Tensor, axes: Tensor | None = None) -> Tensor:
            places = fixed if axes is None else axes.tolist()
            return function(x, dim=tuple(places or range(x.dim())), keepdim=keep)

        return run

    return build


def _arg_max(node: OnnxNode) -> Function:
    axis, keep = node.get("axis", 0), bool(node.get("keepdims", 1))
    return lambda x: x.argmax(axis, keep)


def _flatten(node: OnnxNode) -> Function:
    axis = node.get("axis", 1)
    return lambda x: x.reshape(math.prod(x.shape[: axis + x.dim() if axis < 0 else axis]), -1)


OPERATORS: dict[str, Callable[[OnnxNode], Function]] = {
    "Abs": _plain(torch.abs),
    "Add": _joint(torch.add),
    "And": _joint(torch.logical_and),
    "ArgMax": _arg_max,
    "AveragePool": layer_functions.average_pool,
    "BatchNormalization": layer_functions.batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Conv": layer_functions.conv,
    "Div": _joint(_divide),
    "Dropout": _plain(lambda x, *rest: x),
    "Equal": _joint(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": _plain(_expand),
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": layer_functions.gelu,
    "Gemm": layer_functions.gemm,
    "GlobalAveragePool": layer_functions.global_pool(torch.mean),
    "GlobalMaxPool": layer_functions.global_pool(torch.amax),
    "Greater": _joint(torch.gt),
    "GreaterOrEqual": _joint(torch.ge),
    "HardSigmoid": layer_functions.hard_sigmoid,
    "HardSwish": _plain(functional.hardswish),
    "Identity": _plain(lambda x: x),
    "LayerNormalization": layer_functions.layer_norm,
    "LeakyRelu": layer_functions.leaky,
    "Less": _joint(torch.lt),
    "LessOrEqual": _joint(torch.le),
    "Log": _plain(torch.log),
    "LogSoftmax": _softmax(torch.log_softmax),
    "MatMul": _plain(torch.matmul),
    "Max": _fold(torch.maximum),
    "MaxPool": layer_functions.max_pool,
    "Min": _fold(torch.minimum),
    "Mul": _joint(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _joint(torch.logical_or),
    "Pow": _joint(_power),
    "Range": _plain(_range),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceMin": _reduce(torch.amin),
    "ReduceSum": _reduce(torch.sum),
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Shape": _shape,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax(torch.softmax),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _joint(torch.sub),
    "Sum": _fold(torch.add),
    "Tanh": _plain(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _joint(torch.where),
}
