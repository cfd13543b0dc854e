"""The three forms of a tokenizer, read through transformers and compared with it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bert.features import build_features, context_words
from bert.squad import Question, Squad
from bert.task import BertSettings
from bert.vocabulary import VOCAB, casing_doubts, read_tokenizer, tokenizer_files
from bert.wordpiece import TextNormalisation
from harness.errors import ConfigError
from harness.settings.identity import _by_content

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
TEXT = (
    "The Café of São Paulo: McDonald's (1895-1943) in 中国, élan vital, \u0130stanbul \u039f\u03a3 na\u00efve U.S. "
    "co-op 30% [SEP] x[MASK]y"
)
WORDS = ["The", "Caf", "##é", "the", "cafe", "of", "Paulo", "paulo", "Mc", "##Don", "mc", "##don", "##ald", "vital"]


def vocabulary(cased: bool) -> list[str]:
    letters = [chr(n) for n in (*range(33, 127), *map(ord, "éãï\u0130\u039f\u03a3\u03c2\u03bf\u03c3中国\u0131i"))]
    tokens = [*SPECIAL, *(w for w in WORDS), *letters, *(f"##{letter}" for letter in letters)]
    tokens = tokens if cased else [token for token in tokens if token in SPECIAL or token == token.lower()]
    return list(dict.fromkeys(tokens))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Checkpoints by casing, as transformers saves them, with the tokenizers that it saved."""
    from transformers import BertTokenizer

    found = {}
    for casing in ("cased", "uncased"):
        folder = tmp_path_factory.mktemp(casing)
        tokens = vocabulary(casing == "cased")
        tokenizer = BertTokenizer({token: n for n, token in enumerate(tokens)}, do_lower_case=casing == "uncased")
        tokenizer.save_pretrained(folder)
        found[casing] = folder, tokenizer, tokens
    return found


def written(path: Path, tokens: list[str]) -> Path:
    path.write_text("\n".join(tokens) + "\n", encoding="utf-8")
    return path


@pytest.fixture(params=["cased", "uncased"])
def casing(request):
    return request.param


def test_all_three_forms_give_the_tokens_of_transformers(made, casing, tmp_path):
    folder, theirs, tokens = made[casing]
    forms = [folder, folder / "tokenizer.json", written(tmp_path / "vocab.txt", tokens)]
    words = context_words(TEXT)
    for form in forms:
        ours = read_tokenizer(form)
        assert ours.casing == casing
        assert list(ours.tokens) == tokens
        pieces = ours.word_pieces(words)
        for word in words:
            expected = theirs.tokenize(word)
            if word == "\u0130stanbul" and casing == "uncased":
                continue  # Rust lower-cases it to i and a dot that stays; Python's NFD drops the dot, as the reference
            assert [tokens[n] for n in pieces[word]] == expected, (form, word)
    squad = Squad((TEXT,), (Question("q", "Who is McDonald?", 0, ("x",)),))
    features = [build_features(squad, form) for form in forms]
    assert all(np.array_equal(features[0].tokens, other.tokens) for other in features[1:])


