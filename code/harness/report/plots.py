"""Plots of a run's timeline as SVG that takes its colours and font from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator
from numpy.typing import NDArray

from harness.report.noise import spread
from harness.results.finished import Finished
from harness.results.timeline import Timeline

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# matplotlib writes only fixed colours: each of these is a placeholder for a colour of the page.
_INK, _GRID, _FIRST, _SECOND, _LIMIT = "#010203", "#010204", "#010205", "#010206", "#010207"
_PAGE = {
    _INK: "currentColor",
    _GRID: "var(--grid)",
    _FIRST: "var(--first)",
    _SECOND: "var(--second)",
    _LIMIT: "var(--limit)",
}
_STYLE: dict[RcKeyType, str | float] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "harness",
    "font.size": 10,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0,
    "text.color": _INK,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "lines.linewidth": 1.3,
}
_DOTS = 600
"""Up to so many queries are drawn one by one; for more, quantiles are drawn."""
_LINES = (
    ("median", _FIRST, 1.6, 1.0),
    ("90th", _FIRST, 0.8, 1.0),
    ("99th", _SECOND, 1.0, 1.0),
    ("slowest", _INK, 0.6, 0.5),
)
"""Label, colour, width and opacity of each quantile."""
_POINTS = 150
_BARS = 32


@dataclass(frozen=True)
class Plot:
    """A plot with its title and caption."""

    title: str
    caption: str
    svg: str


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
        with _axes() as (figure, axes):
            drawing.draw(axes, run, timeline)
            _legend(axes)
            words = f"{drawing.title}: {drawing.caption}"
            made.append(Plot(drawing.title, drawing.caption, _svg(figure, f"{prefix}{number}-", words)))
    return made


def bars(runs: Sequence[Finished], numbers: Sequence[int], prefix: str) -> Plot | None:
    """The results of runs of one kind, with the numbers that the page gives them; None unless two have a result."""
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
    with _axes(0.9 + 0.28 * len(found)) as (figure, axes):
        _draw_bars(axes, found, spreads)
        axes.set_xlabel(metric.unit)
        return Plot(title, caption, _svg(figure, prefix, f"{title}: {caption}"))


def _draw_bars(
    axes: Axes, found: Sequence[tuple[int, Finished, float]], spreads: Sequence[tuple[float, float] | None]
) -> None:
    """A bar for each run, the first at the top, with a line for its interval."""
    longest = 0.0
    for at, ((_, run, value), each) in enumerate(zip(found, spreads, strict=True)):
        good = run.record.valid and not run.disturbed
        axes.barh(at, value, color=_FIRST, alpha=0.75 if good else 0.3, linewidth=0)
        low, high = each or (1.0, 1.0)
        if each:
            axes.plot([value * low, value * high], [at, at], color=_INK, linewidth=1.6)
        longest = max(longest, value * high)
    axes.set_yticks(range(len(found)), [f"{number}." for number, _, _ in found])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.05 * longest or 1.0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(_THOUSANDS)
    axes.grid(visible=False, axis="y")


def _drawings(run: Finished, timeline: Timeline) -> Iterator[_Drawing]:
    if len(timeline.latencies):
        low, high = (1000 * float(each) for each in (timeline.latencies.min(), timeline.latencies.max()))
        seen = "as measured by the harness" if timeline.source == "harness" else "from LoadGen's trace"
        caption = f"{timeline.queries:,} queries, {low:,.2f} to {high:,.2f} ms {seen}; lines: LoadGen's percentiles"
        yield _Drawing("Latency distribution", caption, _distribution)
        caption = "Percentiles of queries that arrived at about the same time"
        if len(timeline.latencies) <= _DOTS:
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


@contextmanager
def _axes(height: float = 2.7) -> Iterator[tuple[Figure, Axes]]:
    with mpl.rc_context(_STYLE):
        # As wide as a phone's screen, so that the letters keep their size there.
        figure = Figure(figsize=(4.3, height), layout="constrained")
        yield figure, figure.add_subplot()


def _distribution(axes: Axes, run: Finished, timeline: Timeline) -> None:
    edges, counts = timeline.latency_edges * 1000, timeline.latency_counts
    bins = min(60, max(12, int(2 * np.sqrt(counts.sum()))))
    merge = next(each for each in (1, 2, 3, 4, 5, 6, 8, 10, 12, len(counts)) if len(counts) / each <= bins)
    merged = np.append(edges[:-1:merge], edges[-1])
    share = np.add.reduceat(counts, np.arange(0, len(counts), merge)) / counts.sum() * 100
    axes.stairs(share, merged, fill=True, color=_FIRST, alpha=0.75, linewidth=0)
    marks = {"50.00": (":", "median"), "90.00": ("-.", "90th"), "99.00": ("--", "99th")}
    for key, (style, label) in marks.items():
        if key in run.latency_ms:
            axes.axvline(run.latency_ms[key], color=_SECOND, linestyle=style, label=label)
    high = [edges[-1]]
    if run.bound_ms:
        axes.axvline(run.bound_ms, color=_LIMIT, label=f"bound {run.bound_ms:g} ms")
        high.append(run.bound_ms)
    _scale(axes.xaxis, max(edges[0], 1e-4), max(high))
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("% of queries")
    axes.set_ylim(bottom=0)


def _latency(axes: Axes, run: Finished, timeline: Timeline) -> None:
    if len(timeline.latencies) <= _DOTS:
        shown = timeline.latencies * 1000.0
        axes.plot(timeline.arrivals, shown, "o", markersize=2.5, color=_FIRST, alpha=0.75)
    else:
        middle, shown = _over_time(timeline)
        for column, (label, colour, width, alpha) in enumerate(_LINES):
            above = 4 - column / 10
            axes.plot(middle, shown[:, column], label=label, color=colour, linewidth=width, alpha=alpha, zorder=above)
    low, high = float(shown.min()), float(shown.max())
    if run.bound_ms:
        axes.axhline(run.bound_ms, color=_LIMIT, label=f"bound {run.bound_ms:g} ms")
        low, high = min(low, run.bound_ms), max(high, run.bound_ms)
    _scale(axes.yaxis, max(low, 1e-4), high)
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
    # A bin with only a few batches would show when they end rather than how fast they are.
    merge = len(timeline.done) // _merged(timeline.batches // 8)
    edges = timeline.edges[::merge]
    in_cost = _in_cost(run, timeline)
    done = timeline.done_cost if in_cost and timeline.done_cost is not None else timeline.done
    rate = done.reshape(-1, merge).sum(axis=1) / np.diff(edges)
    axes.stairs(rate, edges, color=_FIRST, baseline=None, linewidth=1.3)
    high = float(rate.max())
    metric = run.metrics[0] if run.metrics else None
    if metric and metric.unit == "samples/s" and metric.value:
        result = run.record.result
        level = metric.value * (result.cost or 0) / result.samples if in_cost else metric.value
        axes.axhline(level, color=_SECOND, linestyle="--", label=f"LoadGen's result, {metric}")
        high = max(high, level)
    _time(axes, timeline)
    axes.set_ylabel(f"{run.record.result.cost_unit if in_cost else 'samples'}/s")
    axes.set_ylim(0, 1.08 * high)
    axes.yaxis.set_major_formatter(_THOUSANDS)


def _in_cost(run: Finished, timeline: Timeline) -> bool:
    """Whether throughput is drawn in tokens: where long samples run first, samples/s climb although nothing changes."""
    several = len(np.unique(timeline.shapes[:, 1])) > 1
    return bool(several and run.scenario.one_query and timeline.done_cost is not None and run.record.result.cost)


def _sizes(axes: Axes, run: Finished, timeline: Timeline) -> None:
    sizes, counts = timeline.sizes[:, 0], timeline.sizes[:, 1]
    width = max(1, -(-int(sizes.max()) // _BARS))
    which = (sizes - 1) // width
    batches = np.bincount(which, weights=counts)
    share = batches / batches.sum() * 100
    at = np.arange(len(batches)) * width + (width + 1) / 2
    axes.bar(at, share, width=0.85 * width, color=_FIRST, alpha=0.75, linewidth=0)
    axes.set_xlim(0.5 - 0.4 * width, max(at[-1], 3) + width)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    axes.set_xlabel("samples per batch" + (f", {width} sizes per bar" if width > 1 else ""))
    axes.set_ylabel("% of batches")
    axes.grid(visible=False, axis="x")


def _padding(axes: Axes, run: Finished, timeline: Timeline) -> None:
    rows, length, batches, _, cost, _ = timeline.shapes.T
    width = max(1.0, float(np.ceil(length.max() / _BARS)))
    which = ((length - 1) // width).astype(int)
    real = np.bincount(which, weights=cost)
    padded = np.maximum(np.bincount(which, weights=rows * length * batches) - real, 0)
    at = (np.arange(len(real)) + 0.5) * width
    axes.bar(at, real, width=0.85 * width, color=_FIRST, alpha=0.75, linewidth=0, label="real")
    axes.bar(at, padded, width=0.85 * width, bottom=real, color=_SECOND, linewidth=0, label="padding")
    axes.set_xlim(0, len(real) * width)
    axes.set_xlabel("length")
    axes.yaxis.set_major_formatter(_SHORT)
    axes.grid(visible=False, axis="x")


def _cores(axes: Axes, run: Finished, timeline: Timeline) -> None:
    cpu = timeline.cpu[(timeline.cpu[:, 0] >= 0) & (timeline.cpu[:, 0] <= timeline.edges[-1])]
    cpu = cpu[:: max(1, -(-len(cpu) // _POINTS))]
    busy = np.diff(cpu[:, 1:], axis=0) / np.diff(cpu[:, 0])[:, None]
    for column, (label, colour) in enumerate((("this run", _FIRST), ("whole machine", _SECOND))):
        axes.stairs(busy[:, column], cpu[:, 0], color=colour, label=label, baseline=None, linewidth=1.3)
    count = run.record.machine.cores
    axes.axhline(count, color=_LIMIT, linestyle=":", label=f"{count} cores")
    _time(axes, timeline)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("cores")


def _time(axes: Axes, timeline: Timeline) -> None:
    axes.set_xlim(0, float(timeline.edges[-1]))
    axes.set_xlabel("seconds from the start of the test")


_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.10g}")
_SHORT = FuncFormatter(
    lambda value, _: f"{value / 1e6:,g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"
)


def _scale(axis: XAxis | YAxis, low: float, high: float) -> None:
    """Logarithmic if the values are far apart, with ticks at 1, 2 and 5, or only at powers of ten."""
    limits = axis.axes.set_xlim if axis.axis_name == "x" else axis.axes.set_ylim
    if high / low < 4:
        margin = max((high - low) * 0.06, high * 0.01)
        limits(max(0, low - margin), high + margin)
        axis.set_major_locator(MaxNLocator(6))
    else:
        (axis.axes.set_xscale if axis.axis_name == "x" else axis.axes.set_yscale)("log")
        limits(low / 1.1, high * 1.15)
        axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 300 else (1,), numticks=12))
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(_THOUSANDS)


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        points = sum(5.6 * len(label) + 30 for label in labels)
        rows = 1 if points < 265 else 2  # a wider legend would squeeze the plot
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1.03), ncols=-(-len(handles) // rows))


def _svg(figure: Figure, prefix: str, words: str) -> str:
    """The figure for a page: without XML header, fixed colours, size or font, and with unique ids."""
    file = io.StringIO()
    # The ticks depend on the space left, and the space on their labels: laid out twice, or a label may be cut off.
    figure.draw_without_rendering()
    figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s(width|height)=\"[\d.]+pt\"", "", svg, count=2)
    label = words.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'href="#', f'href="#{prefix}', svg)
    svg = re.sub(r"url\(#", f"url(#{prefix}", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for fixed, page in _PAGE.items():
        svg = svg.replace(fixed, page)
    return re.sub(r"\n\s*", "\n", svg)
