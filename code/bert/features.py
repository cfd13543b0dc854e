"""SQuAD questions as BERT features: the same tokens as the MLPerf reference, stored in columns and cached.

The rules are those of mlcommons/inference ``language/bert/create_squad_data.py``; see `bert.wordpiece` for the tokens.
"""

import json
import logging
import re
import unicodedata
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from io import BytesIO
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert.squad import Squad, parse_squad
from bert.vocabulary import read_tokenizer
from bert.wordpiece import Tokenizer
from harness.errors import ConfigError
from harness.files.cache import read_entry, stored
from harness.files.disk import read_input
from harness.terminal.progress import OnProgress

_CODE_VERSION = 1  # part of the cache key: increment it whenever the result of build_features changes
_COLUMNS = {
    "tokens": np.int32,
    "offsets": np.int64,
    "first_segment": np.int32,
    "question": np.int32,
    "word": np.int32,
    "max_context": np.bool_,
}
CONTEXT_WORD = re.compile("[^ \t\r\n\u202f]+")
"""A word that ``Features.word`` indexes."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FeatureParams:
    """The reference's lengths, in tokens; ConfigError if they leave no room for the context."""

    max_seq_length: int = 384
    doc_stride: int = 128
    max_query_length: int = 64

    def __post_init__(self) -> None:
        if self.max_seq_length < self.max_query_length + 4 or min(self.doc_stride, self.max_query_length) < 1:
            raise ConfigError(
                f"{self} leaves no room for the context: doc_stride and max_query_length must be at least 1 and "
                "max_seq_length at least max_query_length + 4."
            )


@dataclass(frozen=True)
class Features:
    """All features, unpadded and concatenated in the data set's order; the arrays are read-only.

    A feature is ``[CLS] question [SEP] part of the context [SEP]``; its entries in ``tokens``, ``word`` and
    ``max_context`` are at ``offsets[i]:offsets[i + 1]``.
    """

    tokens: NDArray[np.int32]  # (total,) WordPiece ids
    offsets: NDArray[np.int64]  # (n + 1,)
    first_segment: NDArray[np.int32]  # (n,) tokens of segment 0, [CLS] question [SEP]; the rest is segment 1
    question: NDArray[np.int32]  # (n,) index in Squad.questions, ascending
    word: NDArray[np.int32]  # (total,) index in context_words(), -1 outside the context
    max_context: NDArray[np.bool_]  # (total,) whether this feature shows the token with the most context

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each feature, (n,)."""
        return np.diff(self.offsets)


def context_words(context: str) -> list[str]:
    """The words that ``Features.word`` indexes; as in the reference U+202F separates words, U+00A0 does not."""
    return CONTEXT_WORD.findall(context)


@lru_cache(maxsize=4096)
def _doc_spans(length: int, room: int, stride: int) -> list[tuple[int, int, NDArray[np.bool_]]]:
    """(start, stop, max_context (stop - start,)) of each window of ``room`` over ``length`` tokens."""
    if not length:
        return []
    starts = [0]
    while starts[-1] + room < length:
        starts.append(starts[-1] + min(room, stride))
    start = np.array(starts)[:, None]
    stop = np.minimum(start + room, length)
    left, right = np.arange(length) - start, stop - 1 - np.arange(length)
    # The context is that of the smaller side; ties go to the longer window, then to the earlier one.
    context = np.where((left >= 0) & (right >= 0), np.minimum(left, right) + 0.01 * (stop - start), -np.inf)
    owner = context.argmax(0)
    return [(a, b, owner[a:b] == i) for i, (a, b) in enumerate(zip(starts, stop[:, 0].tolist(), strict=True))]


def build_features(
    squad: Squad,
    vocab_path: str | Path,
    params: FeatureParams | None = None,
    progress: OnProgress | None = None,
    casing: str | None = None,
) -> Features:
    """The features of every question; as in the reference, a question whose context has no tokens has none."""
    return _build(squad, read_tokenizer(vocab_path, casing), params or FeatureParams(), progress)


def _build(squad: Squad, tokenizer: Tokenizer, params: FeatureParams, progress: OnProgress | None) -> Features:
    cls, sep = tokenizer.tokens.index("[CLS]"), tokenizer.tokens.index("[SEP]")
    texts = chain(squad.contexts, (question.text for question in squad.questions))
    pieces = tokenizer.word_pieces({word for text in texts for word in context_words(text)})
    documents = [_document([pieces[word] for word in context_words(context)]) for context in squad.contexts]
    end, outside = np.array([sep], np.int32), np.full(params.max_seq_length, -1, np.int32)
    unseen = np.zeros(params.max_seq_length, np.bool_)
    # Each starts with an empty array, because there may be no feature to concatenate.
    tokens, words = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    flags = [np.empty(0, np.bool_)]
    lengths, first, owner = [0], [], []
    for index, question in enumerate(squad.questions):
        ids = [*chain.from_iterable(pieces[word] for word in context_words(question.text))]
        query = np.array([cls, *ids[: params.max_query_length], sep], np.int32)
        document, word = documents[question.context]
        room = params.max_seq_length - len(query) - 1
        for start, stop, seen in _doc_spans(len(document), room, params.doc_stride):
            tokens += (query, document[start:stop], end)
            words += (outside[: len(query)], word[start:stop], outside[:1])
            flags += (unseen[: len(query)], seen, unseen[:1])
            lengths.append(len(query) + stop - start + 1)
            first.append(len(query))
            owner.append(index)
        if progress and (index % 500 == 499 or index + 1 == len(squad.questions)):
            progress(index + 1, len(squad.questions))
    features = Features(
        tokens=np.concatenate(tokens),
        offsets=np.cumsum(lengths, dtype=np.int64),
        first_segment=np.array(first, np.int32),
        question=np.array(owner, np.int32),
        word=np.concatenate(words),
        max_context=np.concatenate(flags),
    )
    for column in vars(features).values():
        column.flags.writeable = False
    return features


def _document(pieces: list[list[int]]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The token ids of a context and each token's word, (tokens,) both; ``pieces`` are the ids of each word."""
    word = np.repeat(np.arange(len(pieces), dtype=np.int32), [len(ids) for ids in pieces])
    return np.fromiter(chain.from_iterable(pieces), np.int32, len(word)), word