def test_where_the_casing_comes_from_is_known(made, tmp_path):
    folder, _, tokens = made["cased"]
    assert read_tokenizer(folder).casing_from == "tokenizer_config.json"
    alone = tmp_path / "tokenizer.json"
    alone.write_bytes((folder / "tokenizer.json").read_bytes())
    assert read_tokenizer(alone).casing_from == "tokenizer.json"
    (tmp_path / "other").mkdir()
    vocab = written(tmp_path / "other" / "vocab.txt", tokens)
    assert read_tokenizer(vocab).casing_from == ""
    (vocab.parent / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert (read_tokenizer(vocab).casing, read_tokenizer(vocab).casing_from) == ("uncased", "tokenizer_config.json")
    assert read_tokenizer(vocab.parent) == read_tokenizer(vocab)
    assert (read_tokenizer(vocab, "cased").casing, read_tokenizer(VOCAB, "cased").casing) == ("cased", "cased")
    assert read_tokenizer(VOCAB).casing == "uncased"


def test_a_casing_that_contradicts_the_tokens_is_named_and_the_advice_helps(made):
    for casing, other in (("cased", "uncased"), ("uncased", "cased")):
        folder = made[casing][0]
        assert list(casing_doubts(read_tokenizer(folder), folder)) == []
        (doubt,) = casing_doubts(read_tokenizer(folder, other), folder)
        assert f"--set casing={casing}" in doubt
        assert read_tokenizer(folder, casing) == replace(read_tokenizer(folder), casing_from="--set casing")
        assert list(casing_doubts(read_tokenizer(folder, casing), folder)) == []


def test_settings_of_the_checkpoint_are_obeyed(made, tmp_path):
    tokens = made["cased"][2]
    vocab = written(tmp_path / "vocab.txt", tokens)
    config = {"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    rules = read_tokenizer(vocab).rules
    assert (rules.lower, rules.strip_accents, rules.split_cjk) == (False, True, False)


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_bert_s_own_vocabulary_obeys_the_settings_beside_it(tmp_path, line_end):
    vocab = tmp_path / "vocab.txt"
    vocab.write_bytes(VOCAB.read_bytes().replace(b"\n", line_end))
    assert read_tokenizer(tmp_path) == read_tokenizer(VOCAB)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false, "strip_accents": false}')
    found = read_tokenizer(tmp_path)
    assert (found.rules, found.casing_from) == (
        TextNormalisation(lower=False, strip_accents=False),
        "tokenizer_config.json",
    )
    assert list(casing_doubts(found, tmp_path))


def test_the_shipped_vocabulary_and_the_command_line_need_no_transformers(tmp_path):
    copy = tmp_path / "vocab.txt"
    copy.write_bytes(VOCAB.read_bytes())
    code = (
        "import sys, harness.cli\n"
        "from bert.task import Bert\n"
        "from bert.vocabulary import VOCAB, read_tokenizer\n"
        f"assert read_tokenizer(VOCAB) == read_tokenizer({str(copy)!r})\n"
        "assert not {'transformers', 'tokenizers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_reading_is_quiet_and_leaves_the_environment_alone(made, tmp_path):
    folder = made["cased"][0]
    code = (
        "import os, sys\n"
        "from bert.vocabulary import read_tokenizer\n"
        "before = dict(os.environ)\n"
        f"read_tokenizer({str(folder)!r})\n"
        "assert os.environ == before\n"
        "assert 'torch' not in sys.modules\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


BPE = {"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}}


def without(content: dict, *keys: str) -> dict:
    return {key: value for key, value in content.items() if key not in keys}


def test_tokenizers_of_other_models_are_refused(made, tmp_path):
    good = json.loads((made["cased"][0] / "tokenizer.json").read_text())
    more = {**good["added_tokens"][0], "content": "<ent>", "id": 5, "special": False}
    bad = {
        "BPE": BPE,
        "not the tokenizer of a BERT": without(good, "normalizer"),
        "added tokens (<ent>)": {**good, "added_tokens": [*good["added_tokens"], more]},
        "is not a tokenizer.json": {"do_lower_case": True},
        "is not an object": [1],
    }
    path = tmp_path / "tokenizer.json"
    for problem, content in bad.items():
        path.write_text(json.dumps(content))
        with pytest.raises(ConfigError) as error:
            read_tokenizer(path)
        assert problem in str(error.value)
        assert str(path) in str(error.value)


@pytest.mark.parametrize("content", ["", "{", '{"model": {"type": "WordPiece"}}', '{"model": {}, "version": "9"}'])
def test_a_damaged_tokenizer_is_one_sentence(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        read_tokenizer(path)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"has neither tokenizer\.json nor vocab\.txt"):
        read_tokenizer(tmp_path)


def test_the_files_of_a_checkpoint_are_part_of_a_runs_identity(made, tmp_path):
    vocab = written(tmp_path / "vocab.txt", made["cased"][2])
    by_file = _by_content(BertSettings(vocab=vocab))["vocab"]
    assert by_file == _by_content(BertSettings(vocab=tmp_path))["vocab"]
    assert tokenizer_files(tmp_path) == (vocab,)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert _by_content(BertSettings(vocab=tmp_path))["vocab"] != by_file


def test_a_tilde_in_the_path_is_the_home_folder():
    assert BertSettings(vocab=Path("~/vocab.txt")).vocab == Path.home() / "vocab.txt"
