"""Training data of BERT: labels as in run_squad.py, windows as in a run, and a part held back without leaks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from squad_data import VOCAB

from bert import training
from bert.architecture import BertConfig, build_bert
from bert.passages import Answer, read_passages, word_places
from bert.task import Bert, BertSettings
from bert.training import SquadTraining
from harness.errors import ConfigError
from harness.models.weights import RandomWeights

LETTERS = [*"abcdefghimnst"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "bert.onnx"
    config = BertConfig(layers=1, hidden=8, heads=2, feed_forward=8, vocabulary=len(VOCAB), positions=384)
    onnx.save(build_bert(RandomWeights(0), config), str(path))
    return path


def article(*passages: tuple[str, list[tuple[str, str]]]) -> dict:
    """An article of (context, [(question, answer)]); the answer is where the context first has it."""
    paragraphs = []
    for context, questions in passages:
        qas = []
        for question, text in questions:
            qa = {"id": f"{context}, {question}, {text}", "question": question}
            qa["answers"] = [{"text": text, "answer_start": max(0, context.find(text))}]
            qas.append(qa)
        paragraphs.append({"context": context, "qas": qas})
    return {"title": "t", "paragraphs": paragraphs}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(*articles: dict, name: str = "train.json") -> Path:
        (tmp_path / name).write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
        return tmp_path / name

    return write


@pytest.fixture
def opened(graph: Path, vocab: Path, tmp_path: Path) -> Callable[..., SquadTraining]:
    def opened(path: Path, hold_out: float = 0.0, max_cost: int | None = None, seed: int = 0) -> SquadTraining:
        settings = BertSettings.model_validate({"vocab": vocab})
        return Bert(settings, tmp_path / "cache").training_data(path, graph, hold_out, max_cost, seed)

    return opened


def tokens(batch, row: int) -> list[str]:
    return [VOCAB[i] for i in batch.feed["input_ids"][row]]


def every(data: SquadTraining):
    return data.batch(np.arange(data.count + len(data.held_back)))


def answer_of(batch, row: int) -> list[str]:
    start, end = (int(batch.targets[name][row]) for name in ("start_logits", "end_logits"))
    return tokens(batch, row)[start : end + 1]


def test_targets_are_the_tokens_of_the_first_answer(write, opened):
    data = opened(write(article(("the a, (1895-19) b c the", [("the a", "1895"), ("b", "b c"), ("c", "19")]))))
    batch = every(data)
    assert data.labelled
    assert [answer_of(batch, row) for row in range(3)] == [["1895"], ["b", "c"], ["1", "##9"]]
    assert batch.answers == ("start_logits", "end_logits")
    assert tokens(batch, 0)[:4] == ["[CLS]", "the", "a", "[SEP]"]
    assert batch.mask.sum(1).tolist() == batch.feed["attention_mask"].sum(1).tolist()


def test_a_window_without_the_whole_answer_points_to_cls(write, opened):
    words = [LETTERS[i % 13] for i in range(60)]
    words[40:43] = ["steve", "smith", "cafe"]
    data = opened(write(article((" ".join(words), [("the", "steve smith cafe")]))), max_cost=24)
    batch = every(data)
    shown = [answer_of(batch, row) for row in range(data.count)]
    assert data.count > 3
    assert ["steve", "smith", "cafe"] in shown
    for row, found in enumerate(shown):
        whole = {"steve", "smith", "cafe"} <= set(tokens(batch, row))
        assert found == (["steve", "smith", "cafe"] if whole else ["[CLS]"])


def test_whole_articles_are_held_back_and_equal_passages_stay_together(write, opened):
    articles = [article((f"a b {i} the {i}", [("the", "b"), ("a", "a")])) for i in range(20)]
    articles[7] = article((articles[3]["paragraphs"][0]["context"], [("b", "the")]))
    data = opened(write(*articles), hold_out=0.2)
    contexts = data._context(data._samples)
    texts = [data._squad.contexts[context] for context in contexts]
    assert 4 <= len(data.held_back) <= 8
    assert data.count + len(data.held_back) == 39
    assert not set(texts[: data.count]) & set(texts[data.count :])
    assert opened(write(*articles), hold_out=0.2).held_back.tolist() == data.held_back.tolist()
    other = opened(write(*articles), hold_out=0.2, seed=1)
    assert set(data._samples[data.count :]) != set(other._samples[other.count :])


def test_the_passages_of_a_lone_article_can_be_divided(write, opened):
    passages = [(f"a {LETTERS[i]} the", [("the", "a")]) for i in range(10)]
    data = opened(write(article(*passages)), hold_out=0.3)
    assert (data.count, len(data.held_back)) == (7, 3)


def test_the_right_logits_score_full_marks(write, opened):
    path = write(*(article((f"a b {LETTERS[i]} the smith", [("the", "b"), ("a", "smith")])) for i in range(10)))
    data = opened(path, hold_out=0.5)

    def outputs(right: bool):
        for part in np.array_split(data.held_back, 3):
            batch = data.batch(part)
            shape = batch.mask.shape
            found = {name: np.zeros(shape, np.float32) for name in batch.answers}
            for name, target in batch.targets.items():
                found[name][np.arange(len(part)), target if right else np.full(len(part), 4)] = 9.0
            yield found

    assert data.score(outputs(right=True)) == ("F1", 100.0)
    assert data.score(outputs(right=False))[1] < 100


def test_the_questions_of_official_runs_are_recognised(write, opened, monkeypatch):
    path = write(article(("a b the", [("the", "b")])))
    data = opened(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert data.origin == f"sha256 {digest}"
    assert not data.official
    entry = next(each for each in training.datasets("bert").values() if each.official)
    monkeypatch.setattr(training, "datasets", lambda name: {"dev": entry.model_copy(update={"sha256": digest})})
    assert opened(path).official
    write(article(("a b the", [("the", "a")])), name="2.json")
    assert opened(path.parent).official
    assert opened(path.parent).origin.endswith(" of those of 2 files")


def test_questions_without_answers_are_unlabelled(write, opened, tmp_path):
    one = article(("a b the", [("the", "b"), ("a", "a")]))
    for qa in one["paragraphs"][0]["qas"]:
        qa["answers"] = []
    del qa["answers"]
    data = opened(write(one))
    assert not data.labelled
    assert every(data).targets is None
    with pytest.raises(ConfigError, match="nothing can be scored"):
        data.score([])
    assert len(opened(tmp_path / "train.json", hold_out=0.5).held_back) == 0


def test_a_folder_is_one_data_set(write, opened):
    write(article(("a b the", [("the", "b")])), name="1.json")
    folder = write(article(("a b the", [("the", "b")])), name="2.json").parent
    data = opened(folder)
    assert data.count == 2
    with pytest.raises(ConfigError, match="one piece"):
        opened(folder, hold_out=0.5)


def test_an_answer_that_is_not_in_the_passage_is_left_out(write, opened, capsys):
    data = opened(write(article(("a b the", [("the", "b"), ("a", "smith")]))))
    assert data.count == 1
    assert "1 of 2 questions are left out" in capsys.readouterr().err


def test_the_same_step_has_the_same_samples_of_like_length(write, opened):
    passages = [(" ".join(["a"] * (1 + i)), [("the", "a")]) for i in range(64)]
    data = opened(write(article(*passages)))
    lengths = [data.batch(data.order(4, step, 5)).mask.sum(1) for step in range(16)]
    assert data.order(4, 3, 5).tolist() == data.order(4, 3, 5).tolist()
    used = np.concatenate([data.order(4, step, 5) for step in range(50)])
    assert set(np.bincount(used, minlength=64)) <= {3, 4}  # 200 samples are 3 epochs and a bit
    assert np.mean([each.max() - each.min() for each in lengths]) < 8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "not SQuAD"),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "1", "question": "a", "answers": [{}]}]}]}]}',
            r"answers\[0\] has no text 'text'",
        ),
        (
            '{"data": [{"paragraphs": [{"context": "a", "qas": [{"id": "1", "question": "a", "answers": '
            '[{"text": "a"}]}]}]}]}',
            "answer_start",
        ),
    ],
)
def test_other_formats_are_rejected(tmp_path, opened, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ConfigError, match=message):
        opened(tmp_path / "x.json")


def test_impossible_lengths_and_shares_are_rejected(write, opened):
    path = write(article(("a b the", [("the", "b")])))
    with pytest.raises(ConfigError, match="from 16 to 384"):
        opened(path, max_cost=385)
    with pytest.raises(ConfigError, match="hold_out"):
        opened(path, hold_out=1.0)
    (path.parent / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"no \.json"):
        opened(path.parent / "empty")


def test_the_nearest_occurrence_counts():
    assert word_places("a b a c", Answer("a", 3)) == (2, 2)
    assert word_places("a b a c", Answer("a", 0)) == (0, 0)
    assert word_places("a b a c", Answer(" b ", 1)) == (1, 1)
    assert word_places("a b a c", Answer("d", 1)) is None


def test_real_questions_have_their_answers(real_squad, graph, tmp_path):
    data = Bert(BertSettings(), tmp_path).training_data(real_squad, graph, 0.1, None, 0)
    passages = read_passages(real_squad)
    assert len(passages.answers) == 612
    assert data.count + len(data.held_back) == len(data._features)
    tokenizer = data._tokenizer
    batch = data.batch(np.arange(40))
    starts = batch.targets[batch.answers[0]]
    assert np.count_nonzero(starts) > 30
    for row, start in enumerate(starts.tolist()):
        end = int(batch.targets[batch.answers[1]][row])
        said = "".join(tokenizer.tokens[t].removeprefix("##") for t in batch.feed["input_ids"][row, start : end + 1])
        answer = passages.answers[data._features.question[data._samples[row]]].text
        assert start == 0 or said == "".join(answer.lower().split())
