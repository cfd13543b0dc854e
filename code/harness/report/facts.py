"""What is said of runs, whatever the format: the rows of the tables, in the terminal's words and digits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.catalog import manifests
from harness.results.finished import Finished
from harness.running.agreement import Agreement
from harness.scenarios.base import Metric

NONE = "-"
_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Cell:
    """What one run has of a quantity."""

    text: str
    ratio: str = ""
    """To the first run of its kind, where both have the quantity and it means the same."""


@dataclass(frozen=True)
class Row:
    """A quantity of all runs, side by side."""

    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Reached:
    """What one run did of a row of the published table."""

    number: int
    """Of the run, from 1."""
    text: str
    ratio: str
    """To what was published."""
    remark: str


@dataclass(frozen=True)
class PublishedRow:
    """A row of the published table, and what these runs did."""

    title: str
    engine: str
    score: str
    rate: str
    reached: tuple[Reached, ...]


def metric_text(metric: Metric) -> str:
    """A metric as the terminal shows it."""
    return f"{metric.value:.3f} %" if metric.unit == "%" and metric.value is not None else str(metric)


def ratio_text(value: float) -> str:
    """A ratio with three digits at least that mean something.

    >>> ratio_text(1.5), ratio_text(0.0004685)
    ('1.500', '0.000469')
    """
    return f"{value:,.3f}" if value >= 0.1 else f"{value:.3g}"


def percentile(key: str) -> str:
    """The name of a percentile of LoadGen's.

    >>> percentile("99.90")
    '99.9th percentile'
    """
    return "median" if float(key) == 50 else f"{float(key):g}th percentile"


def milliseconds(value: float) -> str:
    """A latency as the terminal shows it."""
    return f"{value:,.2f} ms"


def within(run: Finished, key: str) -> str:
    """Whether a percentile kept the bound; "" where the bound is not about it."""
    if run.bound_ms is None or float(key) != 99:
        return ""
    return "within the bound" if run.latency_ms[key] <= run.bound_ms else "above the bound"


def padding(run: Finished) -> str:
    """Padding as the terminal shows it, "" where it is not known."""
    result = run.record["result"]
    if run.padding is None or not result.get("cost"):
        return ""
    computed = result["cost"] * result["padded_to_real"]
    return f"{run.padding:.1%} ({computed:,.0f} {result.get('cost_unit', '')} computed for {result['cost']:,})"


def agreement(run: Finished) -> str:
    """How far the engine's outputs are from ONNX Runtime's, "" where they were not compared."""
    found = Agreement.of(run.record)
    if not found.differences:
        return ""
    wrong = ", which is no rounding" if found.wrong else ""
    return f"{found.differences[found.worst]:.2%} at most, in batches of {_TIMES.join(map(str, found.worst))}{wrong}"


def cores(run: Finished) -> str:
    """How many cores were at work, "" where it was not recorded."""
    if run.cores_busy is None:
        return ""
    process, machine = run.cores_busy
    return f"{process:.2f} by this run, {machine:.2f} on the whole machine, of {run.record['machine']['cores']}"


def facts(run: Finished) -> list[tuple[str, str]]:
    """The run in a few lines."""
    record, result = run.record, run.record["result"]
    engine, dataset = record["engine"], record["dataset"]
    batches = result.get("batches")
    count = f"{result['samples']:,}" + (f" in {batches:,} batches" if batches else "")
    rows = [
        ("scenario", f"{run.scenario}, {record['audit'] or record['mode']}"),
        ("engine", " ".join(str(engine[key]) for key in ("name", "version") if engine.get(key))),
        ("model", run.model.title),
        ("data set", f"{dataset['name']}, {dataset['samples_used']:,} samples"),
        ("scored", result.get("accuracy_scope") or ""),
        ("duration", f"{run.duration_s:.1f} s" if run.duration_s is not None else ""),
        ("samples", count),
        ("padding", padding(run)),
        ("off ONNX Runtime", agreement(run)),
        ("cores busy", cores(run)),
        ("ended", record.get("time", "")),
        ("command", record["command"]),
    ]
    return [(name, text) for name, text in rows if text]


def settings(run: Finished) -> list[tuple[str, str]]:
    """What was set: of the engine, the benchmark and LoadGen."""
    record = run.record
    rows = [(f"engine: {key}", _text(value)) for key, value in record["engine"].items()]
    rows += [(f"benchmark: {key}", _text(value)) for key, value in (record.get("benchmark_settings") or {}).items()]
    rows += [("tuned settings", _text(record["tuned"]))] if record.get("tuned") else []
    shapes = record.get("shapes") or []
    if shapes:
        rows.append((f"shapes (batch {_TIMES} length)", ", ".join(_TIMES.join(map(str, shape)) for shape in shapes)))
    rows += [
        (f"LoadGen: {key.removeprefix('effective_')}", _text(value))
        for key, value in run.values.items()
        if key.startswith("effective_")
    ]
    return [(name, text) for name, text in rows if text]


def model(run: Finished) -> list[tuple[str, str]]:
    """What is known of the model, and what its file says of itself."""
    values = run.record["model"]
    rows = [(key.replace("_", " "), _text(value)) for key, value in values.items() if key not in ("metadata", "path")]
    rows += [(f"file: {key}", _text(value)) for key, value in values["metadata"].items()]
    return [(name, text) for name, text in rows if text]


def environment(run: Finished) -> list[tuple[str, str]]:
    """What it ran on."""
    machine = dict(run.record["machine"])
    packages = machine.pop("packages")
    memory = machine.pop("memory_bytes", None)
    rows = [(key.replace("_", " "), _text(value)) for key, value in machine.items()]
    rows += [("memory", f"{memory / 2**30:.1f} GiB")] if memory else []
    rows += [(f"package: {key}", value) for key, value in packages.items()]
    return [*rows, ("harness", run.record["harness"]), ("LoadGen", _text(run.record["loadgen"].get("loadgen_version")))]


def side_by_side(runs: Sequence[Finished]) -> list[Row]:
    """The runs' quantities with ratios to those of the first of its scenario, mode and benchmark."""
    rows = [
        Row("result", tuple(Cell(run.verdict) for run in runs)),
        Row("model", tuple(Cell(run.model.title) for run in runs)),
        Row("engine", tuple(Cell(str(run.record["engine"]["name"])) for run in runs)),
        Row("scenario", tuple(Cell(f"{run.scenario}, {run.record['audit'] or run.record['mode']}") for run in runs)),
        Row("data set", tuple(Cell(str(run.record["dataset"]["name"])) for run in runs)),
    ]
    bases = _first_alike(runs)
    named: dict[str, list[Metric | None]] = {}
    for number, run in enumerate(runs):
        for metric in run.metrics:
            named.setdefault(metric.name, [None] * len(runs))[number] = metric
    for name, metrics in named.items():
        comparable = [base if _comparable(run, runs[base]) else None for run, base in zip(runs, bases, strict=True)]
        values = [metric.value if metric else None for metric in metrics]
        texts = [metric_text(metric) if metric else NONE for metric in metrics]
        rows.append(Row(name, _cells(texts, values, comparable)))
    rows += _rows(runs)
    return [row for row in rows if any(cell.text != NONE for cell in row.cells)]


