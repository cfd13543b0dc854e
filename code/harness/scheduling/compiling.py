"""Which lengths to compile, and when to stop: each takes seconds to a minute, and saves less than the previous one."""

from __future__ import annotations

import math

import numpy as np

from harness.scheduling.batching import best_lengths
from harness.task.shape import Integers

DEVELOPMENT_COMPILE_SECONDS = 20.0
"""Seconds of compiling in a development run, as long as its test, unless the user sets the number of shapes."""
_MIN_SHAPES = 4  # shapes, however slow to compile: they leave 16 % padding on SQuAD, two would leave 42 %


class CompileBudget:
    """The number of shapes to compile, from the time that the compiled ones took."""

    def __init__(self, max_shapes: int, seconds: float = math.inf) -> None:
        """At most ``max_shapes`` shapes, and about as many as compile in ``seconds``, but not fewer than four."""
        self._max_shapes, self._seconds = max_shapes, seconds
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
        """The number of shapes to compile, including those already compiled."""
        limit = self._max_shapes
        affordable = limit if self.mean * limit <= self._seconds else int(self._seconds / self.mean)
        return min(limit, max(_MIN_SHAPES, affordable))


def next_length(costs: Integers, compiled: list[int], count: int) -> int | None:
    """The most useful length to compile next for samples of these ``costs``, int (n,); None if ``count`` are compiled.

    The longest comes first. The others are from the ``count`` lengths, compiled ones included, that leave the least
    padding, those that save most first: stopping early then still leaves good lengths.
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
