"""ONNX's linear layers, pooling and normalisations as PyTorch functions: see `operators`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from harness.trainable.node import Function, OnnxNode


def gemm(node: OnnxNode) -> Function:
    """Gemm."""
    first, second = bool(node.get("transA", 0)), bool(node.get("transB", 0))
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)

    def run(a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
        a, weight = a.t() if first else a, b if second else b.t()
        if c is not None and c.dim() == 1 and alpha == beta == 1.0:
            return functional.linear(a, weight, c)
        product = torch.mul(functional.linear(a, weight), alpha)
        return product if c is None else torch.add(product, c, alpha=beta)

    return run


def _pads(node: OnnxNode, sizes: Sequence[int], kernel: Sequence[int]) -> list[tuple[int, int]]:
    """The pads before and after each spatial axis."""
    kind, count = node.get("auto_pad", b"NOTSET").decode(), len(kernel)
    if not kind.startswith("SAME"):
        pads = node.get("pads") or [0] * (2 * count)
        return list(zip(pads[:count], pads[count:], strict=True))
    strides, dilations = node.get("strides") or [1] * count, node.get("dilations") or [1] * count
    found = []
    for size, places, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        lack = max((-(-size // stride) - 1) * stride + (places - 1) * dilation + 1 - size, 0)
        pair = lack // 2, lack - lack // 2
        found.append(pair if kind == "SAME_UPPER" else pair[::-1])
    return found


def _padded(x: Tensor, pads: Sequence[tuple[int, int]], value: float) -> tuple[Tensor, list[int]]:
    """The tensor, padded unless the pads are symmetric, and the pads that the convolution itself must add."""
    if all(before == after for before, after in pads):
        return x, [before for before, _ in pads]
    return functional.pad(x, [pad for pair in reversed(pads) for pad in pair], value=value), [0] * len(pads)


def conv(node: OnnxNode) -> Function:
    """Conv, of one to three spatial axes."""
    groups = node.get("group", 1)

    def run(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        ones = [1] * (weight.dim() - 2)
        x, pads = _padded(x, _pads(node, x.shape[2:], weight.shape[2:]), 0.0)
        function: Callable[..., Tensor] = (functional.conv1d, functional.conv2d, functional.conv3d)[len(ones) - 1]
        strides, dilations = node.get("strides") or ones, node.get("dilations") or ones
        return function(x, weight, bias, strides, pads, dilations, groups)

    return run


def max_pool(node: OnnxNode) -> Function:
    """MaxPool, without indices."""
    kernel = node.get("kernel_shape")
    strides, dilations = node.get("strides") or [1] * len(kernel), node.get("dilations") or [1] * len(kernel)
    function: Callable[..., Tensor] = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[
        len(kernel) - 1
    ]

    def run(x: Tensor) -> Tensor:
        x, pads = _padded(x, _pads(node, x.shape[2:], kernel), -math.inf)
        return function(x, kernel, strides, pads, dilations, ceil_mode=bool(node.get("ceil_mode", 0)))

    return run


def average_pool(node: OnnxNode) -> Function:
    """AveragePool."""
    kernel = node.get("kernel_shape")
    options = {
        "stride": node.get("strides") or [1] * len(kernel),
        "ceil_mode": bool(node.get("ceil_mode", 0)),
    }
    counted = bool(node.get("count_include_pad", 0))
    function: Callable[..., Tensor] = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[
        len(kernel) - 1
    ]

    def run(x: Tensor) -> Tensor:
        every = _pads(node, x.shape[2:], kernel)
        wide, pads = _padded(x, every, 0.0)
        if wide is x or counted:
            return function(wide, kernel, padding=pads, count_include_pad=counted, **options)
        ones, _ = _padded(torch.ones_like(x[:1, :1]), every, 0.0)
        return function(wide, kernel, **options) / function(ones, kernel, **options)

    return run


def global_pool(function: Callable[..., Tensor]) -> Callable[[OnnxNode], Function]:
    """Pooling over all spatial axes."""
    return lambda node: lambda x: function(x, dim=tuple(range(2, x.dim())), keepdim=True)


def batch_norm(node: OnnxNode) -> Function:
    """BatchNormalization with the stored statistics."""
    epsilon = node.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        return functional.batch_norm(x, mean, variance, scale, bias, training=False, eps=epsilon)

    return run


def layer_norm(node: OnnxNode) -> Function:
    """LayerNormalization, without its statistics."""
    axis, epsilon = node.get("axis", -1), node.get("epsilon", 1e-5)

    def run(x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
        shape = list(x.shape[axis:])
        offset = None if bias is None else bias.expand(shape)
        return functional.layer_norm(x, shape, scale.expand(shape), offset, epsilon)

    return run


def gelu(node: OnnxNode) -> Function:
    """Gelu."""
    kind = node.get("approximate", b"none").decode()
    return lambda x: functional.gelu(x, approximate=kind)


def hard_sigmoid(node: OnnxNode) -> Function:
    """HardSigmoid."""
    slope, offset = node.get("alpha", 0.2), node.get("beta", 0.5)
    return lambda x: torch.clamp(slope * x + offset, 0, 1)


def leaky(node: OnnxNode) -> Function:
    """LeakyRelu."""
    slope = node.get("alpha", 0.01)
    return lambda x: functional.leaky_relu(x, slope)
