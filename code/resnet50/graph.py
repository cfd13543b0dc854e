"""The reference's ResNet50 v1.5 in FP32 with random weights, to measure speed where the trained ones cannot be had.

What is known of the reference, ``resnet50_v1.onnx`` of zenodo record 4735647, and from where:

- It is an export by tf2onnx (opset 11, ``--inputs-as-nchw``) of TensorFlow's ``resnet50_v1.pb``, record 2535873
  (mlcommons/inference: issue 1739 and vision/classification_and_detection/tools/convert-to-onnx.sh). The older record
  2592612 holds another export, of opset 8, whose first batch normalisation is not folded.
- Its input is ``input_tensor:0``, its outputs are ``ArgMax:0`` and ``softmax_tensor:0`` (the same script, and
  python/main.py beside it).
- It ends in ``resnet_model/Mean`` (ReduceMean), ``Squeeze``, ``dense/MatMul``, ``dense/BiasAdd`` (Add), and on that
  Softmax and ArgMax (the script by which NVIDIA/Deep-Learning-Accelerator-SW prepares the record's file).
- Its layers are those of tensorflow/models, official/r1/resnet/resnet_model.py, version 1: a bottleneck's stride is in
  its 3 x 3 convolution, which is what 1.5 stands for; strided convolutions are padded by (kernel - 1) / 2 on each side,
  whatever the size of their input; the pooling is padded as "SAME", that is at the bottom and on the right alone.

No source lists all its nodes. That TensorFlow code, exported by tf2onnx 1.8.2, has all these names, down to the batch
dimension ``unk__616`` by which scripts know the record's file, and 125 nodes: 53 Conv, each with its padding and its
batch normalisation folded in, 49 Relu, 17 Add, MaxPool, ReduceMean, Squeeze, MatMul, Softmax, ArgMax. Built here are
the same nodes under the same names: 25,532,521 parameters, 4.09e9 multiplications an image. What differs on purpose is
the batch dimension, which is ``N``, and the IR version, which is 7 as in the project's other models.

The weights are normal. Each filter is centred, so that it does not see what all channels have in common, and scaled so
that a ReLU's output has the mean square of its input (He et al., arXiv:1502.01852). If they were not centred, 50 layers
would make all images alike and every answer the same class; in training, batch normalisation prevents that.
"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from harness import __version__
from resnet50.labels import CLASSES
from resnet50.preprocess import SIDE

_OPSET, _IR_VERSION = 11, 7
_STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))  # bottlenecks, their filters, the first one's stride
_EXPANSION = 4  # channels that a bottleneck gives for each of its filters

# Variances of what a convolution gives, its input having mean square 1.
_BEFORE_RELU = 2.0  # of which ReLU leaves mean square 1
_PROJECTION = _MAIN = _BEFORE_RELU / 2  # the two are added, then comes ReLU
_RESIDUAL = 0.25  # added to a shortcut of mean square 1: 16 blocks do not double its root
_LOGITS = 64.0  # so that images are told apart: their pooled features differ by little

_IMAGE = 64.0**2  # mean square of a pixel less its channel's mean, on the scale of 0 to 255
_CENTRED = 1 - 1 / math.pi  # what is left of mean square 1 after ReLU, once the mean is taken away
_BIAS = 1e-3  # so small that the image decides on the class, whatever its scale


def build_resnet50(seed: int) -> ModelProto:
    """The model, float32 (N, 3, 224, 224) to int64 (N,) and float32 (N, 1001).

    The same seed gives the same bytes. The metadata are ``architecture`` and ``weights``.
    """
    graph = _Graph(seed)
    x = graph.relu(graph.conv("input_tensor:0", (3, 64), kernel=7, stride=2, variance=_BEFORE_RELU / _IMAGE))
    x = graph.node(
        "MaxPool", "resnet_model/max_pooling2d/MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]
    )
    channels = 64
    for blocks, filters, stride in _STAGES:
        for block in range(blocks):
            x = graph.bottleneck(x, channels, filters, stride=1 if block else stride, projects=not block)
            channels = _EXPANSION * filters
    x = graph.node("ReduceMean", "resnet_model/Mean", [x], axes=[2, 3], keepdims=1)
    x = graph.node("Squeeze", "resnet_model/Squeeze", [x], axes=[2, 3])
    x = graph.dense(x, (channels, CLASSES + 1))
    graph.node("Softmax", "softmax_tensor", [x], axis=1)
    graph.node("ArgMax", "ArgMax", [x], axis=1, keepdims=0)
    return graph.model(
        inputs=[helper.make_tensor_value_info("input_tensor:0", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        outputs=[
            helper.make_tensor_value_info("ArgMax:0", TensorProto.INT64, ["N"]),
            helper.make_tensor_value_info("softmax_tensor:0", TensorProto.FLOAT, ["N", CLASSES + 1]),
        ],
        metadata={"architecture": "ResNet50 v1.5", "weights": f"random weights, seed {seed}"},
    )


class _Graph:
    """Nodes and weights so far, named as TensorFlow numbers them."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self._numbers: Counter[str] = Counter()

    def node(
        self, op: str, name: str, inputs: list[str], output: str | None = None, **attributes: int | list[int]
    ) -> str:
        """The name of the new node's output."""
        output = output or f"{name}:0"
        self._nodes.append(helper.make_node(op, inputs, [output], name, **attributes))
        return output

    def relu(self, x: str) -> str:
        return self.node("Relu", f"resnet_model/Relu{self._number('Relu')}", [x])

    def conv(self, x: str, channels: tuple[int, int], *, kernel: int, stride: int, variance: float) -> str:
        """A convolution with its batch normalisation folded in; channels in and out."""
        number = self._number("conv2d")
        name = f"resnet_model/conv2d{number}/Conv2D"
        weights = self._normal((channels[1], channels[0], kernel, kernel))
        _centre(weights, axis=(1, 2, 3))
        weights *= np.float32(math.sqrt(variance / weights[0].size))
        return self.node(
            "Conv",
            name,
            [x, self._weight(f"{name}_weights_fused_bn", weights), self._bias(f"{name}_bias_fused_bn", channels[1])],
            f"resnet_model/batch_normalization{number}/FusedBatchNorm:0",
            dilations=[1, 1],
            kernel_shape=[kernel, kernel],
            pads=[(kernel - 1) // 2] * 4,
            strides=[stride, stride],
        )

    def bottleneck(self, x: str, channels: int, filters: int, *, stride: int, projects: bool) -> str:
        """1 x 1, 3 x 3, 1 x 1, added to its input or to a projection of it."""
        shortcut, variance = x, _RESIDUAL
        wide = _EXPANSION * filters
        if projects:
            variance = _MAIN
            shortcut = self.conv(x, (channels, wide), kernel=1, stride=stride, variance=_PROJECTION / _CENTRED)
        before_relu = _BEFORE_RELU / _CENTRED
        y = self.relu(self.conv(x, (channels, filters), kernel=1, stride=1, variance=before_relu))
        y = self.relu(self.conv(y, (filters, filters), kernel=3, stride=stride, variance=before_relu))
        y = self.conv(y, (filters, wide), kernel=1, stride=1, variance=variance / _CENTRED)
        return self.relu(self.node("Add", f"resnet_model/add{self._number('add')}", [y, shortcut]))

    def dense(self, x: str, channels: tuple[int, int]) -> str:
        """The classifier; channels in and out."""
        weights = self._normal(channels)
        _centre(weights, axis=0)
        weights *= np.float32(math.sqrt(_LOGITS / channels[0]))
        kernel = self._weight("resnet_model/dense/kernel/read:0", weights)
        bias = self._bias("resnet_model/dense/bias/read:0", channels[1])
        product = self.node("MatMul", "resnet_model/dense/MatMul", [x, kernel])
        return self.node("Add", "resnet_model/dense/BiasAdd", [product, bias])

    def model(self, *, inputs: list, outputs: list, metadata: dict[str, str]) -> ModelProto:
        graph = helper.make_graph(self._nodes, "resnet50", inputs, outputs, self._weights)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET)],
            ir_version=_IR_VERSION,
            producer_name="mlperf-cpu-harness",
            producer_version=__version__,
        )
        helper.set_model_props(model, metadata)
        checker.check_model(model)
        return model

    def _number(self, layer: str) -> str:
        """What TensorFlow appends to the name of a layer: nothing to the first, then _1, _2, ..."""
        number = self._numbers[layer]
        self._numbers[layer] += 1
        return f"_{number}" if number else ""

    def _normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._random.standard_normal(shape, dtype=np.float32)

    def _bias(self, name: str, size: int) -> str:
        return self._weight(name, self._normal((size,)) * np.float32(_BIAS))

    def _weight(self, name: str, values: np.ndarray) -> str:
        self._weights.append(numpy_helper.from_array(values, name))
        return name


def _centre(weights: np.ndarray, axis: int | tuple[int, ...]) -> None:
    weights -= weights.mean(axis=axis, keepdims=True, dtype=np.float64).astype(np.float32)
