"""Offline: all samples in one query; the metric is samples per second."""

import time
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from harness.host.usage import CoreMeter
from harness.loadgen.logs import Detail
from harness.rules.limits import MIN_DURATION_MS
from harness.scenarios.base import FULL_WARM_UP, Estimate, Listener, Metric, RunShortTest, Scenario, Trial, WarmUp
from harness.scheduling.base import Complete, Observer, Scheduler
from harness.scheduling.batching import DynamicPlanner, FixedPlanner, Planner, best_lengths
from harness.scheduling.compiling import CompileBudget, next_length
from harness.scheduling.limits import LimitChoice, Limits, alternatives, choose_limits, typical
from harness.scheduling.offline import MeasuredRate, OfflineScheduler, expected_seconds, measure_rate
from harness.task.shape import Integers, Shape
from harness.task.sut import SUT
from harness.terminal import console

_MEASURING_SECONDS = (2.0, 4.0, 20.0)  # of measuring: minimum, usual, and before a test of ten minutes
_ROUGHLY_SECONDS = 0.5  # of measuring a rate that only divides work
_MAX_PLANNED_SAMPLES = 1e6  # of a query planned for measuring: more would hardly fill batches better
_COMPILING_SECONDS = 20.0  # that may be spent on compiling other batch sizes, to compare them
_WARM, _QUICK = 4, 0.3  # shapes to warm up if any shape is possible; seconds up to which a batch is timed again
MARGIN = 1.15
"""target_qps ÷ measured samples/s. LoadGen itself adds 10 %; this allows for a machine that gets faster in the run."""
_LONG_MARGIN = 1.02
"""The same for a test of ten minutes, in which short speed changes cancel out, after measuring for longer."""
_MAX_MARGIN = 3.0  # with more, the run would take too long if the machine does not get faster


