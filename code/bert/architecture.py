"""BERT for question answering, in FP32, with random weights or those of a Hugging Face checkpoint.

The architecture is that of Devlin et al., arXiv:1810.04805; the weights are named as in ``BertForQuestionAnswering``
of transformers. The nodes are the ones that torch's exporter writes, node for node where engines fuse by pattern:
attention, layer normalisation as single operations, and GELU with Erf. Weights of linear layers are stored transposed,
(in, out), under their name in the checkpoint. The graph uses opset 13 of the default domain only; batch and sequence
are free dimensions.

Two published models use this architecture:

- the MLPerf reference's ``bert_large_v1_1``, ``model.onnx`` of zenodo record 3733910: 24 layers, 1024 wide, with the
  inputs ``input_ids``, ``input_mask`` and ``segment_ids`` and the outputs ``output_start_logits`` and
  ``output_end_logits``;
- SparseZoo's oBERT-Large, pruned by Kurtic et al., arXiv:2203.07259: the same, with the input and output names of
  transformers.
"""

import math
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto

from harness.models.weights import Draw, Weights, filled, normal
from harness.models.writer import GraphBuilder

_OPSET = 13
_DRAW = normal(0.02)  # initializer_range of every published BERT
_EPSILON = 1e-12  # layer_norm_eps of every published BERT
_MASKED = -10000.0  # added to a score to make its softmax 0 in float32


@dataclass(frozen=True)
class Interface:
    """Names of a question-answering graph's inputs, int64 (batch, sequence), and outputs, float32 of that shape."""

    input_ids: str = "input_ids"
    attention_mask: str = "attention_mask"
    token_type_ids: str = "token_type_ids"
    start_logits: str = "start_logits"
    end_logits: str = "end_logits"


TRANSFORMERS = Interface()
"""The names that transformers and SparseZoo use."""


@dataclass(frozen=True)
class BertConfig:
    """Sizes of a BERT, by default BERT-Large; named as in the paper."""

    layers: int = 24
    hidden: int = 1024
    heads: int = 16
    feed_forward: int = 4096
    vocabulary: int = 30522
    positions: int = 512
    segments: int = 2
    interface: Interface = TRANSFORMERS


BERT_LARGE = BertConfig(
    interface=Interface(
        attention_mask="input_mask",
        token_type_ids="segment_ids",
        start_logits="output_start_logits",
        end_logits="output_end_logits",
    )
)
OBERT_LARGE = BertConfig()


def build_bert_large(weights: Weights) -> ModelProto:
    """The reference's BERT-Large: see `build_bert`."""
    return build_bert(weights, BERT_LARGE)


def build_obert_large(weights: Weights) -> ModelProto:
    """oBERT-Large before pruning: see `build_bert`."""
    return build_bert(weights, OBERT_LARGE)


def build_bert(weights: Weights, config: BertConfig) -> ModelProto:
    """A graph from three int64 (batch, sequence) to two float32 (batch, sequence), sequence 1 to ``config.positions``.

    The same random weights give the same bytes. The metadata entries are ``architecture`` and ``weights``.

    Raises:
        ConfigError: the checkpoint is of another model.
    """
    graph = EncoderGraph("bert", weights, config.interface)
    mask = graph.mask("bert")
    x = _embeddings(graph, config)
    for layer in range(config.layers):
        x = _layer(graph, x, mask, f"bert.encoder.layer.{layer}", config)
    graph.answer(x, config.hidden, _DRAW, _DRAW)
    return graph.finish(
        f"BERT, {config.layers} layers, hidden {config.hidden}",
        ignored=("bert.pooler.*", "bert.embeddings.position_ids", "cls.*"),
    )


