"""Plots of a run's timeline, and the results of several runs as bars."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from harness.report import rates
from harness.report.drawing import FIRST, INK, LIMIT, SECOND, SHORT, THOUSANDS, Plot, drawn_axes, legend, scale, svg
from harness.report.noise import spread
from harness.results.finished import Finished
from harness.results.timeline import Timeline

_MAX_DOTS = 600
"""Up to this many queries are drawn individually; for more, quantiles are drawn."""
_LINES = (
    ("median", FIRST, 1.6, 1.0),
    ("90th", FIRST, 0.8, 1.0),
    ("99th", SECOND, 1.0, 1.0),
    ("slowest", INK, 0.6, 0.5),
)
"""Label, colour, width and opacity of each quantile."""
_MARKS = {
    rates.VALID: ("VALID", "o", FIRST, "full"),
    rates.SHORT: ("too few queries", "o", FIRST, "none"),
    rates.LATE: ("over the bound", "x", SECOND, "full"),
}
"""Label, marker, colour and fill of each outcome of a tuning's test."""
_MAX_POINTS = 150
_MAX_BARS = 32


@dataclass(frozen=True)
class _Drawing:
    title: str
    caption: str
    draw: Callable[[Axes, Finished, Timeline], None]


def plots(run: Finished, prefix: str) -> list[Plot]:
    """The plots of the run's timeline; the ids in each SVG begin with ``prefix``."""
    timeline = run.timeline
    if timeline is None:
        return []
    made = []
    for number, drawing in enumerate(_drawings(run, timeline)):
        with drawn_axes() as (figure, axes):
            drawing.draw(axes, run, timeline)
            legend(axes)
            words = f"{drawing.title}: {drawing.caption}"
            made.append(Plot(drawing.title, drawing.caption, svg(figure, f"{prefix}{number}-", words)))
    return made


def bars(runs: Sequence[Finished], numbers: Sequence[int], prefix: str) -> Plot | None:
    """The results of runs of one kind, labelled with their numbers on the page; None unless two have a result."""
    found = [
        (number, run, run.metrics[0].value)
        for number, run in zip(numbers, runs, strict=True)
        if run.metrics and run.metrics[0].value is not None
    ]
    if len(found) < 2:
        return None
    metric = found[0][1].metrics[0]
    spreads = [spread(run.scenario, run.timeline) if run.performance else None for _, run, _ in found]
    caption = f"{metric.unit}; pale: INVALID or disturbed"
    if any(spreads):
        caption += "; lines: 95 % interval from the variation within the run, which is smaller than that between runs"
    title = metric.name.capitalize()
    with drawn_axes(0.9 + 0.28 * len(found)) as (figure, axes):
        _draw_bars(axes, found, spreads)
        axes.set_xlabel(metric.unit)
        return Plot(title, caption, svg(figure, prefix, f"{title}: {caption}"))


def rate_plot(run: Finished, found: rates.TunedRates, prefix: str) -> Plot:
    """The tests of a tuning as marks, and the bound as a line; the ids in the SVG begin with ``prefix``."""
    caption = f"{found.about}; the table below has the numbers"
    with drawn_axes() as (figure, axes):
        points = [(each.rate, each.p99_ms) for each in found.rates]
        axes.plot(*zip(*points, strict=True), color=FIRST, linewidth=0.7, alpha=0.5)
        for verdict, (label, marker, colour, filled) in _MARKS.items():
            shown = [(each.rate, each.p99_ms) for each in found.rates if rates.verdict(each) == verdict]
            if shown:
                (drawn,) = axes.plot(*zip(*shown, strict=True), markersize=6, label=label, color=colour, zorder=3)
                drawn.set(marker=marker, fillstyle=filled, linestyle="none")
        if mine := rates.own(run):
            points.append(mine)
            axes.plot(*mine, marker="D", linestyle="none", markersize=6, color=INK, label=f"this run, {run.verdict}")
        assert run.bound_ms
        axes.axhline(run.bound_ms, color=LIMIT, label=f"bound {run.bound_ms:g} ms")
        x, y = [rate for rate, _ in points], [run.bound_ms, *(ms for _, ms in points)]
        scale(axes.xaxis, min(x), max(x))
        scale(axes.yaxis, max(min(y), 1e-4), max(y))
        axes.set_xlabel("target_qps")
        axes.set_ylabel("99th percentile, ms")
        legend(axes)
        title = "Rate against latency"
        return Plot(title, caption, svg(figure, prefix, f"{title}: {caption}"))


