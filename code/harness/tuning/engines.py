"""Tuning over several engines: which of them are worth a search, and which is the best after it.

Engines are measured alternately, because machines drift, each round in the opposite order of the one before.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from harness.errors import CheckFailed, ConfigError
from harness.host import console
from harness.registry import installed
from harness.running.request import RunRequest, resolve
from harness.running.settings import RunSettings
from harness.tuning.search import Options

BEHIND = 0.7
"""Share of the best score below which an engine's defaults exclude it: tuning seldom gains as much."""
_ROUNDS = 2


class Contender(Protocol):
    """The tuning of one engine."""

    @property
    def engine(self) -> str:
        """Its name."""

    def compare(self, options: Options, number: int) -> float:
        """The score of the options in comparison ``number`` with other engines; 0 if they are unusable."""

    def search(self) -> dict[str, str]:
        """The best options."""


def contenders(request: RunRequest) -> list[tuple[RunRequest, RunSettings]]:
    """The request for each engine to try, with its settings.

    Raises:
        ConfigError: a setting is wrong for all of them.
    """
    if request.engine:
        return [(request, resolve(request))]
    found, refused = [], []
    for engine in installed():
        asked = replace(request, engine=engine)
        try:
            found.append((asked, resolve(asked)))
        except ConfigError as error:
            refused.append(f"{engine} is not tried: {error}")
    if not found:
        return [(request, resolve(request))]  # which says what is wrong
    for reason in refused:
        console.note(reason)
    return found


C = TypeVar("C", bound=Contender)


def best_engine(contenders: Sequence[C]) -> tuple[C, dict[str, str], dict[str, float]]:
    """The tuning of the best engine, its best options, and the score of each engine that was tried, by name.

    All are measured with their defaults. Those that do not work or are far behind are dropped; the others are tuned,
    and their best settings compared. A single contender is only tuned.

    Raises:
        CheckFailed: no engine works.
    """
    if len(contenders) == 1:
        return contenders[0], contenders[0].search(), {}
    console.note(f"trying {', '.join(contender.engine for contender in contenders)} with their defaults")
    scores = _alternately(contenders, {contender.engine: {} for contender in contenders}, 0)
    best = max(scores.values())
    if not best:
        raise CheckFailed("no engine works with its default settings; see the messages above.")
    left = [contender for contender in contenders if scores[contender.engine] >= BEHIND * best]
    for contender in contenders:
        if contender not in left:
            share = scores[contender.engine] / best
            console.note(
                f"{contender.engine} is not tuned: {f'{share:.2f} of the best' if share else 'it does not work'}"
            )
    found = {}
    for contender in left:
        console.note(f"tuning {contender.engine}")
        found[contender.engine] = contender.search()
    if len(left) > 1:
        console.note("comparing the best settings of each engine")
        scores |= _alternately(left, found, _ROUNDS)
    winner = max(left, key=lambda contender: scores[contender.engine])
    return winner, found[winner.engine], scores


def _alternately(contenders: Sequence[C], options: Mapping[str, Options], first: int) -> dict[str, float]:
    """The mean score of each engine with its options; one that does not work is measured once."""
    scores: dict[str, list[float]] = {contender.engine: [] for contender in contenders}
    for number in range(_ROUNDS):
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            mine = scores[contender.engine]
            if all(mine):
                mine.append(contender.compare(options[contender.engine], first + number))
    return {engine: sum(mine) / len(mine) if all(mine) else 0.0 for engine, mine in scores.items()}