class EncoderGraph(GraphBuilder):
    """The layers that BERT and MobileBERT share; a scope is the name of a module in transformers."""

    def __init__(self, name: str, weights: Weights, interface: Interface) -> None:
        super().__init__(name, weights, _OPSET)
        self.interface = interface
        for tensor in (interface.input_ids, interface.attention_mask, interface.token_type_ids):
            self.input(tensor, np.int64, ["batch", "sequence"])

    def mask(self, scope: str) -> str:
        """The term added to the scores, (batch, 1, 1, sequence): 0, or a large negative number for padding."""
        x = self.scoped(scope, "Unsqueeze", self.interface.attention_mask, self.constant("axes_1", [1], np.int64))
        x = self.scoped(scope, "Unsqueeze", x, self.constant("axes_2", [2], np.int64))
        x = self.scoped(scope, "Cast", x, to=1)
        x = self.scoped(scope, "Sub", self.constant("one", 1.0), x)
        return self.scoped(scope, "Mul", x, self.constant("masked", _MASKED))

    def lookup(self, scope: str, ids: str, shape: tuple[int, int], draw: Draw) -> str:
        """The row of the scope's embedding table for each id."""
        return self.scoped(scope, "Gather", self.weight(f"{scope}.weight", shape, draw), ids, axis=0)

    def positions(self, scope: str, shape: tuple[int, int], draw: Draw) -> str:
        """The first rows of the scope's embedding table, one for each token of the sequence."""
        sizes = self.scoped(scope, "Shape", self.interface.input_ids)
        length = self.scoped(scope, "Gather", sizes, self.constant("index_1", 1, np.int64), axis=0)
        length = self.scoped(scope, "Unsqueeze", length, self.constant("axes_0", [0], np.int64))
        every = self.constant("position_ids", np.arange(shape[0])[None], np.int64)
        zero, one = self.constant("axes_0", [0], np.int64), self.constant("axes_1", [1], np.int64)
        return self.lookup(scope, self.scoped(scope, "Slice", every, zero, length, one, one), shape, draw)

    def linear(self, x: str, scope: str, sizes: tuple[int, int], draw: Draw, bias: Draw) -> str:
        """x W + b; ``sizes`` are in and out."""
        kernel = self.weight(f"{scope}.weight", sizes[::-1], draw, transposed=True)
        product = self.scoped(scope, "MatMul", x, kernel)
        return self.scoped(scope, "Add", self.weight(f"{scope}.bias", sizes[1:], bias), product)

    def attention(self, query: str, key: str, value: str, mask: str, scope: str, heads: int, hidden: int) -> str:
        """Multi-head scaled dot-product attention on the projected inputs, (batch, sequence, hidden)."""
        split = self.constant("heads", [0, 0, heads, hidden // heads], np.int64)
        joined = self.constant("joined", [0, 0, hidden], np.int64)
        query, key, value = (
            self.scoped(scope, "Transpose", self.scoped(scope, "Reshape", x, split), perm=axes)
            for x, axes in ((query, [0, 2, 1, 3]), (key, [0, 2, 3, 1]), (value, [0, 2, 1, 3]))
        )
        scores = self.scoped(scope, "MatMul", query, key)
        scores = self.scoped(scope, "Div", scores, self.constant("root_of_size", math.sqrt(hidden // heads)))
        shares = self.scoped(scope, "Softmax", self.scoped(scope, "Add", scores, mask), axis=-1)
        context = self.scoped(scope, "Transpose", self.scoped(scope, "MatMul", shares, value), perm=[0, 2, 1, 3])
        return self.scoped(scope, "Reshape", context, joined)

    def answer(self, x: str, hidden: int, draw: Draw, bias: Draw) -> None:
        """The head: a start and an end logit for each token."""
        x = self.linear(x, "qa_outputs", (hidden, 2), draw, bias)
        self.split("qa_outputs", x, ("qa_outputs/start", "qa_outputs/end"))
        last = self.constant("axes_last", [-1], np.int64)
        for half, name in (("start", self.interface.start_logits), ("end", self.interface.end_logits)):
            self.scoped("qa_outputs", "Squeeze", f"qa_outputs/{half}", last, output=name)
            self.output(name, np.float32, ["batch", "sequence"])


def _embeddings(graph: EncoderGraph, config: BertConfig) -> str:
    scope, draw, names = "bert.embeddings", _DRAW, config.interface
    words = graph.lookup(f"{scope}.word_embeddings", names.input_ids, (config.vocabulary, config.hidden), draw)
    kinds = graph.lookup(f"{scope}.token_type_embeddings", names.token_type_ids, (config.segments, config.hidden), draw)
    places = graph.positions(f"{scope}.position_embeddings", (config.positions, config.hidden), draw)
    x = graph.scoped(scope, "Add", graph.scoped(scope, "Add", words, kinds), places)
    return _layer_norm(graph, x, f"{scope}.LayerNorm", config.hidden)


def _layer(graph: EncoderGraph, x: str, mask: str, scope: str, config: BertConfig) -> str:
    wide = config.hidden
    own = f"{scope}.attention.self"
    query, key, value = (
        graph.linear(x, f"{own}.{name}", (wide, wide), _DRAW, _DRAW) for name in ("query", "key", "value")
    )
    y = graph.attention(query, key, value, mask, own, config.heads, wide)
    y = graph.linear(y, f"{scope}.attention.output.dense", (wide, wide), _DRAW, _DRAW)
    y = graph.scoped(f"{scope}.attention.output", "Add", y, x)
    x = _layer_norm(graph, y, f"{scope}.attention.output.LayerNorm", wide)
    y = graph.linear(x, f"{scope}.intermediate.dense", (wide, config.feed_forward), _DRAW, _DRAW)
    y = _gelu(graph, y, f"{scope}.intermediate.intermediate_act_fn")
    y = graph.linear(y, f"{scope}.output.dense", (config.feed_forward, wide), _DRAW, _DRAW)
    y = graph.scoped(f"{scope}.output", "Add", y, x)
    return _layer_norm(graph, y, f"{scope}.output.LayerNorm", wide)


def _layer_norm(graph: EncoderGraph, x: str, scope: str, size: int) -> str:
    """Ba et al., arXiv:1607.06450, over the last axis."""
    mean = graph.scoped(scope, "ReduceMean", x, axes=[-1], keepdims=1)
    rest = graph.scoped(scope, "Sub", x, mean)
    squares = graph.scoped(scope, "Pow", rest, graph.constant("two", 2.0))
    variance = graph.scoped(scope, "ReduceMean", squares, axes=[-1], keepdims=1)
    shifted = graph.scoped(scope, "Add", variance, graph.constant("epsilon", _EPSILON))
    x = graph.scoped(scope, "Div", rest, graph.scoped(scope, "Sqrt", shifted))
    x = graph.scoped(scope, "Mul", x, graph.weight(f"{scope}.weight", (size,), filled(1)))
    return graph.scoped(scope, "Add", x, graph.weight(f"{scope}.bias", (size,), filled(0)))


def _gelu(graph: EncoderGraph, x: str, scope: str) -> str:
    """x (1 + erf(x / sqrt 2)) / 2: Hendrycks and Gimpel, arXiv:1606.08415."""
    y = graph.scoped(scope, "Div", x, graph.constant("root_of_two", math.sqrt(2)))
    y = graph.scoped(scope, "Add", graph.scoped(scope, "Erf", y), graph.constant("one", 1.0))
    return graph.scoped(scope, "Mul", graph.scoped(scope, "Mul", x, y), graph.constant("half", 0.5))
