"""BERT question answering as a SUT: one class for every engine."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from bert.outputs import SpanOutputs, match_outputs
from bert.qsl import ATTENTION_MASK, INPUT_IDS, TOKEN_TYPE_IDS, BertSamples
from harness.engines.base import Engine, Signature
from harness.errors import ConfigError
from harness.graph import Tensor, listing
from harness.task.shape import Array, Integers, Shape
from harness.task.sut import SUT, Responses

INPUT_NAMES = {
    INPUT_IDS: ("input_ids", "input_ids:0"),
    ATTENTION_MASK: ("attention_mask", "input_mask", "input_mask:0"),
    TOKEN_TYPE_IDS: ("token_type_ids", "segment_ids", "segment_ids:0"),
}
"""Names of each input in exported BERT graphs: those of Hugging Face, the MLPerf reference and TensorFlow."""

_UNKNOWN = SpanOutputs("start_logits", "end_logits", "")


class BertSUT(SUT):
    """Feeds token ids to a question-answering graph and answers with its start and end logits.

    The graph has three inputs (N, L), int32 or int64, named as in `INPUT_NAMES` and in any order, and two outputs
    (N, L), the start and the end logits. A response is float32 (length, 2), where length is the number of the sample's
    tokens: logits of padding are never sent, so they cannot be chosen.
    """

    qsl: BertSamples
    unit: ClassVar[str] = "tokens"

    def __init__(self, engine: Engine, qsl: BertSamples, outputs: str | None = None) -> None:
        """Match the graph's inputs and outputs; ``outputs`` are the names of the latter, as START,END.

        Raises:
            ConfigError: they are not those of a question-answering BERT; the message lists the graph's.
        """
        super().__init__(engine, qsl)
        # An engine without a graph (null) takes the inputs under their canonical names.
        self._inputs = _match_inputs(engine.inputs) if engine.inputs else _canonical(INPUT_NAMES)
        self.answers = match_outputs(_logits(engine.outputs, self._inputs), outputs) if engine.outputs else _UNKNOWN
        self._outputs = (self.answers.start, self.answers.end)
        if not engine.reshapes and engine.inputs:
            batch, length = self._inputs[INPUT_IDS].dims
            self.static = Shape(batch or 0, length or 0)

    @property
    def input_ids(self) -> str:
        """The graph's name for the token ids."""
        return self._inputs[INPUT_IDS].name

    def signature(self, shape: Shape) -> Signature:
        """Three inputs and two outputs, each (batch, length)."""
        return Signature(
            {tensor.name: tuple(shape) for tensor in self._inputs.values()},
            {name: tuple(shape) for name in self._outputs},
        )

    def feed(self, tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        """Token ids, mask and segments under the graph's names."""
        return {tensor.name: tensors[role].astype(tensor.dtype, copy=False) for role, tensor in self._inputs.items()}

    def encode(self, outputs: Sequence[Array], indices: Integers) -> Responses:
        """float32 (length, 2) for each sample, as language/bert/accuracy-squad.py reads it."""
        start, end = outputs
        logits = np.empty((*start.shape, 2), dtype=np.float32)
        logits[..., 0] = start
        logits[..., 1] = end
        offsets = np.arange(len(indices), dtype=np.int64) * logits.strides[0]
        return Responses(offsets, self.qsl.cost(indices) * 8, logits)

    def values(self, outputs: Sequence[Array], indices: Integers) -> list[Array]:
        """The start logits of each sample's tokens, followed by the end logits."""
        return [
            np.concatenate([each[row, :length] for each in outputs])
            for row, length in enumerate(self.qsl.cost(indices).tolist())
        ]


def _canonical(names: Mapping[str, Sequence[str]]) -> dict[str, Tensor]:
    return {role: Tensor(aliases[0], np.dtype(np.int64), (None, None)) for role, aliases in names.items()}


def _match_inputs(inputs: Sequence[Tensor]) -> dict[str, Tensor]:
    matched = {}
    for role, names in INPUT_NAMES.items():
        found = [tensor for tensor in inputs if tensor.name in names]
        if len(found) != 1:
            raise ConfigError(
                f"the model is not a question-answering BERT: its graph has no input {' or '.join(names[:2])}; "
                f"it has {listing(inputs)}."
            )
        matched[role] = found[0]
    for tensor in matched.values():
        if tensor.dtype not in (np.dtype(np.int64), np.dtype(np.int32)) or len(tensor.dims) != 2:
            raise ConfigError(f"the model has the input {tensor}; BERT's are int32 or int64 (N, L).")
    if len(inputs) > len(matched):
        raise ConfigError(
            f"the model has more inputs than a question-answering BERT: {listing(inputs)}; remove the others from it."
        )
    return matched


def _logits(outputs: Sequence[Tensor], inputs: Mapping[str, Tensor]) -> list[Tensor]:
    """The outputs that can be logits, one float per token; exports without a head have hidden states instead."""
    length = inputs[INPUT_IDS].dims[1]
    found = [
        tensor
        for tensor in outputs
        if tensor.dtype.kind == "f"
        and (not tensor.dims or (len(tensor.dims) == 2 and tensor.dims[1] in (None, length)))
    ]
    if len(found) < 2:
        raise ConfigError(
            f"the model is not a question-answering BERT: its outputs are {listing(outputs)}; start and end logits are "
            "expected, one float for each token."
        )
    return found
