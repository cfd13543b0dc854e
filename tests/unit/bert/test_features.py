# ruff: noqa: RUF001 - look-alike characters are what is tested
from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

import bert_by_loops
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from squad_data import VOCAB

from bert import features as module
from bert.features import FeatureParams, Features, build_features, context_words, load_features
from bert.squad import Question, Squad, read_squad
from bert.vocabulary import VOCAB as BERT_VOCAB
from bert.wordpiece import basic_tokens
from harness.errors import ConfigError

COLUMNS = ("tokens", "offsets", "first_segment", "question", "word", "max_context")
ODD = (
    " \t\n\r\x0b\x1c\x85\u00a0\u202f\u2028\u3000\x00\u200b\u00ad\ufffd\ue000.,'[]#$^½¿–ÉéİıßΣσς\u0301\u0327"
    "中豈\U0002b8ff한カ\u093e"
)
WORDS = ["the", "Steve", "Smith's", "CAFÉ", "Ésteban", "unable", "(1895-1943)", "xyz", "##ing", "ΑΣ", "中国"]
WORDS += ["a" * 101, "a" * 100, "[SEP]", "a[MASK]b", "[sep]"]
WORD = st.sampled_from(WORDS) | st.text(st.sampled_from("abcdeist12" + ODD), max_size=8)
TEXT = st.lists(st.tuples(WORD, st.sampled_from([" ", "\u202f", "\u00a0", "\n", ""])), max_size=30).map(
    lambda parts: "".join(a + b for a, b in parts)
)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def _squad(contexts: list[str], questions: list[tuple[str, int]]) -> Squad:
    return Squad(tuple(contexts), tuple(Question(f"q{i}", t, c, ("x",)) for i, (t, c) in enumerate(questions)))


def _same(left: Features, right: Features) -> bool:
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in COLUMNS)


@pytest.mark.slow
@quick
@given(st.text(st.sampled_from("abAB" + ODD)) | st.text() | TEXT)
@example("[UNK] [UNK]. ΑΣ")
def test_basic_tokens_against_loops(text: str) -> None:
    assert basic_tokens(text) == bert_by_loops.basic(text)


@pytest.mark.slow
@quick
@given(
    st.lists(TEXT, min_size=1, max_size=3),
    st.lists(st.tuples(TEXT, st.integers(0, 2)), min_size=1, max_size=4),
    st.sampled_from([(384, 128, 64), (24, 5, 6), (12, 20, 8), (9, 1, 5)]),
)
def test_features_against_loops(vocab: Path, contexts: list[str], questions: list, lengths: tuple) -> None:
    questions = [(text, context % len(contexts)) for text, context in questions]
    found = build_features(_squad(contexts, questions), vocab, FeatureParams(*lengths))
    expected = bert_by_loops.features(contexts, questions, VOCAB, *lengths)
    assert len(found) == len(expected)
    for i, feature in enumerate(expected):
        part = slice(found.offsets[i], found.offsets[i + 1])
        assert [VOCAB[t] for t in found.tokens[part]] == feature["tokens"]
        assert found.word[part].tolist() == feature["word"]
        assert found.max_context[part].tolist() == feature["max_context"]
        assert found.first_segment[i] == feature["first_segment"]
        assert found.question[i] == feature["question"]


@pytest.mark.parametrize("lengths", [(24, 5, 6), (13, 4, 3), (9, 20, 4), (384, 128, 64)])
def test_windows_of_every_document_length_against_loops(vocab: Path, lengths: tuple) -> None:
    # A window's length counts a hundredth: it takes windows over a hundred tokens apart to see that.
    contexts = ["the " * n * (13 if lengths[0] == 384 else 1) for n in range(60)]
    questions = [("cafe", n) for n in range(60)]
    found = build_features(_squad(contexts, questions), vocab, FeatureParams(*lengths))
    expected = bert_by_loops.features(contexts, questions, VOCAB, *lengths)
    assert found.max_context.tolist() == [flag for feature in expected for flag in feature["max_context"]]
    assert found.word.tolist() == [word for feature in expected for word in feature["word"]]


def test_columns_have_the_promised_types_and_cannot_be_written(vocab: Path) -> None:
    found = build_features(_squad(["Steve Smith", "the cafe"], [("the", 0), ("a", 1)]), vocab)
    assert [getattr(found, name).dtype.name for name in COLUMNS] == ["int32", "int64", *["int32"] * 3, "bool"]
    assert found.lengths.dtype == np.int64
    assert found.lengths.tolist() == [6, 6]
    assert not any(getattr(found, name).flags.writeable for name in COLUMNS)


def test_no_feature_without_context_tokens(vocab: Path) -> None:
    found = build_features(_squad(["", "\u200b \ufffd", "the"], [("a", 0), ("a", 1), ("a", 2)]), vocab)
    assert found.question.tolist() == [2]
    assert len(build_features(_squad([""], [("a", 0)]), vocab)) == 0


