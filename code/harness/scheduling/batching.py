"""Groups samples of different costs into batches with little padding.

A batch is padded to its shape: ``batch`` rows of ``length`` cost units each (tokens for BERT, 1 for images).
Samples are taken longest first: batches then hold samples of similar length, little work is left at the end, and the
only partial batch holds the shortest samples. The rules allow any order within an Offline query.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.errors import ConfigError
from harness.task.shape import Integers, Shape


class Batch(NamedTuple):
    """Positions within the query (int64, at most ``shape.batch``) that run together."""

    positions: Integers
    shape: Shape

    @property
    def padded(self) -> int:
        """Cost units that the engine computes, including padding."""
        return self.shape.batch * self.shape.length


class DynamicPlanner:
    """For engines that accept any shape: each batch is as long as its longest sample."""

    shapes: tuple[Shape, ...] = ()

    def __init__(self, max_batch: int, max_tokens: int) -> None:
        """Limit batches to ``max_batch`` samples and ``max_tokens`` padded cost units, but at least one sample."""
        if max_batch < 1 or max_tokens < 1:
            raise ValueError("max_batch and max_tokens must be at least 1")
        self.max_batch, self.max_tokens = max_batch, max_tokens

    def plan(self, costs: Integers) -> list[Batch]:
        """Assign every position of ``costs`` (int, (n,), each at least 1) to exactly one batch."""
        order = _longest_first(costs)
        batches, start = [], 0
        while start < len(order):
            length = int(costs[order[start]])
            size = min(self.max_batch, max(1, self.max_tokens // length), len(order) - start)
            batches.append(Batch(order[start : start + size], Shape(size, length)))
            start += size
        return batches


class FixedPlanner:
    """For engines that compile each shape: a few lengths chosen from the data, with one batch size each."""

    def __init__(self, lengths: Sequence[int], max_batch: int, max_tokens: int, batch: int | None = None) -> None:
        """Build shapes of these lengths; ``batch`` is the batch size where the graph fixes it."""
        if not lengths:
            raise ValueError("at least one length is needed")
        if max_batch < 1 or max_tokens < 1:
            raise ValueError("max_batch and max_tokens must be at least 1")
        self.shapes = tuple(
            Shape(batch or min(max_batch, max(1, max_tokens // length)), int(length)) for length in sorted(set(lengths))
        )
        self._lengths = np.array([shape.length for shape in self.shapes])

    def plan(self, costs: Integers) -> list[Batch]:
        """Assign every position of ``costs`` (int, (n,), each at least 1) to exactly one batch.

        Raises:
            ConfigError: a sample is longer than the longest shape.
        """
        if len(costs) and costs.max() > self._lengths[-1]:
            raise ConfigError(
                f"a sample of length {costs.max()} does not fit the longest shape, {self._lengths[-1]}: use a model "
                "with longer inputs, or a data set with shorter samples."
            )
        order = _longest_first(costs)
        batches, start = [], 0
        while start < len(order):
            shape = self.shapes[int(np.searchsorted(self._lengths, costs[order[start]]))]
            batches.append(Batch(order[start : start + shape.batch], shape))
            start += shape.batch
        return batches


Planner = DynamicPlanner | FixedPlanner


def best_lengths(costs: Integers, count: int, given: Sequence[int] = ()) -> list[int]:
    """The ``count`` lengths that minimise the total padded work when every sample takes the shortest that fits.

    They include those ``given``, each the cost of a sample.

    An exact dynamic programme over the histogram of ``costs`` (int, (n,)): with distinct lengths u_1 < ... < u_m and
    best(k, j) the minimum work for the samples up to u_j with k shapes, the last of which is u_j,
    best(k, j) = min over i < j of best(k - 1, i) + u_j * (samples longer than u_i and at most u_j).
    """
    lengths, counts = np.unique(np.asarray(costs, dtype=np.int64), return_counts=True)
    if not len(lengths):
        raise ValueError("no samples to choose lengths from")
    fixed = np.isin(lengths, given)
    fixed[-1] = True
    count = min(max(count, int(fixed.sum())), len(lengths))
    upto = np.concatenate(([0], np.cumsum(counts)))
    # work[i, j]: samples of the lengths i..j in one shape of length u_j
    work = (lengths[None, :] * (upto[None, 1:] - upto[:-1, None])).astype(np.float64)
    work[np.tril_indices(len(lengths), -1)] = np.inf
    for end in np.flatnonzero(fixed):  # no shape serves samples on both sides of a given length
        work[: end + 1, end + 1 :] = np.inf
    best, choices = work[0], []
    for _ in range(count - 1):
        candidates = best[:-1, None] + work[1:, :]
        choices.append(np.argmin(candidates, axis=0))
        best = candidates[choices[-1], np.arange(len(lengths))]
    ends, end = [len(lengths) - 1], len(lengths) - 1
    for choice in reversed(choices):
        end = int(choice[end])
        ends.append(end)
    return [int(lengths[end]) for end in sorted(ends)]


def _longest_first(costs: Integers) -> Integers:
    return np.argsort(-np.asarray(costs, dtype=np.int64), kind="stable")
