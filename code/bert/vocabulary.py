"""Reads a tokenizer from a vocab.txt, a tokenizer.json or the folder of a checkpoint.

BERT's uncased vocabulary is shipped, and read without ``transformers``, which takes seconds to import. All others are
read through ``transformers``, from local files only.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

from pydantic import JsonValue

from bert.wordpiece import SPECIAL, TextNormalisation, Tokenizer
from harness.errors import ConfigError
from harness.files.disk import read_input

VOCAB = Path(__file__).parent / "data" / "vocab.txt"
CASINGS = ("uncased", "cased")
_REQUIRED = ("[UNK]", "[CLS]", "[SEP]")
_VOCABULARY, _TOKENIZER, _CONFIG = "vocab.txt", "tokenizer.json", "tokenizer_config.json"
_CASED_SHARE = 0.01
"""Share of tokens with capital letters above which a vocabulary counts as cased: 35 % in BERT's cased one, two tokens
in the uncased one."""
_QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}


def read_tokenizer(path: str | Path, casing: str | None = None) -> Tokenizer:
    """The tokenizer at ``path``; ``casing``, cased or uncased, overrides what its files say.

    Raises:
        ConfigError: a file is missing or is not BERT's WordPiece; the message says what to pass instead.
    """
    file = _file(Path(path))
    config_file = file.parent / _CONFIG
    config = config_file.read_bytes() if config_file.is_file() else b"{}"
    tokenizer = _read(file, read_input(file, "vocabulary"), config)
    if casing is None or casing == tokenizer.casing:
        return replace(tokenizer, casing_from="--set casing") if casing else tokenizer
    lower = casing == CASINGS[0]
    rules = replace(tokenizer.rules, lower=lower, strip_accents=lower)
    return replace(tokenizer, rules=rules, casing_from="--set casing")


def casing_doubts(tokenizer: Tokenizer, path: Path) -> Iterator[str]:
    """Whether a tokenizer's casing contradicts its tokens."""
    count = len(tokenizer.tokens)
    if tokenizer.rules.lower and tokenizer.capitals > _CASED_SHARE * count:
        yield (
            f"text is lower-cased, but {tokenizer.capitals:,} of the {count:,} tokens in {path} have capital letters: "
            "if the model is a cased one, pass --set casing=cased."
        )
    if not tokenizer.rules.lower and tokenizer.capitals <= _CASED_SHARE * count:
        yield (
            f"text is not lower-cased, but almost no token in {path} has a capital letter: if the model is an uncased "
            "one, pass --set casing=uncased."
        )


def tokenizer_files(path: Path) -> tuple[Path, ...]:
    """The files that `read_tokenizer` reads; ConfigError if there are none."""
    file = _file(path)
    config_file = file.parent / _CONFIG
    return (file, config_file) if config_file.is_file() else (file,)


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in (_TOKENIZER, _VOCABULARY):
        if (path / name).is_file():
            return path / name
    raise ConfigError(f"the folder {path} has neither {_TOKENIZER} nor {_VOCABULARY}: pass that of BERT's checkpoint.")


@lru_cache(maxsize=8)
def _read(file: Path, raw: bytes, config: bytes) -> Tokenizer:
    """The tokenizer in a file's bytes, with the settings of tokenizer_config.json."""
    settings = _object(config, file.parent / _CONFIG)
    tokenizer = (_from_json if file.suffix == ".json" else _from_text)(file, raw)
    lower, accents = settings.get("do_lower_case"), settings.get("strip_accents")
    cjk = settings.get("tokenize_chinese_chars")
    rules = tokenizer.rules
    if isinstance(lower, bool) and lower != rules.lower:
        rules = replace(rules, lower=lower, strip_accents=lower)
    if isinstance(accents, bool):
        rules = replace(rules, strip_accents=accents)
    if isinstance(cjk, bool):
        rules = replace(rules, split_cjk=cjk)
    origin = _CONFIG if isinstance(lower, bool) else tokenizer.casing_from
    return replace(tokenizer, rules=rules, casing_from=origin)


def _from_text(file: Path, raw: bytes) -> Tokenizer:
    """A vocab.txt, which is cased if it holds capital letters: nothing else in it shows the casing."""
    tokens = _parse_vocab(raw, file)
    if tokens == _parse_vocab(read_input(VOCAB, "vocabulary"), VOCAB):
        return Tokenizer(tokens, casing_from="BERT's uncased vocabulary")
    found = Tokenizer(tokens)
    lower = found.capitals <= _CASED_SHARE * len(tokens)
    with _transformers(file):
        from transformers import BertTokenizer

        made = BertTokenizer(dict(zip(tokens, range(len(tokens)), strict=True)), do_lower_case=lower)
    read = _pipeline(made.backend_tokenizer.to_str(), file)
    return replace(read, tokens=tokens, casing_from="")


