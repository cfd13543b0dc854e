"""Offline: all samples in one query; the metric is samples per second."""

import time
from typing import ClassVar

import numpy as np

from harness.host import console
from harness.host.usage import CoreMeter
from harness.loadgen.logs import Detail
from harness.rules.limits import MIN_DURATION_MS
from harness.scenarios.base import Estimate, Listener, Metric, Scenario, ShortTest, Trial
from harness.scheduling.base import Complete, Observer
from harness.scheduling.batching import DynamicPlanner, FixedPlanner, Planner, best_lengths
from harness.scheduling.offline import OfflineScheduler, Rate, measure_rate
from harness.task.shape import Integers, Shape
from harness.task.sut import SUT

_MEASURING = (2.0, 4.0, 10.0)  # seconds of measuring: minimum, before most tests, and before one of ten minutes
_LARGEST = 1e6  # maximum samples of a query planned for measuring: more would hardly fill batches better
MARGIN = 1.15
"""target_qps ÷ measured samples/s. LoadGen adds 10 % itself; this allows for a machine that gets faster in the run."""
_LONG_MARGIN = 1.02
"""The same for a test of ten minutes, in which short changes of speed cancel out."""
_MOST = 3.0  # the largest margin: a longer run would take too long if the machine does not get faster


class Offline(Scenario):
    """Plans batches over the entire query, which keeps padding small."""

    name: ClassVar[str] = "Offline"
    key: ClassVar[str] = "target_qps"
    one_query: ClassVar[bool] = True
    score: ClassVar[str] = "samples/s"
    result: ClassVar[str] = "result_samples_per_second"
    summary: ClassVar[tuple[str, ...]] = ("Samples per second",)
    query_bytes: ClassVar[int] = 200

    def __init__(self, sut: SUT, costs: Integers, max_cost: int, bound: float) -> None:
        super().__init__(sut, costs, max_cost, bound)
        self.planner = make_planner(sut, costs, max_cost)
        self.shapes = self.planner.shapes

    @classmethod
    def generated(cls, value: float, seconds: float) -> float:
        """The samples of the only query, with LoadGen's own 10 %."""
        return 1.1 * value * seconds

    @classmethod
    def expected(cls, value: float) -> float:
        """The rate itself."""
        return value

    def get_ready(self, indices: Integers, listener: Listener) -> float:
        """Run one batch of every shape, or of the first four if any shape is possible."""
        if self.sut.engine.fixed_shapes:
            self._compile(self.shapes, listener, len(self.shapes))
        slowest, seen = 0.0, set[Shape]()
        for batch in self.planner.plan(self.sut.qsl.cost(indices)):
            if batch.shape in seen or (not self.sut.engine.fixed_shapes and len(seen) >= 4):
                continue
            seen.add(batch.shape)
            start = time.perf_counter()
            self.sut.answer(indices[batch.positions], batch.shape)
            slowest = max(slowest, time.perf_counter() - start)
            listener.ran()
        return slowest

    def estimate(self, indices: Integers, seconds: float, listener: Listener) -> Estimate:
        """Samples/s of a query as large as the test's, plus a margin for the speed that the machine may yet reach."""
        least, usual, most = _MEASURING
        long = seconds >= MIN_DURATION_MS / 1000
        with CoreMeter() as meter:
            rate = self._rate(indices, seconds, most if long else min(usual, max(least, seconds / 2)), listener)
        use = meter.use
        margin = margin_for(rate.fastest / rate.mean, use.gain if use else 1.0, long=long)
        remark = ""
        if use and use.disturbed:
            remark = (
                f"{use.words} while the rate was measured: the query is made large enough for a machine without them, "
                f"so the run may take up to {console.duration(self.generated(margin, seconds))}"
            )
        how = f"{rate.mean:.4g} samples/s measured, times {margin:.2f} so that the run is long enough"
        return Estimate(rate.mean * margin, how, rate.mean, remark)

    def trial(self, indices: Integers, seconds: float, test: ShortTest, listener: Listener) -> Trial:
        """Samples/s of an official run's query."""
        with CoreMeter() as meter:
            rate = self._rate(indices, MIN_DURATION_MS / 1000, seconds, listener)
        gain = meter.use.gain if meter.use else 1.0
        return Trial(rate.mean, rate.mean * margin_for(rate.fastest / rate.mean, gain, long=True))

    def scheduler(self, complete: Complete, observer: Observer | None = None) -> OfflineScheduler:
        """The scheduler with its threads."""
        return OfflineScheduler(self.sut, self.planner, complete, observer)

    @classmethod
    def metric(cls, detail: Detail) -> Metric:
        """Samples per second."""
        return Metric("throughput", detail.values.get(cls.result), "samples/s")

    @classmethod
    def correction(cls, detail: Detail) -> float | None:
        """The rate of the test, plus a margin."""
        rate = cls.metric(detail).value
        return rate * MARGIN if rate else None

    def _rate(self, indices: Integers, test: float, seconds: float, listener: Listener) -> Rate:
        """Samples/s, measured for ``seconds``, of a query that takes ``test`` seconds."""

        def rate(query: Integers, seconds: float) -> Rate:
            return measure_rate(self.sut, self.planner, query, seconds, listener.ran)

        query, found, before = indices, rate(indices, 0.5).mean, 0.0
        # A faster machine gets a larger query, and a larger query fills its batches better.
        while found > 1.1 * before and len(query) < _LARGEST:
            query = np.tile(indices, int(min(found * test, _LARGEST) // len(indices) + 1))
            found, before = rate(query, 0.5).mean, found
        return rate(query, seconds)


def margin_for(spread: float, gain: float, *, long: bool) -> float:
    """target_qps ÷ measured samples/s, so that a test does not end before its minimum duration.

    ``spread`` is the fastest ÷ the mean rate while it was measured, ``gain`` the most by which a machine without
    neighbours would be faster; ``long`` is a test of ten minutes.
    """
    base = _LONG_MARGIN if long else MARGIN
    return min(_MOST, max(base, spread, base * gain))


def make_planner(sut: SUT, costs: Integers, max_cost: int) -> Planner:
    """The planner for the engine and the graph: exact shapes, a few compiled ones, or the one that the graph fixes."""
    settings = sut.engine.settings
    batch, length = sut.static
    if length:
        return FixedPlanner([length], settings.max_batch, settings.max_tokens, batch or None)
    if sut.engine.fixed_shapes:
        return FixedPlanner(best_lengths(costs, sut.engine.shape_budget), settings.max_batch, settings.max_tokens)
    if batch:
        return FixedPlanner(best_lengths(costs, max_cost), batch, settings.max_tokens, batch)
    return DynamicPlanner(settings.max_batch, settings.max_tokens)
