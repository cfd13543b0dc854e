"""SQuAD questions as training data: the windows and feeds of a run with the answers' positions, and F1 of a part.

The labels are those of the original ``run_squad.py`` (google-research/bert): the first answer of a question, as the
first and the last of its tokens; in a window that does not show all of it, both point to [CLS].
"""

from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert.accuracy import score_logits
from bert.features import FeatureParams, Features, build_features, context_words
from bert.passages import Passages, read_passages, word_places
from bert.qsl import BertQSL
from bert.sut import BertSUT
from bert.vocabulary import read_tokenizer
from bert.wordpiece import Tokenizer
from harness.catalog.manifests import datasets
from harness.errors import ConfigError
from harness.task.feeds import GraphOnly, feed
from harness.task.shape import Array, Integers
from harness.task.training import TrainingBatch, TrainingData, alike_order, hold_back
from harness.terminal import console
from harness.terminal.progress import Progress

_LENGTHS = FeatureParams()
_MIN_WINDOW_TOKENS = 16


class SquadTraining(TrainingData):
    """Questions in SQuAD's format; a sample is a window of at most ``max_cost`` tokens."""

    def __init__(
        self,
        path: Path,
        graph: Path,
        *,
        vocab: Path,
        casing: str | None,
        outputs: str | None,
        hold_out: float,
        max_cost: int | None,
        seed: int,
    ) -> None:
        """Read a JSON file, or all of a folder, and hold back whole articles with about ``hold_out`` of the samples.

        In a file with a single article, each passage counts as one. Without answers nothing is held back. ``vocab``,
        ``casing`` and ``outputs`` are the benchmark's settings.

        Raises:
            ConfigError: the files are not in SQuAD's format, the graph is not a question-answering BERT, or there is
                nothing to train on or to hold back.
        """
        engine = GraphOnly(graph)
        params = _params(_length(engine, max_cost))
        passages = read_passages(path)
        self._squad, self.labelled = passages.squad, passages.labelled
        self._tokenizer = read_tokenizer(vocab, casing)
        with Progress("features", unit="questions") as bar:
            self._features = build_features(
                passages.squad, vocab, params, lambda done, total: bar.update(done=done, total=total), casing
            )
        self._qsl = BertQSL(self._features)
        self._sut = BertSUT(engine, self._qsl, outputs)
        if self._sut.static.batch:
            raise ConfigError(f"{graph} takes batches of {self._sut.static.batch} only: export it with a free batch.")
        self._targets, known = _targets(passages, self._features, self._tokenizer, params.doc_stride)
        train, held = hold_back(
            passages.group[self._context(np.arange(len(self._features)))],
            self._features.question.astype(np.int64),
            hold_out if self.labelled else 0.0,
            seed,
        )
        train = train[known[train]]
        held = held[np.argsort(self._qsl.cost(held), kind="stable")]  # so that little is padded
        self._samples = np.concatenate((train, held))
        self.count = len(train)
        self.held_back = np.arange(len(train), len(self._samples))
        facts = [passages.digest, self._tokenizer.digest, repr(params)]
        self.digest = sha256("\n".join(facts).encode()).hexdigest()
        files = len(passages.hashes)
        self.origin = f"sha256 {passages.digest}" + (f" of those of {files} files" if files > 1 else "")
        self.official = any(entry.official and entry.sha256 in passages.hashes for entry in datasets("bert").values())
        if not self.count:
            raise ConfigError(f"{path} has no questions to train on besides those held back: add data.")

    def batch(self, indices: Integers) -> TrainingBatch:
        """Token ids, mask and segments; targets are the positions of the answer's first and last token."""
        samples = self._samples[indices]
        self._qsl.load(samples)
        tensors = feed(self._sut, samples)
        self._qsl.unload(samples)
        length = next(iter(tensors.values())).shape[1]
        start, end, _ = self._sut.answers
        first, last = self._targets[samples].T
        targets = {start: first, end: last} if self.labelled else None
        mask = np.arange(length) < self._qsl.cost(samples)[:, None]
        return TrainingBatch(tensors, targets, (start, end), mask)

    def order(self, batch: int, step: int, seed: int) -> Integers:
        """Batches of similar lengths: see `alike_order`."""
        return alike_order(self._qsl.cost(self._samples[: self.count]), batch, step, seed)

    def score(self, outputs: Iterable[Mapping[str, Array]]) -> tuple[str, float]:
        """F1 of the questions held back, by the rules of the official scripts."""
        if not (self.labelled and len(self.held_back)):
            raise ConfigError(
                "nothing can be scored: the data has no answers, or none held back; set hold_out above 0."
            )
        held = self._samples[self.count :]
        logits = list(self._logits(outputs, held))
        if len(logits) != len(held):
            raise ValueError(f"{len(logits)} answers to {len(held)} samples")
        order = np.argsort(held)
        features = _part(self._features, held[order])
        return "F1", score_logits(self._squad, features, (logits[row] for row in order), self._tokenizer)[1]

    def _logits(self, outputs: Iterable[Mapping[str, Array]], held: Integers) -> Iterator[NDArray[np.float32]]:
        """The logits of each sample held back, float32 (tokens, 2)."""
        lengths = iter(self._qsl.cost(held).tolist())
        start, end, _ = self._sut.answers
        for tensors in outputs:
            pairs = np.stack((tensors[start], tensors[end]), axis=-1).astype(np.float32)
            for row in pairs:
                yield row[: next(lengths)]

    def _context(self, samples: Integers) -> Integers:
        """int64 (n,): the passage of each sample."""
        context = np.array([question.context for question in self._squad.questions], np.int64)
        found: Integers = context[self._features.question[samples]]
        return found


