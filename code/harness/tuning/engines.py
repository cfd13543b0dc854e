"""Tunes several engines: finds which of them are worth a search, and which is the best after it.

Because machines drift, engines are measured alternately, each round in the reverse order of the previous one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol, TypeVar

from harness.errors import CheckFailed, ConfigError
from harness.registry import installed
from harness.settings.request import RunRequest, resolve
from harness.settings.run import RunSettings
from harness.terminal import console
from harness.tuning.search import Measurement, Options, mean

MIN_SHARE_OF_BEST = 0.7
"""Share of the best score below which an engine's defaults exclude it: tuning rarely gains as much."""
_ROUNDS = 2  # undisturbed rounds of a comparison
_MAX_ROUNDS = 4  # in all, on a machine that is never quiet


class Contender(Protocol):
    """The tuning of one engine."""

    @property
    def engine(self) -> str:
        """Its name."""

    def compare(self, options: Options, number: int) -> Measurement | None:
        """The score of the options in round ``number`` of the comparisons with other engines; None if they fail.

        The score is 0 if they work but no rate meets the bound.
        """

    def search(self) -> dict[str, str]:
        """The best options.

        Raises:
            CheckFailed: no options are usable.
        """

    def score(self, options: Options) -> float:
        """The mean score of options that were measured."""


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
        return [(request, resolve(request))]  # with the default engine, whose error is shown
    for reason in refused:
        console.note(reason)
    return found


C = TypeVar("C", bound=Contender)


def best_engine(contenders: Sequence[C]) -> tuple[C, dict[str, str], dict[str, float]]:
    """The tuning of the best engine, its best options, and the score of each engine that was tried, by name.

    All are measured with their defaults. Those that do not work or are far behind are dropped; the others are tuned,
    and their best settings compared. If no defaults meet the bound, all that work are tuned. A single contender is only
    tuned.

    Raises:
        CheckFailed: no engine works, or none has usable settings.
    """
    if len(contenders) == 1:
        return contenders[0], contenders[0].search(), {}
    console.note(f"trying {', '.join(contender.engine for contender in contenders)} with their defaults")
    scores = _alternately(contenders, {contender.engine: {} for contender in contenders}, 0)
    if not scores:
        raise CheckFailed("no engine works with its default settings; see the messages above.")
    near = _worth_tuning(contenders, scores)
    found = _searched(near)
    left = [contender for contender in contenders if contender.engine in found]
    tuned = {contender.engine: contender.score(found[contender.engine]) for contender in left}
    if len(left) > 1:
        console.note("comparing the best settings of each engine")
        tuned = _alternately(left, found, _MAX_ROUNDS)
    if not tuned:
        raise CheckFailed("no engine has usable settings; see the messages above.")
    winner = max((contender for contender in left if contender.engine in tuned), key=lambda each: tuned[each.engine])
    untuned = {each.engine: 0.0 if each in near else scores.get(each.engine, 0.0) for each in contenders}
    return winner, found[winner.engine], {**untuned, **tuned}


def _worth_tuning(contenders: Sequence[C], scores: Mapping[str, float]) -> list[C]:
    """The engines that work and are not far behind; the others are named in notes."""
    least, left = MIN_SHARE_OF_BEST * max(scores.values()), []
    for contender in contenders:
        score = scores.get(contender.engine)
        if score is None:
            console.note(f"{contender.engine} is not tuned: it does not work")
        elif score < least:
            console.note(f"{contender.engine} is not tuned: {score / max(scores.values()):.2f} of the best")
        else:
            left.append(contender)
    return left


def _searched(contenders: Sequence[C]) -> dict[str, dict[str, str]]:
    """The best options of each engine that has usable ones."""
    found = {}
    for contender in contenders:
        console.note(f"tuning {contender.engine}")
        try:
            found[contender.engine] = contender.search()
        except CheckFailed as error:
            console.note(f"{contender.engine} is dropped: {error}")
    return found


def _alternately(contenders: Sequence[C], options: Mapping[str, Options], first: int) -> dict[str, float]:
    """The mean score of each engine that works with its options; the rounds are numbered from ``first``.

    A round that other processes disturbed is repeated, a few times at most.
    """
    scores: dict[str, list[Measurement]] = {contender.engine: [] for contender in contenders}
    quiet = number = 0
    while quiet < _ROUNDS and number < _MAX_ROUNDS:
        for contender in contenders if number % 2 == 0 else reversed(contenders):
            if contender.engine not in scores:
                continue
            score = contender.compare(options[contender.engine], first + number)
            if score is None:
                del scores[contender.engine]
            else:
                scores[contender.engine].append(score)
        quiet += not any(mine[-1].disturbed for mine in scores.values())
        number += 1
    return {engine: mean(mine) for engine, mine in scores.items()}
