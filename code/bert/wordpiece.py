"""Text as WordPiece ids, with the rules of ``transformers.BertTokenizer`` in its Python form (transformers 4).

As in that tokenizer, text is split and normalised with Python's Unicode tables, from which Rust's differ slightly; each
distinct word then goes through ``tokenizers`` once.
"""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain

SPECIAL = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")
_SPECIAL_PARTS = re.compile("(" + "|".join(map(re.escape, SPECIAL)) + ")")
# fmt: off
_CJK = (  # as in BasicTokenizer, without Hangul and kana
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF), (0x2F800, 0x2FA1F),
)
# fmt: on


@dataclass(frozen=True)
class TextNormalisation:
    """How text is normalised before it is matched with the vocabulary."""

    lower: bool = True
    """Whether text is lower-cased."""
    strip_accents: bool = True
    split_cjk: bool = True
    """Whether each CJK character is a word of its own."""


UNCASED = TextNormalisation()


@dataclass(frozen=True)
class Tokenizer:
    """A WordPiece vocabulary and its rules."""

    tokens: tuple[str, ...]
    """By id."""
    rules: TextNormalisation = UNCASED
    longest_word: int = 100
    """Longer words, in characters, are [UNK]."""
    casing_from: str = ""
    """Where ``rules.lower`` comes from, for messages; "" if it is a guess."""

    @property
    def casing(self) -> str:
        """cased or uncased."""
        return "uncased" if self.rules.lower else "cased"

    @property
    def digest(self) -> str:
        """sha256 of everything that its results depend on."""
        return sha256(repr((self.tokens, self.rules, self.longest_word)).encode()).hexdigest()

    @property
    def capitals(self) -> int:
        """Number of tokens with capital letters, without those in brackets."""
        return sum(token != token.lower() for token in self.tokens if not token.startswith("["))

    def word_pieces(self, words: Iterable[str]) -> dict[str, list[int]]:
        """The ids of each distinct word, matched by ``tokenizers`` in one batch."""
        from tokenizers import Tokenizer as Matcher
        from tokenizers.models import WordPiece

        ids = {token: i for i, token in enumerate(self.tokens)}
        parts = {word: self._split_word(word) for word in words}
        distinct = list({token for tokens in parts.values() for token in tokens})
        matcher = Matcher(WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=self.longest_word))
        pieces = {
            token: [ids.get(token, ids["[UNK]"])] if token in SPECIAL else encoding.ids
            for token, encoding in zip(distinct, matcher.encode_batch(distinct, add_special_tokens=False), strict=True)
        }
        return {word: [*chain.from_iterable(pieces[token] for token in tokens)] for word, tokens in parts.items()}

    def _split_word(self, word: str) -> list[str]:
        tokens: list[str] = []
        for part in _SPECIAL_PARTS.split(word):
            if part in SPECIAL:
                tokens.append(part)
            else:
                # transformers lower-cases text character by character, so it never produces a final sigma.
                text = part.replace("\u03a3", "\u03c3").lower() if self.rules.lower else part
                tokens += basic_tokens(text, self.rules)
        return tokens


class _Clean(dict[int, str]):
    """For ``str.translate``: drops control characters, isolates CJK ones if asked, turns white space into spaces."""

    def __init__(self, split_cjk: bool) -> None:
        self._split_cjk = split_cjk

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        if char in "\t\n\r" or category == "Zs":
            value = " "
        elif code == 0xFFFD or category.startswith("C"):
            value = ""
        else:
            cjk = self._split_cjk and any(low <= code <= high for low, high in _CJK)
            value = f" {char} " if cjk else char
        self[code] = value
        return value


class _Split(dict[int, str]):
    """For ``str.translate``, after NFD where accents are dropped: isolates punctuation and ASCII symbols."""

    def __init__(self, strip_accents: bool) -> None:
        self._strip_accents = strip_accents

    def __missing__(self, code: int) -> str:
        char = chr(code)
        category = unicodedata.category(char)
        symbol = category[0] == "P" or (code < 128 and category[0] == "S")
        dropped = self._strip_accents and category == "Mn"
        self[code] = "" if dropped else f" {char} " if symbol else char
        return self[code]


_CLEAN = {flag: _Clean(flag) for flag in (False, True)}
_SPLIT = {flag: _Split(flag) for flag in (False, True)}


def basic_tokens(text: str, rules: TextNormalisation = UNCASED) -> list[str]:
    """``text`` cleaned, lower-cased, without accents, split at white space, punctuation and CJK characters.

    As the ``BasicTokenizer`` of NVIDIA DeepLearningExamples' PyTorch BERT, which the reference's container
    imports: a special token is kept if it is a word of its own.

    >>> basic_tokens("Café-au-lait: [UNK] 6½")
    ['cafe', '-', 'au', '-', 'lait', ':', '[UNK]', '6½']
    >>> basic_tokens("Café-au-lait", TextNormalisation(lower=False, strip_accents=False))
    ['Café', '-', 'au', '-', 'lait']
    """
    clean, split = _CLEAN[rules.split_cjk], _SPLIT[rules.strip_accents]
    tokens: list[str] = []
    for word in text.translate(clean).split():
        if word in SPECIAL:
            tokens.append(word)
            continue
        normal = word.lower() if rules.lower else word
        if rules.strip_accents:
            normal = unicodedata.normalize("NFD", normal)
        tokens += normal.translate(split).split()
    return tokens
