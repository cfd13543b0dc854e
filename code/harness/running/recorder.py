"""Records the batches, queries and core use of a test, as bytes while LoadGen's clock runs.

An append takes about a microsecond (`python -m benchmarks.recording`). Only afterwards are the bytes converted to
timeline.npz, whose size does not grow with the test: sums and quantiles over everything, and an even choice of rows.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from struct import Struct
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from harness.host.usage import reading
from harness.results.timeline import FORMAT, TIMELINE
from harness.scheduling.base import Work
from harness.task.shape import Floats, Integers, Shape
from harness.terminal import console

_ROW = Struct("=dd5I")
_FIELDS = np.dtype(
    [
        ("start", "<f8"),
        ("end", "<f8"),
        ("samples", "<u4"),
        ("rows", "<u4"),
        ("length", "<u4"),
        ("cost", "<u4"),
        ("queries", "<u4"),
    ]
)
_Rows: TypeAlias = NDArray[np.void]
"""Rows of `_FIELDS`."""
_MAX_BATCH_BYTES = 8_000_000 * _ROW.size  # of batches, 288 MB: later ones are not recorded
_MAX_QUERIES = 10_000_000  # 80 MB
_TIME_BINS = 300
_MAX_SAVED_ROWS = 50_000  # maximum rows of queries and of core use in the file
_LATENCY_BINS = 120


class Recorder:
    """Observes the scheduler of one test; `tick` is called by one other thread.

    Recording never ends a test: after the first error nothing more is recorded, and `keep` shows the error.
    """

    def __init__(self) -> None:
        self.began: float | None = None
        """When the first query arrived; in seconds of time.perf_counter(), like all times here."""
        self._batches = bytearray()
        self._arrivals = array("d")
        self._cpu: list[tuple[float, float, float]] = []
        self._seen = LatencyCounts()
        self._complete = True
        self._failure: Exception | None = None

    def arrived(self, when: float) -> None:
        """Record when the first query arrived."""
        self.began = when if self.began is None else self.began

    def answered(self, start: float, end: float, work: Work, cost: int) -> None:
        """Record a batch that ran from ``start`` to ``end``; ``cost`` is that of its samples, without padding."""
        if not self._complete:
            return
        try:
            if len(self._batches) >= _MAX_BATCH_BYTES or len(self._arrivals) >= _MAX_QUERIES:
                self._complete = False
                return
            shape, arrivals = work.shape, work.arrivals
            self._batches += _ROW.pack(start, end, len(work.ids), shape.batch, shape.length, cost, len(arrivals))
            if arrivals:
                self._arrivals.extend(arrivals)
                self._seen.add(arrivals, end)
        except Exception as error:  # noqa: BLE001  the batch must be answered anyway
            self._failure, self._complete = error, False

    def latency(self, percentile: int) -> float | None:
        """Seconds of a percentile of the queries so far, within 2 %; None without queries."""
        return self._seen.quantile(percentile / 100)

    def tick(self) -> None:
        """Record the processor time used so far."""
        try:
            if now := reading():
                self._cpu.append((now.when, now.own, now.busy))
        except Exception:  # noqa: BLE001  not every system reports it; the test goes on
            return

    def sample_shapes(self, seconds: float, minimum: int, maximum: int) -> list[Shape]:
        """The shapes of about as many batches as took ``seconds``, but at least ``minimum`` and at most ``maximum``.

        They are chosen evenly from all recorded batches, in the order in which they ended.
        """
        batches = np.frombuffer(self._batches, _FIELDS)
        if not len(batches):
            return []
        mean = float((batches["end"] - batches["start"]).mean())
        count = min(len(batches), max(minimum, min(maximum, int(seconds / max(mean, 1e-9)))))
        chosen = ((np.arange(count) + 0.5) * len(batches) / count).astype(np.int64)
        return [Shape(int(batches["rows"][at]), int(batches["length"][at])) for at in chosen]

    def keep(self, folder: Path, samples_per_query: int | None, trace: Path | None = None) -> None:
        """Write timeline.npz into a run's folder, with the queries of LoadGen's ``trace`` if there is one.

        ``samples_per_query`` is the scenario's. An error is only a warning: the result is valid without the file.
        """
        path = folder / TIMELINE
        try:
            if self._failure:
                raise self._failure
            self.save(path, samples_per_query, read_trace(trace) if trace else None)
        except Exception as error:  # noqa: BLE001
            path.unlink(missing_ok=True)
            console.warn(f"the timeline of the test could not be saved ({type(error).__name__}: {error}).")

    def save(self, path: Path, samples_per_query: int | None, queries: Queries | None = None) -> None:
        """Write timeline.npz; ``queries`` from LoadGen's trace replace the recorded ones.

        Nothing is written for a test without a batch.
        """
        batches = np.frombuffer(self._batches, _FIELDS)
        if not len(batches):
            return
        if queries is not None and not len(queries.latencies):
            queries = None  # the trace ends before its first sample
        source = "loadgen" if queries else "harness"
        own = _queries(batches, np.array(self._arrivals), samples_per_query)
        began = min((float(batches["start"].min()), *own.arrivals[:1], *([] if self.began is None else [self.began])))
        if queries:
            # The trace has another time origin: its first query is the first that arrived.
            first = own.arrivals.min() if len(own.arrivals) else began
            queries = Queries(queries.arrivals - queries.arrivals.min() + first, queries.latencies)
        queries = queries or own
        end = float(batches["end"].max())
        edges = np.linspace(0, max(end - began, 1e-6), _TIME_BINS + 1)
        about = {
            "format": FORMAT,
            "source": source,
            "batches": len(batches),
            "samples": int(batches["samples"].sum()),
            "queries": len(queries.latencies),
            "complete": self._complete,
        }
        cpu = np.array(self._cpu, dtype=np.float64).reshape(-1, 3)
        cpu = cpu[_spread(len(cpu))]
        cpu[:, 0] -= began
        asked = _spread(len(queries.latencies))
        arrays: dict[str, Any] = {
            "about": np.array(json.dumps(about)),
            "edges": edges,
            "done": _done(batches, "samples", began, edges),
            "done_cost": _done(batches, "cost", began, edges),
            "quantiles": _quantiles(queries, began, edges),
            "shapes": _shapes(batches),
            "sizes": np.stack(np.unique(batches["samples"].astype(np.int64), return_counts=True), axis=1),
            "arrivals": queries.arrivals[asked] - began,
            "latencies": queries.latencies[asked].astype(np.float32),
            "cpu": cpu,
        }
        arrays |= dict(zip(("latency_edges", "latency_counts"), _histogram(queries.latencies), strict=True))
        np.savez_compressed(path, **arrays)


class LatencyCounts:
    """Counts latencies by size while a test runs; written by one thread at a time, read by any."""

    _STEP = math.log(1.02)
    _MIN_SECONDS = 1e-6

    def __init__(self) -> None:
        self._counts = [0] * 1400  # up to 18 minutes
        self._arrival, self._latency = -1.0, 0.0

    def add(self, arrivals: Sequence[float], end: float) -> None:
        """Count the queries of a batch; one that spans several batches, with one arrival, counts with its last."""
        for arrival in arrivals:
            if arrival != self._arrival:
                self._count()
                self._arrival = arrival
            self._latency = end - arrival

    def _count(self) -> None:
        if self._arrival >= 0:
            at = int(math.log(max(self._latency / self._MIN_SECONDS, 1)) / self._STEP)
            self._counts[min(at, len(self._counts) - 1)] += 1

    def quantile(self, share: float) -> float | None:
        """The latency in seconds below which a ``share`` (0 to 1) of the queries is; None before the second query."""
        upto = np.cumsum(self._counts)
        if not upto[-1]:
            return None
        return self._MIN_SECONDS * math.exp((int(np.searchsorted(upto, share * upto[-1])) + 0.5) * self._STEP)


class Queries(NamedTuple):
    """When queries arrived, and the seconds until their last sample was answered; float64 (n,), in order of arrival."""

    arrivals: Floats
    latencies: Floats


def read_trace(path: Path) -> Queries:
    """The queries of LoadGen's mlperf_log_trace.json; latencies are as LoadGen counts them."""
    arrivals: dict[int, float] = {}
    latencies: dict[int, float] = {}
    with path.open(encoding="utf-8") as trace:
        for line in trace:
            if not line.startswith('{"name":"Sample","cat":"default","ph":"b"'):
                continue
            try:
                event = json.loads(line.rstrip().rstrip(","))
            except json.JSONDecodeError:
                continue  # the incomplete last line of a trace
            query, taken = event["args"]["query_seq"], event["args"]["complete_ns"] / 1e9
            arrivals.setdefault(query, event["ts"] / 1e6)
            latencies[query] = max(taken, latencies.get(query, 0.0))
    times = np.array(list(arrivals.values()))
    order = np.argsort(times, kind="stable")
    return Queries(times[order], np.array(list(latencies.values()))[order])


