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
from numpy.typing import NDArray
from onnx import ModelProto

from harness.errors import ConfigError
from harness.models.weights import Checkpoint, Draw, Weights, normal
from harness.models.writer import GraphBuilder
from resnet50.labels import CLASSES
from resnet50.preprocess import SIDE

STAGES = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
"""Bottlenecks, their filters, the first one's stride."""
EXPANSION = 4
"""Channels that a bottleneck gives for each of its filters."""

# Variances of what a convolution gives, its input having mean square 1.
BEFORE_RELU = 2.0
"""Of which ReLU leaves mean square 1."""
PROJECTION = MAIN = BEFORE_RELU / 2
"""The two are added, then comes ReLU."""
RESIDUAL = 0.25
"""Added to a shortcut of mean square 1: 16 blocks do not double its root."""
LOGITS = 64.0
"""So that images are told apart: their pooled features differ by little."""
CENTRED = 1 - 1 / math.pi
"""What is left of mean square 1 after ReLU, once the mean is taken away."""
BIAS = 1e-3
"""So small that the image decides on the class, whatever its scale."""

_IMAGE = 64.0**2  # mean square of a pixel less its channel's mean, on the scale of 0 to 255


def centred(variance: float, inputs: tuple[int, ...]) -> Draw:
    """Weights of mean 0 over the axes ``inputs``, that give this variance for inputs of mean square 1."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        weights = generator.standard_normal(shape, dtype=np.float32)
        weights -= weights.mean(axis=inputs, keepdims=True, dtype=np.float64).astype(np.float32)
        weights *= np.float32(math.sqrt(variance / math.prod(shape[axis] for axis in inputs)))
        return weights

    return draw


def build_resnet50(weights: Weights) -> ModelProto:
    """The model, float32 (N, 3, 224, 224) to int64 (N,) and float32 (N, 1001).

    The same random weights give the same bytes. The metadata are ``architecture`` and ``weights``.

    Raises:
        ConfigError: the weights are a checkpoint's.
    """
    if isinstance(weights, Checkpoint):
        raise ConfigError(
            "this ResNet50 is TensorFlow's, of which there is no safetensors checkpoint: give the path of the "
            "published resnet50_v1.onnx (zenodo record 4735647) as the model instead."
        )
    graph = _Graph(weights)
    graph.input("input_tensor:0", np.float32, ["N", 3, SIDE, SIDE])
    x = graph.relu(graph.conv("input_tensor:0", (3, 64), kernel=7, stride=2, variance=BEFORE_RELU / _IMAGE))
    x = graph.layer(
        "MaxPool", "resnet_model/max_pooling2d/MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]
    )
    channels = 64
    for blocks, filters, stride in STAGES:
        for block in range(blocks):
            x = graph.bottleneck(x, channels, filters, stride=1 if block else stride, projects=not block)
            channels = EXPANSION * filters
    x = graph.layer("ReduceMean", "resnet_model/Mean", [x], axes=[2, 3], keepdims=1)
    x = graph.layer("Squeeze", "resnet_model/Squeeze", [x], axes=[2, 3])
    x = graph.dense(x, (channels, CLASSES + 1))
    graph.layer("Softmax", "softmax_tensor", [x], axis=1)
    graph.layer("ArgMax", "ArgMax", [x], axis=1, keepdims=0)
    graph.output("ArgMax:0", np.int64, ["N"])
    graph.output("softmax_tensor:0", np.float32, ["N", CLASSES + 1])
    return graph.finish("ResNet50 v1.5")


class _Graph(GraphBuilder):
    """Layers named as TensorFlow numbers them."""

    def __init__(self, weights: Weights) -> None:
        super().__init__("resnet50", weights, opset=11)
        self._layers: Counter[str] = Counter()

    def layer(self, op: str, name: str, inputs: list[str], **attributes: int | list[int]) -> str:
        return self.node(op, inputs, name, f"{name}:0", **attributes)

    def relu(self, x: str) -> str:
        return self.layer("Relu", f"resnet_model/Relu{self._number('Relu')}", [x])

    def conv(self, x: str, channels: tuple[int, int], *, kernel: int, stride: int, variance: float) -> str:
        """A convolution with its batch normalisation folded in; channels in and out."""
        number = self._number("conv2d")
        name = f"resnet_model/conv2d{number}/Conv2D"
        shape = (channels[1], channels[0], kernel, kernel)
        weights = self.weight(f"{name}_weights_fused_bn", shape, centred(variance, (1, 2, 3)))
        return self.node(
            "Conv",
            [x, weights, self.weight(f"{name}_bias_fused_bn", (channels[1],), normal(BIAS))],
            name,
            f"resnet_model/batch_normalization{number}/FusedBatchNorm:0",
            dilations=[1, 1],
            kernel_shape=[kernel, kernel],
            pads=[(kernel - 1) // 2] * 4,
            strides=[stride, stride],
        )

    def bottleneck(self, x: str, channels: int, filters: int, *, stride: int, projects: bool) -> str:
        """1 x 1, 3 x 3, 1 x 1, added to its input or to a projection of it."""
        shortcut, variance = x, RESIDUAL
        wide = EXPANSION * filters
        if projects:
            variance = MAIN
            shortcut = self.conv(x, (channels, wide), kernel=1, stride=stride, variance=PROJECTION / CENTRED)
        before_relu = BEFORE_RELU / CENTRED
        y = self.relu(self.conv(x, (channels, filters), kernel=1, stride=1, variance=before_relu))
        y = self.relu(self.conv(y, (filters, filters), kernel=3, stride=stride, variance=before_relu))
        y = self.conv(y, (filters, wide), kernel=1, stride=1, variance=variance / CENTRED)
        return self.relu(self.layer("Add", f"resnet_model/add{self._number('add')}", [y, shortcut]))

    def dense(self, x: str, channels: tuple[int, int]) -> str:
        """The classifier; channels in and out."""
        kernel = self.weight("resnet_model/dense/kernel/read:0", channels, centred(LOGITS, (0,)))
        bias = self.weight("resnet_model/dense/bias/read:0", channels[1:], normal(BIAS))
        product = self.layer("MatMul", "resnet_model/dense/MatMul", [x, kernel])
        return self.layer("Add", "resnet_model/dense/BiasAdd", [product, bias])

    def _number(self, layer: str) -> str:
        """What TensorFlow appends to the name of a layer: nothing to the first, then _1, _2, ..."""
        number = self._layers[layer]
        self._layers[layer] += 1
        return f"_{number}" if number else ""
