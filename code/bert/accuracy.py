"""EM and F1 of LoadGen's mlperf_log_accuracy.json: ``python -m bert.accuracy --log LOG --dataset FILE``.

Reads only that log, the data set and the vocabulary. The rules, and therefore the predictions, are those of the
official ``accuracy-squad.py`` (mlcommons/inference, ``language/bert``). That script would also score a log with
missing, repeated or NaN responses; this one rejects it. For a log of sampled responses, as TEST01 writes, only the
questions that it answers are scored; that script counts the others as wrong.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bert.features import Features, context_words, load_features
from bert.spans import MAX_ROWS, Spans, best_spans
from bert.squad import Squad, evaluate, read_squad
from bert.vocabulary import CASINGS, VOCAB, read_tokenizer
from bert.wordpiece import UNCASED, TextNormalisation, Tokenizer, basic_tokens
from harness.errors import ConfigError, RunFailed
from harness.files.disk import write_text
from harness.loadgen import accuracy_log
from harness.loadgen.accuracy_log import counted, read_responses, refuse, run_script
from harness.paths import CACHE_DIR
from harness.terminal.progress import OnProgress

_DTYPES: dict[str, np.dtype[np.generic]] = {f"float{8 * size}": np.dtype(f"<f{size}") for size in (2, 4, 8)}
CHANCE_F1 = 15.0
"""F1 below which a model seems to guess; random logits give 3 to 6 on SQuAD."""
_MIN_BACKWARDS_SHARE = 0.2  # share of responses whose best start lies after their best end, for a swap to be tried
_FAR_BETTER, _FAR_MORE = 1.3, 5.0  # factor and points of F1 by which a swap must score better
_SAMPLES_PER_QUERY = 8  # of MultiStream


@dataclass(frozen=True)
class SquadScore:
    """Percentages over the first ``questions`` of ``total_questions``; ``predictions`` is keyed by question id."""

    exact_match: float
    f1: float
    questions: int
    total_questions: int
    samples: int
    predictions: dict[str, str]
    warnings: tuple[str, ...]
    swapped: float | None = None
    """F1 with start and end logits swapped, if that is far better."""
    partial: bool = False
    """Whether the questions are those answered by a log of some samples, instead of the first ones."""

    def doubts(self, cure: str = "check the order of the outputs") -> tuple[str, ...]:
        """Signs that the score does not describe the model; ``cure`` says how to fix swapped outputs."""
        if self.swapped is not None:
            return (f"with start and end swapped, F1 would be {self.swapped:.3f} instead of {self.f1:.3f}: {cure}.",)
        if self.f1 < CHANCE_F1:
            return (
                f"F1 {self.f1:.3f} is no better than guessing: the vocabulary, its casing or the outputs are probably "
                "not the model's.",
            )
        return ()

    @property
    def scope(self) -> str:
        """Empty for the complete data set, otherwise the qualifier that must accompany every printed result."""
        if self.questions == self.total_questions:
            return ""
        if self.partial:
            return f"on the {self.questions} of {self.total_questions} questions that the log samples"
        return f"on the first {self.questions} of {self.total_questions} questions"


def score_log(
    log_path: str | Path,
    dataset_path: str | Path,
    vocab_path: str | Path,
    *,
    cache_dir: str | Path,
    dtype: str = "float32",
    transposed: bool = False,
    samples: int | None = None,
    partial: bool = False,
    progress: OnProgress | None = None,
    casing: str | None = None,
) -> SquadScore:
    """Score a log whose QSL held all features, or the first ``samples``; with ``partial`` it may hold any of them.

    A response is (rows, 2) logits of ``dtype``, start and end of each token, or (2, rows) if ``transposed``. ``casing``
    is cased, uncased, or None for that of the vocabulary.

    Raises:
        ConfigError: a file is missing or of the wrong kind, or an argument is invalid.
        CheckFailed: the log cannot be scored.
    """
    if dtype not in _DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}: choose from {', '.join(_DTYPES)}.")
    squad = read_squad(dataset_path)
    features = load_features(dataset_path, vocab_path, cache_dir, progress=progress, casing=casing)
    count, asked = _scope(squad, features, samples)
    responses, warnings = _read_responses(log_path, features, count, partial)
    warnings += _check_sizes(log_path, responses, features.lengths[:count], dtype)
    spans = best_spans(responses, features, _DTYPES[dtype], transposed)
    refuse(log_path, {"responses hold a NaN or +infinity": spans.unranked}, "check the SUT and --dtype")

    answered = np.array([bool(response) for response in responses])
    indices: Sequence[int] = np.unique(features.question[:count][answered]).tolist() if partial else range(asked)
    asked_of = _AskedQuestions(squad, features, read_tokenizer(vocab_path, casing), answered, indices)
    predictions, exact_match, f1 = asked_of.evaluate(spans)
    swapped = None
    if spans.backwards > _MIN_BACKWARDS_SHARE * answered.sum():
        other = asked_of.evaluate(best_spans(responses, features, _DTYPES[dtype], transposed, swapped=True))[2]
        swapped = other if other >= max(_FAR_BETTER * f1, f1 + _FAR_MORE) else None
    held = int(answered.sum()) if partial else count
    total = len(squad.questions)
    return SquadScore(exact_match, f1, len(indices), total, held, predictions, warnings, swapped, partial)


@dataclass(frozen=True)
class _AskedQuestions:
    """The questions ``indices``, and whether each feature was ``answered``."""

    squad: Squad
    features: Features
    tokenizer: Tokenizer
    answered: NDArray[np.bool_]
    indices: Sequence[int]

    def evaluate(self, spans: Spans) -> tuple[dict[str, str], float, float]:
        """(predictions, exact match, F1) of each feature's best span."""
        owner = self.features.question[: len(self.answered)]
        best = _best_features(owner, np.where(self.answered, spans.score, -np.inf))
        predictions = _predictions(self.squad, self.features, spans, best, self.indices, self.tokenizer)
        return predictions, *evaluate((self.squad.questions[index] for index in self.indices), predictions)


