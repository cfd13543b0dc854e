"""ResNet50 v1.5 as in torchvision, in FP32, with random weights or those of a checkpoint.

This is the architecture of SparseZoo's pruned ResNet50. The weights are named as in torchvision and in timm's
``resnet50.tv_in1k``. Differences from `resnet50.architecture`: images are normalised by ImageNet's mean and deviation
(the profile "pytorch"), the pooling is padded on all sides, and there are logits for 1000 classes.

Batch normalisation is folded into the convolutions: for a channel with scale g, shift b, mean m and variance v, the
filter is multiplied by g / sqrt(v + 1e-5), and b - m g / sqrt(v + 1e-5) becomes the bias (Ioffe and Szegedy,
arXiv:1502.03167). This leaves 25,530,472 of torchvision's 25,557,032 parameters: 26,560 channels lose their scale.

Random weights have the same distributions as in `resnet50.architecture`.
"""

import numpy as np
from onnx import ModelProto

from harness.models.weights import Draw, Weights, filled, normal
from harness.models.writer import GraphBuilder
from resnet50.architecture import (
    BEFORE_RELU,
    BIAS,
    CENTRED,
    EXPANSION,
    LOGITS,
    MAIN,
    PROJECTION,
    RESIDUAL,
    STAGES,
    centred,
)
from resnet50.labels import CLASSES
from resnet50.preprocess import SIDE

_OPSET = 13
_EPSILON = 1e-5  # of torch.nn.BatchNorm2d
_FILTER = (1, 2, 3)


def build_resnet50_torchvision(weights: Weights) -> ModelProto:
    """The model, ``input`` float32 (batch, 3, 224, 224) to ``logits`` float32 (batch, 1000).

    The same random weights give the same bytes. The metadata entries are ``architecture`` and ``weights``.

    Raises:
        ConfigError: the checkpoint is of another model.
    """
    graph = _TorchvisionGraph("resnet50", weights, _OPSET)
    x = graph.input("input", np.float32, ["batch", 3, SIDE, SIDE])
    x = graph.conv(x, ("conv1", "bn1"), (3, 64), kernel=7, stride=2, draw=centred(BEFORE_RELU, _FILTER))
    x = graph.scoped("relu", "Relu", x)
    x = graph.scoped("maxpool", "MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for stage, (blocks, filters, stride) in enumerate(STAGES, start=1):
        for block in range(blocks):
            x = graph.bottleneck(x, f"layer{stage}.{block}", channels, filters, stride=1 if block else stride)
            channels = EXPANSION * filters
    x = graph.scoped("avgpool", "GlobalAveragePool", x)
    x = graph.scoped("flatten", "Flatten", x, axis=1)
    x = graph.scoped(
        "fc", "MatMul", x, graph.weight("fc.weight", (CLASSES, channels), centred(LOGITS, (1,)), transposed=True)
    )
    graph.scoped("fc", "Add", x, graph.weight("fc.bias", (CLASSES,), normal(BIAS)), output="logits")
    graph.output("logits", np.float32, ["batch", CLASSES])
    return graph.finish("ResNet50 v1.5, torchvision", ignored=("*.num_batches_tracked",))


class _TorchvisionGraph(GraphBuilder):
    """Layers named as the modules of torchvision."""

    def conv(
        self, x: str, names: tuple[str, str], channels: tuple[int, int], *, kernel: int, stride: int, draw: Draw
    ) -> str:
        """The convolution and the batch normalisation with these ``names``; ``channels`` are in and out."""
        name, normalisation = names
        inputs, outputs = channels
        filters = self.weights.tensor(f"{name}.weight", (outputs, inputs, kernel, kernel), draw)
        scale, shift, mean, variance = (
            self.weights.tensor(f"{normalisation}.{part}", (outputs,), drawn)
            for part, drawn in (
                ("weight", filled(1)),
                ("bias", normal(BIAS)),
                ("running_mean", filled(0)),
                ("running_var", filled(1)),
            )
        )
        scale = scale / np.sqrt(variance + np.float32(_EPSILON))
        return self.scoped(
            name,
            "Conv",
            x,
            self.initializer(f"{name}.weight", filters * scale[:, None, None, None]),
            self.initializer(f"{name}.bias", shift - mean * scale),
            dilations=[1, 1],
            kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4,
            strides=[stride, stride],
        )

    def bottleneck(self, x: str, scope: str, channels: int, filters: int, *, stride: int) -> str:
        """1 x 1, 3 x 3 and 1 x 1 convolutions, added to the input, or to its projection if the channels change."""
        wide = EXPANSION * filters
        projects = channels != wide
        steps = (
            (channels, filters, 1, 1, BEFORE_RELU),
            (filters, filters, 3, stride, BEFORE_RELU),
            (filters, wide, 1, 1, MAIN if projects else RESIDUAL),
        )
        y = x
        for number, (inputs, outputs, kernel, step, variance) in enumerate(steps, start=1):
            names = (f"{scope}.conv{number}", f"{scope}.bn{number}")
            draw = centred(variance / CENTRED, _FILTER)
            y = self.conv(y, names, (inputs, outputs), kernel=kernel, stride=step, draw=draw)
            if number < len(steps):
                y = self.scoped(f"{scope}.relu", "Relu", y)
        shortcut = x
        if projects:
            names = (f"{scope}.downsample.0", f"{scope}.downsample.1")
            draw = centred(PROJECTION / CENTRED, _FILTER)
            shortcut = self.conv(x, names, (channels, wide), kernel=1, stride=stride, draw=draw)
        return self.scoped(f"{scope}.relu", "Relu", self.scoped(scope, "Add", y, shortcut))
