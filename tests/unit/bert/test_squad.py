# ruff: noqa: RUF001 - look-alike characters are what is tested
from __future__ import annotations

import copy
import json
from pathlib import Path

import bert_by_loops
import pytest
from hypothesis import given
from hypothesis import strategies as st
from squad_data import squad_json

from bert.squad import evaluate, normalize_answer, read_squad, repeated, score_answer
from harness.errors import ConfigError

GOOD = squad_json([("Steve was born.", [("Who?", ["Steve", "steve"]), ("When?", ["1895"])]), ("", [("Why?", ["x"])])])


def test_articles_are_flattened_in_order(tmp_path: Path) -> None:
    both = {"data": GOOD["data"] + copy.deepcopy(GOOD["data"])}
    for paragraph in both["data"][1]["paragraphs"]:
        for qa in paragraph["qas"]:
            qa["id"] += "-again"
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(both))
    squad = read_squad(path)
    assert squad.contexts == ("Steve was born.", "") * 2
    assert [q.id for q in squad.questions] == ["q0", "q1", "q2", "q0-again", "q1-again", "q2-again"]
    assert [q.context for q in squad.questions] == [0, 0, 1, 2, 2, 3]
    assert squad.questions[0].answers == ("Steve", "steve")


def _edit(*steps: object):
    """The good data set with one place changed: the last step is the value, ``del`` removes the key."""
    root = copy.deepcopy(GOOD)
    node, (*way, key, value) = root, steps
    for step in way:
        node = node[step]
    if value is del_:
        del node[key]
    else:
        node[key] = value
    return root


del_ = object()
PARAGRAPH = ("data", 0, "paragraphs", 0)
QA = (*PARAGRAPH, "qas", 1)


@pytest.mark.parametrize(
    ("root", "place"),
    [
        ([], "the top level has no list 'data'"),
        (_edit("data", []), "the top level.data is empty"),
        (_edit("data", 0, "text"), "data[0] has no list 'paragraphs'"),
        (_edit("data", 0, "paragraphs", []), "data[0].paragraphs is empty"),
        (_edit(*PARAGRAPH, "context", 5), "data[0].paragraphs[0] has no text 'context'"),
        (_edit(*PARAGRAPH, "qas", del_), "data[0].paragraphs[0] has no list 'qas'"),
        (_edit(*QA, "id", 7), "data[0].paragraphs[0].qas[1] has no text 'id'"),
        (
            _edit(*QA, "id", "q0"),
            "data[0].paragraphs[0].qas[1] repeats the id 'q0' of data[0].paragraphs[0].qas[0]",
        ),
        (_edit(*QA, "question", del_), "data[0].paragraphs[0].qas[1] has no text 'question'"),
        (_edit(*QA, "answers", del_), "data[0].paragraphs[0].qas[1] has no list 'answers'"),
        (_edit(*QA, "answers", []), "data[0].paragraphs[0].qas[1] has no answer, as in SQuAD v2"),
        (_edit(*QA, "is_impossible", True), "data[0].paragraphs[0].qas[1] has no answer, as in SQuAD v2"),
        (_edit(*QA, "answers", ["1895"]), "data[0].paragraphs[0].qas[1].answers[0] has no text 'text'"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": []}]}]}, "it contains no questions"),
    ],
)
def test_the_place_that_is_wrong_is_named(tmp_path: Path, root: object, place: str) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(root))
    with pytest.raises(ConfigError) as error:
        read_squad(path)
    assert (
        str(error.value)
        == f"{path} is not SQuAD v1.1: {place}; use a file in the format of dev-v1.1.json or train-v1.1.json."
    )


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b'{"data": [', "it is not JSON (line 1 column 11"),
        (b'{"data": "\xff"}', "byte 10 is not UTF-8"),
        (b"[" * 200_000, "nested too deeply"),
        (b"", "it is not JSON"),
    ],
)
def test_a_file_that_is_not_json(tmp_path: Path, raw: bytes, reason: str) -> None:
    path = tmp_path / "dev.json"
    path.write_bytes(raw)
    with pytest.raises(ConfigError) as error:
        read_squad(path)
    assert reason in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_absent_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere.json: No such file"):
        read_squad(tmp_path / "nowhere.json")
    with pytest.raises(ConfigError, match=r"cannot read .*: Is a directory"):
        read_squad(tmp_path)


@pytest.mark.parametrize(
    ("text", "normal"),
    [("The  U.S.A.!", "usa"), ("a-an the theatre", "aan theatre"), ("½ Café–Bar", "½ café–bar"), ("An.", "")],
)
def test_normalize_answer(text: str, normal: str) -> None:
    assert normalize_answer(text) == normal


def test_two_answers_of_nothing_match_but_have_no_f1() -> None:
    assert score_answer("the", ["a!", "x"]) == (True, 0.0)


ANSWER = st.lists(st.sampled_from(["the", "a", "An", "x", "y.", "Y", "z", "-", "É"]), max_size=6).map(" ".join)


@given(ANSWER, st.lists(ANSWER, min_size=1, max_size=3))
def test_metric_against_loops(prediction: str, answers: list[str]) -> None:
    exact, f1 = score_answer(prediction, answers)
    assert (exact, pytest.approx(f1)) == bert_by_loops.answer_score(prediction, answers)


def test_evaluate_counts_in_percent(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(GOOD))
    exact, f1 = evaluate(read_squad(path).questions, {"q0": "the Steve", "q1": "in 1895", "q2": "no"})
    assert exact == pytest.approx(100 / 3)
    assert f1 == pytest.approx(100 * (1 + 2 / 3) / 3)


def test_questions_are_repeated_to_exactly_so_many_features(tmp_path: Path) -> None:
    source, made = tmp_path / "dev.json", tmp_path / "made.json"
    source.write_text(json.dumps(GOOD))
    counts = [3, 1, 2]
    made.write_bytes(repeated(source, counts, 16))
    squad = read_squad(made)
    of = {"Who?": 3, "When?": 1, "Why?": 2}
    assert sum(of[question.text] for question in squad.questions) == 16
    assert all(question.id.startswith("stand-in-") for question in squad.questions)
    assert repeated(source, counts, 16) == made.read_bytes()
    with pytest.raises(ConfigError, match="cannot be repeated to exactly 16 features"):
        repeated(source, [3, 3, 3], 16)
