"""The style of all plots: SVG that takes its colours and font from the page around it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import XAxis, YAxis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

# matplotlib writes only fixed colours: each of these stands for a colour of the page.
INK, GRID, FIRST, SECOND, LIMIT = "#010203", "#010204", "#010205", "#010206", "#010207"
_PAGE = {
    INK: "currentColor",
    GRID: "var(--grid)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    LIMIT: "var(--limit)",
}
_STYLE: dict[RcKeyType, str | float] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "harness",
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.handlelength": 1.2,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "lines.linewidth": 1.3,
}


_MAX_LEGEND_POINTS = 265  # a wider legend would squeeze the plot


@dataclass(frozen=True)
class Plot:
    """A plot with its title and caption."""

    title: str
    caption: str
    svg: str


@contextmanager
def drawn_axes(height: float = 2.7) -> Iterator[tuple[Figure, Axes]]:
    """Axes of that height in inches, in the style of all plots."""
    with mpl.rc_context(_STYLE):
        # As wide as a phone's screen, so that text is not scaled down on it.
        figure = Figure(figsize=(4.3, height), layout="constrained")
        yield figure, figure.add_subplot()


THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.10g}")
SHORT = FuncFormatter(
    lambda value, _: f"{value / 1e6:,g}M" if value >= 1e6 else f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"
)


def scale(axis: XAxis | YAxis, low: float, high: float) -> None:
    """Scale an axis to values from ``low`` to ``high`` (> 0): logarithmic if they differ by a factor of 4 or more."""
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
    axis.set_major_formatter(THOUSANDS)


def legend(axes: Axes) -> None:
    """Put the legend above the plot, in as few rows as its width allows."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    widths = [5.6 * len(label) + 30 for label in labels]  # points

    def width(rows: int) -> float:
        return sum(max(widths[at : at + rows]) for at in range(0, len(widths), rows))  # filled column by column

    rows = next((each for each in range(1, len(widths)) if width(each) < _MAX_LEGEND_POINTS), len(widths))
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1.03), ncols=-(-len(handles) // rows))


def svg(figure: Figure, prefix: str, words: str) -> str:
    """The figure for a page: without XML header, fixed colours, size or font, and with unique ids."""
    file = io.StringIO()
    # Ticks depend on the available space, which depends on their labels: without a second layout, a label may be cut
    # off.
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