def _draw_bars(
    axes: Axes, found: Sequence[tuple[int, Finished, float]], spreads: Sequence[tuple[float, float] | None]
) -> None:
    """A bar for each run, the first at the top, with a line for its interval."""
    longest = 0.0
    for at, ((_, run, value), each) in enumerate(zip(found, spreads, strict=True)):
        good = run.record.valid and not run.disturbed
        axes.barh(at, value, color=FIRST, alpha=0.75 if good else 0.3, linewidth=0)
        low, high = each or (1.0, 1.0)
        if each:
            axes.plot([value * low, value * high], [at, at], color=INK, linewidth=1.6)
        longest = max(longest, value * high)
    axes.set_yticks(range(len(found)), [f"{number}." for number, _, _ in found])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05 * longest or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(THOUSANDS)
    axes.grid(visible=False, axis="y")


def _drawings(run: Finished, timeline: Timeline) -> Iterator[_Drawing]:
    if len(timeline.latencies):
        low, high = (1000 * float(each) for each in (timeline.latencies.min(), timeline.latencies.max()))
        seen = "as measured by the harness" if timeline.source == "harness" else "from LoadGen's trace"
        caption = f"{timeline.queries:,} queries, {low:,.2f} to {high:,.2f} ms {seen}; lines: LoadGen's percentiles"
        yield _Drawing("Latency distribution", caption, _distribution)
        caption = "Percentiles of queries that arrived at about the same time"
        if len(timeline.latencies) <= _MAX_DOTS:
            caption = "Every query by arrival time"
        yield _Drawing("Latency over time", caption, _latency)
    several = len(np.unique(timeline.shapes[:, 1])) > 1
    unit = run.record.result.cost_unit if _in_cost(run, timeline) else "samples"
    caption = f"{unit.capitalize()} answered per second; each batch is spread evenly over its running time"
    if several and run.scenario.one_query:
        caption += "; the longest samples run first"
    yield _Drawing("Throughput over time", caption, _throughput)
    caption = f"{timeline.samples:,} samples in {timeline.batches:,} batches"
    if not timeline.complete:
        caption += "; not every batch was recorded"
    yield _Drawing("Batch sizes", caption, _sizes)
    if several:
        unit = run.record.result.cost_unit.capitalize()
        yield _Drawing("Padding", f"{unit} computed, by batch length", _padding)
    if run.cores_busy:
        yield _Drawing("Core use", "Busy cores over time", _cores)


def _distribution(axes: Axes, run: Finished, timeline: Timeline) -> None:
    edges, counts = timeline.latency_edges * 1000, timeline.latency_counts
    bins = min(60, max(12, int(2 * np.sqrt(counts.sum()))))
    merge = next(each for each in (1, 2, 3, 4, 5, 6, 8, 10, 12, len(counts)) if len(counts) / each <= bins)
    merged = np.append(edges[:-1:merge], edges[-1])
    share = np.add.reduceat(counts, np.arange(0, len(counts), merge)) / counts.sum() * 100
    axes.stairs(share, merged, fill=True, color=FIRST, alpha=0.75, linewidth=0)
    marks = {"50.00": (":", "median"), "90.00": ("-.", "90th"), "99.00": ("--", "99th")}
    for key, (style, label) in marks.items():
        if key in run.latency_ms:
            axes.axvline(run.latency_ms[key], color=SECOND, linestyle=style, label=label)
    high = [edges[-1]]
    if run.bound_ms:
        axes.axvline(run.bound_ms, color=LIMIT, label=f"bound {run.bound_ms:g} ms")
        high.append(run.bound_ms)
    scale(axes.xaxis, max(edges[0], 1e-4), max(high))
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("% of queries")
    axes.set_ylim(bottom=0)


def _latency(axes: Axes, run: Finished, timeline: Timeline) -> None:
    if len(timeline.latencies) <= _MAX_DOTS:
        shown = timeline.latencies * 1000.0
        axes.plot(timeline.arrivals, shown, "o", markersize=2.5, color=FIRST, alpha=0.75)
    else:
        middle, shown = _over_time(timeline)
        for column, (label, colour, width, alpha) in enumerate(_LINES):
            above = 4 - column / 10
            axes.plot(middle, shown[:, column], label=label, color=colour, linewidth=width, alpha=alpha, zorder=above)
    low, high = float(shown.min()), float(shown.max())
    if run.bound_ms:
        axes.axhline(run.bound_ms, color=LIMIT, label=f"bound {run.bound_ms:g} ms")
        low, high = min(low, run.bound_ms), max(high, run.bound_ms)
    scale(axes.yaxis, max(low, 1e-4), high)
    _time(axes, timeline)
    axes.set_ylabel("latency, ms")


