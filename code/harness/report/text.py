"""Reports for terminals and programs: Markdown, CSV, JSON."""

import csv
import io
import json
import re
from collections.abc import Sequence

from pydantic import JsonValue

from harness.report import details, facts, rates
from harness.report.published import ReproducedResult, published
from harness.results.finished import Finished


def as_json(runs: Sequence[Finished]) -> str:
    """Everything known about the runs except their timelines."""
    return json.dumps(facts.plain(runs), indent=2, ensure_ascii=False, default=str) + "\n"


def as_csv(runs: Sequence[Finished]) -> str:
    """A row for each run, as in `rows`; missing values are empty."""
    found = rows(runs)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(found[0]) if found else [], restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(found)
    return text.getvalue()


def rows(runs: Sequence[Finished]) -> list[dict[str, JsonValue]]:
    """A row for each run, all with the same columns, named as in JSON; names in nested tables are joined with dots."""
    found = []
    for run, values in zip(runs, facts.plain(runs), strict=True):
        for key in ("loadgen", "benchmark_settings", "agreement", "profile"):
            del values[key]
        values["nodes"] = len(run.record.nodes) or None
        values["model"] = run.model.name
        values["dataset"] = run.record.dataset.name
        values["engine"] = run.record.engine.name
        values["machine"] = {"cpu": run.record.machine.cpu, "cores": run.record.machine.cores}
        values["reasons"] = " ".join(run.reasons)
        values["choices"] = {choice.name: choice.text for choice in run.record.choices}
        values["doubts"] = " ".join(run.record.doubts)
        found.append(dict(facts.flat(values)))
    names = list(dict.fromkeys(name for row in found for name in row))
    # If one run has a nested table and another has none, the table's own name gets no column.
    above = {name.rpartition(".")[0] for name in names}
    return [{name: row.get(name) for name in names if name not in above} for row in found]


def as_markdown(runs: Sequence[Finished]) -> str:
    """The tables of the page without plots, settings and metadata."""
    parts = ["# Report", ""]
    if len(runs) > 1:
        for kind in facts.kinds(runs):
            parts += [f"## {_cell(facts.kind_title(runs[kind[0]]))}", ""]
            parts += _table(["", *(f"{at + 1}. {runs[at].name}" for at in kind)], _compared([runs[at] for at in kind]))
    for number, run in enumerate(runs, start=1):
        parts += [f"## {number}. {_cell(run.title)}", "", f"**{run.verdict}**", ""]
        parts += [f"> {_cell(run.record.notice)}", ""] if run.record.notice else []
        parts += [*(f"- because {_cell(reason)}" for reason in run.reasons), ""] if run.reasons else []
        parts += [f"> {_cell(run.disturbed)}", ""] if run.disturbed else []
        rows = [(metric.name, facts.metric_text(metric)) for metric in run.metrics] + facts.facts(run)
        parts += _table(["run", run.name], rows)
        if nodes := facts.nodes(run):
            parts += _table(nodes[0], nodes[1:])
        if latencies := facts.latency_rows(run):
            bound = f"bound {run.bound_ms:g} ms" if run.bound_ms else ""
            parts += _table(["percentile", "latency, observed", bound], latencies)
        if found := rates.rates_of(run):
            head, *tests = rates.rows(run, found)
            parts += _table(head, tests)
        for _, (head, *lines) in details.profile(run):
            parts += _table(head, lines)
    parts += ["## Published results", ""]
    parts += _table(
        ["model", "engine", "F1 / top-1", "published", "these runs"],
        [
            [row.title, row.engine, row.score, row.rate, "; ".join(map(_reached, row.reached))]
            for row in published(runs)
        ],
    )
    return "\n".join(parts).rstrip() + "\n"


def _compared(runs: Sequence[Finished]) -> list[list[str]]:
    return [
        [row.name, *(f"{cell.text} {_in_brackets(cell.compared)}".rstrip() for cell in row.cells)]
        for row in facts.side_by_side(runs)
    ]


def _in_brackets(ratio: str) -> str:
    return f"({ratio.replace(' (', ', ').removesuffix(')')})" if ratio else ""


def _reached(reached: ReproducedResult) -> str:
    return f"{reached.number}. {reached.text}, {reached.ratio} of it ({reached.remark})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [*("| " + " | ".join(map(_cell, line)) + " |" for line in lines), ""]


def _cell(text: str) -> str:
    # Markdown would take a name in angle brackets for an HTML tag and hide it.
    return re.sub(r"([|<])", r"\\\1", " ".join(text.split()))
