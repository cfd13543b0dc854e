"""The contract of training data: labelled samples of a benchmark as inputs of a graph, and the score of a part of them.

Plain arrays, so that data and schedules are made and tested without a training framework.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from harness.errors import ConfigError
from harness.task.shape import Array, Integers

MAX_HELD_BACK = 600
"""Approximate maximum of samples held back: scoring them must take little time compared with training."""


@dataclass(frozen=True)
class TrainingBatch:
    """Samples that are trained on together."""

    feed: Mapping[str, Array]
    """The tensors by the names of the graph's inputs, in the graph's dtypes."""
    targets: Mapping[str, Array] | None
    """By the name of an output with a value for each class, the index of the right class, int64 (samples,).

    For a span's start and end, the classes are the positions in the padded sequence. None if the data has no labels: a
    model can then only be trained to answer like another one.
    """
    answers: tuple[str, ...] = ()
    """The outputs whose values are classes' logits or probabilities, float (samples, classes), labelled or not."""
    mask: Array | None = None
    """bool (samples, length): which places of the sequence are tokens, not padding; None where there is no sequence."""


class TrainingData(ABC):
    """Samples by index, in memory or quickly read; some are held back for scoring and never trained on."""

    count: int
    """Samples to train on: `batch` takes 0 to ``count`` - 1."""
    digest: str
    """sha256, in hex, of everything that the samples and their labels depend on."""
    origin: str
    """Identifies the data for people: a digest, and what it covers."""
    official: bool = False
    """Whether official runs are scored on some of the samples."""
    labelled: bool
    """Whether the samples have labels, so that batches have targets and the held-back part a score."""
    varies: bool = False
    """Whether `varied` can change these samples."""
    held_back: Integers
    """int64 (n,): the indices, for `batch`, of the samples held back; they are ``count`` and above."""

    @abstractmethod
    def batch(self, indices: Integers) -> TrainingBatch:
        """The samples, padded to the longest of them, in the order of ``indices``."""

    def varied(self, indices: Integers, seed: Sequence[int]) -> TrainingBatch:
        """As `batch`, but each sample is changed at random so that its label still fits; the same for the same seed.

        Only where ``varies`` is True.
        """
        raise AssertionError("these samples cannot be varied")

    def order(self, batch: int, step: int, seed: int) -> Integers:
        """int64 (batch,): the samples of a step, from 0; the same for the same arguments. See `order`."""
        return order(self.count, batch, step, seed)

    @abstractmethod
    def score(self, outputs: Iterable[Mapping[str, Array]]) -> tuple[str, float]:
        """The metric's name and its value in percent over the samples held back.

        ``outputs`` are those of the graph, by name, for batches of ``held_back`` in its order, however it is divided.

        Raises:
            ConfigError: the data has no labels, or nothing is held back.
        """


def order(count: int, batch: int, step: int, seed: int) -> Integers:
    """int64 (batch,): which of ``count`` samples a step uses; steps start at 0.

    An epoch takes every sample once, in an order drawn from (seed, epoch) alone, and a batch may reach into the next
    epoch. The same arguments always give the same samples, so a resumed training sees the same ones as without a stop.

    Raises:
        ConfigError: there are no samples, or the batch is empty.
    """
    if count < 1 or batch < 1:
        raise ConfigError(f"{count} samples in batches of {batch}: training needs at least one of each.")
    places = np.arange(step * batch, (step + 1) * batch, dtype=np.int64)
    epochs = places // count
    orders = {epoch: np.random.default_rng((seed, epoch)).permutation(count) for epoch in np.unique(epochs).tolist()}
    return np.array(
        [orders[epoch][place] for epoch, place in zip(epochs.tolist(), places % count, strict=True)], np.int64
    )


def alike_order(costs: Integers, batch: int, step: int, seed: int, pool: int = 50) -> Integers:
    """As `order`, but the samples of a step have similar costs, so that little is padded; ``costs`` is int64 (count,).

    The samples of ``pool`` steps of an epoch are sorted by cost and dealt out as batches in a drawn order, so that a
    batch remains a random one of about its length. No sample is used twice in an epoch; fewer than ``batch`` samples,
    different ones each time, are not used in it: a batch that reached into the next epoch could hold one twice.
    """
    steps = len(costs) // batch
    if not steps:
        return order(len(costs), batch, step, seed)
    epoch, place = divmod(step, steps)
    group, member = divmod(place, pool)
    size = min(pool, steps - group * pool)
    first = group * pool * batch
    drawn = np.random.default_rng((seed, epoch)).permutation(len(costs))[first : first + size * batch]
    # By index where costs are equal: sorted by cost alone, the order would be that of the sorting algorithm.
    ranked: Integers = drawn[np.lexsort((drawn, costs[drawn]))]
    turn = np.random.default_rng((seed, 1, epoch, group)).permutation(size)[member]
    return ranked[turn * batch : (turn + 1) * batch]


def hold_back(
    groups: Integers, parts: Integers, share: float, seed: int, max_scored: int = MAX_HELD_BACK
) -> tuple[Integers, Integers]:
    """The samples to train on and those to score, int64 and ascending; samples of one group are never divided.

    ``groups`` is int64 (n,): the group of each sample, such as its article; ``parts`` the part of its group that is
    scored as a whole, such as its question. Groups drawn by ``seed`` are held back up to ``share`` of the samples; a
    group that would exceed it is trained on. At least one is held back if the share is not 0. Of these samples, parts
    drawn by ``seed`` with about ``max_scored`` samples are scored, and the others are not used at all.

    Raises:
        ConfigError: the share is not from 0 to below 1, or there is only one group to divide.
    """
    if not 0 <= share < 1:
        raise ConfigError(f"hold_out = {share}: the share of the data that is held back must be from 0 to below 1.")
    if share == 0:
        return np.arange(len(groups)), np.empty(0, np.int64)
    names, sizes = np.unique(groups, return_counts=True)
    if len(names) < 2:
        raise ConfigError(
            f"hold_out = {share}: the data is one piece, such as a single passage, so no part of it can be held back; "
            "add data, or set hold_out = 0."
        )
    drawn = np.random.default_rng((seed, 2)).permutation(len(names))
    chosen = _fill(sizes[drawn], share * len(groups))[: len(names) - 1]
    back = np.isin(groups, names[drawn[chosen]] if chosen else names[sizes.argmin()])
    held = np.flatnonzero(back)
    parts_held, part_sizes = np.unique(parts[held], return_counts=True)
    drawn = np.random.default_rng((seed, 3)).permutation(len(parts_held))
    scored = parts_held[drawn[_fill(part_sizes[drawn], max_scored)]]
    return np.flatnonzero(~back), held[np.isin(parts[held], scored)]


def _fill(sizes: Integers, room: float) -> list[int]:
    """The positions of the sizes that fit into the room, taken in their order."""
    taken, used = [], 0
    for position, size in enumerate(sizes.tolist()):
        if used + size <= room:
            taken.append(position)
            used += size
    return taken