def _length(engine: GraphOnly, max_cost: int | None) -> int:
    """Tokens of the longest window: ``max_cost``, or as many as the graph and the benchmark take."""
    fixed = [dims[1] for tensor in engine.inputs if len(dims := tensor.dims) == 2 and dims[1]]
    longest = min([*fixed, _LENGTHS.max_seq_length])
    if max_cost is not None and not _MIN_WINDOW_TOKENS <= max_cost <= longest:
        raise ConfigError(
            f"max_cost = {max_cost}: samples of this model have from {_MIN_WINDOW_TOKENS} to {longest} tokens."
        )
    return max_cost or longest


def _params(length: int) -> FeatureParams:
    """Windows of ``length`` tokens, divided in the proportions of the benchmark's; for 384 they are the same."""
    return FeatureParams(
        length, length * _LENGTHS.doc_stride // _LENGTHS.max_seq_length, min(_LENGTHS.max_query_length, length // 2)
    )


def _part(features: Features, indices: Integers) -> Features:
    """Some of the features, in the given order."""
    bounds = zip(features.offsets[indices].tolist(), features.offsets[indices + 1].tolist(), strict=True)
    places = np.concatenate([np.arange(low, high) for low, high in bounds])
    return Features(
        tokens=features.tokens[places],
        offsets=np.concatenate(([0], np.cumsum(features.lengths[indices]))),
        first_segment=features.first_segment[indices],
        question=features.question[indices],
        word=features.word[places],
        max_context=features.max_context[places],
    )


def _targets(
    passages: Passages, features: Features, tokenizer: Tokenizer, stride: int
) -> tuple[Integers, NDArray[np.bool_]]:
    """The first and the last token of the answer in each feature, int64 (n, 2), and whether its answer was found."""
    targets, known = np.zeros((len(features), 2), np.int64), np.ones(len(features), np.bool_)
    if not passages.labelled:
        return targets, known
    texts = (answer.text for answer in passages.answers)
    pieces = tokenizer.word_pieces({word for text in texts for word in context_words(text)})
    questions, firsts = np.unique(features.question, return_index=True)
    stops = [*firsts[1:].tolist(), len(features)]
    missing = 0
    for question, first, stop in zip(questions.tolist(), firsts.tolist(), stops, strict=True):
        answer = passages.answers[question]
        windows = _Windows(features, first, stop, stride)
        places = word_places(passages.squad.contexts[passages.squad.questions[question].context], answer)
        ids = [token for word in context_words(answer.text) for token in pieces[word]]
        span = windows.span(*places, ids) if places else None
        if span is None:
            known[first:stop] = False
            missing += 1
        else:
            targets[first:stop] = windows.targets(*span)
    if missing:
        console.warn(f"{missing:,} of {len(questions):,} questions are left out: their passages lack the answers.")
    return targets, known


class _Windows:
    """The windows of one question, and the tokens of the passage that they were cut from."""

    def __init__(self, features: Features, first: int, stop: int, stride: int) -> None:
        """The question's features are ``first`` to ``stop``; see `bert.features` for how windows are cut."""
        starts = features.offsets[first:stop] + features.first_segment[first]
        ends = features.offsets[first + 1 : stop + 1] - 1
        self._query = int(features.first_segment[first])
        self._sizes = ends - starts
        # All windows but the last are full, and start this far apart.
        self._step = min(int(self._sizes[0]), stride)
        parts = [slice(a, a + self._step) for a in starts[:-1].tolist()] + [slice(int(starts[-1]), int(ends[-1]))]
        self._tokens = np.concatenate([features.tokens[part] for part in parts])
        self._words = np.concatenate([features.word[part] for part in parts])

    def span(self, first_word: int, last_word: int, ids: list[int]) -> tuple[int, int] | None:
        """The first and the last token of an answer in these words; None if they have no tokens.

        As in the original's ``_improve_answer_span``, only the part of the words whose tokens are the answer's ``ids``,
        if there is one: in "(1895-1943)" the answer may be 1895.
        """
        low = int(np.searchsorted(self._words, first_word, "left"))
        high = int(np.searchsorted(self._words, last_word, "right"))
        found = self._tokens[low:high].tolist()
        for start in range(len(found) - len(ids) + 1 if ids else 0):
            if found[start : start + len(ids)] == ids:
                return low + start, low + start + len(ids) - 1
        return (low, high - 1) if high > low else None

    def targets(self, first: int, last: int) -> Integers:
        """int64 (windows, 2): where these tokens are in each window; 0, that is [CLS], if it does not show them all."""
        offsets = np.arange(len(self._sizes)) * self._step
        shown = (offsets <= first) & (last < offsets + self._sizes)
        places = np.array([first, last]) - offsets[:, None] + self._query
        return np.where(shown[:, None], places, 0)