def test_only_the_references_white_space_breaks_context_words() -> None:
    assert context_words("a\u202fb\u00a0c\x0bd\te\r\n f\u2003g") == ["a", "b\u00a0c\x0bd", "e", "f\u2003g"]


def test_each_context_token_has_one_feature_with_most_context(vocab: Path) -> None:
    found = build_features(_squad(["the cafe " * 600], [("Who is Steve Smith", 0)]), vocab)
    assert len(found) == 8
    assert found.max_context.sum() == 1200


def test_progress_ends_at_the_total(vocab: Path) -> None:
    seen: list[tuple[int, int]] = []
    squad = _squad(["the"], [("a", 0)] * 1201)
    build_features(squad, vocab, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(500, 1201), (1000, 1201), (1201, 1201)]


def test_a_vocabulary_with_windows_line_ends_is_the_same(vocab: Path, tmp_path: Path) -> None:
    other = tmp_path / "vocab.txt"
    other.write_bytes(vocab.read_bytes().replace(b"\n", b"\r\n"))
    squad = _squad(["Steve Smith, unable."], [("the café", 0)])
    assert _same(build_features(squad, vocab), build_features(squad, other))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"[UNK]\nthe\n", r"lacks \[CLS\], \[SEP\]: use"),
        (b"\x80\x02}", r"is not a text file \(byte 0 is not UTF-8\): use"),
        (b"", r"lacks \[UNK\], \[CLS\], \[SEP\]"),
    ],
)
def test_a_file_that_is_not_a_vocabulary(tmp_path: Path, raw: bytes, reason: str) -> None:
    path = tmp_path / "vocab.txt"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=reason):
        build_features(_squad(["a"], [("a", 0)]), path)


