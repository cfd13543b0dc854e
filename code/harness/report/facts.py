"""The content of reports in all formats: the rows of the tables, in the same words and digits as on the terminal."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import JsonValue

from harness.results.agreement import Agreement
from harness.results.finished import Finished
from harness.results.parts import RecordedNode
from harness.scenarios.base import Metric

NONE = "-"
DISTURBED = "(disturbed)"
"""The mark of numbers that other processes affected by using the cores."""
OBSERVED = ("50.00", "90.00", "99.00")
"""The latency percentiles by which runs are compared."""
_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Cell:
    """The value of a quantity for one run."""

    text: str
    ratio: str = ""
    """Relative to the first run of its kind, if both have the quantity with the same meaning."""
    disturbed: bool = False
    """Whether other processes took cores from one of the two runs, so that the ratio says little."""

    @property
    def compared(self) -> str:
        """The ratio, marked if it says little; "" if there is none."""
        return f"{self.ratio} {DISTURBED}" if self.ratio and self.disturbed else self.ratio


@dataclass(frozen=True)
class Row:
    """A quantity for all runs, side by side."""

    name: str
    cells: tuple[Cell, ...]


def metric_text(metric: Metric) -> str:
    """A metric in the terminal's format."""
    return f"{metric.value:.3f} %" if metric.unit == "%" and metric.value is not None else str(metric)


def ratio_text(value: float) -> str:
    """A ratio with at least three significant digits.

    >>> ratio_text(1.5), ratio_text(0.0004685)
    ('1.500', '0.000469')
    """
    return f"{value:,.3f}" if value >= 0.1 else f"{value:.3g}"


def percentile(key: str) -> str:
    """The name of one of LoadGen's percentiles.

    >>> percentile("99.90")
    '99.9th percentile'
    """
    return "median" if float(key) == 50 else f"{float(key):g}th percentile"


def latency_name(key: str) -> str:
    """The name of a latency percentile in tables."""
    return f"latency observed, {percentile(key)}"


def milliseconds(value: float) -> str:
    """A latency in the terminal's format."""
    return f"{value:,.2f} ms"


def latencies(run: Finished) -> dict[str, float]:
    """Milliseconds by percentile; empty if all samples come in one query, where a latency is mostly waiting time."""
    return {} if run.scenario.one_query else run.latency_ms


def latency_rows(run: Finished) -> list[tuple[str, str, str]]:
    """Each percentile with its latency and whether it met the bound."""
    return [(percentile(key), milliseconds(ms), within(run, key)) for key, ms in latencies(run).items()]


def within(run: Finished, key: str) -> str:
    """Whether a percentile met the bound; "" if the bound does not apply to it."""
    if run.bound_ms is None or float(key) != run.scenario.percentile:
        return ""
    return "within the bound" if run.latency_ms[key] <= run.bound_ms else "above the bound"


def padding(run: Finished) -> str:
    """Padding in the terminal's format; "" if unknown."""
    result = run.record.result
    if not result.padded_to_real or not result.cost:
        return ""
    computed = result.cost * result.padded_to_real
    return f"{result.padded_to_real - 1:.1%} ({computed:,.0f} {result.cost_unit} computed for {result.cost:,})"


def agreement(run: Finished) -> str:
    """The largest deviation of the engine's outputs from ONNX Runtime's; "" if they were not compared."""
    found = Agreement.of(run.record)
    if not found.differences:
        return ""
    wrong = ", more than rounding explains" if found.wrong else ""
    return f"up to {found.differences[found.worst]:.2%}, in batches of {_TIMES.join(map(str, found.worst))}{wrong}"


def cores(run: Finished) -> str:
    """The mean number of busy cores; "" if it was not recorded."""
    if run.cores_busy is None:
        return ""
    process, machine = run.cores_busy
    return f"{process:.2f} by this run, {machine:.2f} on the machine, of {run.record.machine.cores}"


def per_core(run: Finished) -> float | None:
    """Samples/s divided by the machine's cores, or by those of all nodes; None for an accuracy run."""
    seconds = run.duration_s
    count = sum(node.machine.cores for node in run.record.nodes) or run.record.machine.cores
    return run.record.result.samples / seconds / count if run.performance and seconds and count else None


def _per_core_text(run: Finished) -> str:
    value = per_core(run)
    return "" if value is None else f"{value:,.2f} samples/s"


def _energy(run: Finished) -> str:
    energy = run.record.result.energy
    return energy.words(run.record.result.samples) if energy and run.performance else ""


