"""Coordinate search by measurement: one setting after the other, with the rest at the best values so far."""

from collections.abc import Callable, Hashable, Mapping, Sequence

Options = Mapping[str, str]
"""Settings of an engine by name, as for `--set`."""
Dimension = Sequence[Options]
"""Choices, one of which applies at a time; all set the same names, or leave some at their default."""

GAIN = 1.02
"""Factor by which the best score must be exceeded; a smaller gain may be noise."""
_ROUNDS = 2  # the best value of one setting may change with another setting, but seldom twice


def coordinate_search(
    dimensions: Sequence[Dimension],
    measure: Callable[[Options, int], float],
    identity: Callable[[Options], Hashable] = lambda options: tuple(sorted(options.items())),
) -> tuple[dict[str, str], float]:
    """The best options found, starting from none, and their score.

    Options with the same ``identity`` are the same settings, such as a default that is given explicitly.

    ``measure(options, number)`` gives a score, where higher is better and 0 means unusable; ``number`` counts the
    measurements of the same options, from 0. A challenger is measured a second time, side by side with the best so far,
    before it replaces it: with noise, the best of many would otherwise be the luckiest.
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
    """The approximate number of measurements of a search: one round, without repetitions."""
    return 1 + sum(max(0, len(dimension) - 1) for dimension in dimensions)
