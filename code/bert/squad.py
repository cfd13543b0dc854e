"""SQuAD v1.1: reading and checking the file, and the metric.

The metric is that of the official ``evaluate_v1.1.py`` (mlcommons/inference, ``language/bert``); sums are taken in the
file's order, so that both agree to the last digit.
"""

import json
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.errors import ConfigError
from harness.files.disk import read_input

_T = TypeVar("_T")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


@dataclass(frozen=True, slots=True)
class Question:
    """A question; ``context`` indexes ``Squad.contexts``, ``answers`` holds every accepted text."""

    id: str
    text: str
    context: int
    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Squad:
    """A data set in the file's order, without the division into articles."""

    contexts: tuple[str, ...]
    questions: tuple[Question, ...]


def read_squad(path: str | Path) -> Squad:
    """Read the data set in ``path``; ConfigError names the place that is not SQuAD v1.1."""
    return parse_squad(read_input(path, "SQuAD v1.1 file"), path)


def parse_squad(raw: bytes, path: str | Path) -> Squad:
    """Parse ``raw`` as a data set; ``path`` is used only in error messages."""

    def field(node: object, place: str, key: str, kind: type[_T], *, empty: bool = True) -> _T:
        value = node.get(key) if isinstance(node, dict) else None
        if not isinstance(value, kind):
            raise _bad(path, f"{place} has no {'list' if kind is list else 'text'} {key!r}")
        if not (empty or value):
            raise _bad(path, f"{place}.{key} is empty")
        return value

    contexts: list[str] = []
    questions: list[Question] = []
    places: dict[str, str] = {}
    for a, article in enumerate(field(_load(raw, path), "the top level", "data", list, empty=False)):
        for p, paragraph in enumerate(field(article, f"data[{a}]", "paragraphs", list, empty=False)):
            here = f"data[{a}].paragraphs[{p}]"
            contexts.append(field(paragraph, here, "context", str))
            for q, qa in enumerate(field(paragraph, here, "qas", list)):
                place = f"{here}.qas[{q}]"
                name, text = field(qa, place, "id", str), field(qa, place, "question", str)
                if name in places:
                    raise _bad(path, f"{place} repeats the id {name!r} of {places[name]}")
                places[name] = place
                # Marks of SQuAD v2: the v1.1 metric cannot score a question without an answer.
                if qa.get("is_impossible") or qa.get("answers") == []:
                    raise _bad(path, f"{place} has no answer, as in SQuAD v2")
                answers = field(qa, place, "answers", list)
                texts = tuple(field(x, f"{place}.answers[{i}]", "text", str) for i, x in enumerate(answers))
                questions.append(Question(name, text, len(contexts) - 1, texts))
    if not questions:
        raise _bad(path, "it contains no questions")
    return Squad(tuple(contexts), tuple(questions))


def _load(raw: bytes, path: str | Path) -> object:
    try:
        return json.loads(raw.decode())
    except UnicodeDecodeError as error:
        raise _bad(path, f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _bad(path, f"it is not JSON (line {error.lineno} column {error.colno}: {error.msg})") from error
    except RecursionError as error:
        raise _bad(path, "its JSON is nested too deeply") from error


def repeated(path: str | Path, features: Sequence[int] | NDArray[np.int64], total: int) -> bytes:
    """A data set that repeats the questions of ``path``, each time under new ids, until it gives ``total`` features.

    ``features`` is the number of features of each question, in the file's order. Nothing measured with this data set is
    a result for SQuAD.

    Raises:
        ConfigError: the questions cannot add up to that total; with a question of one feature they always can.
    """
    data = json.loads(read_input(path, "data set"))["data"]
    articles, left, copy = [], total, 0
    while left:
        before = left
        counts = iter(features)
        for article in data:
            paragraphs = []
            for paragraph in article["paragraphs"]:
                chosen = []
                for qa in paragraph["qas"]:
                    count = int(next(counts))
                    if count <= left:
                        left -= count
                        chosen.append({**qa, "id": f"stand-in-{copy}-{qa['id']}"})
                if chosen:
                    paragraphs.append({**paragraph, "qas": chosen})
            if paragraphs:
                articles.append({**article, "title": f"stand-in {copy}", "paragraphs": paragraphs})
        if left == before:
            raise ConfigError(
                f"the questions of {path} cannot be repeated to exactly {total:,} features: add a question with a "
                "short passage."
            )
        copy += 1
    return json.dumps({"version": "1.1 stand-in, not SQuAD", "data": articles}, separators=(",", ":")).encode()


def _bad(path: str | Path, problem: str) -> ConfigError:
    return ConfigError(
        f"{path} is not SQuAD v1.1: {problem}; use a file in the format of dev-v1.1.json or train-v1.1.json."
    )


def normalize_answer(text: str) -> str:
    """Lower-case the text, then remove ASCII punctuation, articles and extra white space.

    >>> normalize_answer("The  Denver-Broncos!")
    'denverbroncos'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def score_answer(prediction: str, answers: Iterable[str]) -> tuple[bool, float]:
    """(exact match, F1) of ``prediction``, each the best over ``answers``.

    >>> score_answer("the Denver Broncos", ["Broncos", "denver broncos"])
    (True, 1.0)
    """
    said = normalize_answer(prediction)
    truths = [normalize_answer(answer) for answer in answers]
    words = said.split()
    return said in truths, max(_f1(words, truth.split()) for truth in truths)


def _f1(said: list[str], truth: list[str]) -> float:
    # Two empty answers match exactly but have F1 0, as in the official script.
    same = (Counter(said) & Counter(truth)).total()
    if not same:
        return 0.0
    precision, recall = same / len(said), same / len(truth)
    return 2 * precision * recall / (precision + recall)


def evaluate(questions: Iterable[Question], predictions: Mapping[str, str]) -> tuple[float, float]:
    """(exact match, F1) in percent over ``questions``, each of which must have a prediction."""
    scores = [score_answer(predictions[question.id], question.answers) for question in questions]
    return 100.0 * sum(s[0] for s in scores) / len(scores), 100.0 * sum(s[1] for s in scores) / len(scores)