def _queries(batches: _Rows, arrivals: Floats, samples_per_query: int | None) -> Queries:
    """Each arrival with the end of its batch; all batches of a query of several samples have the same arrival."""
    ends = np.repeat(batches["end"], batches["queries"])
    if samples_per_query == 1:
        order = np.argsort(arrivals, kind="stable")
        return Queries(arrivals[order], (ends - arrivals)[order])
    times, query = np.unique(arrivals, return_inverse=True)
    last = np.zeros(len(times))
    np.maximum.at(last, query, ends)
    return Queries(times, last - times)


def _done(batches: _Rows, what: str, began: float, edges: Floats) -> Floats:
    """Samples or cost by bin. A batch counts as progressing evenly while it runs: the running total is a line with a
    bend at each start and end, which is summed once and read at the edges."""
    start, end = batches["start"] - began, batches["end"] - began
    slope = batches[what] / np.maximum(end - start, 1e-9)
    end = np.maximum(end, start + 1e-9)
    at = np.concatenate((start, end))
    order = np.argsort(at, kind="stable")
    at, bend = at[order], np.concatenate((slope, -slope))[order]
    upto = np.concatenate(([0.0], np.cumsum(np.cumsum(bend)[:-1] * np.diff(at))))
    return np.maximum(np.diff(np.interp(edges, at, upto)), 0)