class Offline(Scenario):
    """Plans batches over the entire query, which keeps padding small."""

    name: ClassVar[str] = "Offline"
    key: ClassVar[str] = "target_qps"
    one_query: ClassVar[bool] = True
    score_unit: ClassVar[str] = "samples/s"
    result_key: ClassVar[str] = "result_samples_per_second"
    summary_names: ClassVar[tuple[str, ...]] = ("Samples per second",)
    query_bytes: ClassVar[int] = 200

    def __init__(self, sut: SUT, costs: Integers, max_cost: int, bound: float, warm_up: WarmUp = FULL_WARM_UP) -> None:
        super().__init__(sut, costs, max_cost, bound, warm_up)
        self._took: dict[Shape, float] = {}
        """Seconds of a batch by shape, as measured in the warm-up."""
        self._plan(Limits.of(sut.engine.settings))

    @classmethod
    def generated(cls, value: float, seconds: float) -> float:
        """The samples of the only query, including LoadGen's own 10 %."""
        return 1.1 * value * seconds

    @classmethod
    def expected(cls, value: float) -> float:
        """The rate itself."""
        return value

    def get_ready(self, indices: Integers, listener: Listener) -> float:
        """Choose the batch limits, and run a batch of every shape, or of a few of the plan if any shape is possible."""
        budget = self._budget(len(np.unique(self.costs)))
        if self._compiles_lengths:
            self._compile_lengths(budget, listener)
        elif self.sut.engine.fixed_shapes:
            for shape in self.shapes:
                self._compile(shape, listener, budget)
        if limits := self._limits(budget, indices, listener):
            self.sut.engine.settings = self.sut.engine.settings.model_copy(update=limits._asdict())
            self._plan(limits)
        first, self._took = {}, {}
        batches = {batch.shape: batch for batch in reversed(self.planner.plan(self.sut.qsl.cost(indices)))}
        for shape in self._warm_up_shapes(sorted(batches, key=lambda shape: -shape.length)):
            samples = indices[batches[shape].positions]
            self._took[shape] = first[shape] = self._once(samples, shape, listener)
            if first[shape] < _QUICK:  # the first run may be slow, and other processes may slow any
                again = (self._once(samples, shape, listener) for _ in range(2))
                self._took[shape] = min(first[shape], *again)
        return max(first.values())

    def _warm_up_shapes(self, shapes: Sequence[Shape]) -> Sequence[Shape]:
        """All compiled shapes, or if any shape is possible, the longest and others spread over the plan."""
        if self.sut.engine.fixed_shapes or len(shapes) <= _WARM:
            return shapes
        return [shapes[at] for at in np.linspace(0, len(shapes) - 1, _WARM).astype(int)]

    def _once(self, samples: Integers, shape: Shape, listener: Listener) -> float:
        """Seconds of a batch."""
        start = time.perf_counter()
        self.sut.answer(samples, shape)
        listener.ran()
        return time.perf_counter() - start

    @property
    def _compiles_lengths(self) -> bool:
        return self.sut.engine.fixed_shapes and not self.sut.static.length

    def _plan(self, limits: Limits, lengths: Sequence[int] = ()) -> None:
        self.planner = make_planner(self.sut, self.costs, self.max_cost, limits, lengths)
        self.shapes = self.planner.shapes

    def _compile_lengths(self, budget: CompileBudget, listener: Listener) -> None:
        """Compile the most useful lengths, as many as the budget allows."""
        limits, lengths = Limits.of(self.sut.engine.settings), list[int]()
        while (length := next_length(self.costs, lengths, budget.shapes)) is not None:
            self._compile(limits.shape(length, self.sut.static.batch), listener, budget)
            lengths.append(length)
        self._plan(limits, lengths)

    def _limits(self, budget: CompileBudget, indices: Integers, listener: Listener) -> Limits | None:
        """The batch limits of the repeated run, or the best by measurement; None to keep the engine's own.

        They are kept if the user or the graph fixes them, if the engine computes nothing, so that no batch is best, and
        if compiling other batches of several lengths would take too long.
        """
        engine, static = self.sut.engine, self.sut.static
        given = static.batch or engine.settings.model_fields_set & set(Limits._fields)
        if given or not engine.computes or (engine.fixed_shapes and len(self.shapes) > 1):
            return None
        own, costs = Limits.of(engine.settings), np.full(1, static.length) if static.length else self.costs
        reused = self.warm_up.limits
        tried = [reused] if reused else alternatives(own, costs, few=engine.fixed_shapes)
        if engine.fixed_shapes and not self._compiled(tried, budget, listener):
            self.choice = LimitChoice(own, {}, "other batches take too long to compile")
        elif reused:
            self.choice = LimitChoice(reused, {}, "another run of this result used it")
        elif len(tried) > 1:
            self.choice = choose_limits(self.sut, own, tried, typical(costs), indices, listener.ran)
        return self.choice.limits if self.choice else None

    def _compiled(self, tried: Sequence[Limits], budget: CompileBudget, listener: Listener) -> bool:
        """Compile the shape of each of the limits; False if that would take too long for a comparison."""
        shapes = [limits.shape(self.shapes[0].length) for limits in tried]
        missing = [shape for shape in shapes if shape not in self.sut.prepared]
        if budget.mean * len(missing) > _COMPILING_SECONDS and not self.warm_up.limits:
            return False
        for shape in missing:
            self._compile(shape, listener, budget)
        return True

    def estimate(self, indices: Integers, seconds: float, listener: Listener) -> Estimate:
        """Samples/s of a query as large as the test's, plus a margin for the speed that the machine may still reach."""
        minimum, usual, maximum = _MEASURING_SECONDS
        long = seconds >= MIN_DURATION_MS / 1000
        with CoreMeter() as meter:
            rate = self._rate(indices, seconds, maximum if long else min(usual, max(minimum, seconds / 2)), listener)
        use = meter.use
        margin = margin_for(rate.fastest / rate.mean, use.gain if use else 1.0, long=long)
        remark = ""
        if use and use.disturbed:
            remark = (
                f"{use.words} while the rate was measured: the query is large enough for a machine without that load, "
                f"so the run may take up to {console.duration(self.generated(margin, seconds))}"
            )
        how = f"{rate.mean:.4g} samples/s measured, times {margin:.2f} so that the run is long enough"
        return Estimate(rate.mean * margin, how, rate.mean, remark)

    def fastest(self, indices: Integers, listener: Listener) -> Estimate:
        """A rough rate: the query of an accuracy run has all samples, whatever the rate is."""
        rate = measure_rate(self.sut, self.planner, indices, _ROUGHLY_SECONDS, listener.ran).mean
        return Estimate(rate, f"{rate:.4g} samples/s measured roughly", rate)

    def trial(self, indices: Integers, seconds: float, test: RunShortTest, listener: Listener) -> Trial:
        """Samples/s of an official run's query."""
        rate = self._rate(indices, MIN_DURATION_MS / 1000, seconds, listener)
        # Short runs also use the value. It is saved, so the present load of other processes must not raise it.
        return Trial(rate.mean, rate.mean * margin_for(rate.fastest / rate.mean, 1.0, long=False))

    def scheduler(self, complete: Complete, observer: Observer | None = None) -> Scheduler:
        """The scheduler with its threads."""
        scheduler = OfflineScheduler(self.sut, self.planner, complete, observer)
        if self._took:
            scheduler.expected = expected_seconds(self._took)
        return scheduler

    @classmethod
    def metric(cls, detail: Detail) -> Metric:
        """Samples per second."""
        return Metric("throughput", detail.values.get(cls.result_key), "samples/s")

    @classmethod
    def correction(cls, detail: Detail) -> float | None:
        """The rate of the test, plus a margin."""
        rate = cls.metric(detail).value
        return rate * MARGIN if rate else None

    def _rate(self, indices: Integers, test: float, seconds: float, listener: Listener) -> MeasuredRate:
        """Samples/s, measured for ``seconds``, of a query that takes ``test`` seconds."""

        def rate(query: Integers, seconds: float) -> MeasuredRate:
            return measure_rate(self.sut, self.planner, query, seconds, listener.ran)

        query, found, before = indices, rate(indices, 0.5).mean, 0.0
        # A faster machine gets a larger query, and a larger query fills its batches better.
        while found > 1.1 * before and len(query) < _MAX_PLANNED_SAMPLES:
            query = np.tile(indices, int(min(found * test, _MAX_PLANNED_SAMPLES) // len(indices) + 1))
            found, before = rate(query, 0.5).mean, found
        return rate(query, seconds)


def margin_for(spread: float, gain: float, *, long: bool) -> float:
    """target_qps ÷ measured samples/s, so that a test does not end before its minimum duration.

    ``spread`` is the fastest ÷ the mean measured rate, ``gain`` the largest factor by which the machine would be faster
    without other load; ``long`` means a test of ten minutes.
    """
    base = _LONG_MARGIN if long else MARGIN
    return min(_MAX_MARGIN, max(base, spread, base * gain))


def make_planner(sut: SUT, costs: Integers, max_cost: int, limits: Limits, lengths: Sequence[int] = ()) -> Planner:
    """The planner for the engine and the graph: exact shapes, a few compiled ones, or the one that the graph fixes.

    ``lengths`` are the compiled ones; by default the best for ``costs``.
    """
    batch, length = sut.static
    if length:
        return FixedPlanner([length], *limits, batch or None)
    if sut.engine.fixed_shapes:
        return FixedPlanner(lengths or best_lengths(costs, sut.engine.shape_budget), *limits, batch or None)
    if batch:
        return FixedPlanner(best_lengths(costs, max_cost), batch, limits.max_tokens, batch)
    return DynamicPlanner(*limits)