def published(runs: Sequence[Finished]) -> list[PublishedRow]:
    """The published table with what these runs did where their model is one; [] where none is."""
    table = manifests.published()
    rows = []
    for name, (_, entry) in table.items():
        reached = []
        for number, run in enumerate(runs, start=1):
            if run.published != name or run.record["audit"] or not run.metrics:
                continue
            if run.performance and run.scenario != "Offline":
                continue
            aim = entry.samples_per_second if run.performance else entry.accuracy
            metric = run.metrics[0]
            remarks = [run.record["engine"]["name"]]
            remarks += ["random weights"] if run.random else []
            remarks += ["INVALID"] if not run.record["valid"] else []
            ratio = f"{metric.value / aim:.3g}" if metric.value is not None else ""
            reached.append(Reached(number, metric_text(metric), ratio, ", ".join(remarks)))
        rows.append(
            PublishedRow(
                entry.title,
                entry.engine,
                f"{entry.accuracy:g} %",
                f"{entry.samples_per_second:,.2f} samples/s",
                tuple(reached),
            )
        )
    return rows


def plain(runs: Sequence[Finished]) -> list[dict[str, Any]]:
    """The numbers and words of each run for programs."""
    return [_plain(run, runs[base]) for run, base in zip(runs, _first_alike(runs), strict=True)]


