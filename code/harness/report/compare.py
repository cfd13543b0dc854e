"""Compares two runs, or two sets of repeats: their differences, their metrics, and whether one is faster."""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import JsonValue
from rich.table import Table

from harness.errors import ConfigError
from harness.report.facts import OBSERVED, flat, latency_name, ratio_text
from harness.report.noise import ASKED_RATE, Quantity, Side, SpeedVerdict, latency, not_comparable, speed_verdict
from harness.results.finished import locate, record_in, timeline
from harness.results.record import Record
from harness.scenarios.base import find_scenario
from harness.terminal import console

_NO_SETTINGS = frozenset(
    {"agreement", "command", "digests", "identity", "notice", "reasons", "reference", "result", "time", "valid"}
)
# The chosen limits and streams are also in the engine's settings.
_MEASURED = frozenset({"measured_seconds", "limits", "streams"})
_SIZED = frozenset({"estimated_target_qps", "estimated_target_latency", "missed_target_qps", "missed_target_latency"})
_OF_NODE = frozenset({"host", "machine", "model_sha256", "code", "streams", "engine"})
_REPEATED = frozenset({"model.random"})  # the caveat says the same, also in records of older versions
_OF_WHAT = {"scenario": "scenarios", "mode": "modes", "model.name": "models", "dataset.name": "data sets"}
_SCORE_NOISE = 0.05
"""Percentage points of F1 or top-1 by which two runs of the same model may differ, since batches round differently."""


@dataclass(frozen=True)
class MetricRow:
    """A metric: the median of each side, and B ÷ A."""

    name: str
    unit: str
    a: float
    b: float

    @property
    def ratio(self) -> float | None:
        """B ÷ A; None if A is 0."""
        return self.b / self.a if self.a else None


@dataclass(frozen=True)
class Comparison:
    """The differences, metrics and verdict for two sides."""

    remarks: tuple[str, ...]
    differences: dict[str, tuple[str, str]]
    rows: tuple[MetricRow, ...]
    verdict: SpeedVerdict
    worse: str = ""
    """How B is worse than A, for `--gate`; "" if it is not, as far as the noise allows a verdict."""
    not_comparable: str = ""
    """Why the two sides cannot be compared; "" if they can."""


def find(words: str, runs: Path) -> Side:
    """The runs in a comma-separated list: folders, or names below ``runs``.

    Raises:
        ConfigError: a run does not exist or cannot be read, or they are not repeats of the same run.
    """
    # A folder's own name may contain a comma.
    names = [words] if words and Path(words).is_dir() else [word.strip() for word in words.split(",") if word.strip()]
    if not names:
        raise ConfigError("a run has no name: give a folder of build/runs, its name, or several separated by commas.")
    folders = locate(names, runs)
    for number, folder in enumerate(folders):
        if any(folder.samefile(other) for other in folders[:number]):
            raise ConfigError(f"{words} has {folder.name} twice: name each repeat only once.")
    records = tuple(map(record_in, folders))
    for key, of_what in _OF_WHAT.items():
        found = {_settings(record)[key] for record in records}
        if len(found) > 1:
            raise ConfigError(f"{words} are runs of different {of_what} ({', '.join(sorted(found))}), not repeats.")
    return Side(
        tuple(folder.name if folder.parent == runs else name for folder, name in zip(folders, names, strict=True)),
        records,
        tuple(timeline(folder, record, runs) for folder, record in zip(folders, records, strict=True)),
    )


def compare(a: Side, b: Side) -> Comparison:
    """The differences, the metrics and the verdict."""
    differences = _differences(a, b)
    remarks = [
        f"A and B have different {of_what}: {' and '.join(differences[key])}."
        for key, of_what in _OF_WHAT.items()
        if key in differences
    ]
    remarks += [*_remarks("A", a), *_remarks("B", b)]
    verdict = speed_verdict(a, b)
    if verdict.faster is not None and not differences:
        same = " No recorded setting differs, so this is run-to-run variation."
        verdict = replace(verdict, text=verdict.text + same)
    if verdict.ratio is not None and any(record.disturbed for record in (*a.records, *b.records)):
        doubt = " Other processes disturbed at least one of the runs: repeat it without them to be sure."
        verdict = replace(verdict, text=verdict.text + doubt)
    rows = tuple(_rows(a, b))
    worse = _worse(a, b, rows, verdict)
    return Comparison(tuple(remarks), differences, rows, verdict, worse, not_comparable(a, b))


def _worse(a: Side, b: Side, rows: Sequence[MetricRow], verdict: SpeedVerdict) -> str:
    """How B is worse: one of its runs is INVALID (even if one of A's is as well), or its speed or a score is lower."""
    for name, record in zip(b.names, b.records, strict=True):
        if not record.valid:
            return f"{name} is INVALID"
    if verdict.faster is False:
        return f"{verdict.metric} is {ratio_text(verdict.ratio)} of A's" if verdict.ratio else "it is slower"
    if not (a.performance or b.performance):
        for row in rows:
            if row.b < row.a - _SCORE_NOISE and row.unit == "%":
                return f"{row.name} fell from {row.a:.3f} to {row.b:.3f} %"
    return ""


def _remarks(letter: str, side: Side) -> Iterator[str]:
    """Reasons to doubt the runs of a side."""
    if varying := _varying(side):
        yield f"{letter}'s runs are not repeats of the same setting: they differ in {', '.join(varying)}."
    for name, record in zip(side.names, side.records, strict=True):
        which = letter if len(side.names) == 1 else f"{letter}'s {name}"
        if not record.valid:
            why = "; ".join(record.reasons or ["the record states no reason"])
            yield f"{which} is INVALID: {why.rstrip('.')}."
        if record.disturbed:
            yield f"{which} was disturbed: {record.disturbed}; {side.scenario.suffers}."


