"""What a batch of each shape takes on this machine, and what follows for how samples are put together.

Time is not linear in samples or tokens, and it depends on the engine, the model and the machine: so it is measured, in
the warm-up of every run, while all streams are at work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from harness.scheduling.batching import best_lengths
from harness.task.shape import Floats, Integers, Shape
from harness.task.sut import SUT

_WARM = 2  # batches of a shape before its time counts: some engines are slow twice
_REPEATS = (3, 16)  # batches that are timed, at least and at most
_ENOUGH = 0.25  # seconds of timed batches that are enough of a shape


class CostTable:
    """The shape that a few samples run in, and the seconds it takes, from the measured seconds of some shapes."""

    def __init__(self, measured: Mapping[Shape, float], *, fixed: bool, max_tokens: int | None = None) -> None:
        """With ``fixed``, batches run in the measured shapes only; otherwise in any, and times are interpolated.

        Several samples are never put into a shape of more than ``max_tokens`` padded cost units.
        """
        self.max_batch = max(shape.batch for shape in measured)
        self.max_length = max(shape.length for shape in measured)
        self._fixed = fixed
        table = _least(measured) if fixed else _interpolated(measured, max_tokens or self.max_batch * self.max_length)
        # Lists of Python's own numbers: reading one of them takes a fifth of what reading an array's element does.
        self._shapes, self._seconds = table

    def shape(self, count: int, length: int) -> Shape:
        """The shape for ``count`` samples of at most ``length`` cost units."""
        return self._shapes[count - 1][length - 1]

    def seconds(self, count: int, length: int) -> float:
        """Seconds of that shape; infinity where none is large enough."""
        if count > self.max_batch or length > self.max_length:
            return float("inf")
        return self._seconds[count - 1][length - 1]

    def split(self, lengths: Sequence[int]) -> list[tuple[int, int]]:
        """Where to cut samples, sorted by length, so that the batches one after the other take the least time.

        Returns (start, end) of each batch. An exact dynamic programme: the least time of the first j samples is the
        least, over i < j, of that of the first i and the time of a batch of the samples i to j.
        """
        count = len(lengths)
        least, cut = [0.0] + [float("inf")] * count, [0] * (count + 1)
        for end in range(1, count + 1):
            longest = 0
            for start in range(end - 1, max(-1, end - 1 - self.max_batch), -1):
                longest = max(longest, lengths[start])
                total = least[start] + self.seconds(end - start, longest)
                if total < least[end]:
                    least[end], cut[end] = total, start
        parts, end = [], count
        while end:
            parts.append((cut[end], end))
            end = cut[end]
        return parts[::-1]


def probes(sut: SUT, costs: Integers, max_batch: int) -> list[Shape]:
    """The longest shape, for one sample and for as many as the settings allow: what the rest is estimated from."""
    length = sut.static.length or int(costs.max())
    most = sut.static.batch or _most(sut, length, max_batch)
    return [Shape(size, length) for size in sorted({sut.static.batch or 1, most})]


def fitting(probed: Mapping[Shape, float], limit: float, pays: float = 1.0) -> Callable[[Shape], bool]:
    """Whether a shape probably takes at most ``limit`` seconds, if those of the probes grow linearly with its cost.

    No batch fits where, by two probes, a further sample of one costs more than ``pays`` times the first.
    """
    (few, least), *more = sorted(probed.items())
    size = few.batch * few.length
    slope = (more[0][1] - least) / (more[0][0].batch * more[0][0].length - size) if more else least / size
    slope = max(slope, 0.0)
    if more and slope > pays * least / size:
        return lambda shape: shape.batch <= few.batch
    return lambda shape: least + slope * (shape.batch * shape.length - size) <= limit


def shapes_to_measure(
    sut: SUT, costs: Integers, budget: int, max_batch: int, fits: Callable[[Shape], bool] = lambda shape: True
) -> list[Shape]:
    """At most about ``budget`` shapes that cover ``costs`` (int, (n,)), from single samples to full batches.

    For an engine that compiles each shape, these are the ones to compile. Of batches only those that ``fits`` is true
    of are worth measuring; where there is none, the budget goes to more lengths.
    """

    def most(length: int) -> int:
        sizes = range(_most(sut, length, max_batch), 1, -1)
        return next((size for size in sizes if fits(Shape(size, length))), 1)

    if sut.static.length:
        lengths = [sut.static.length]
    elif sut.engine.fixed_shapes or sut.static.batch:
        lengths = best_lengths(costs, budget)
        if any(most(length) > 1 for length in lengths):
            lengths = best_lengths(costs, max(1, budget // 2))
    else:
        lengths = sorted({int(length) for length in np.quantile(costs, (0, 0.5, 1))})
    per_length = max(1, budget // len(lengths))
    shapes = []
    for length in lengths:
        sizes = [sut.static.batch] if sut.static.batch else _spaced(most(length), per_length)
        shapes += [Shape(size, length) for size in sizes]
    return shapes


def measure_shapes(
    sut: SUT, shapes: Iterable[Shape], indices: Integers, on_batch: Callable[[], None] = lambda: None
) -> dict[Shape, Floats]:
    """Seconds, float64 (n,), of several batches of each shape while every stream runs some; warms each up first.

    The shapes take turns, as they do in a test, so that what a machine does meanwhile does not fall on one of them.
    ``on_batch()`` is called after each batch, by the stream's own thread.
    """
    costs = sut.qsl.cost(indices)
    order = np.argsort(costs, kind="stable")
    batches = {}
    for shape in shapes:
        fitting = order[: np.searchsorted(costs[order], shape.length, side="right")]
        # The longest that fit; of a data set that is smaller than a batch, some twice.
        batches[shape] = np.resize(indices[fitting if len(fitting) else order[:1]][-shape.batch :], shape.batch)

    def run(_: int) -> dict[Shape, list[float]]:
        took: dict[Shape, list[float]] = {shape: [] for shape in batches}
        left = list(batches)
        while left:
            for shape in left:
                start = time.perf_counter()
                sut.answer(batches[shape], shape)
                took[shape].append(time.perf_counter() - start)
                on_batch()
            left = [shape for shape in left if not _enough(took[shape][_WARM:])]
        return took

    with ThreadPoolExecutor(sut.engine.streams) as streams:
        runs = list(streams.map(run, range(sut.engine.streams)))
    return {shape: np.concatenate([took[shape][_WARM:] for took in runs]) for shape in batches}


def _enough(seconds: Sequence[float]) -> bool:
    least, most = _REPEATS
    return len(seconds) >= most or (len(seconds) >= least and sum(seconds) > _ENOUGH)


def _most(sut: SUT, length: int, max_batch: int) -> int:
    return max(1, min(max_batch, sut.engine.settings.max_tokens // length))


def _spaced(most: int, count: int) -> list[int]:
    """At most ``count`` batch sizes: 1, ``most``, and powers of two between."""
    sizes = [2**power for power in range(most.bit_length()) if 2**power < most] + [most]
    if count == 1:
        return [most]
    chosen = np.linspace(0, len(sizes) - 1, min(count, len(sizes))).round().astype(int)
    return [sizes[position] for position in sorted(set(chosen.tolist()))]


_Table = tuple[list[list[Shape]], list[list[float]]]


def _least(measured: Mapping[Shape, float]) -> _Table:
    """For each count and length the shape of least time that is large enough."""
    batch, length = (max(size) for size in zip(*measured, strict=True))
    seconds = np.full((batch, length), np.inf)
    which = np.zeros((batch, length), dtype=np.int64)
    shapes = list(measured)
    for number, shape in enumerate(shapes):
        part = (slice(0, shape.batch), slice(0, shape.length))
        better = measured[shape] < seconds[part]
        seconds[part][better] = measured[shape]
        which[part][better] = number
    return [[shapes[number] for number in row] for row in which.tolist()], seconds.tolist()


def _interpolated(measured: Mapping[Shape, float], max_tokens: int) -> _Table:
    """For every count and length that very shape; linear between the measured ones, flat below the shortest."""
    lengths = sorted({shape.length for shape in measured})
    most = max(shape.batch for shape in measured)
    counts = np.arange(1, most + 1)
    columns = []
    for length in lengths:
        known = sorted((shape.batch, seconds) for shape, seconds in measured.items() if shape.length == length)
        sizes, seconds = (np.array(column, dtype=float) for column in zip(*known, strict=True))
        column = np.interp(counts, sizes, seconds)
        beyond = counts > sizes[-1]
        column[beyond] = seconds[-1] * counts[beyond] / sizes[-1]
        columns.append(column)
    every = np.arange(1, lengths[-1] + 1)
    table = np.array([np.interp(every, lengths, row) for row in np.array(columns).T])
    table[(counts[:, None] > 1) & (counts[:, None] * every > max_tokens)] = np.inf
    shapes = [[Shape(int(count), int(length)) for length in every] for count in counts]
    return shapes, table.tolist()