def score_logits(
    squad: Squad, features: Features, logits: Iterable[NDArray[np.float32]], tokenizer: Tokenizer
) -> tuple[float, float]:
    """(exact match, F1) in percent over the questions that ``features`` belong to.

    ``logits`` has an array (tokens, 2) for each feature, the start and the end logit of each token.

    Raises:
        RunFailed: a logit is NaN or +infinity.
    """
    responses = [np.asarray(each, "<f4").tobytes() for each in logits]
    spans = best_spans(responses, features, _DTYPES["float32"], transposed=False)
    if len(spans.unranked):
        raise RunFailed(f"the answers to {len(spans.unranked)} samples are NaN or infinite, so they have no score.")
    answered = np.ones(len(features), np.bool_)
    asked = np.unique(features.question).tolist()
    return _AskedQuestions(squad, features, tokenizer, answered, asked).evaluate(spans)[1:]


def _scope(squad: Squad, features: Features, samples: int | None) -> tuple[int, int]:
    """(number of features in the QSL, number of questions that they belong to)."""
    total = len(features)
    if samples is None or samples == total:
        return total, len(squad.questions)
    if not 0 < samples < total:
        raise ConfigError(f"samples is {samples}, but the data set has {total}: choose from 1 to {total}.")
    asked = int(features.question[samples - 1]) + 1
    if features.question[samples] < asked:
        low, high = np.searchsorted(features.question, [asked - 1, asked]).tolist()
        ends = " or ".join(str(end) for end in (low, high) if end)
        raise ConfigError(f"samples={samples} ends within question {asked}: choose {ends}, where one ends.")
    return samples, asked


def _read_responses(
    log_path: str | Path, features: Features, count: int, partial: bool
) -> tuple[list[bytes], tuple[str, ...]]:
    """The responses in QSL order, and any warning; CheckFailed unless each of the ``count`` samples has exactly one.

    A few may have two: LoadGen fills the last query of a MultiStream run with samples that it issued before.
    With ``partial`` a sample may have none, returned as an empty response, or several, of which the first counts.
    """
    responses = read_responses(log_path, count)
    advice, held = responses.advice, responses.prefix
    if held and features.question[held - 1] < features.question[held]:
        advice = f"if the run held only the first {held} samples, pass --samples {held}"
    repeats = len(responses.repeated)
    filled = not responses.missing and repeats < _SAMPLES_PER_QUERY and (count + repeats) % _SAMPLES_PER_QUERY == 0
    problems = {
        f"of {count} samples have no response": [] if partial else responses.missing,
        "responses repeat a sample": [] if filled or partial else responses.repeated,
        **responses.unusable,
    }
    refuse(log_path, problems, advice)
    if partial:
        return [responses.first.get(i, b"") for i in range(count)], ()
    repeated = counted(
        "responses repeat a sample, as in the last query of MultiStream; the first counts", responses.repeated
    )
    return [responses.first[i] for i in range(count)], (f"{repeated}.",) if responses.repeated else ()


