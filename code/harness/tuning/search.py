"""Coordinate search by measurement: one setting after the other, with the rest at the best values so far."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

Options = Mapping[str, str]
"""Settings of an engine by name, as for `--set`."""
Dimension = Sequence[Options]
"""Alternative options, of which one is used at a time; all set the same names, or leave some at their default."""

MIN_GAIN = 1.02
"""Factor by which the best score must be exceeded; a smaller gain may be noise."""
_ROUNDS = 2  # the best value of one setting may change with another setting, but rarely twice
_MAX_REPETITIONS = 2  # of a disturbed pair
_REPETITIONS_PER_CHOICE = 0.3  # of disturbed pairs in the whole search, per choice


class Measurement(NamedTuple):
    """A measurement of options."""

    value: float
    """Higher is better; 0 means unusable."""
    disturbed: bool = False
    """Whether other processes took so much of the cores that the score is unreliable."""


def coordinate_search(
    dimensions: Sequence[Dimension],
    measure: Callable[[Options, int], Measurement],
    identity: Callable[[Options], Hashable] = lambda options: tuple(sorted(options.items())),
) -> tuple[dict[str, str], float]:
    """The best options found, starting from the defaults, and their score.

    Options with the same ``identity`` are the same settings, such as a default that is given explicitly.
    ``measure(options, number)`` gives a score; ``number`` counts the measurements of the same options, from 0.

    A candidate is compared with a measurement of the best so far right before or after it, since machines drift. A
    candidate that wins is measured a second time, again next to the best, before it replaces it: with noise, the best
    of many would otherwise be the luckiest. A pair that other processes disturbed is repeated, a few times at most.
    """
    search = _Search(measure, identity, _REPETITIONS_PER_CHOICE * size(dimensions))
    best: dict[str, str] = {}
    search.measured(best)
    for _ in range(_ROUNDS):
        before = dict(best)
        for dimension in dimensions:
            names = {name for choice in dimension for name in choice}
            for choice in dimension:
                candidate = {**{name: value for name, value in best.items() if name not in names}, **choice}
                if not search.known(candidate) and search.wins(candidate, best):
                    best = candidate
        if best == before:
            break
    return best, search.score(best)


def size(dimensions: Sequence[Dimension]) -> int:
    """The approximate number of measurements of a search: one round, without repetitions.

    For two candidates, the best so far is measured once more.
    """
    return 1 + sum(max(0, len(dimension) - 1) for dimension in dimensions) * 3 // 2


class _Pair(NamedTuple):
    candidate: Measurement
    best: Measurement

    @property
    def disturbed(self) -> bool:
        return self.candidate.disturbed or self.best.disturbed


@dataclass
class _Search:
    """The measurements of a search."""

    measure: Callable[[Options, int], Measurement]
    identity: Callable[[Options], Hashable]
    patience: float
    """The number of pairs that may still be repeated."""
    _scores: dict[Hashable, list[Measurement]] = field(default_factory=dict)
    _last: Hashable = None
    """The identity of the options that were measured last."""

    def known(self, options: Options) -> bool:
        """Whether the options were measured."""
        return self.identity(options) in self._scores

    def measured(self, options: Options) -> Measurement:
        """Measure the options once more."""
        self._last = self.identity(options)
        scores = self._scores.setdefault(self._last, [])
        scores.append(self.measure(options, len(scores)))
        return scores[-1]

    def score(self, options: Options) -> float:
        """The mean of the measurements, without those that were disturbed if there are others."""
        return mean(self._scores[self.identity(options)])

    def wins(self, candidate: Options, best: Options) -> bool:
        """Whether a candidate is better: in one pair, and then in the mean of two."""
        pairs: list[_Pair] = []
        for _ in range(2):
            pairs += self._pairs(candidate, best)
            mine, theirs = mean([pair.candidate for pair in pairs]), mean([pair.best for pair in pairs])
            if mine <= theirs * MIN_GAIN:
                return False
        return True

    def _pairs(self, candidate: Options, best: Options) -> list[_Pair]:
        """A pair of measurements; if it was disturbed, its first undisturbed repetition, or all of them."""
        pairs = [self._pair(candidate, best)]
        while pairs[-1].disturbed and len(pairs) <= _MAX_REPETITIONS and self.patience >= 1:
            self.patience -= 1
            pairs.append(self._pair(candidate, best))
        return pairs if pairs[-1].disturbed else pairs[-1:]

    def _pair(self, candidate: Options, best: Options) -> _Pair:
        """The candidate measured right after the best if that was measured last, otherwise right before it."""
        if self._last == self.identity(best):
            reference = self._scores[self._last][-1]
            return _Pair(self.measured(candidate), reference)
        score = self.measured(candidate)
        return _Pair(score, self.measured(best) if score.value else Measurement(0.0))


def mean(scores: Sequence[Measurement]) -> float:
    """The mean of one or more measurements, without the disturbed ones if there are others."""
    chosen = [score.value for score in scores if not score.disturbed] or [score.value for score in scores]
    return sum(chosen) / len(chosen)
