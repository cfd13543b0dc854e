"""The details of a run for reference: settings, model, machine, software."""

from pydantic import JsonValue

from harness.results.finished import Finished
from harness.results.profile import OperatorTime

_MAX_OPERATORS = 15  # of a profile; the rest is in profile.json
_TIMES = "\N{MULTIPLICATION SIGN}"


def settings(run: Finished) -> list[tuple[str, str]]:
    """The settings of the engine, the benchmark and LoadGen."""
    record = run.record
    shapes = ", ".join(_TIMES.join(map(str, shape)) for shape in record.shapes or ())
    rows = [
        *((f"engine: {key}", _text(value)) for key, value in record.engine.values().items()),
        *((f"benchmark: {key}", _text(value)) for key, value in (record.benchmark_settings or {}).items()),
        ("tuned settings", record.tuned or ""),
        (f"shapes (batch {_TIMES} length)", shapes),
    ]
    rows += [
        (f"LoadGen: {key.removeprefix('effective_')}", _text(value))
        for key, value in run.values.items()
        if key.startswith("effective_")
    ]
    return [(name, text) for name, text in rows if text]


def model(run: Finished) -> list[tuple[str, str]]:
    """The facts about the model, and the metadata in its file."""
    values = run.model.values()
    rows = [(key.replace("_", " "), _text(value)) for key, value in values.items() if key not in ("metadata", "path")]
    rows += [(f"file: {key}", value) for key, value in run.model.metadata.items()]
    return [(name, text) for name, text in rows if text]


def machine(run: Finished) -> list[tuple[str, str]]:
    """The machine that LoadGen ran on."""
    machine = run.record.machine
    values, memory = machine.values(), machine.memory_bytes
    rows = [(k.replace("_", " "), _text(v)) for k, v in values.items() if k not in ("packages", "memory_bytes")]
    rows += [("memory", f"{memory / 2**30:.1f} GiB")] if memory else []
    return [(name, text) for name, text in rows if text]


def software(run: Finished) -> list[tuple[str, str]]:
    """The versions of the software."""
    record = run.record
    rows = [("harness", record.harness), ("LoadGen", _text(record.loadgen.get("loadgen_version")))]
    return [*rows, *((f"package: {key}", value) for key, value in record.machine.packages.items())]


def profile(run: Finished) -> list[tuple[str, list[list[str]]]]:
    """Tables of the time in operators and nodes, each a title and rows, the header first; empty without a profile."""
    found = run.profile
    if found is None:
        return []
    head = ["share", "ms", "calls"]
    operators = [[each.operator, *_cost(each)] for each in found.operators[:_MAX_OPERATORS]]
    nodes = [[each.node, each.operator, *_cost(each)] for each in found.nodes]
    return [
        ("Time by operator", [["operator", *head], *operators]),
        ("Slowest nodes", [["node", "operator", *head], *nodes]),
    ]


def _cost(spent: OperatorTime) -> list[str]:
    return [f"{spent.share:.1%}", f"{spent.ms:,.2f}", f"{spent.calls:,}"]


def _text(value: JsonValue) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ({}, []):
        return ""
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
