"""SQuAD v1.1 as a QSL: a sample is a feature, up to 384 tokens of a question and its passage."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from bert.features import Features
from harness.errors import ConfigError
from harness.task.qsl import Carrier, SampleLibrary, extended
from harness.task.shape import Array, Integers, Shape

INPUT_IDS = "input_ids"
ATTENTION_MASK = "attention_mask"
TOKEN_TYPE_IDS = "token_type_ids"

_TOKENS, _LENGTHS, _FIRST = "tokens", "lengths", "first_segment"
"""The arrays sent to other machines: all tokens without padding, int32 (total,), and two of int32 (n,)."""


class BertSamples(SampleLibrary):
    """Samples with the padded tokens of those in memory."""

    _lengths: Integers
    """(count,): tokens of each sample."""
    _first_segment: Integers
    """(count,): the number of them in segment 0."""
    _tokens: NDArray[np.int64]
    """(rows, width): token ids, padded with 0."""

    def cost(self, indices: Integers) -> Integers:
        """Tokens of each sample, [CLS] and [SEP] included."""
        lengths: Integers = self._lengths[indices]
        return lengths

    def collate(self, indices: Integers, shape: Shape) -> Mapping[str, Array]:
        """input_ids, attention_mask and token_type_ids, int64 (batch, length) each.

        Rows past the samples hold one attended [PAD] token, so that every softmax has an input.
        """
        rows = self.rows(indices)
        length, spare = shape.length, shape.batch - len(rows)
        ids = np.zeros(shape, dtype=np.int64)
        width = min(length, self._tokens.shape[1])
        ids[: len(rows), :width] = self._tokens[rows, :width]
        column = np.arange(length)
        lengths = np.concatenate((self._lengths[indices], np.ones(spare, np.int64)))[:, None]
        first = np.concatenate((self._first_segment[indices], np.ones(spare, np.int64)))[:, None]
        mask = column < lengths
        segments = mask & (column >= first)
        return {
            INPUT_IDS: ids,
            ATTENTION_MASK: mask.view(np.int8).astype(np.int64),
            TOKEN_TYPE_IDS: segments.view(np.int8).astype(np.int64),
        }


class BertQSL(BertSamples):
    """The features of a data set, and the padded tokens of the loaded ones."""

    def __init__(self, features: Features, samples: int | None = None) -> None:
        """Use the first ``samples`` features, rounded up so that no question is split.

        Raises:
            ConfigError: there are no features, or ``samples`` is not positive.
        """
        count = whole_questions(features, samples)
        super().__init__(count, count)
        self._features = features
        self._lengths = np.array(features.lengths[:count], dtype=np.int64)
        self._first_segment = np.array(features.first_segment[:count], dtype=np.int64)
        self._tokens = np.zeros((0, 0), dtype=np.int64)

    def hold(self, indices: Integers) -> None:
        """Copy the tokens of these samples into memory, padded."""
        lengths = self._lengths[indices]
        tokens = np.zeros((len(indices), int(lengths.max(initial=0))), dtype=np.int64)
        offsets = self._features.offsets
        for row, index in enumerate(indices):
            tokens[row, : lengths[row]] = self._features.tokens[offsets[index] : offsets[index + 1]]
        self._tokens = tokens

    def pack(self, indices: Integers) -> Mapping[str, Array]:
        """The tokens without padding, int32: 4 bytes each, and 8 bytes a sample."""
        rows = self.rows(indices)
        lengths = self._lengths[indices]
        width = int(lengths.max(initial=0))
        return {
            _TOKENS: self._tokens[rows, :width][np.arange(width) < lengths[:, None]].astype(np.int32),
            _LENGTHS: lengths.astype(np.int32),
            _FIRST: self._first_segment[indices].astype(np.int32),
        }

    def carrier(self, places: int) -> "BertCarrier":
        """Places that are as wide as the longest sample of this data set."""
        return BertCarrier(places, int(self._lengths.max()))


class BertCarrier(BertSamples, Carrier):
    """Tokens received from another machine."""

    def __init__(self, places: int, width: int) -> None:
        super().__init__(places)
        self._lengths = np.zeros(places, np.int64)
        self._first_segment = np.zeros(places, np.int64)
        self._tokens = np.zeros((places, width), np.int64)

    def _fill(self, places: Integers, packed: Mapping[str, Array]) -> None:
        lengths = packed[_LENGTHS].astype(np.int64)
        rows = np.zeros((len(places), self._tokens.shape[1]), np.int64)
        rows[np.arange(rows.shape[1]) < lengths[:, None]] = packed[_TOKENS]
        self._tokens[places] = rows
        self._lengths[places], self._first_segment[places] = lengths, packed[_FIRST]

    def _extend(self, places: int) -> None:
        self._tokens = extended(self._tokens, places)
        self._lengths = extended(self._lengths, places)
        self._first_segment = extended(self._first_segment, places)


def whole_questions(features: Features, samples: int | None) -> int:
    """``samples`` rounded up to the end of a question, in features."""
    total = len(features)
    if not total:
        raise ConfigError("the data set has no samples, since its passages hold no text: use another one.")
    if samples is None or samples >= total:
        return total
    if samples < 1:
        raise ConfigError(f"samples is {samples}; it must be at least 1.")
    return int(np.searchsorted(features.question, features.question[samples - 1], side="right"))
