"""MobileBERT for question answering, in FP32, with random weights or those of a Hugging Face checkpoint.

The architecture is that of Sun et al., arXiv:2004.02984, as published (google/mobilebert-uncased): 24 layers, 512 wide
between layers and 128 inside them; a word's embedding of 128 is combined with its neighbours'; queries and keys come
from a shared bottleneck, values from the layer's full input; each layer has four feed-forward networks; a scale and a
shift, "NoNorm", replace layer normalisation. The weights are named as in ``MobileBertForQuestionAnswering`` of
transformers. Nodes, weights, opset and free dimensions are as in `bert.architecture`.

SparseZoo publishes it with all 24 layers and with 14.

NoNorm does not normalise, so random weights must preserve the scale of the activations. The weights of each linear
layer are normal, with a deviation (He et al., arXiv:1502.01852) that gives its output a set mean square; the scale of
a NoNorm after a sum of shortcut and branch restores mean square 1. The weights after a ReLU are centred, which removes
the common part of their inputs; otherwise that part would make all tokens alike.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from bert.architecture import BertConfig, EncoderGraph
from harness.models.weights import Draw, Weights, filled, normal

_BIAS = normal(0.01)
_BRANCH = 0.25  # mean square of a branch, added to a shortcut of mean square 1
_EMBEDDED = 1 / 3  # mean square of each of the word, position and segment embeddings, whose sum has 1
_LOGITS = 4.0  # variance


@dataclass(frozen=True)
class MobileBertConfig(BertConfig):
    """Sizes of a MobileBERT, by default the published one: those that differ from BERT-Large's, and additional ones."""

    hidden: int = 512
    heads: int = 4
    feed_forward: int = 512
    feed_forwards: int = 4
    bottleneck: int = 128
    embedding: int = 128


MOBILEBERT = MobileBertConfig()
MOBILEBERT_14 = replace(MOBILEBERT, layers=14)


def build_mobilebert_24(weights: Weights) -> ModelProto:
    """MobileBERT as published: see `build_mobilebert`."""
    return build_mobilebert(weights, MOBILEBERT)


def build_mobilebert_14(weights: Weights) -> ModelProto:
    """MobileBERT with 14 layers, before pruning: see `build_mobilebert`."""
    return build_mobilebert(weights, MOBILEBERT_14)


def build_mobilebert(weights: Weights, config: MobileBertConfig) -> ModelProto:
    """A graph from three int64 (batch, sequence) to two float32 (batch, sequence), sequence 1 to ``config.positions``.

    The same random weights give the same bytes. The metadata entries are ``architecture`` and ``weights``.

    Raises:
        ConfigError: the checkpoint is of another model.
    """
    graph = _MobileBertGraph("mobilebert", weights, config.interface)
    mask = graph.mask("mobilebert")
    x = _embeddings(graph, config)
    for layer in range(config.layers):
        x = _layer(graph, x, mask, f"mobilebert.encoder.layer.{layer}", config)
    graph.answer(x, config.hidden, _scaled(_LOGITS), _BIAS)
    return graph.finish(
        f"MobileBERT, {config.layers} layers, hidden {config.hidden}",
        ignored=("mobilebert.pooler.*", "mobilebert.embeddings.position_ids", "cls.*"),
    )


class _MobileBertGraph(EncoderGraph):
    """Layers of MobileBERT; ``sizes`` are in and out."""

    def no_norm(self, x: str, scope: str, size: int, mean_square: float = 1.0) -> str:
        """A scale and a shift for each channel; ``mean_square`` is the input's."""
        scale = self.weight(f"{scope}.weight", (size,), filled(1 / math.sqrt(mean_square)))
        return self.scoped(
            scope, "Add", self.scoped(scope, "Mul", x, scale), self.weight(f"{scope}.bias", (size,), _BIAS)
        )

    def reduce(self, x: str, scope: str, sizes: tuple[int, int]) -> str:
        """The linear layer into a bottleneck."""
        return self.no_norm(self.linear(x, f"{scope}.dense", sizes, _scaled(1), _BIAS), f"{scope}.LayerNorm", sizes[1])

    def added(self, x: str, shortcut: str, scope: str, sizes: tuple[int, int], draw: Draw) -> str:
        """The sum of a linear layer's output and the shortcut, scaled and shifted."""
        y = self.scoped(scope, "Add", self.linear(x, f"{scope}.dense", sizes, draw, _BIAS), shortcut)
        return self.no_norm(y, f"{scope}.LayerNorm", sizes[1], 1 + _BRANCH)

    def feed_forward(self, x: str, scope: str, size: int, inner: int) -> str:
        """Linear, ReLU, linear, plus the shortcut."""
        y = self.linear(x, f"{scope}.intermediate.dense", (size, inner), _scaled(2), _BIAS)
        y = self.scoped(f"{scope}.intermediate", "Relu", y)
        return self.added(y, x, f"{scope}.output", (inner, size), _centred(_BRANCH))


