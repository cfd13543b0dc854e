"""Signs that labels or preprocessing do not belong to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, lgamma, log
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.engines.base import engine_errors
from harness.task.qsl import SampleLibrary
from harness.task.shape import Array, Integers
from resnet50.labels import CLASSES
from resnet50.pixels import Pixels
from resnet50.preprocess import PROFILES, PreprocessingProfile, pixels
from resnet50.qsl import ImageQSL
from resnet50.sut import ResNet50SUT

_UNLIKELY = 0.01  # probability below which something is not chance
_POOR_TOP1 = 0.5
"""A top-1 that any usable model reaches with its own labels and preprocessing."""
_MAX_TRIED_IMAGES = 24  # on which other profiles are tried
_CLEAR_HITS = 3  # minimum hits of another profile or a shift
_NO_LABEL = -3  # not next to a label, so that no shift makes it one
_MIN_IMAGES_PER_ANSWER = 5  # to see how their labels are spread


def label_doubts(found: Mapping[int, int], labels: NDArray[np.int64]) -> tuple[str, ...]:
    """Signs of wrong labels: ``found`` is the predicted label by image index, ``labels`` are all, int64 (images,)."""
    indices = np.fromiter(found, np.int64)
    # Garbage read as an integer may not fit int64, and would make a histogram of gigabytes.
    answers = np.array([label if -1 <= label <= CLASSES else _NO_LABEL for label in found.values()], np.int64)
    wanted = labels[indices]
    good, total = int((answers == wanted).sum()), len(answers)
    for shift in (1, -1):
        hits = int((answers + shift == wanted).sum())
        chance = _expected(answers + shift, wanted) / total
        if hits >= max(_CLEAR_HITS, 2 * good) and at_least(hits, total, chance) < _UNLIKELY:
            return (
                f"with 1 {'added to' if shift > 0 else 'subtracted from'} each answer, top-1 would be "
                f"{100 * hits / total:.3f} %: the labels or label_offset are probably off by one.",
            )
    expected = _expected(answers, wanted)
    by_chance = at_least(good, total, max(expected / total, 1 / CLASSES)) > _UNLIKELY
    if not by_chance or 1 - at_least(good + 1, total, _POOR_TOP1) > _UNLIKELY:
        return ()
    order = ""
    if _share_of_one_label(answers, wanted) > _POOR_TOP1:
        order = (
            " Images with the same answer share a label, but a different one: the labels use another order of classes."
        )
    return (
        f"{good} of {total:,} right is no better than guessing: labels, output or preprocessing are probably not the "
        f"model's.{order}",
    )


def at_least(hits: int, total: int, chance: float) -> float:
    """The probability of that many hits or more in ``total`` independent tries, to about 1e-12.

    >>> round(at_least(1, 2, 0.5), 3), at_least(0, 9, 0.1)
    (0.75, 1.0)
    """
    if hits <= 0 or chance >= 1:
        return 1.0
    if chance <= 0:
        return 0.0
    ways = lgamma(total + 1)
    fewer = (
        exp(ways - lgamma(k + 1) - lgamma(total - k + 1) + k * log(chance) + (total - k) * log(1 - chance))
        for k in range(min(hits, total + 1))
    )
    return max(0.0, 1 - sum(fewer))


def _expected(answers: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    """Hits of these answers if they were given in a random order."""
    low = min(int(answers.min()), int(wanted.min()))
    size = max(int(answers.max()), int(wanted.max())) - low + 1
    pairs = np.bincount(answers - low, minlength=size) @ np.bincount(wanted - low, minlength=size)
    return float(pairs) / len(answers)


def _share_of_one_label(answers: NDArray[np.int64], wanted: NDArray[np.int64]) -> float:
    """The share of images whose label is the most frequent one for their answer; rare answers are left out."""
    pairs, counts = np.unique(np.stack((answers, wanted)), axis=1, return_counts=True)
    images, matching = 0, 0
    for answer in np.unique(answers):
        with_it = counts[pairs[0] == answer]
        if with_it.sum() >= _MIN_IMAGES_PER_ANSWER:
            images, matching = images + int(with_it.sum()), matching + int(with_it.max())
    return matching / images if images else 0.0


def profile_doubts(sut: ResNet50SUT, name: str, files: Sequence[Path], labels: NDArray[np.int64]) -> tuple[str, ...]:
    """A sign that ``name`` is the wrong profile: another one gets at least twice as many of a few images right."""
    rows = np.unique(np.linspace(0, sut.qsl.count - 1, min(_MAX_TRIED_IMAGES, sut.qsl.count)).astype(np.int64))
    sut.qsl.load(rows)
    own = _hits(sut, sut.qsl, rows, labels[rows])
    sut.qsl.unload(rows)
    if own > _POOR_TOP1 * len(rows):
        return ()
    contents = [files[row].read_bytes() for row in rows]
    places = np.arange(len(rows))
    hits = {}
    for other, profile in PROFILES.items():
        if other != name:
            library = ImageQSL(_Decoded(contents, profile), profile, sut.qsl.layout)
            library.load(places)
            hits[other] = _hits(sut, library, places, labels[rows])
    best = max(hits, key=lambda other: hits[other])
    if hits[best] < max(_CLEAR_HITS, 2 * own):
        return ()
    return (
        f"of {len(rows)} images tried, {own} are right with preprocessing {name} and {hits[best]} with {best}: "
        f"pass --set preprocessing={best}.",
    )


class _Decoded(Pixels):
    """The pixels of a few images, in memory."""

    def __init__(self, contents: Sequence[bytes], profile: PreprocessingProfile) -> None:
        self._images = [np.ascontiguousarray(pixels(content, profile)) for content in contents]

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> NDArray[np.uint8]:
        """(224, 224, 3), RGB."""
        return self._images[index]


def _hits(sut: ResNet50SUT, library: SampleLibrary, rows: Integers, wanted: NDArray[np.int64]) -> int:
    """The number of images of a library answered with the wanted labels, in the smallest batches prepared."""
    shape = min(sut.prepared)
    found: list[Array] = []
    for start in range(0, len(rows), shape.batch):
        batch = rows[start : start + shape.batch]
        with engine_errors(sut.engine.name, "to run a batch"):
            outputs = sut.runner(shape)(sut.feed(library.collate(batch, shape)))
        found.append(sut.encode(sut.checked(outputs, shape), batch).buffer)
    return int((np.concatenate(found) == wanted).sum())