def test_an_absent_vocabulary(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the vocabulary .*none\.txt: No such file"):
        build_features(_squad(["a"], [("a", 0)]), tmp_path / "none.txt")


@pytest.mark.parametrize("lengths", [(67, 128, 64), (384, 0, 64), (384, 128, 0)])
def test_lengths_without_room_are_refused(lengths: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="leaves no room for the context"):
        FeatureParams(*lengths)


@pytest.fixture
def dataset(write_squad: Callable[..., Path]) -> Path:
    text = "Steve Smith (1895-1943) was unable, " * 40
    return write_squad([(text, [("Who?", ["Steve"]), ("When?", ["1895"])]), ("", [("Why?", ["x"])])])


def _never(*_: object) -> None:
    raise AssertionError("tokenised in spite of the cache")


@pytest.fixture
def entry(dataset: Path, vocab: Path, tmp_path: Path) -> Path:
    load_features(dataset, vocab, tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    return path


def test_a_hit_tokenises_nothing_and_cannot_be_written(dataset, vocab, entry, monkeypatch) -> None:
    monkeypatch.setattr(module, "_build", _never)
    found = load_features(dataset, vocab, entry.parent)
    monkeypatch.undo()
    assert _same(found, build_features(read_squad(dataset), vocab))
    assert not any(column.flags.writeable for column in vars(found).values())


def test_every_input_is_part_of_the_key(dataset, vocab, entry, tmp_path, monkeypatch) -> None:
    cache = entry.parent
    copy = tmp_path / "moved.json"
    copy.write_bytes(dataset.read_bytes())
    load_features(copy, vocab, cache)
    assert len([*cache.iterdir()]) == 1, "the name of the data set must not matter"
    copy.write_bytes(dataset.read_bytes().replace(b"Who?", b"Whom"))
    load_features(copy, vocab, cache)
    other = tmp_path / "vocab.txt"
    other.write_text(vocab.read_text() + "who\n")
    load_features(dataset, other, cache)
    load_features(dataset, vocab, cache, FeatureParams(doc_stride=64))
    monkeypatch.setattr(module, "_CODE_VERSION", -1)
    load_features(dataset, vocab, cache)
    assert len([*cache.iterdir()]) == 5


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def _pickle(path: Path) -> None:
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


def _file_for_directory(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.write_text("a file")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _nested(path: Path) -> None:
    path.write_text("[" * 100_000)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_for_directory(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.symlink_to(path.parent.name)


_DAMAGES = [_truncate, _flip, _empty, _nested, _pickle, _pipe, _folder, Path.unlink]


@pytest.mark.parametrize("name", ["tokens.npy", "offsets.npy", "max_context.npy", "meta.json"])
@pytest.mark.parametrize("damage", [*_DAMAGES, _file_for_directory, _link_for_directory])
def test_damage_is_detected_and_fixed(dataset, vocab, entry, damage, name, monkeypatch) -> None:
    good = build_features(read_squad(dataset), vocab)
    damage(entry / name)
    assert _same(load_features(dataset, vocab, entry.parent), good)
    monkeypatch.setattr(module, "_build", _never)
    assert _same(load_features(dataset, vocab, entry.parent), good)
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


@pytest.mark.parametrize("meta", ["[]", "{}", '{"key": "x", "sha256": {}}', "null", "\xff", "[" * 9999, '{"key": NaN}'])
def test_foreign_meta_is_not_believed(dataset, vocab, entry, meta) -> None:
    (entry / "meta.json").write_text(meta, "latin-1")
    assert len(load_features(dataset, vocab, entry.parent)) == 6


def test_columns_of_right_digests_and_wrong_kind_are_not_believed(dataset, vocab, entry) -> None:
    good = build_features(read_squad(dataset), vocab)
    meta = json.loads((entry / "meta.json").read_text())
    for wrong in (np.array(5), good.offsets.astype(">i8"), good.offsets[:0], np.array("x")):
        np.save(entry / "offsets.npy", wrong)
        meta["sha256"]["offsets"] = sha256((entry / "offsets.npy").read_bytes()).hexdigest()
        (entry / "meta.json").write_text(json.dumps(meta))
        assert _same(load_features(dataset, vocab, entry.parent), good)


def test_what_is_used_is_what_was_hashed(dataset, vocab, entry, monkeypatch) -> None:
    def overwrite(content):
        if bytes(content[:6]) == b"\x93NUMPY":
            (entry / "tokens.npy").write_bytes(b"")
        return sha256(content)

    monkeypatch.setattr(module, "_build", _never)
    monkeypatch.setattr(module, "sha256", overwrite)
    assert len(load_features(dataset, vocab, entry.parent)) == 6


def test_the_entry_of_other_parameters_is_not_believed(dataset, vocab, entry) -> None:
    load_features(dataset, vocab, entry.parent, FeatureParams(doc_stride=64))
    (other,) = (path for path in entry.parent.iterdir() if path != entry)
    shutil.rmtree(entry)
    other.rename(entry)
    assert len(load_features(dataset, vocab, entry.parent)) == 6


def test_columns_that_do_not_fit_together_are_not_believed(dataset, vocab, entry) -> None:
    good = build_features(read_squad(dataset), vocab)
    bad = Features(**{**vars(good), "offsets": good.offsets[:-1]})
    key = json.loads((entry / "meta.json").read_text())["key"]
    shutil.rmtree(entry)
    module._write_entry(entry, key, bad)
    assert _same(load_features(dataset, vocab, entry.parent), good)


def test_a_cache_that_cannot_be_written_is_not_an_error(dataset, vocab, tmp_path, caplog) -> None:
    (tmp_path / "file").write_text("")
    assert len(load_features(dataset, vocab, tmp_path / "file" / "cache")) == 6
    assert "could not be cached" in caplog.text


def test_an_interrupted_writer_leaves_no_entry(dataset, vocab, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module.np, "save", lambda *_, **__: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert len(load_features(dataset, vocab, tmp_path / "cache")) == 6
    assert [*(tmp_path / "cache").iterdir()] == []


@pytest.mark.parametrize("damaged", [False, True])
def test_racing_processes_all_succeed(dataset, vocab, entry, damaged) -> None:
    good = build_features(read_squad(dataset), vocab)
    if damaged:
        _flip(entry / "tokens.npy")
    else:
        shutil.rmtree(entry)
    with ThreadPoolExecutor(8) as pool:
        results = [pool.submit(load_features, dataset, vocab, entry.parent) for _ in range(16)]
        assert all(_same(result.result(), good) for result in results)
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


def test_a_question_without_features_round_trips(write_squad, vocab, tmp_path) -> None:
    path = write_squad([("", [("a", ["x"])])])
    assert [len(load_features(path, vocab, tmp_path / "cache")) for _ in range(2)] == [0, 0]


def test_importing_loads_no_tokenizer_library() -> None:
    code = "import bert.accuracy, sys; print({'tokenizers', 'transformers', 'torch'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_the_real_sample(real_squad: Path) -> None:
    squad = read_squad(real_squad)
    vocab = BERT_VOCAB
    found = build_features(squad, vocab)
    assert (len(squad.questions), len(found), len(found.tokens)) == (612, 622, int(found.lengths.sum()))
    names = vocab.read_text(encoding="utf-8").split("\n")
    some = [*range(0, 612, 40)]
    expected = bert_by_loops.features(
        squad.contexts, [(squad.questions[i].text, squad.questions[i].context) for i in some], set(names)
    )
    mine = [i for i in range(len(found)) if found.question[i] in some]
    for i, feature in zip(mine, expected, strict=True):
        part = slice(found.offsets[i], found.offsets[i + 1])
        assert [names[t] for t in found.tokens[part]] == feature["tokens"]
        assert found.word[part].tolist() == feature["word"]