def show(a: str, b: str, runs: Path, as_json: bool) -> Comparison:
    """Print a comparison, and return it.

    Raises:
        ConfigError: as `find`.
    """
    sides = find(a, runs), find(b, runs)
    found = compare(*sides)
    if as_json:
        console.print_json(
            {
                "a": sides[0].names,
                "b": sides[1].names,
                "remarks": found.remarks,
                "differences": found.differences,
                "metrics": [{**asdict(row), "ratio": row.ratio} for row in found.rows],
                "verdict": asdict(found.verdict),
                "worse": found.worse or None,
            }
        )
    else:
        _print(sides, found)
    return found


def _print(sides: tuple[Side, Side], found: Comparison) -> None:
    def line(text: str, style: str = "") -> None:
        console.out.print(text, markup=False, highlight=False, soft_wrap=True, style=style)

    for letter, side in zip("AB", sides, strict=True):
        line(f"{letter}: {', '.join(side.names)}")
    for remark in found.remarks:
        line(remark, "yellow")
    console.out.print()
    if found.differences:
        table = Table("differs", "A", "B", box=None, pad_edge=False)
        for key, values in found.differences.items():
            table.add_row(key, *map(_shortened, values))
        console.print_table(table)
    else:
        console.out.print("Settings, data, machine and versions are the same.")
    console.out.print()
    if found.rows:
        medians = " (medians)" if max(len(side.names) for side in sides) > 1 else ""
        table = Table(f"metric{medians}", "A", "B", "B ÷ A", box=None, pad_edge=False)
        for row in found.rows:
            unit = f" {row.unit}" if row.unit else ""
            ratio = "" if row.ratio is None else ratio_text(row.ratio)
            table.add_row(row.name, f"{row.a:,.2f}{unit}", f"{row.b:,.2f}{unit}", ratio)
        console.print_table(table)
        console.out.print()
    line(found.verdict.text, "bold")


def _settings(record: Record) -> dict[str, str]:
    """Everything except measurements, by name; names in nested tables are joined with dots."""
    values = {key: value for key, value in record.values().items() if key not in _NO_SETTINGS | _MEASURED | _SIZED}
    if record.nodes:
        values["nodes"] = {
            node.name: {key: value for key, value in node.values().items() if key in _OF_NODE} for node in record.nodes
        }
    # Unless the user sets the rate, it is derived from measurements and differs in every run.
    if not find_scenario(record.scenario).paced:
        values["loadgen"] = {**record.loadgen, ASKED_RATE: None}
    return {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in flat(values)
        if name not in _REPEATED
    }


def _differences(a: Side, b: Side) -> dict[str, tuple[str, str]]:
    """The differing values of both sides, by name; for repeats, all distinct values."""
    settings: list[dict[str, list[str]]] = []
    for side in (a, b):
        known: dict[str, list[str]] = {}
        for record in side.records:
            for key, value in _settings(record).items():
                values = known.setdefault(key, [])
                if value not in values:
                    values.append(value)
        settings.append(known)
    # In the order of A's record, followed by the names that only B's has.
    found = {}
    for key in dict.fromkeys([*settings[0], *settings[1]]):
        one, other = (known.get(key, ["-"]) for known in settings)
        if sorted(one) != sorted(other) and not _same_file(key, a, b):
            found[key] = (" | ".join(one), " | ".join(other))
    return found


def _same_file(key: str, a: Side, b: Side) -> bool:
    """Whether a setting is the path of a file with the same content in all records, wherever it is stored."""
    above, _, name = key.partition(".")
    contents: list[JsonValue]
    records = a.records + b.records
    if above == "benchmark_settings":  # the identity holds the content's sha256
        contents = [record.identity.benchmark_settings.get(name) for record in records]
    elif key == "model.path":
        contents = [record.model.sha256 for record in records]
    elif key == "dataset.path":
        contents = [record.dataset.sha256 for record in records]
    else:
        return False
    return contents[0] is not None and all(content == contents[0] for content in contents)


def _varying(side: Side) -> list[str]:
    """The settings in which repeats differ; shapes are derived from the others and from measured times."""
    first, *others = (Side((name,), (record,), (None,)) for name, record in zip(side.names, side.records, strict=True))
    return list(dict.fromkeys(key for other in others for key in _differences(first, other) if key != "shapes"))


def _rows(a: Side, b: Side) -> Iterator[MetricRow]:
    def row(name: str, unit: str, quantity: Quantity) -> Iterator[MetricRow]:
        values = a.values(quantity), b.values(quantity)
        if all(values):
            yield MetricRow(name, unit, *map(statistics.median, values))

    if not (a.performance or b.performance):
        for name in a.records[0].result.accuracy or {}:
            yield from row(name, "%", _score(name))
    if not (a.performance and b.performance):
        return
    metric, other = (side.records[0].result.metric for side in (a, b))
    if metric.name == other.name:
        yield from row(metric.name, metric.unit, lambda result: result.metric.value)
    if not (a.scenario.one_query or b.scenario.one_query):
        for key in OBSERVED:
            yield from row(latency_name(key), "ms", latency(key))
    yield from row("padded ÷ real cost", "", lambda result: result.padded_to_real)


def _score(name: str) -> Quantity:
    return lambda result: (result.accuracy or {}).get(name)


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