def load_features(
    dataset_path: str | Path,
    vocab_path: str | Path,
    cache_dir: str | Path,
    params: FeatureParams | None = None,
    progress: OnProgress | None = None,
    casing: str | None = None,
) -> Features:
    """`build_features`, through a cache.

    The key covers the data set's bytes, the tokenizer, the parameters, the code's version and Python's Unicode version.
    A damaged or foreign entry is rebuilt; failing to write an entry is only logged.
    """
    params = params or FeatureParams()
    dataset, tokenizer = read_input(dataset_path, "SQuAD v1.1 file"), read_tokenizer(vocab_path, casing)
    facts = [sha256(dataset).hexdigest(), tokenizer.digest, asdict(params)]
    key = sha256(json.dumps([*facts, _CODE_VERSION, unicodedata.unidata_version]).encode()).hexdigest()
    entry = Path(cache_dir) / f"squad-{key[:32]}"
    features = _read_entry(entry, key)
    if features is None:
        features = _build(parse_squad(dataset, dataset_path), tokenizer, params, progress)
        try:
            _write_entry(entry, key, features)
        except OSError as error:
            _log.warning("the features could not be cached in %s: %s", cache_dir, error)
    return features


def _read_entry(entry: Path, key: str) -> Features | None:
    """The entry's features; None if it is missing or not exactly as ``_write_entry`` wrote it for ``key``."""
    columns = {}
    try:
        meta = json.loads(read_entry(entry / "meta.json"))
        if meta["key"] != key:
            return None
        for name in _COLUMNS:
            # Use the bytes that were hashed: the file may change at any time.
            content = read_entry(entry / f"{name}.npy")
            if sha256(content).hexdigest() != meta["sha256"][name]:
                return None
            columns[name] = np.load(BytesIO(content), allow_pickle=False)
            columns[name].flags.writeable = False
        features = Features(**columns)
        return features if _consistent(features) else None
    except Exception:  # noqa: BLE001  json and NumPy raise errors of every kind for damaged files
        return None


def _consistent(features: Features) -> bool:
    if any(vars(features)[n].dtype != dtype or vars(features)[n].ndim != 1 for n, dtype in _COLUMNS.items()):
        return False
    total, lengths, first = len(features.tokens), features.lengths, features.first_segment
    return (
        len(features.word) == len(features.max_context) == total
        and len(first) == len(features.question) == len(features)
        and features.offsets[0] == 0
        and features.offsets[-1] == total
        and bool((first >= 2).all() and (lengths > first).all() and (np.diff(features.question) >= 0).all())
    )


def _write_entry(entry: Path, key: str, features: Features) -> None:
    with stored(entry) as new:
        new.mkdir()
        sums = {}
        for name, column in vars(features).items():
            made = BytesIO()
            np.save(made, column, allow_pickle=False)
            (new / f"{name}.npy").write_bytes(made.getbuffer())
            sums[name] = sha256(made.getbuffer()).hexdigest()
        (new / "meta.json").write_text(json.dumps({"key": key, "sha256": sums}))