def _over_time(timeline: Timeline) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Midpoints of time bins (m,), and quantiles (m, 4) in ms of the queries that arrived in each."""
    bins = _merged(len(timeline.latencies) // 100)
    edges = timeline.edges[:: (len(timeline.edges) - 1) // bins]
    limits = np.searchsorted(timeline.arrivals, edges)
    found = [
        (
            edges[i : i + 2].mean(),
            *np.quantile(timeline.latencies[limits[i] : limits[i + 1]], (0.5, 0.9, 0.99)),
            slowest,
        )
        for i, slowest in enumerate(np.nan_to_num(timeline.quantiles[:, 3]).reshape(bins, -1).max(axis=1))
        if limits[i + 1] > limits[i]
    ]
    table: NDArray[np.float64] = np.array(found)
    return table[:, 0], table[:, 1:] * 1000.0


def _merged(wanted: int) -> int:
    """The number of time bins to draw, into which the recorded 300 are merged: at most ``wanted``, at least 10."""
    return next((bins for bins in (100, 75, 60, 50, 30, 20) if bins <= wanted), 10)


def _throughput(axes: Axes, run: Finished, timeline: Timeline) -> None:
    # A bin with few batches would show when they end rather than how fast they run.
    merge = len(timeline.done) // _merged(timeline.batches // 8)
    edges = timeline.edges[::merge]
    in_cost = _in_cost(run, timeline)
    done = timeline.done_cost if in_cost and timeline.done_cost is not None else timeline.done
    rate = done.reshape(-1, merge).sum(axis=1) / np.diff(edges)
    axes.stairs(rate, edges, color=FIRST, baseline=None, linewidth=1.3)
    high = float(rate.max())
    metric = run.metrics[0] if run.metrics else None
    if metric and metric.unit == "samples/s" and metric.value:
        result = run.record.result
        level = metric.value * (result.cost or 0) / result.samples if in_cost else metric.value
        axes.axhline(level, color=SECOND, linestyle="--", label=f"LoadGen's result, {metric}")
        high = max(high, level)
    _time(axes, timeline)
    axes.set_ylabel(f"{run.record.result.cost_unit if in_cost else 'samples'}/s")
    axes.set_ylim(0, 1.08 * high)
    axes.yaxis.set_major_formatter(THOUSANDS)


def _in_cost(run: Finished, timeline: Timeline) -> bool:
    """Whether throughput is drawn in cost units: if long samples run first, samples/s would rise at constant speed."""
    several = len(np.unique(timeline.shapes[:, 1])) > 1
    return bool(several and run.scenario.one_query and timeline.done_cost is not None and run.record.result.cost)


def _sizes(axes: Axes, run: Finished, timeline: Timeline) -> None:
    sizes, counts = timeline.sizes[:, 0], timeline.sizes[:, 1]
    width = max(1, -(-int(sizes.max()) // _MAX_BARS))
    which = (sizes - 1) // width
    batches = np.bincount(which, weights=counts)
    share = batches / batches.sum() * 100
    at = np.arange(len(batches)) * width + (width + 1) / 2
    axes.bar(at, share, width=0.85 * width, color=FIRST, alpha=0.75, linewidth=0)
    axes.set_xlim(0.5 - 0.4 * width, max(at[-1], 3) + width)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("samples per batch" + (f", {width} sizes per bar" if width > 1 else ""))
    axes.set_ylabel("% of batches")
    axes.grid(visible=False, axis="x")


def _padding(axes: Axes, run: Finished, timeline: Timeline) -> None:
    rows, length, batches, _, cost, _ = timeline.shapes.T
    width = max(1.0, float(np.ceil(length.max() / _MAX_BARS)))
    which = ((length - 1) // width).astype(int)
    real = np.bincount(which, weights=cost)
    padded = np.maximum(np.bincount(which, weights=rows * length * batches) - real, 0)
    at = (np.arange(len(real)) + 0.5) * width
    axes.bar(at, real, width=0.85 * width, color=FIRST, alpha=0.75, linewidth=0, label="real")
    axes.bar(at, padded, width=0.85 * width, bottom=real, color=SECOND, linewidth=0, label="padding")
    axes.set_xlim(0, len(real) * width)
    axes.set_xlabel("length")
    axes.yaxis.set_major_formatter(SHORT)
    axes.grid(visible=False, axis="x")


def _cores(axes: Axes, run: Finished, timeline: Timeline) -> None:
    cpu = timeline.cpu[(timeline.cpu[:, 0] >= 0) & (timeline.cpu[:, 0] <= timeline.edges[-1])]
    cpu = cpu[:: max(1, -(-len(cpu) // _MAX_POINTS))]
    busy = np.diff(cpu[:, 1:], axis=0) / np.diff(cpu[:, 0])[:, None]
    for column, (label, colour) in enumerate((("this run", FIRST), ("whole machine", SECOND))):
        axes.stairs(busy[:, column], cpu[:, 0], color=colour, label=label, baseline=None, linewidth=1.3)
    count = run.record.machine.cores
    axes.axhline(count, color=LIMIT, linestyle=":", label=f"{count} cores")
    _time(axes, timeline)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("cores")


def _time(axes: Axes, timeline: Timeline) -> None:
    axes.set_xlim(0, float(timeline.edges[-1]))
    axes.set_xlabel("seconds from the start of the test")