def _scaled(variance: float) -> Draw:
    """Weights (out, in) that give outputs of this variance for inputs of mean square 1."""
    return lambda generator, shape: normal(math.sqrt(variance / shape[1]))(generator, shape)


def _centred(variance: float) -> Draw:
    """The same after a ReLU, whose output of mean square 1 has the variance 1 - 1 / pi."""

    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float32]:
        weights: NDArray[np.float32] = _scaled(variance / (1 - 1 / math.pi))(generator, shape)
        weights -= weights.mean(axis=1, keepdims=True)
        return weights

    return draw


def _embeddings(graph: _MobileBertGraph, config: MobileBertConfig) -> str:
    scope, names, wide = "mobilebert.embeddings", config.interface, config.hidden
    words = graph.lookup(f"{scope}.word_embeddings", names.input_ids, (config.vocabulary, config.embedding), normal(1))
    before, after = _neighbours(graph, words, scope)
    words = graph.scoped(scope, "Concat", after, words, before, axis=2)
    sizes = (3 * config.embedding, wide)
    words = graph.linear(words, f"{scope}.embedding_transformation", sizes, _scaled(_EMBEDDED), _BIAS)
    draw = normal(math.sqrt(_EMBEDDED))
    places = graph.positions(f"{scope}.position_embeddings", (config.positions, wide), draw)
    kinds = graph.lookup(f"{scope}.token_type_embeddings", names.token_type_ids, (config.segments, wide), draw)
    x = graph.scoped(scope, "Add", graph.scoped(scope, "Add", words, places), kinds)
    return graph.no_norm(x, f"{scope}.LayerNorm", wide)


def _neighbours(graph: _MobileBertGraph, words: str, scope: str) -> tuple[str, str]:
    """The embeddings of the word before and the word after each word, zero if there is none.

    Avoids Pad, which torch's exporter uses: DeepSparse 1.8 leaves Pad to another engine. Nor does it take two slices
    of one lengthened tensor: DeepSparse then aborts with a failed assertion.
    """
    first, second = graph.constant("axes_0", [0], np.int64), graph.constant("axes_1", [1], np.int64)
    last, end = graph.constant("axes_last", [-1], np.int64), graph.constant("end", [np.iinfo(np.int64).max], np.int64)
    nothing = graph.scoped(scope, "Slice", words, first, second, second)
    nothing = graph.scoped(scope, "Mul", nothing, graph.constant("zero", 0.0))
    before = graph.scoped(scope, "Slice", words, first, last, second)
    before = graph.scoped(scope, "Concat", nothing, before, axis=1)
    after = graph.scoped(scope, "Slice", words, second, end, second)
    return before, graph.scoped(scope, "Concat", after, nothing, axis=1)


def _layer(graph: _MobileBertGraph, x: str, mask: str, scope: str, config: MobileBertConfig) -> str:
    wide, narrow, inner = config.hidden, config.bottleneck, config.feed_forward
    own = f"{scope}.attention.self"
    shortcut = graph.reduce(x, f"{scope}.bottleneck.input", (wide, narrow))
    shared = graph.reduce(x, f"{scope}.bottleneck.attention", (wide, narrow))
    query = graph.linear(shared, f"{own}.query", (narrow, narrow), _scaled(1), _BIAS)
    key = graph.linear(shared, f"{own}.key", (narrow, narrow), _scaled(1), _BIAS)
    value = graph.linear(x, f"{own}.value", (wide, narrow), _scaled(1), _BIAS)
    y = graph.attention(query, key, value, mask, own, config.heads, narrow)
    y = graph.added(y, shortcut, f"{scope}.attention.output", (narrow, narrow), _scaled(1))
    for number in range(config.feed_forwards - 1):
        y = graph.feed_forward(y, f"{scope}.ffn.{number}", narrow, inner)
    y = graph.feed_forward(y, scope, narrow, inner)
    return graph.added(y, x, f"{scope}.output.bottleneck", (narrow, wide), _scaled(_BRANCH))
