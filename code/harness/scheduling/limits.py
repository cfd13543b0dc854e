"""Chooses how large batches may be, by measurement: the best size depends on the engine, the model and the machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from threading import Barrier
from typing import NamedTuple

import numpy as np

from harness.engines.base import EngineSettings
from harness.scheduling.cost import full_batch, stream_seconds
from harness.task.shape import Floats, Integers, Shape
from harness.task.sut import SUT

_BATCH_SIZES = (1, 2, 4, 8, 16)  # batch sizes to try for samples of one size, in addition to the engine's own limit
_FEW_BATCH_SIZES = (4, 16)
_TOKEN_FACTORS = (0.25, 0.5, 1, 2)  # on the engine's own limit of padded cost units, for samples of several sizes
_MEASURING_SECONDS = 3.0  # doubled for the first two laps
_LAP_SECONDS = 0.08  # of one measurement: batches that take longer run once
_SLOW_BATCH_SECONDS = 1.0  # from which a batch is too slow to compare
_LAPS = (2, 8)  # minimum and maximum number
_HOPELESS_RATIOS = (float("inf"), 1.3, 1.15, 1.1)  # times the best, by number of laps: then dropped
_TOLERANCE = (0.005, 0.015)  # minimum and maximum relative difference that counts as noise


class Limits(NamedTuple):
    """The limits of a batch: samples, and padded cost units of several samples."""

    max_batch: int
    max_tokens: int

    @classmethod
    def of(cls, settings: EngineSettings) -> Limits:
        """The limits in an engine's settings."""
        return cls(settings.max_batch, settings.max_tokens)

    def shape(self, length: int, batch: int = 0) -> Shape:
        """The largest shape of that length; ``batch`` is the size that a graph fixes."""
        return Shape(batch or min(self.max_batch, max(1, self.max_tokens // length)), length)


@dataclass(frozen=True)
class LimitChoice:
    """Limits, and how they were found."""

    limits: Limits
    seconds: Mapping[Limits, float]
    """By limits that were measured, smallest first: seconds per cost unit, with batches on all streams."""
    why: str
    """The reason, as a clause without a full stop."""

    def words(self, unit: str) -> str:
        """The choice and the measurements in one line; ``unit`` is that of the costs."""
        name = "max_batch" if len({limits.max_tokens for limits in self.seconds}) < 2 else "max_tokens"
        found = ", ".join(f"{getattr(limits, name)}: {1 / s:,.4g}" for limits, s in self.seconds.items())
        chosen = getattr(self.limits, name)
        return f"{name} {chosen}, since {self.why}" + (f" ({found} {unit}/s)" if found else "")


def alternatives(own: Limits, costs: Integers, few: bool = False) -> list[Limits]:
    """The limits to try for samples of these ``costs``, int (n,): smallest first, and the engine's ``own`` among them.

    With ``few``, as when each must be compiled, only ``own`` for samples of several sizes. Of limits that give the same
    batches of `typical` lengths, only one is tried: the engine's own, or the largest.
    """
    largest = min(own)
    if costs.max() == 1:
        found = [Limits(size, own.max_tokens) for size in (_FEW_BATCH_SIZES if few else _BATCH_SIZES) if size < largest]
    elif few:
        found = []
    else:
        found = [Limits(own.max_batch, max(1, round(own.max_tokens * factor))) for factor in _TOKEN_FACTORS]
    lengths = typical(costs)
    by_shapes = {tuple(limits.shape(length) for length in lengths): limits for limits in (*found, own)}
    return sorted(set(by_shapes.values()))


def typical(costs: Integers) -> list[int]:
    """Lengths at a quarter and three quarters of the work, so each stands for half of it."""
    ordered = np.sort(costs)
    done = np.cumsum(ordered) / ordered.sum()
    return sorted({int(ordered[np.searchsorted(done, share)]) for share in (0.25, 0.75)})


def choose_limits(
    sut: SUT,
    own: Limits,
    tried: Sequence[Limits],
    lengths: Sequence[int],
    indices: Integers,
    on_batch: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> LimitChoice:
    """The smallest of the ``tried`` limits (smallest first) that is as fast as the best, within the noise.

    All streams run batches of these ``lengths`` at once, since throughput under full load counts; the limits take
    turns, so that other load on the machine does not affect only some of them. If there is no time for a comparison,
    ``own`` remains; if time runs out while larger batches are still faster, the next size is chosen. ``indices`` are
    loaded samples. ``on_batch()`` is called after each batch, on the stream's thread.
    """
    start = clock()
    bench = _Bench(sut, indices, on_batch, clock)
    shapes = {limits: [limits.shape(length) for length in lengths] for limits in tried}
    left = _warmed_up(bench, shapes)
    if len(left) < 2:
        return LimitChoice(own, {}, "a batch takes too long to compare several")
    cost: dict[Limits, list[float]] = {limits: [] for limits in left}
    for lap in range(_LAPS[1]):
        turn = sorted({shape for limits in left for shape in shapes[limits]}, reverse=bool(lap % 2))
        began = clock()
        took = {shape: bench.seconds_per_unit(shape) for shape in turn}
        for limits in left:
            cost[limits].append(float(np.mean([took[shape] for shape in shapes[limits]])))
        left = _hopeful(cost, left)
        few = lap + 1 < _LAPS[0]
        over = 2 * clock() - began - start > _MEASURING_SECONDS * (2 if few else 1)  # after another lap
        if over and few:
            return LimitChoice(own, {}, "a batch takes too long to compare several")
        if over or len(left) == 1:
            break
    seconds = {limits: _undisturbed(laps) for limits, laps in cost.items()}
    best = min(left, key=lambda limits: seconds[limits])
    chosen = next(limits for limits in left if _as_fast(cost[limits], cost[best]))
    if chosen == list(cost)[-1] and len(cost) < len(tried):
        # Each doubling gains less than the previous one, so the next size gains most of what is left.
        further = min(own, tried[len(cost)])
        return LimitChoice(further, seconds, "larger batches are faster, and even larger ones take too long to compare")
    why = "larger batches are not faster" if chosen != max(tried) else "it is the fastest"
    return LimitChoice(chosen, seconds, why)


def _warmed_up(bench: _Bench, shapes: Mapping[Limits, Sequence[Shape]]) -> list[Limits]:
    """Run each shape once, as warm-up: the limits, up to the first whose batches are too slow to compare."""
    ran: dict[Shape, float] = {}
    quick: list[Limits] = []
    for limits, each in shapes.items():
        for shape in each:
            # Smaller batches predict a slow one; the margin allows for a slow very first batch.
            expected = min((s * shape.batch / b.batch for b, s in ran.items() if b.length == shape.length), default=0)
            if quick and expected > 1.25 * _SLOW_BATCH_SECONDS:
                return quick
            if shape not in ran:
                ran[shape] = bench.once(shape)
        if quick and max(ran[shape] for shape in each) > _SLOW_BATCH_SECONDS:
            return quick
        quick.append(limits)
    return quick


def _hopeful(cost: Mapping[Limits, Sequence[float]], left: Sequence[Limits]) -> list[Limits]:
    """The limits that are not far behind the best; after fewer laps, they may be further behind."""
    best = min(_undisturbed(cost[limits]) for limits in left)
    behind = _HOPELESS_RATIOS[min(len(cost[left[0]]), len(_HOPELESS_RATIOS)) - 1]
    return [limits for limits in left if _undisturbed(cost[limits]) <= behind * best]


def _undisturbed(laps: Sequence[float]) -> float:
    """The mean of the faster half: other processes only ever slow a lap down."""
    return float(np.mean(_faster(laps)))


def _faster(laps: Sequence[float]) -> Floats:
    return np.sort(laps)[: (len(laps) + 1) // 2]


def _as_fast(one: Sequence[float], best: Sequence[float]) -> bool:
    """Whether one is no slower than the best, within the noise."""
    low, high = _TOLERANCE
    noise = [float(np.std(_faster(laps)) / _undisturbed(laps)) / len(_faster(laps)) ** 0.5 for laps in (one, best)]
    return _undisturbed(one) <= _undisturbed(best) * (1 + min(max(float(np.hypot(*noise)), low), high))


class _Bench:
    """Runs batches of one shape, as many at once as in a test."""

    def __init__(self, sut: SUT, indices: Integers, on_batch: Callable[[], None], clock: Callable[[], float]) -> None:
        self._sut, self._indices, self._on_batch, self._clock = sut, indices, on_batch, clock

    def once(self, shape: Shape) -> float:
        """Mean seconds for which a batch keeps a stream busy."""
        return float(self._run(shape, 0.0).mean())

    def seconds_per_unit(self, shape: Shape) -> float:
        """Seconds per cost unit, all streams together."""
        return float(self._run(shape, _LAP_SECONDS).mean()) / (shape.batch * shape.length * self._sut.engine.parallel)

    def _run(self, shape: Shape, minimum: float) -> Floats:
        """How long each batch kept a stream busy; each thread runs batches for at least ``minimum`` seconds."""
        batch, engine = full_batch(self._sut, shape, self._indices), self._sut.engine
        start = Barrier(engine.in_flight)

        def run(_: int) -> list[tuple[float, float]]:
            start.wait()
            first, ran = self._clock(), list[tuple[float, float]]()
            while not ran or ran[-1][1] - first < minimum:
                began = self._clock()
                self._sut.answer(batch, shape)
                ran.append((began, self._clock()))
                self._on_batch()
            return ran

        with ThreadPoolExecutor(engine.in_flight, thread_name_prefix="stream") as pool:
            began, ended = np.array(list(chain.from_iterable(pool.map(run, range(engine.in_flight))))).T
        return np.maximum(stream_seconds(began, ended, engine.parallel), 1e-9)
