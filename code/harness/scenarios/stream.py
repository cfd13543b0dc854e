"""SingleStream and MultiStream: one query after the other; the metric is a percentile of the latency."""

import math
import time
from typing import ClassVar

import numpy as np

from harness.host.usage import CoreMeter
from harness.loadgen.logs import Detail
from harness.rules.early_stopping import needed_queries
from harness.scenarios.base import MAX_DEVELOPMENT_SECONDS, Estimate, Listener, Metric, RunShortTest, ShortTest, Trial
from harness.scenarios.measured import MeasuredScenario
from harness.scheduling.base import Complete, Observer
from harness.scheduling.stream import StreamScheduler
from harness.task.shape import Integers

_QUERIES, _MAX_QUERIES = 16, 1000  # minimum and maximum, answered for an estimate
_MEASURING_SECONDS = 0.1  # enough to measure a latency
_MIN_QUERIES = 32  # of a trial, however slow they are
MARGIN = 0.7
"""target_latency ÷ measured latency: LoadGen prepares twice the queries that fit at that latency, and a machine that
gets faster must not run out of them."""


class _StreamScenario(MeasuredScenario):
    key: ClassVar[str] = "target_latency"
    score_unit: ClassVar[str] = "samples/s at the percentile"
    latency: ClassVar[bool] = True
    percentile: ClassVar[int]
    samples_per_query: ClassVar[int]

    @classmethod
    def expected(cls, value: float) -> float:
        """Queries/s, one after the other."""
        return 1000 / value

    @classmethod
    def enough(cls, per_second: float, longest: float = MAX_DEVELOPMENT_SECONDS) -> tuple[int, int]:
        """LoadGen's estimate of the percentile discards at least one query."""
        return needed_queries(cls.percentile, 1), 1

    @classmethod
    def generated(cls, value: float, seconds: float) -> float:
        """Twice the queries that fit if each takes ``value`` milliseconds."""
        nanoseconds = math.floor(value * 1e6)
        return 2e9 * seconds / nanoseconds if nanoseconds else math.inf

    def estimate(self, indices: Integers, seconds: float, listener: Listener) -> Estimate:
        """Milliseconds per query, from a few that are answered as in the test.

        LoadGen ends such a test by its duration, so queries that it prepared for a faster machine do not prolong it.
        """
        with CoreMeter() as meter:
            latency = self._latency(indices, listener)
        value = latency * MARGIN / max((use.gain for use in (self.use, meter.use) if use), default=1.0)
        how = f"{latency:.4g} ms measured, times {value / latency:.2f} so that the run is long enough"
        return Estimate(value, how, 1000 / latency)

    def trial(self, indices: Integers, seconds: float, test: RunShortTest, listener: Listener) -> Trial:
        """Samples/s if each query took the latency of the percentile."""
        expected = self._latency(indices, listener)
        queries = max(_MIN_QUERIES, int(1000 * seconds / expected))
        detail = test(ShortTest(latency=expected * MARGIN, queries=queries, max_queries=queries))
        return Trial(
            1000 * self.samples_per_query / detail.latencies[f"{self.percentile}.00"],
            self.correction(detail) or expected,
        )

    def _latency(self, indices: Integers, listener: Listener) -> float:
        """Mean milliseconds of 16 queries, or more until a tenth of a second has passed: the first may be slow."""
        scheduler = self.scheduler(lambda ids, responses: listener.ran())
        rng = np.random.default_rng(0)
        took: list[float] = []
        while len(took) < _QUERIES or (sum(took) < _MEASURING_SECONDS and len(took) < _MAX_QUERIES):
            query = rng.choice(indices, self.samples_per_query).tolist()
            start = time.perf_counter()
            scheduler.issue(list(range(self.samples_per_query)), query)
            took.append(time.perf_counter() - start)
        scheduler.close()
        if scheduler.failure:
            raise scheduler.failure
        return float(np.mean(took)) * 1000

    def scheduler(self, complete: Complete, observer: Observer | None = None) -> StreamScheduler:
        """The scheduler; LoadGen's own thread does the work."""
        return StreamScheduler(self.sut, self.table, complete, observer)

    @classmethod
    def metric(cls, detail: Detail) -> Metric:
        """LoadGen's early-stopping estimate of the percentile, or the observed one if there are too few queries."""
        name, estimate = f"{cls.percentile}th percentile latency", detail.values.get(cls.result_key)
        if estimate:
            return Metric(name, estimate / 1e6, "ms")
        return Metric(f"{name}, observed", detail.latencies.get(f"{cls.percentile}.00"), "ms")

    @classmethod
    def correction(cls, detail: Detail) -> float | None:
        """The mean latency of the test, with a margin."""
        mean = detail.values.get("result_mean_query_latency_ns") or detail.values.get("result_mean_latency_ns")
        return mean / 1e6 * MARGIN if mean else None


class SingleStream(_StreamScenario):
    """One sample per query."""

    name: ClassVar[str] = "SingleStream"
    one_stream: ClassVar[bool] = True
    query_bytes: ClassVar[int] = 350
    percentile: ClassVar[int] = 90
    samples_per_query: ClassVar[int] = 1
    result_key: ClassVar[str] = "early_stopping_latency_ss"
    summary_names: ClassVar[tuple[str, ...]] = tuple(
        f"* Early stopping {each} percentile estimate" for each in ("90.0th", "90th", "99.9th")
    )
    short_ns: ClassVar[int] = 200_000


class MultiStream(_StreamScenario):
    """Eight samples per query."""

    name: ClassVar[str] = "MultiStream"
    query_bytes: ClassVar[int] = 650
    percentile: ClassVar[int] = 99
    samples_per_query: ClassVar[int] = 8
    result_key: ClassVar[str] = "early_stopping_latency_ms"
    summary_names: ClassVar[tuple[str, ...]] = tuple(
        f"* Early stopping {each} percentile estimate" for each in ("99.0th", "99th")
    )
    short_ns: ClassVar[int] = 1_600_000
