"""Server: samples arrive one by one at random; the metric is how many per second still meet the latency bound."""

import math
from dataclasses import replace
from typing import ClassVar

import numpy as np

from harness.loadgen.logs import Detail
from harness.rules.early_stopping import needed_queries
from harness.scenarios.base import MAX_DEVELOPMENT_SECONDS, Estimate, Listener, Metric, RunShortTest, ShortTest, Trial
from harness.scenarios.measured import MeasuredScenario
from harness.scheduling.base import Complete, Observer, Scheduler
from harness.scheduling.cost import measure_shapes, probes
from harness.scheduling.peak import highest_passing
from harness.scheduling.pilot import late_queries
from harness.scheduling.server import ServerScheduler
from harness.scheduling.simulate import server_peak
from harness.task.shape import Integers
from harness.terminal.progress import working

_MAX_QUERIES_PER_NS = 30.0  # with more, LoadGen's gaps are then 0
_LATE_QUERIES = ((20, 120.0), (10, 300.0), (3, math.inf))
"""Late queries that a test makes room for, if it then takes no more than these seconds."""
_SHARE_OF_SIMULATED_PEAK = 0.5  # a few seconds of measuring do not show every hiccup of a machine
_PILOT_SECONDS = (5.0, 20.0)  # of checking a rate, minimum and maximum
_PILOT_QUERIES = (150, 20)  # wanted if time allows, and the minimum to show anything
_MAX_LATE_SHARE = 0.003  # of a pilot's queries, plus one query
_PILOT_FACTOR, _MAX_PILOTS = 0.7, 5  # factor on a rate that does not hold; maximum number of pilots
_MAX_RATE = 15_000.0  # queries/s: half of what LoadGen, Python and the scheduler handle if nothing computes
_SHARE_OF_SINGLE_RATE = 0.4  # of the streams' rate with single samples, used if the simulation finds no rate
_MAX_SHARE_OF_BOUND = 0.8  # for a single sample, however many streams there are
_PRECISION, _TESTS = 0.08, 7  # of a trial: it only compares settings; the rate of the best is searched for afterwards


