"""Offline: all samples in one query; the metric is samples per second."""

import time
from typing import ClassVar

import numpy as np

from harness.loadgen.logs import Detail
from harness.rules.limits import MIN_DURATION_MS
from harness.scenarios.base import Listener, Metric, Scenario, ShortTest, Trial
from harness.scheduling.base import Complete, Observer
from harness.scheduling.batching import DynamicPlanner, FixedPlanner, Planner, best_lengths
from harness.scheduling.offline import OfflineScheduler, measure_rate
from harness.task.shape import Integers, Shape
from harness.task.sut import SUT

_MEASURING = 4.0  # seconds of measuring before a test; before a short one half its length, but at least two
_LARGEST = 1e6  # maximum samples of a query planned for measuring: more would hardly fill batches better
MARGIN = 1.15
"""target_qps ÷ measured samples/s. LoadGen adds 10 % itself; this allows for a machine that gets faster in the run."""
_CAUTION = 1.3
"""The same for a test of ten minutes: more can change in that time, and repeating a short test costs more."""


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

    def estimate(self, indices: Integers, seconds: float, listener: Listener) -> tuple[float, str]:
        """Samples/s of a query as large as the test's, plus a margin."""
        rate = self._rate(indices, seconds, min(_MEASURING, max(2.0, seconds / 2)), listener)
        margin = _CAUTION if seconds >= MIN_DURATION_MS / 1000 else MARGIN
        return rate * margin, f"{rate:.4g} samples/s measured, with a margin so that the run is long enough"

    def trial(self, indices: Integers, seconds: float, test: ShortTest, listener: Listener) -> Trial:
        """Samples/s of an official run's query."""
        rate = self._rate(indices, MIN_DURATION_MS / 1000, seconds, listener)
        return Trial(rate, rate * MARGIN)

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

    def _rate(self, indices: Integers, test: float, seconds: float, listener: Listener) -> float:
        """Samples/s, measured for ``seconds``, of a query that takes ``test`` seconds."""

        def rate(query: Integers, seconds: float) -> float:
            return measure_rate(self.sut, self.planner, query, seconds, listener.ran)

        query, found, before = indices, rate(indices, 0.5), 0.0
        # A faster machine gets a larger query, and a larger query fills its batches better.
        while found > 1.1 * before and len(query) < _LARGEST:
            query = np.tile(indices, int(min(found * test, _LARGEST) // len(indices) + 1))
            found, before = rate(query, 0.5), found
        return rate(query, seconds)


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
