"""The reference's ResNet50 v1.5 in FP32 with random weights, to measure speed if the trained ones are unavailable.

Known facts about the reference, ``resnet50_v1.onnx`` of zenodo record 4735647, and their sources:

- It is an export by tf2onnx (opset 11, ``--inputs-as-nchw``) of TensorFlow's ``resnet50_v1.pb``, record 2535873
  (mlcommons/inference: issue 1739 and vision/classification_and_detection/tools/convert-to-onnx.sh). The older record
  2592612 is a different export, with opset 8, in which the first batch normalisation is not folded.
- Its input is ``input_tensor:0``, its outputs are ``ArgMax:0`` and ``softmax_tensor:0`` (the same script, and
  python/main.py next to it).
- It ends with ``resnet_model/Mean`` (ReduceMean), ``Squeeze``, ``dense/MatMul``, ``dense/BiasAdd`` (Add), followed by
  Softmax and ArgMax (the script with which NVIDIA/Deep-Learning-Accelerator-SW prepares the record's file).
- Its layers are those of tensorflow/models, official/r1/resnet/resnet_model.py, version 1: a bottleneck's stride is in
  its 3 x 3 convolution, which is the meaning of 1.5; strided convolutions are padded by (kernel - 1) / 2 on each side,
  regardless of their input's size; the pooling is padded as "SAME", that is only at the bottom and on the right.

No source lists all its nodes. That TensorFlow code, exported by tf2onnx 1.8.2, has all these names, including the batch
dimension ``unk__616`` by which scripts recognise the record's file, and 125 nodes: 53 Conv, each with its padding and
its batch normalisation folded in, 49 Relu, 17 Add, MaxPool, ReduceMean, Squeeze, MatMul, Softmax, ArgMax. This module
builds the same nodes under the same names: 25,532,521 parameters, 4.09e9 multiplications per image. Two differences are
deliberate: the batch dimension is ``N``, and the IR version is 7 as in the project's other models.

The weights are normal. Each filter is centred, which removes the common part of all channels, and scaled so that a
ReLU's output has the mean square of its input (He et al., arXiv:1502.01852). Without centring, 50 layers would make all
images alike and every answer the same class; in training, batch normalisation prevents that.
"""

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
"""Bottlenecks of each stage, their filters, and the stride of the first."""
EXPANSION = 4
"""Output channels of a bottleneck for each of its filters."""

# Variances of a convolution's output, for inputs of mean square 1.
BEFORE_RELU = 2.0
"""ReLU reduces it to mean square 1."""
PROJECTION = MAIN = BEFORE_RELU / 2
"""The two are added before a ReLU."""
RESIDUAL = 0.25
"""Added to a shortcut of mean square 1: over 16 blocks its root does not double."""
LOGITS = 64.0
"""Large enough to distinguish images, whose pooled features differ little."""
CENTRED = 1 - 1 / math.pi
"""Variance of a ReLU's output of mean square 1."""
BIAS = 1e-3
"""Small enough that the image determines the class, whatever its scale."""

_IMAGE = 64.0**2  # mean square of a pixel minus its channel's mean, on the scale of 0 to 255


def centred(variance: float, inputs: tuple[int, ...]) -> Draw:
    """Weights of mean 0 over the axes ``inputs`` that give outputs of this variance for inputs of mean square 1."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        weights = generator.standard_normal(shape, dtype=np.float32)
        weights -= weights.mean(axis=inputs, keepdims=True, dtype=np.float64).astype(np.float32)
        weights *= np.float32(math.sqrt(variance / math.prod(shape[axis] for axis in inputs)))
        return weights

    return draw


def build_resnet50(weights: Weights) -> ModelProto:
    """The model, float32 (N, 3, 224, 224) to int64 (N,) and float32 (N, 1001).

    The same random weights give the same bytes. The metadata entries are ``architecture`` and ``weights``.

    Raises:
        ConfigError: the weights are a checkpoint's.
    """
    if isinstance(weights, Checkpoint):
        raise ConfigError(
            "this ResNet50 is TensorFlow's, which has no safetensors checkpoint: use the published resnet50_v1.onnx "
            "(zenodo record 4735647) as the model instead."
        )
    graph = _TensorFlowGraph(weights)
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


class _TensorFlowGraph(GraphBuilder):
    """Layers named and numbered as in TensorFlow."""

    def __init__(self, weights: Weights) -> None:
        super().__init__("resnet50", weights, opset=11)
        self._layers: Counter[str] = Counter()

    def layer(self, op: str, name: str, inputs: list[str], **attributes: int | list[int]) -> str:
        return self.node(op, inputs, name, f"{name}:0", **attributes)

    def relu(self, x: str) -> str:
        return self.layer("Relu", f"resnet_model/Relu{self._number('Relu')}", [x])

    def conv(self, x: str, channels: tuple[int, int], *, kernel: int, stride: int, variance: float) -> str:
        """A convolution with its batch normalisation folded in; ``channels`` are in and out."""
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
        """1 x 1, 3 x 3 and 1 x 1 convolutions, added to the input or to a projection of it."""
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
        """The classifier; ``channels`` are in and out."""
        kernel = self.weight("resnet_model/dense/kernel/read:0", channels, centred(LOGITS, (0,)))
        bias = self.weight("resnet_model/dense/bias/read:0", channels[1:], normal(BIAS))
        product = self.layer("MatMul", "resnet_model/dense/MatMul", [x, kernel])
        return self.layer("Add", "resnet_model/dense/BiasAdd", [product, bias])

    def _number(self, layer: str) -> str:
        """The suffix that TensorFlow appends to a layer's name: nothing for the first, then _1, _2, ..."""
        number = self._layers[layer]
        self._layers[layer] += 1
        return f"_{number}" if number else ""
