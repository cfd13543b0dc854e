"""Coordinate search: one setting after the other, by measurement, with the rest as good as it is known so far."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence

Options = Mapping[str, str]
"""Settings of an engine by name, as `--set` takes them."""
Dimension = Sequence[Options]
"""Choices of which one is in force at a time; all set the same names, or leave some at their default."""

GAIN = 1.02
"""Times the score of the best: what is less may be noise."""
_ROUNDS = 2  # what one setting is best with may change with another, but seldom twice


def coordinate_search(
    dimensions: Sequence[Dimension],
    measure: Callable[[Options, int], float],
    identity: Callable[[Options], Hashable] = lambda options: tuple(sorted(options.items())),
) -> tuple[dict[str, str], float]:
    """The best options that were found, beginning with none, and their score.

    Options of the same ``identity`` are the same settings, such as a default that is spelled out.

    ``measure(options, number)`` gives a score, more is better, 0 for what does not work; ``number`` counts the
    measurements of the same options, from 0. A challenger is measured a second time, side by side with the best so far,
    before it takes its place: with noise the best of many would otherwise be the luckiest.
    """
    best: dict[str, str] = {}
    score = measure(best, 0)
    counts: dict[Hashable, int] = {identity(best): 1}

    def again(options: Options) -> float:
        number = counts[identity(options)]
        counts[identity(options)] = number + 1
        return measure(options, number)

    for _ in range(_ROUNDS):
        before = dict(best)
        for dimension in dimensions:
            names = {name for choice in dimension for name in choice}
            for choice in dimension:
                candidate = {**{name: value for name, value in best.items() if name not in names}, **choice}
                if identity(candidate) in counts:
                    continue
                counts[identity(candidate)] = 1
                first = measure(candidate, 0)
                if first <= score * GAIN:
                    continue
                second, defence = again(candidate), again(best)
                score = (score + defence) / 2
                if (first + second) / 2 > score * GAIN:
                    best, score = candidate, (first + second) / 2
        if best == before:
            break
    return best, score


def size(dimensions: Sequence[Dimension]) -> int:
    """About how many measurements a search takes: a round, without repetitions."""
    return 1 + sum(max(0, len(dimension) - 1) for dimension in dimensions)