def _check_sizes(
    log_path: str | Path, responses: list[bytes], lengths: NDArray[np.int64], dtype: str
) -> tuple[str, ...]:
    """A warning if non-empty responses are shorter than their feature; CheckFailed for impossible sizes."""
    sizes = np.array([len(response) for response in responses])
    lengths = np.where(sizes > 0, lengths, 0)
    # Hint at another type only if it explains every single response.
    hint = "check the SUT and --dtype"
    for other, kind in _DTYPES.items():
        rows, rest = np.divmod(sizes, 2 * kind.itemsize)
        if not rest.any() and ((lengths <= rows) & (rows <= MAX_ROWS)).all():
            hint = f"--dtype {other} would fit all of them"
    row = 2 * _DTYPES[dtype].itemsize
    problems = {
        f"responses are not a multiple of {row} bytes, two {dtype} logits": np.flatnonzero(sizes % row),
        f"responses have over {MAX_ROWS} rows, more than the official script accepts": np.flatnonzero(
            sizes // row > MAX_ROWS
        ),
    }
    refuse(log_path, problems, hint)
    short = np.flatnonzero(sizes // row < lengths)
    text = counted("responses are shorter than their feature, missing logits count as -10000", short)
    return (f"{text}; {hint}.",) if len(short) else ()


def _best_features(owner: NDArray[np.int32], score: NDArray[np.float64]) -> dict[int, int]:
    """Question index to the feature with the best span, ties to the first; ``owner`` is each feature's question."""
    best: dict[int, int] = {}
    for feature, question in enumerate(owner.tolist()):
        if score[feature] > (score[best[question]] if question in best else -np.inf):
            best[question] = feature
    return best


def _predictions(
    squad: Squad,
    features: Features,
    spans: Spans,
    best: Mapping[int, int],
    indices: Iterable[int],
    tokenizer: Tokenizer,
) -> dict[str, str]:
    """The answers to the questions ``indices`` by question id, each from its ``best`` feature."""
    words = cache(lambda context: context_words(squad.contexts[context]))
    predictions = {}
    for index in indices:
        question = squad.questions[index]
        text = "empty"  # the reference's answer where no span is possible
        if index in best:
            i = best[index]
            first, last = features.offsets[i] + spans.start[i], features.offsets[i] + spans.end[i]
            tokens = " ".join(tokenizer.tokens[t] for t in features.tokens[first : last + 1].tolist())
            said = " ".join(tokens.replace(" ##", "").replace("##", "").split())
            original = words(question.context)[features.word[first] : features.word[last] + 1]
            text = _original_text(said, " ".join(original), tokenizer.rules)
        predictions[question.id] = text
    return predictions


def _original_text(said: str, original: str, rules: TextNormalisation = UNCASED) -> str:
    """The part of ``original`` that matches ``said``, which is normalised by ``rules``, or all of it.

    The reference's heuristic: if the normalised original and the original have the same number of characters, not
    counting spaces, the characters correspond one to one.

    >>> _original_text("steve smith", "Steve Smith's")
    'Steve Smith'
    """
    tokens = " ".join(basic_tokens(original, rules))
    at = tokens.find(said)
    places = [i for i, char in enumerate(original) if char != " "]
    if not said or at < 0 or len(places) != len(tokens) - tokens.count(" "):
        return original
    first = at - tokens.count(" ", 0, at)
    return original[places[first] : places[first + len(said) - said.count(" ") - 1] + 1]


def accuracy_text(score: SquadScore, log_path: str | Path, note: str | None = None) -> str:
    """The lines of accuracy.txt: the official result, the log's hash, then the scope and the note."""
    result = json.dumps({"exact_match": score.exact_match, "f1": score.f1})
    return accuracy_log.accuracy_text(result, log_path, (score.scope, note))


def write_accuracy_txt(path: str | Path, score: SquadScore, log_path: str | Path, note: str | None = None) -> None:
    """Write accuracy.txt atomically; ``log_path`` is the untruncated log."""
    write_text(path, accuracy_text(score, log_path, note))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 0, 1 if the log cannot be scored, 2 for an invalid command or file."""
    parser = argparse.ArgumentParser("python -m bert.accuracy", description="Exact match and F1 of a LoadGen log.")
    parser.add_argument("--log", required=True, help="mlperf_log_accuracy.json of LoadGen, untruncated")
    parser.add_argument("--dataset", required=True, help="SQuAD v1.1 file, such as dev-v1.1.json")
    parser.add_argument(
        "--vocab", default=VOCAB, help="vocab.txt, tokenizer.json or a checkpoint's folder [%(default)s]"
    )
    parser.add_argument("--casing", choices=CASINGS, help="whether text is lower-cased [from the vocabulary]")
    parser.add_argument("--dtype", choices=_DTYPES, default="float32", help="type of the logits [%(default)s]")
    parser.add_argument("--transposed", action="store_true", help="responses are (2, rows) instead of (rows, 2)")
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--samples", type=int, help="number of features, if the run used only the first ones")
    scope.add_argument("--partial", action="store_true", help="score only the questions in the log, as for TEST01")
    parser.add_argument("--output", help="also write the result to this file (accuracy.txt)")
    parser.add_argument("--predictions", help="write the answers to this file, as JSON by question id")
    parser.add_argument("--cache", default=CACHE_DIR, help="folder in which features are cached [%(default)s]")
    args = parser.parse_args(argv)

    def run() -> tuple[str, Sequence[str], int]:
        score = score_log(
            args.log,
            args.dataset,
            args.vocab,
            cache_dir=args.cache,
            dtype=args.dtype,
            transposed=args.transposed,
            samples=args.samples,
            partial=args.partial,
            casing=args.casing,
        )
        text = accuracy_text(score, args.log)
        if args.output:
            write_text(args.output, text)
        if args.predictions:
            write_text(args.predictions, json.dumps(score.predictions, indent=4) + "\n")
        return text, (*score.warnings, *score.doubts()), 0

    return run_script(run)


if __name__ == "__main__":
    sys.exit(main())