def facts(run: Finished) -> list[tuple[str, str]]:
    """A summary of the run: (name, text) of each fact."""
    record, result = run.record, run.record.result
    count = f"{result.samples:,}" + (f" in {result.batches:,} batches" if result.batches else "")
    rows = [
        ("scenario", f"{record.scenario}, {record.test}"),
        ("engine", record.engine.title),
        ("model", run.model.title),
        ("data set", f"{record.dataset.name}, {record.dataset.samples_used:,} samples"),
        ("scored", result.accuracy_scope or ""),
        ("duration", f"{run.duration_s:.1f} s" if run.duration_s is not None else ""),
        ("samples", count),
        ("padding", padding(run)),
        *((choice.name, choice.text) for choice in record.choices),
        *(("doubt", doubt) for doubt in record.doubts),
        ("deviation from ONNX Runtime", agreement(run)),
        ("cores busy", cores(run)),
        ("per core", _per_core_text(run)),
        ("energy", _energy(run)),
        ("nodes", _nodes(run)),
        ("ended", record.time),
        ("command", record.command),
    ]
    return [(name, text) for name, text in rows if text]


def _nodes(run: Finished) -> str:
    """The number of nodes, and the payload sent to them; "" for a run on one machine."""
    found, payload = run.record.nodes, run.record.cluster_samples
    hosts = len({node.host for node in found})
    what = "sample numbers" if payload == "indices" else "samples"
    return f"{len(found)} on {hosts} host{'s' if hosts > 1 else ''}; {what} were sent to them" if found else ""


def nodes(run: Finished) -> list[list[str]]:
    """The nodes side by side: a row with their names, and one for each fact; empty for a run on one machine."""
    found = run.record.nodes
    if not found:
        return []
    columns: dict[str, Callable[[RecordedNode], str]] = {
        "host": lambda node: node.host,
        "processor": lambda node: node.machine.cpu,
        "cores": lambda node: str(node.machine.cores),
        "streams": lambda node: str(node.streams),
        "samples": lambda node: f"{node.samples:,}",
        "batches": lambda node: f"{node.batches:,}",
        "idle": lambda node: f"{node.idle_s:.2f} s",
        "ended": lambda node: f"{node.ended_s:.2f} s",
        "cores busy": lambda node: "" if node.cores_busy is None else f"{node.cores_busy:.2f}",
        "round trip": lambda node: "" if node.round_trip_ms is None else f"{node.round_trip_ms:.2f} ms",
    }
    rows = [[name, *map(of, found)] for name, of in columns.items()]
    return [["node", *(node.name for node in found)], *(row for row in rows if any(row[1:]))]


