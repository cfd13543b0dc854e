"""Reads files in SQuAD's format as training data: passages, where their answers are, and which belong together."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from bert.features import CONTEXT_WORD
from bert.squad import Question, Squad, parse_squad
from harness.errors import ConfigError
from harness.files.disk import read_input
from harness.task.shape import Integers


@dataclass(frozen=True)
class Answer:
    """A question's first answer."""

    text: str
    start: int
    """Its position in the passage, in characters."""


@dataclass(frozen=True)
class Passages:
    """Questions, their answers and the division of their passages."""

    squad: Squad
    answers: tuple[Answer, ...]
    """By question; empty without labels."""
    group: Integers
    """int64 (contexts,): equal for passages of one article, and for equal passages."""
    hashes: tuple[str, ...]
    """sha256 of each file, in hex."""

    @property
    def labelled(self) -> bool:
        """Whether the questions have answers."""
        return bool(self.answers)

    @property
    def digest(self) -> str:
        """One sha256 for all files, in hex; that of the file if there is only one."""
        return self.hashes[0] if len(self.hashes) == 1 else sha256("".join(self.hashes).encode()).hexdigest()


def read_passages(path: Path) -> Passages:
    """A JSON file in SQuAD v1.1's format, or all that a folder holds, in the order of their names.

    Either all questions must have answers, or none. In a file with a single article, each passage counts as one.

    Raises:
        ConfigError: a file does not exist or has another format, or only some questions have answers.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    if not files:
        raise ConfigError(f"{path} contains no .json files: pass questions in SQuAD's format, or a folder of them.")
    contents = [read_input(file, "training data") for file in files]
    contexts: list[str] = []
    questions: list[Question] = []
    answers: list[Answer] = []
    articles: list[tuple[int, int]] = []
    for number, (file, content) in enumerate(zip(files, contents, strict=True)):
        squad = parse_squad(_with_answers(content), file)
        # Ids are unique within a file only.
        questions += (
            replace(question, id=f"{number}:{question.id}", context=question.context + len(contexts))
            for question in squad.questions
        )
        contexts += squad.contexts
        data = json.loads(content)["data"]
        if not _unlabelled(data):
            answers += _answers(data, file)
        articles += ((number, article) for article in _articles(data))
    if answers and len(answers) < len(questions):
        raise ConfigError(f"{path} has files with answers and files without: keep only one kind in it.")
    hashes = tuple(sha256(content).hexdigest() for content in contents)
    return Passages(Squad(tuple(contexts), tuple(questions)), tuple(answers), _groups(articles, contexts), hashes)


def word_places(context: str, answer: Answer) -> tuple[int, int] | None:
    """The first and the last word of the answer, indices in `bert.features.context_words`; None if it is missing.

    The nearest occurrence counts if the text does not start where the file says.
    """
    start, text = answer.start, answer.text.strip(" \t\r\n\u202f")
    start += len(answer.text) - len(answer.text.lstrip(" \t\r\n\u202f"))
    if not text:
        return None
    if context[start : start + len(text)] != text:
        found = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
        if not found:
            return None
        start = min(found, key=lambda place: abs(place - answer.start))
    ends = [match.end() for match in CONTEXT_WORD.finditer(context)]
    first, last = np.searchsorted(ends, [start, start + len(text) - 1], side="right").tolist()
    return int(first), int(last)


def _questions(data: Any) -> Iterator[Any]:
    """The questions of parsed JSON, in the file's order; fails with errors of many kinds for other formats."""
    for article in data:
        for paragraph in article["paragraphs"]:
            yield from paragraph["qas"]


def _unlabelled(data: Any) -> bool:
    return not any(question.get("answers") for question in _questions(data))


def _with_answers(content: bytes) -> bytes:
    """The file, with an empty answer to each question if none has any, so that it parses as SQuAD."""
    try:
        parsed = json.loads(content)
        data = parsed["data"]
        if not _unlabelled(data):
            return content
        for question in _questions(data):
            question["answers"] = [{"text": ""}]
        return json.dumps(parsed).encode()
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return content  # the parser then rejects it and names the place


def _answers(data: Any, file: Path) -> Iterator[Answer]:
    for question in _questions(data):
        answer = question["answers"][0]
        start = answer.get("answer_start")
        if not isinstance(start, int) or start < 0:
            raise ConfigError(
                f"{file}, question {question['id']!r}: the answer has no 'answer_start', its place in the passage in "
                "characters; add it, as in SQuAD v1.1."
            )
        yield Answer(answer["text"], start)


def _articles(data: Any) -> list[int]:
    """The article of each passage."""
    if len(data) == 1:
        return list(range(len(data[0]["paragraphs"])))
    return [number for number, article in enumerate(data) for _ in article["paragraphs"]]


def _groups(articles: Sequence[tuple[int, int]], contexts: Sequence[str]) -> Integers:
    """int64 (contexts,): the articles, joined where they share a passage."""
    parent: dict[object, object] = {}

    def root(node: object) -> object:
        while (above := parent.setdefault(node, node)) != node:
            node = above
        return node

    for article, context in zip(articles, contexts, strict=True):
        parent[root(article)] = root(context)
    numbers: dict[object, int] = {}
    return np.array([numbers.setdefault(root(article), len(numbers)) for article in articles], np.int64)