class Server(MeasuredScenario):
    """Dynamic batching that respects the latency bound."""

    name: ClassVar[str] = "Server"
    key: ClassVar[str] = "target_qps"
    paced: ClassVar[bool] = True
    score_unit: ClassVar[str] = "queries/s within the bound"
    result_key: ClassVar[str] = "result_completed_samples_per_sec"
    summary_names: ClassVar[tuple[str, ...]] = ("Completed samples per second",)
    percentile: ClassVar[int] = 99
    samples_per_query: ClassVar[int] = 1
    query_bytes: ClassVar[int] = 350
    suffers: ClassVar[str] = "latencies are worse than this machine can do"

    @classmethod
    def generated(cls, value: float, seconds: float) -> float:
        """Arrivals with exponential gaps, each cut to whole nanoseconds."""
        per_ns = value * 1e-9
        return seconds * 1e9 * math.expm1(per_ns) if per_ns < _MAX_QUERIES_PER_NS else math.inf

    @classmethod
    def expected(cls, value: float) -> float:
        """The rate of arrivals."""
        return value

    @classmethod
    def enough(cls, per_second: float, longest: float = MAX_DEVELOPMENT_SECONDS) -> tuple[int, int]:
        """With more queries, more of them may be late: three if the run allows it, up to twenty if that is still short.

        On a shared machine of two cores, 2 to 5 of a thousand queries were late at half the rate that the simulation
        found, several at a time. With more queries, the late share is less likely to exceed what LoadGen allows.
        """

        def fits(late: int) -> bool:
            seconds = min(longest, next(seconds for count, seconds in reversed(_LATE_QUERIES) if late <= count))
            return needed_queries(cls.percentile, late) <= seconds * per_second

        late = max(filter(fits, range(_LATE_QUERIES[0][0] + 1)), default=0)
        return needed_queries(cls.percentile, late), late

    @property
    def limit(self) -> float:
        """Half the bound: before a batch runs, its samples may have waited for another one."""
        return self.bound / 2

    def slowness(self, indices: Integers, listener: Listener) -> tuple[float, str]:
        """By the longest sample, alone in its batch, on all streams at once: the rest of the bound is for waiting.

        The more streams, the less a query waits. With c streams, 2/c service times are left for waiting; by
        `scheduling.simulate` with constant service times, the 99th percentile of the wait stays below that up to 35 %
        of the streams' rate with 2 and 4 streams, 45 % with 8, and 60 % with 16, where the limit of 80 % holds.
        """
        shape = probes(self.sut, self.costs, 1)[0]
        if self.sut.engine.fixed_shapes:
            self._compile(shape, listener, self._budget())
        streams = self.sut.engine.parallel
        seconds = float(np.median(measure_shapes(self.sut, [shape], indices, listener.ran)[shape]))
        share = min(_MAX_SHARE_OF_BOUND, streams / (streams + 2))
        number = f"{streams} stream{'s' if streams > 1 else ''}"
        what = "the longest sample" if shape.length > 1 else "a sample"
        words = (
            f"with {number}, {what} takes {1000 * seconds:.3g} ms, and {share:.0%} of the bound is "
            f"{1000 * share * self.bound:.3g} ms"
        )
        return seconds / (share * self.bound), words

    def peak(self, indices: Integers) -> float:
        """The rate that the queue simulation finds."""
        costs = self.sut.qsl.cost(indices)
        return server_peak(self.table, costs, self.sut.engine.parallel, self.bound, self.jitter)

    def estimate(self, indices: Integers, seconds: float, listener: Listener) -> Estimate:
        """A cautious rate that held in a pilot of some seconds: finding the highest VALID rate takes a search."""
        peak = self.peak(indices)
        found = self._cautious(indices, peak)
        return self._piloted(found, indices, seconds, listener) if peak and self.warm_up.pilots else found

    def fastest(self, indices: Integers, listener: Listener) -> Estimate:
        """The rate of all streams with their best batches: the latencies of an accuracy run do not count."""
        cost = int(np.mean(self.sut.qsl.cost(indices)))
        alone = (self.table.seconds(count, cost) / count for count in range(1, self.table.max_batch + 1))
        rate = min(self.sut.engine.parallel / min(alone), _MAX_RATE)
        return Estimate(rate, "the streams' rate by the measured batch times", rate)

    def pace(self, indices: Integers, found: Estimate) -> float:
        """Samples per second, each alone in its batch."""
        return self.sut.engine.parallel / self._alone(indices)

    def _alone(self, indices: Integers) -> float:
        """Mean seconds of a sample that is alone in its batch."""
        return float(np.mean([self.table.seconds(1, cost) for cost in self.sut.qsl.cost(indices).tolist()]))

    def _cautious(self, indices: Integers, peak: float) -> Estimate:
        """A cautious fraction of the simulated peak, or of the rate with single samples if there is no peak."""
        milliseconds, remark = self.bound * 1000, ""
        if self.use and self.use.disturbed:
            remark = f"{self.use.words} while batches were measured: the rate is lower than this machine can do"
        if peak:
            rate = min(_SHARE_OF_SIMULATED_PEAK * peak, _MAX_RATE)
            how = (
                f"{_SHARE_OF_SIMULATED_PEAK:.0%} of the {peak:.4g} queries/s that a queue simulation with the "
                f"measured batch times answers within {milliseconds:g} ms"
            )
            return Estimate(rate, how, rate, remark)
        alone = self._alone(indices)
        rate = _SHARE_OF_SINGLE_RATE * self.sut.engine.parallel / alone
        how = (
            f"{_SHARE_OF_SINGLE_RATE:.0%} of the engine's rate with single samples; one takes {1000 * alone:.3g} ms, "
            f"so no rate seems to meet the bound of {milliseconds:g} ms"
        )
        return Estimate(rate, how, rate, remark)

    def _piloted(self, found: Estimate, indices: Integers, seconds: float, listener: Listener) -> Estimate:
        """The estimate ``found``, or a lower rate if too many queries are late at it."""
        rate, tried, held = found.value, list[str](), False
        for _ in range(_MAX_PILOTS):
            queries = _pilot_queries(rate, seconds)
            if queries < _PILOT_QUERIES[1]:
                held = True  # too few queries to find out
                break
            allowed = int(1 + _MAX_LATE_SHARE * queries)
            with working(f"checking {rate:.4g} queries/s with {queries:,} queries"):
                late = late_queries(self.scheduler, indices, rate, queries, allowed, listener.ran)
            if held := late <= allowed:
                break
            tried.append(f"{rate:.4g}")
            rate *= _PILOT_FACTOR
        words = f", and less since too many were late at {' and '.join(tried)}" if tried else ""
        remark = found.remark if held else f"too many queries were late at {tried[-1]} queries/s and all higher rates"
        return replace(found, value=rate, how=found.how + words, per_second=rate, remark=remark)

    def lower(self, indices: Integers, reached: float) -> float | None:
        """The first rate of `estimate`, from the peak, or from ``reached`` if that is lower; None without a peak."""
        peak = self.peak(indices)
        return _SHARE_OF_SIMULATED_PEAK * min(peak, reached or peak) if peak else None

    def meets_bound(self, detail: Detail) -> bool:
        """Whether 99 % of a test's queries were answered within the bound.

        LoadGen's own verdict adds early stopping, which needs more queries than a short test has.
        """
        return detail.latencies["99.00"] <= self.bound * 1000

    def trial(self, indices: Integers, seconds: float, test: RunShortTest, listener: Listener) -> Trial:
        """The highest rate that meets the bound, from a few tests; the simulation provides the initial rate."""

        def holds(rate: float) -> bool:
            return self.meets_bound(test(ShortTest(rate=rate, seconds=seconds)))

        guess = self._cautious(indices, self.peak(indices)).value
        rate = highest_passing(holds, guess, _PRECISION, max_tests=_TESTS, retest=True)
        return Trial(rate, rate)

    def scheduler(self, complete: Complete, observer: Observer | None = None) -> Scheduler:
        """The scheduler with its threads."""
        return ServerScheduler(self.sut, self.table, self.bound, complete, observer)

    @classmethod
    def metric(cls, detail: Detail) -> Metric:
        """Completed samples per second."""
        return Metric("throughput", detail.values.get(cls.result_key), "samples/s")

    @classmethod
    def correction(cls, detail: Detail) -> float | None:
        """None: the log does not show which rate would have been VALID."""
        return None


def _pilot_queries(rate: float, seconds: float) -> int:
    """The queries of a pilot at ``rate`` per second, which is no longer than a test of ``seconds``."""
    minimum, maximum = _PILOT_SECONDS
    return round(rate * min(maximum, max(minimum, _PILOT_QUERIES[0] / rate), seconds))
