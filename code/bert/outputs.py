"""Finds a graph's start and end logits among its outputs."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from harness.errors import ConfigError
from harness.graph import Tensor, listing
from harness.task.base import ASSUMED, GIVEN

_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_NUMBER = re.compile(r"\d+")
_NUMBERED = re.compile(r"[^A-Za-z0-9]*\d+")


class SpanOutputs(NamedTuple):
    """The names of the start and the end logits."""

    start: str
    end: str
    source: str
    """How they were chosen: see `harness.task.base.Choice`."""


def match_outputs(outputs: Sequence[Tensor], given: str | None = None) -> SpanOutputs:
    """The start and the end logits: ``given`` as "START,END", else by name, else in the order of their numbers.

    Raises:
        ConfigError: the graph does not have them, or they cannot be told apart; the message lists its outputs.
    """
    names = [tensor.name for tensor in outputs]
    if given is not None:
        start, _, end = (part.strip() for part in given.partition(","))
        if start == end or not {start, end} <= set(names):
            raise ConfigError(
                f"outputs = {given}: give the names of the start and of the end logits, as START,END; the model's "
                f"outputs are {listing(outputs)}."
            )
        return SpanOutputs(start, end, GIVEN)
    starts = [name for name in names if _has_word(name, "start")]
    ends = [name for name in names if _has_word(name, "end") and name not in starts]
    if len(starts) == len(ends) == 1:
        return SpanOutputs(starts[0], ends[0], "from their names")
    if len(names) == 2 and not starts and not ends:
        # Exporters number the start before the end (unstack:0, unstack:1), in whatever order the graph lists them.
        first, second = sorted(names, key=_number) if _numbered(names) else names
        return SpanOutputs(first, second, ASSUMED)
    advice = " Pass --set outputs=START,END with two of these names." if len(names) > 1 else ""
    raise ConfigError(
        f"the model is not a question-answering BERT: its outputs are {listing(outputs)}; start and end logits are "
        f"expected.{advice}"
    )


def _has_word(name: str, word: str) -> bool:
    """Whether a word of the name begins with ``word``: "endLogits" says end, "extended" and "append" do not."""
    return any(part.lower().startswith(word) for part in _WORD.findall(name))


def _numbered(names: Sequence[str]) -> bool:
    """Whether two names differ in their numbers only; a missing one comes first, as in Identity and Identity_1."""
    return len({_NUMBERED.sub("", name) for name in names}) == 1 and len(set(map(_number, names))) == len(names)


def _number(name: str) -> tuple[int, ...]:
    """The numbers in a name."""
    return tuple(map(int, _NUMBER.findall(name)))