def _from_json(file: Path, raw: bytes) -> Tokenizer:
    content = _object(raw, file)
    if not isinstance(content.get("model"), dict):
        raise ConfigError(f"{file} is not a {_TOKENIZER}: pass vocab.txt, {_TOKENIZER} or the checkpoint's folder.")
    with _transformers(file):
        from tokenizers import Tokenizer as Backend
        from transformers import PreTrainedTokenizerFast

        made = PreTrainedTokenizerFast(tokenizer_object=Backend.from_str(raw.decode()))
    return _pipeline(made.backend_tokenizer.to_str(), file)


def _pipeline(text: str, file: Path) -> Tokenizer:
    """The tokenizer in the JSON of a ``tokenizers`` pipeline; ConfigError if it is not BERT's."""
    content = _object(text.encode(), file)
    model, normal, split = (_part(content, key) for key in ("model", "normalizer", "pre_tokenizer"))
    kinds = (model.get("type"), normal.get("type"), split.get("type"))
    usual = model.get("continuing_subword_prefix") == "##" and normal.get("clean_text") is True
    vocab = model.get("vocab")
    if kinds != ("WordPiece", "BertNormalizer", "BertPreTokenizer") or not usual or not isinstance(vocab, dict):
        raise ConfigError(
            f"{file} is not the tokenizer of a BERT: its parts are {', '.join(map(str, kinds))}; WordPiece with "
            "BertNormalizer and BertPreTokenizer is expected. Pass the tokenizer that the model was trained with."
        )
    tokens = [""] * (max(map(int, map(str, vocab.values())), default=-1) + 1)
    for token, number in vocab.items():
        tokens[int(str(number))] = token
    _check_special(tokens, file)
    _check_added(content, tokens, file)
    lower = bool(normal.get("lowercase"))
    accents = normal.get("strip_accents")
    return Tokenizer(
        tuple(tokens),
        TextNormalisation(lower, lower if accents is None else bool(accents), bool(normal.get("handle_chinese_chars"))),
        int(str(model.get("max_input_chars_per_word", 100))),
        file.name,
    )


def _check_added(content: dict[str, JsonValue], tokens: list[str], file: Path) -> None:
    """ConfigError for tokens beyond BERT's own: text would have to be split at them."""
    entries = content.get("added_tokens")
    names = [str(entry.get("content")) for entry in entries if isinstance(entry, dict)] if entries else []  # type: ignore[union-attr]
    more = [name for name in names if name not in SPECIAL]
    if more:
        raise ConfigError(
            f"{file} has added tokens ({', '.join(more[:5])}), which BERT's features do not know: pass the vocab.txt "
            "that the model was trained with."
        )


def _part(content: dict[str, JsonValue], key: str) -> dict[str, JsonValue]:
    part = content.get(key)
    return part if isinstance(part, dict) else {}


def _object(raw: bytes, file: Path) -> dict[str, JsonValue]:
    try:
        content = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read ({error}): copy it from the checkpoint again.") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{file} is not an object in JSON: copy it from the checkpoint again.")
    return content


def _parse_vocab(raw: bytes, path: Path) -> tuple[str, ...]:
    """A token per line, with the line number as id."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        problem = f"is not a text file (byte {error.start} is not UTF-8)"
        raise ConfigError(f"the vocabulary {path} {problem}: use the model's vocab.txt.") from error
    tokens = text.replace("\r\n", "\n").removesuffix("\n").split("\n")
    _check_special(tokens, path)
    return tuple(tokens)


def _check_special(tokens: list[str], path: Path) -> None:
    missing = [token for token in _REQUIRED if token not in tokens]
    if missing:
        raise ConfigError(f"the vocabulary {path} lacks {', '.join(missing)}: use the model's vocab.txt.")


@contextmanager
def _transformers(file: Path) -> Iterator[None]:
    """Import and use ``transformers`` quietly and without a network; ConfigError for any error that it raises."""
    before = {name: os.environ.get(name) for name in _QUIET}
    os.environ.update(_QUIET)
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"{file} is read through the package transformers, which cannot be imported ({error}): run `make setup`."
        ) from error
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"transformers cannot read {file} ({lines[0][:200]}): copy it from the checkpoint again."
        ) from error
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
