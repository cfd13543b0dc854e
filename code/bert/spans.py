"""The best answer span of each feature, from its logits, by the rules of the official ``accuracy-squad.py``."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bert.features import Features

MAX_ROWS = 384
_N_BEST = 20
_MAX_ANSWER_TOKENS = 30
_PADDING_LOGIT = -10000.0  # of positions past the end of a response
_CHUNK_FEATURES = 1024  # scored at a time: 3 MB for each array of n-best pairs


@dataclass(frozen=True)
class Spans:
    """The best span of each response, (n,) each."""

    score: NDArray[np.float64]  # sum of its two logits, -inf if no span is possible
    start: NDArray[np.int64]  # first token within the feature
    end: NDArray[np.int64]  # last token
    unranked: NDArray[np.int64]  # (m,) indices of responses with a NaN or +infinity, whose spans are meaningless
    backwards: int  # responses whose best start lies after their best end


def best_spans(
    responses: Sequence[bytes],
    features: Features,
    dtype: np.dtype[np.generic],
    transposed: bool,
    swapped: bool = False,
) -> Spans:
    """The spans of responses to the first features, each (rows, 2) of ``dtype``, or (2, rows) if ``transposed``.

    ``swapped`` exchanges the start and the end logits.
    """
    parts, backwards = [], 0
    for low in range(0, len(responses), _CHUNK_FEATURES):
        high = min(low + _CHUNK_FEATURES, len(responses))
        logits = _logits(responses[low:high], dtype, transposed)
        logits = logits[::-1] if swapped else logits
        # +inf as well: added to -inf it gives NaN. -inf alone is a mask.
        unranked = low + np.flatnonzero(~(logits < np.inf).all(axis=(0, 2)))
        first, last = logits.argmax(-1)
        backwards += int((first > last).sum())
        parts.append((*_best_pairs(logits, *_candidates(features, low, high)), unranked))
    score, start, end, unranked = (np.concatenate(column) for column in zip(*parts, strict=True))
    return Spans(score, start, end, unranked, backwards)


def _logits(responses: Sequence[bytes], dtype: np.dtype[np.generic], transposed: bool) -> NDArray[np.float64]:
    """Start and end logits, padded, (2, n, 384)."""
    logits = np.full((2, len(responses), MAX_ROWS), _PADDING_LOGIT)
    for row, response in enumerate(responses):
        flat = np.frombuffer(response, dtype)
        pairs = flat.reshape(2, -1) if transposed else flat.reshape(-1, 2).T
        logits[:, row, : pairs.shape[1]] = pairs
    return logits


def _candidates(features: Features, low: int, high: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The tokens at which a span of each feature may start, and those at which it may end, (n, 384) each."""
    token = np.arange(MAX_ROWS) < features.lengths[low:high, None]
    part = slice(features.offsets[low], features.offsets[high])
    may_start, may_end = np.zeros(token.shape, np.bool_), np.zeros(token.shape, np.bool_)
    may_start[token] = features.max_context[part]
    may_end[token] = features.word[part] >= 0
    return may_start, may_end


def _best_pairs(
    logits: NDArray[np.float64], may_start: NDArray[np.bool_], may_end: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Score, start and end of the best span of each response.

    As in the reference: take the 20 best starts and the 20 best ends of the padded response, ties to the lower index;
    keep the pairs in the context, of at most 30 tokens, with a max-context start; the first best of these wins.
    """
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :_N_BEST]
    starts, ends = np.take_along_axis(logits, order, -1)
    reach = order[1][:, None, :] - order[0][:, :, None]
    allowed = (reach >= 0) & (reach < _MAX_ANSWER_TOKENS)
    allowed &= np.take_along_axis(may_start, order[0], -1)[:, :, None]
    allowed &= np.take_along_axis(may_end, order[1], -1)[:, None, :]
    # An allowed pair with -inf must still beat pairs that are not allowed.
    with np.errstate(invalid="ignore"):
        sums = np.maximum(starts[:, :, None] + ends[:, None, :], np.finfo(float).min)
    sums = np.where(allowed, sums, -np.inf).reshape(len(order[0]), -1)
    pick = sums.argmax(-1)
    rows = np.arange(len(pick))
    return sums[rows, pick], order[0][rows, pick // _N_BEST], order[1][rows, pick % _N_BEST]
