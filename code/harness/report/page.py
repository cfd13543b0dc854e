"""A report as one self-contained HTML file: no network, no scripts."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.report import details, facts
from harness.report.plots import bars, plots, rate_plot
from harness.report.published import published
from harness.report.rates import rates_of, rows
from harness.results.finished import Finished


def page(runs: Sequence[Finished]) -> str:
    """The HTML; the same runs give the same bytes."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [
        {
            **_rates(run, number),
            "number": number,
            "run": run,
            "metrics": [(metric.name, facts.metric_text(metric)) for metric in run.metrics],
            "facts": [(name, text) for name, text in facts.facts(run) if name != "command"],
            "machine": details.machine(run),
            "nodes": facts.nodes(run),
            "profile": details.profile(run),
            "latencies": facts.latency_rows(run),
            "plots": [(plot.title, plot.caption, Markup(plot.svg)) for plot in plots(run, f"r{number}-")],
            "details": [
                (title, rows)
                for title, rows in (
                    ("Settings", details.settings(run)),
                    ("Model", details.model(run)),
                    ("Software", details.software(run)),
                )
                if rows
            ],
        }
        for number, run in enumerate(runs, start=1)
    ]
    return environment.get_template("page.html").render(
        style=_style,
        runs=runs,
        sections=sections,
        notices=list(dict.fromkeys(run.record.notice for run in runs if run.record.notice)),
        kinds=_kinds(runs) if len(runs) > 1 else [],
        published=published(runs),
    )


def _rates(run: Finished, number: int) -> dict[str, object]:
    """The rates tested for the run's settings, as a plot and its table; neither if there are none."""
    found = rates_of(run)
    plot = found and rate_plot(run, found, f"t{number}-")
    return {
        "rates": plot and (plot.title, plot.caption, Markup(plot.svg)),
        "rate_rows": rows(run, found) if found else [],
    }


def _kinds(runs: Sequence[Finished]) -> list[dict[str, object]]:
    """The runs of each kind side by side, in tables of at most five runs: more would be cut off in print."""
    found = []
    for number, kind in enumerate(facts.kinds(runs), start=1):
        alike = [runs[at] for at in kind]
        plot = bars(alike, [at + 1 for at in kind], f"k{number}-")
        rows = facts.side_by_side(alike)
        parts = [slice(start, start + 5) for start in range(0, len(kind), 5)]
        found.append(
            {
                "number": number,
                "title": facts.kind_title(alike[0]),
                "plot": plot and (plot.title, plot.caption, Markup(plot.svg)),
                "tables": [
                    ([at + 1 for at in kind[part]], [(row.name, row.cells[part]) for row in rows]) for part in parts
                ],
            }
        )
    return found


def _style(run: Finished) -> str:
    """The CSS class of a verdict: good only for a valid result that no other process disturbed."""
    return "bad" if not run.record.valid else "doubtful" if run.disturbed else "good"
