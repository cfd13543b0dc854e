"""A report as one self-contained HTML file: no network, no scripts."""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.report import facts
from harness.report.plots import plots
from harness.report.published import published
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
            "number": number,
            "run": run,
            "metrics": [(metric.name, facts.metric_text(metric)) for metric in run.metrics],
            "facts": facts.facts(run),
            "nodes": facts.nodes(run),
            "latencies": facts.latency_rows(run),
            "plots": [(plot.title, plot.caption, Markup(plot.svg)) for plot in plots(run, f"r{number}-")],
            "details": [
                (title, rows)
                for title, rows in (
                    ("Settings", facts.settings(run)),
                    ("Model", facts.model(run)),
                    ("Environment", facts.environment(run)),
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
        rows=facts.side_by_side(runs) if len(runs) > 1 else [],
        published=published(runs),
    )


def _style(run: Finished) -> str:
    """The class of a verdict: only a result that nobody disturbed is good."""
    return "bad" if not run.record.valid else "doubtful" if run.disturbed else "good"