def _quantiles(queries: Queries, began: float, edges: Floats) -> Floats:
    result = np.full((len(edges) - 1, 4), np.nan)
    limits = np.searchsorted(queries.arrivals - began, edges)
    for number, (first, last) in enumerate(pairwise(limits)):
        if last > first:
            result[number] = np.quantile(queries.latencies[first:last], (0.5, 0.9, 0.99, 1.0))
    return result


def _shapes(batches: _Rows) -> Floats:
    # Both sizes in one number: sorting rows of two is many times slower.
    both = batches["rows"].astype(np.uint64) << np.uint64(32) | batches["length"]
    found, which = np.unique(both, return_inverse=True)
    shapes = np.column_stack([found >> np.uint64(32), found & np.uint64(2**32 - 1)])
    sums = [
        np.bincount(which, weights=weights, minlength=len(shapes))
        for weights in (None, batches["samples"], batches["cost"], batches["end"] - batches["start"])
    ]
    return np.column_stack([shapes, *sums]).astype(np.float64)


def _histogram(latencies: Floats) -> tuple[Floats, Integers]:
    if not len(latencies):
        return np.empty(0), np.empty(0, np.int64)
    # From the fastest to the 99.95th percentile in equal ratios; the last bin extends to the slowest.
    low, high = max(float(latencies.min()), 1e-7), float(np.quantile(latencies, 0.9995))
    edges = np.geomspace(low, max(high, low * 1.01), _LATENCY_BINS + 1)
    edges[0], edges[-1] = min(low, float(latencies.min())), max(float(latencies.max()), edges[-1])
    return edges, np.histogram(latencies, edges)[0]


def _spread(count: int) -> Integers:
    """All positions, or `_MAX_SAVED_ROWS` evenly spread ones."""
    return np.arange(count) if count <= _MAX_SAVED_ROWS else np.linspace(0, count - 1, _MAX_SAVED_ROWS).astype(np.int64)
