"""Which lengths to compile for, and when to stop: each costs seconds to a minute, and each saves less padding."""

from __future__ import annotations

import math

import numpy as np

from harness.scheduling.batching import best_lengths
from harness.task.shape import Integers

DEVELOPMENT = 20.0
"""Seconds that a development run compiles for, as long as its test, unless the user sets the number of shapes."""
_LEAST = 4  # shapes, however slow they are: they leave 16 % of padding on SQuAD, two would leave 42 %


class CompileBudget:
    """The number of shapes to compile, from how long those took that are compiled."""

    def __init__(self, most: int, seconds: float = math.inf) -> None:
        """At most ``most`` shapes, and about as many as compile in ``seconds``, but not fewer than four."""
        self._most, self._seconds = most, seconds
        self._took: list[float] = []

    def took(self, seconds: float) -> None:
        """Count a compiled shape."""
        self._took.append(seconds)

    @property
    def compiled(self) -> int:
        """The number of shapes counted so far."""
        return len(self._took)

    @property
    def mean(self) -> float:
        """Mean seconds of a shape."""
        return sum(self._took) / len(self._took) if self._took else 0.0

    @property
    def shapes(self) -> int:
        """The number of shapes to compile, those that are compiled included."""
        affordable = self._most if self.mean * self._most <= self._seconds else int(self._seconds / self.mean)
        return min(self._most, max(_LEAST, affordable))


def next_length(costs: Integers, compiled: list[int], count: int) -> int | None:
    """The most useful length to compile next for samples of these ``costs``, int (n,); None if ``count`` are compiled.

    The longest is the first. The others belong to the ``count`` lengths that leave the least padding with those that
    are compiled, in the order of what each of them saves: stopping early then leaves good lengths, too.
    """
    if len(compiled) >= count:
        return None
    if not compiled:
        return int(costs.max())
    missing = set(best_lengths(costs, count, compiled)) - set(compiled)
    return min(missing, key=lambda length: (padded_work(costs, [*compiled, length]), length), default=None)


def padded_work(costs: Integers, lengths: list[int]) -> int:
    """Cost units computed if every sample of ``costs``, int (n,), is padded to the shortest length that fits."""
    ends = np.array(sorted(lengths))
    return int(ends[np.searchsorted(ends, costs)].sum())