def _plain(run: Finished, first: Finished) -> dict[str, Any]:
    record, result = run.record, run.record["result"]
    metric = run.metrics[0] if run.metrics else None
    base = first.metrics[0] if first.metrics else None
    known = metric and base and metric.value is not None and base.value and metric.name == base.name
    return {
        "run": run.name,
        "time": record.get("time"),
        "verdict": run.verdict,
        "reasons": run.reasons,
        "notice": record["notice"],
        "for_submission": record["for_submission"],
        "rehearsal": record["rehearsal"],
        "random_weights": run.random,
        "scenario": run.scenario,
        "mode": record["mode"],
        "audit": record["audit"],
        "metric": {"name": metric.name, "value": metric.value, "unit": metric.unit} if metric else None,
        "ratio_to_first": metric.value / base.value if known and _comparable(run, first) else None,
        "accuracy": result["accuracy"],
        "accuracy_scope": result.get("accuracy_scope"),
        "agreement": record.get("agreement"),
        "latency_ms": run.latency_ms,
        "bound_ms": run.bound_ms,
        "duration_s": run.duration_s,
        "samples": result["samples"],
        "batches": result.get("batches"),
        "padded_to_real": result.get("padded_to_real"),
        "cores_busy": dict(zip(("process", "machine"), run.cores_busy, strict=True)) if run.cores_busy else None,
        "published": run.published,
        "model": record["model"],
        "dataset": record["dataset"],
        "engine": record["engine"],
        "benchmark_settings": record.get("benchmark_settings"),
        "loadgen": {key: value for key, value in run.values.items() if key.startswith(("effective_", "loadgen_"))},
        "machine": record["machine"],
        "command": record["command"],
    }


def _first_alike(runs: Sequence[Finished]) -> list[int]:
    """The place of the first run that answers the same question as each, so that a ratio to it means something."""
    kinds = [(run.scenario, run.record["mode"], run.record["model"]["benchmark"]) for run in runs]
    return [kinds.index(kind) for kind in kinds]


def _comparable(run: Finished, first: Finished) -> bool:
    """Whether the ratio of the metrics of two runs of a kind means something.

    An INVALID Server run has no throughput: it was only asked for that many samples.
    """
    return not (run.scenario == "Server" and "INVALID" in (run.verdict, first.verdict))


def _rows(runs: Sequence[Finished]) -> list[Row]:
    bases = _first_alike(runs)

    def row(name: str, value: Callable[[Finished], float | None], form: Callable[[float], str]) -> Row:
        values = [value(run) for run in runs]
        return Row(name, _cells([NONE if v is None else form(v) for v in values], values, bases))

    def per_batch(run: Finished) -> float | None:
        batches = run.record["result"].get("batches")
        return run.record["result"]["samples"] / batches if batches else None

    # Of Offline's one query the latencies are those of samples that waited for the others.
    keys = dict.fromkeys(key for run in runs if run.scenario != "Offline" for key in run.latency_ms)
    latencies = [
        row(
            f"latency observed, {percentile(key)}",
            lambda run, key=key: run.latency_ms.get(key) if run.scenario != "Offline" else None,
            milliseconds,
        )
        for key in keys
        if key in ("50.00", "90.00", "99.00")
    ]
    rest: list[tuple[str, Callable[[Finished], float | None], str]] = [
        ("latency bound", lambda run: run.bound_ms, "{:g} ms"),
        ("duration", lambda run: run.duration_s, "{:.1f} s"),
        ("samples", lambda run: run.record["result"]["samples"], "{:,}"),
        ("samples per batch", per_batch, "{:.2f}"),
        ("padding", lambda run: run.padding, "{:.1%}"),
        ("cores busy", lambda run: run.cores_busy[0] if run.cores_busy else None, "{:.2f}"),
    ]
    compared = {"samples per batch", "cores busy"}
    rows = [row(name, value, form.format) for name, value, form in rest]
    plain = [Row(r.name, tuple(Cell(c.text, c.ratio if r.name in compared else "") for c in r.cells)) for r in rows]
    return [*latencies, *plain]


def _cells(texts: Sequence[str], values: Sequence[float | None], bases: Sequence[int | None]) -> tuple[Cell, ...]:
    """``bases`` are the places of the values that each is compared with, None for none."""
    cells = []
    for number, (text, value, base) in enumerate(zip(texts, values, bases, strict=True)):
        first = values[base] if base not in (None, number) else None
        cells.append(Cell(text, f"{_TIMES} {ratio_text(value / first)}" if first and value is not None else ""))
    return tuple(cells)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ({}, []):
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
