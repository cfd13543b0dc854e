"""Pruning in one shot, as `models compress` does: before a training that only recovers, or at layer-wise steps."""

from __future__ import annotations

from glob import escape

from onnx import ModelProto

from harness.compress.compress import CompressSettings, compress
from harness.compress.effort import OnLayer
from harness.compress.network import Network
from harness.task.training import TrainingData
from harness.training.recipe import Pruning
from harness.validation import validated

_FITTED, _BATCH = 32, 8
"""Number of batches that the layers are fitted to, and samples in each."""


def pruned(
    model: ModelProto,
    pruning: Pruning,
    sparsity: float,
    data: TrainingData,
    seed: int,
    progress: OnLayer,
    step: int = 0,
) -> ModelProto:
    """A copy of a folded FP32 model with this share of zeros in the layers that a recipe prunes.

    Each layer gets its own sparsity, according to how much pruning it changes the model's outputs. Its weights are
    chosen by the Hessian of the layer's output error; the remaining ones and the bias are fitted to the outputs of the
    given model: see `compress.prune.second_order`. ``seed`` and ``step`` choose the samples.
    """
    count = min(_FITTED, -(-data.count // _BATCH))
    feeds = [data.batch(data.order(_BATCH, step * count + number, seed)).feed for number in range(count)]
    # Patterns of a recipe match names of weights as well, those of `compress` only names of layers.
    keep = tuple(escape(layer.name) for layer in Network(model).layers if pruning.keeps(layer.name, layer.weight))
    settings = validated(CompressSettings, {"sparsity": sparsity, "block": pruning.block, "keep": keep})
    return compress(model, feeds, settings, progress)[0]
