"""The time of a batch of each shape on this machine, and batches chosen by it.

Time is not linear in samples or tokens, and it depends on the engine, the model and the machine. Every run therefore
measures it in its warm-up, while all streams are running.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from harness.scheduling.batching import best_lengths
from harness.task.shape import Floats, Integers, Shape
from harness.task.sut import SUT

_WARM_UP_BATCHES = 2  # untimed batches per shape: on some engines the first two are slow
_TIMED_BATCHES = (3, 16)  # minimum and maximum number of timed batches
_TIMED_SECONDS = 0.25  # of timed batches, enough for a shape


class CostTable:
    """The shape in which a group of samples runs, and its seconds, from the measured seconds of some shapes."""

    def __init__(self, measured: Mapping[Shape, float], *, fixed: bool, max_tokens: int | None = None) -> None:
        """With ``fixed``, batches run in the measured shapes only; otherwise in any, with interpolated times.

        Several samples never share a shape of more than ``max_tokens`` padded cost units.
        """
        self.max_batch = max(shape.batch for shape in measured)
        self.max_length = max(shape.length for shape in measured)
        self._fixed = fixed
        table = _fastest(measured) if fixed else _interpolated(measured, max_tokens or self.max_batch * self.max_length)
        # Lists of Python numbers: reading an element takes a fifth of the time that an array needs.
        self._shapes, self._seconds = table

    def shape(self, count: int, length: int) -> Shape:
        """The shape for ``count`` samples of at most ``length`` cost units."""
        return self._shapes[count - 1][length - 1]

    def seconds(self, count: int, length: int) -> float:
        """Seconds of that shape; infinity if none is large enough."""
        if count > self.max_batch or length > self.max_length:
            return float("inf")
        return self._seconds[count - 1][length - 1]

    def split(self, lengths: Sequence[int]) -> list[tuple[int, int]]:
        """Cut samples, sorted by length, into batches that take the minimum time when run one after the other.

        Returns (start, end) of each batch. An exact dynamic programme: the best time of the first j samples is the
        minimum, over i < j, of the best time of the first i plus the time of a batch of the samples i to j.
        """
        count = len(lengths)
        best, cut = [0.0] + [float("inf")] * count, [0] * (count + 1)
        for end in range(1, count + 1):
            longest = 0
            for start in range(end - 1, max(-1, end - 1 - self.max_batch), -1):
                longest = max(longest, lengths[start])
                total = best[start] + self.seconds(end - start, longest)
                if total < best[end]:
                    best[end], cut[end] = total, start
        parts, end = [], count
        while end:
            parts.append((cut[end], end))
            end = cut[end]
        return parts[::-1]


def probes(sut: SUT, costs: Integers, max_batch: int) -> list[Shape]:
    """The longest shape, with one sample and with as many as the settings allow, as the basis of `fitting`."""
    length = sut.static.length or int(costs.max())
    largest = sut.static.batch or _largest_batch(sut, length, max_batch)
    return [Shape(size, length) for size in sorted({sut.static.batch or 1, largest})]


def fitting(probed: Mapping[Shape, float], limit: float, pays: float = 1.0) -> Callable[[Shape], bool]:
    """Predicts whether a shape takes at most ``limit`` seconds, from probes and with time linear in cost.

    No batch fits if two probes show that a further sample costs more than ``pays`` times the first.
    """
    (few, base), *more = sorted(probed.items())
    size = few.batch * few.length
    slope = (more[0][1] - base) / (more[0][0].batch * more[0][0].length - size) if more else base / size
    slope = max(slope, 0.0)
    if more and slope > pays * base / size:
        return lambda shape: shape.batch <= few.batch
    return lambda shape: base + slope * (shape.batch * shape.length - size) <= limit


def shapes_to_measure(
    sut: SUT, costs: Integers, budget: int, max_batch: int, fits: Callable[[Shape], bool] = lambda shape: True
) -> list[Shape]:
    """At most about ``budget`` shapes that cover ``costs`` (int, (n,)), from single samples to full batches.

    An engine that compiles each shape compiles these. Only batches that satisfy ``fits`` are worth measuring; if none
    does, the budget goes to more lengths.
    """

    def largest(length: int) -> int:
        sizes = range(_largest_batch(sut, length, max_batch), 1, -1)
        return next((size for size in sizes if fits(Shape(size, length))), 1)

    if sut.static.length:
        lengths = [sut.static.length]
    elif sut.engine.fixed_shapes or sut.static.batch:
        lengths = best_lengths(costs, budget)
        if any(largest(length) > 1 for length in lengths):
            lengths = best_lengths(costs, max(1, budget // 2))
    else:
        lengths = sorted({int(length) for length in np.quantile(costs, (0, 0.5, 1))})
    per_length = max(1, budget // len(lengths))
    shapes = []
    for length in lengths:
        sizes = [sut.static.batch] if sut.static.batch else _spaced(largest(length), per_length)
        shapes += [Shape(size, length) for size in sizes]
    return shapes


def measure_shapes(
    sut: SUT, shapes: Iterable[Shape], indices: Integers, on_batch: Callable[[], None] = lambda: None
) -> dict[Shape, Floats]:
    """Seconds, float64 (n,), of several batches of each shape on all streams that compute at once, after a warm-up.

    The shapes take turns, as in a test, so that other load on the machine does not affect only one of them.
    ``on_batch()`` is called after each batch, on the stream's thread.
    """
    batches = {shape: full_batch(sut, shape, indices) for shape in shapes}

    def run(_: int) -> dict[Shape, list[float]]:
        took: dict[Shape, list[float]] = {shape: [] for shape in batches}
        left = list(batches)
        while left:
            for shape in left:
                start = time.perf_counter()
                sut.answer(batches[shape], shape)
                took[shape].append(time.perf_counter() - start)
                on_batch()
            left = [shape for shape in left if not _enough(took[shape][_WARM_UP_BATCHES:])]
        return took

    count = sut.engine.parallel
    with ThreadPoolExecutor(count) as streams:
        runs = list(streams.map(run, range(count)))
    return {shape: np.concatenate([took[shape][_WARM_UP_BATCHES:] for took in runs]) for shape in batches}


def full_batch(sut: SUT, shape: Shape, indices: Integers) -> Integers:
    """The longest of the samples that fit a shape, repeated if there are fewer than a batch holds."""
    costs = sut.qsl.cost(indices)
    order = np.argsort(costs, kind="stable")
    fitting = order[: np.searchsorted(costs[order], shape.length, side="right")]
    return np.resize(indices[fitting if len(fitting) else order[:1]][-shape.batch :], shape.batch)


def stream_seconds(began: Floats, ended: Floats, parallel: int) -> Floats:
    """float64 (n,): how long each batch kept a stream busy; from ``began`` until ``ended`` it was with the engine.

    While the engine has more batches than it computes at once (`Engine.parallel`), some only wait, so each counts for
    its share of the streams. The sum is correct no matter which of them waited, unless a stream was idle meanwhile.
    """
    order = np.argsort(np.concatenate([began, ended]), kind="stable")
    times = np.concatenate([began, ended])[order]
    inside = np.cumsum(np.repeat([1, -1], len(began))[order])[:-1]
    shares = np.diff(times) * np.minimum(1.0, parallel / np.maximum(1, inside))
    until = np.empty(len(times))
    until[order] = np.concatenate([np.zeros(1), np.cumsum(shares)])
    seconds: Floats = until[len(began) :] - until[: len(began)]
    return seconds


def _enough(seconds: Sequence[float]) -> bool:
    minimum, maximum = _TIMED_BATCHES
    return len(seconds) >= maximum or (len(seconds) >= minimum and sum(seconds) > _TIMED_SECONDS)


def _largest_batch(sut: SUT, length: int, max_batch: int) -> int:
    return max(1, min(max_batch, sut.engine.settings.max_tokens // length))


def _spaced(largest: int, count: int) -> list[int]:
    """At most ``count`` batch sizes: 1, ``largest``, and powers of two in between."""
    sizes = [2**power for power in range(largest.bit_length()) if 2**power < largest] + [largest]
    if count == 1:
        return [largest]
    chosen = np.linspace(0, len(sizes) - 1, min(count, len(sizes))).round().astype(int)
    return [sizes[position] for position in sorted(set(chosen.tolist()))]


_Table = tuple[list[list[Shape]], list[list[float]]]


def _fastest(measured: Mapping[Shape, float]) -> _Table:
    """For each count and length, the fastest shape that is large enough."""
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
    """For each count and length, exactly that shape; linear between the measured ones, flat below the shortest."""
    lengths = sorted({shape.length for shape in measured})
    counts = np.arange(1, max(shape.batch for shape in measured) + 1)
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