def side_by_side(runs: Sequence[Finished]) -> list[Row]:
    """The runs' quantities, with ratios to the first run of the same scenario, mode and benchmark."""
    rows = [
        Row("result", tuple(Cell(run.verdict) for run in runs)),
        Row("model", tuple(Cell(run.model.title) for run in runs)),
        Row("engine", tuple(Cell(run.record.engine.name) for run in runs)),
        Row("scenario", tuple(Cell(f"{run.record.scenario}, {run.record.test}") for run in runs)),
        Row("data set", tuple(Cell(run.record.dataset.name) for run in runs)),
        Row("disturbed", tuple(Cell(run.record.disturbed or NONE) for run in runs)),
        *_choice_rows(runs),
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
    rows = _marked(
        [*rows, *_rows(runs)],
        [bool(run.disturbed or runs[base].disturbed) for run, base in zip(runs, bases, strict=True)],
    )
    return [row for row in rows if any(cell.text != NONE for cell in row.cells)]


def _marked(rows: Sequence[Row], disturbed: Sequence[bool]) -> list[Row]:
    """The rows, with the ratios of disturbed runs marked."""
    return [
        replace(
            row, cells=tuple(replace(cell, disturbed=each) for cell, each in zip(row.cells, disturbed, strict=True))
        )
        for row in rows
    ]


def _choice_rows(runs: Sequence[Finished]) -> list[Row]:
    """A row for each choice that any run made."""
    found = [{choice.name: choice.text for choice in run.record.choices} for run in runs]
    names = dict.fromkeys(name for texts in found for name in texts)
    return [Row(name, tuple(Cell(texts.get(name, NONE)) for texts in found)) for name in names]


def plain(runs: Sequence[Finished]) -> list[dict[str, JsonValue]]:
    """The facts about each run for programs, by their names in the JSON report."""
    return [_plain(run, runs[base]) for run, base in zip(runs, _first_alike(runs), strict=True)]


def flat(values: Mapping[str, JsonValue], above: str = "") -> Iterator[tuple[str, JsonValue]]:
    """The values by name; names in nested tables are joined with dots."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value


def _plain(run: Finished, first: Finished) -> dict[str, JsonValue]:
    record, result = run.record, run.record.result
    metric = run.metrics[0] if run.metrics else None
    return {
        "run": run.name,
        "time": record.time or None,
        "verdict": run.verdict,
        "reasons": list(run.reasons),
        "notice": record.notice,
        "for_submission": record.for_submission,
        "rehearsal": record.rehearsal,
        "random_weights": run.model.random,
        "scenario": record.scenario,
        "mode": record.mode,
        "audit": record.audit,
        "metric": {"name": metric.name, "value": metric.value, "unit": metric.unit} if metric else None,
        "ratio_to_first": _ratio(run, first),
        "accuracy": None if result.accuracy is None else dict(result.accuracy),
        "accuracy_scope": result.accuracy_scope,
        "agreement": record.agreement.values() if record.agreement else None,
        "latency_ms": dict(run.latency_ms),
        "bound_ms": run.bound_ms,
        "duration_s": run.duration_s,
        "samples": result.samples,
        "batches": result.batches,
        "padded_to_real": result.padded_to_real,
        "disturbed": run.disturbed or None,
        "samples_per_second_and_core": per_core(run),
        "energy": result.energy.values() if result.energy else None,
        "cores_busy": dict(zip(("process", "machine"), run.cores_busy, strict=True)) if run.cores_busy else None,
        "published": run.published,
        "model": run.model.values(),
        "dataset": record.dataset.values(),
        "engine": record.engine.values(),
        "benchmark_settings": record.benchmark_settings,
        "choices": [choice.values() for choice in record.choices],
        "doubts": list(record.doubts),
        "loadgen": {key: value for key, value in run.values.items() if key.startswith(("effective_", "loadgen_"))},
        "machine": record.machine.values(),
        "nodes": [node.values() for node in record.nodes],
        "cluster_samples": record.cluster_samples,
        "command": record.command,
        "profile": run.profile.values() if run.profile else None,
    }


def _ratio(run: Finished, first: Finished) -> float | None:
    """The ratio of the metrics; None if they are different metrics, or the ratio is meaningless."""
    if not (run.metrics and first.metrics and _comparable(run, first)):
        return None
    metric, base = run.metrics[0], first.metrics[0]
    if metric.name != base.name or metric.value is None or not base.value:
        return None
    return metric.value / base.value


def kinds(runs: Sequence[Finished]) -> list[list[int]]:
    """The indices of the runs of each kind, that is of one scenario, test and benchmark: only these are comparable."""
    found: dict[object, list[int]] = {}
    for number, run in enumerate(runs):
        found.setdefault((run.record.scenario, run.record.test, run.model.benchmark), []).append(number)
    return list(found.values())


def kind_title(run: Finished) -> str:
    """The kind of a run in words."""
    return f"{run.model.benchmark}, {run.record.scenario} {run.record.test}"


def _first_alike(runs: Sequence[Finished]) -> list[int]:
    """For each run, the index of the first run of its kind: a ratio to that one is meaningful."""
    first = {number: kind[0] for kind in kinds(runs) for number in kind}
    return [first[number] for number in range(len(runs))]


def _comparable(run: Finished, first: Finished) -> bool:
    """Whether the metrics of two runs of the same kind have a meaningful ratio.

    If LoadGen sets the rate of queries, an INVALID run has no throughput: it did not sustain that rate.
    """
    return not run.scenario.paced or (run.record.valid and first.record.valid)


def _rows(runs: Sequence[Finished]) -> list[Row]:
    bases = _first_alike(runs)
    none = [None] * len(runs)

    def row(name: str, form: str, value: Callable[[Finished], float | None], to: Sequence[int | None] = none) -> Row:
        values = [value(run) for run in runs]
        return Row(name, _cells([NONE if v is None else form.format(v) for v in values], values, to))

    def latency(key: str) -> Row:
        return row(latency_name(key), "{:,.2f} ms", lambda run: latencies(run).get(key), bases)

    return [
        *map(latency, OBSERVED),
        row("latency bound", "{:g} ms", lambda run: run.bound_ms),
        row("duration", "{:.1f} s", lambda run: run.duration_s),
        row("samples", "{:,}", lambda run: run.record.result.samples),
        row("samples per batch", "{:.2f}", _samples_per_batch, bases),
        row("padding", "{:.1%}", lambda run: run.padding),
        row("samples/s per core", "{:,.2f}", per_core, bases),
        row("power", "{:,.1f} W", lambda run: run.record.result.energy.watts if run.record.result.energy else None),
        row("samples per joule", "{:,.4g}", _per_joule, bases),
        row("cores busy", "{:.2f}", lambda run: run.cores_busy[0] if run.cores_busy else None, bases),
    ]


def _samples_per_batch(run: Finished) -> float | None:
    result = run.record.result
    return result.samples / result.batches if result.batches else None


def _per_joule(run: Finished) -> float | None:
    energy = run.record.result.energy
    return run.record.result.samples / energy.joules if energy and run.performance else None


def _cells(texts: Sequence[str], values: Sequence[float | None], bases: Sequence[int | None]) -> tuple[Cell, ...]:
    """The cells of a row; ``bases`` has, for each value, the index of the one to compare it with, or None."""
    cells = []
    for number, (text, value, base) in enumerate(zip(texts, values, bases, strict=True)):
        first = values[base] if base not in (None, number) else None
        cells.append(Cell(text, f"{_TIMES} {ratio_text(value / first)}" if first and value is not None else ""))
    return tuple(cells)
