"""Each installed engine on each model with its default settings, side by side; ranks them for models.toml.

    python -m benchmarks.engines [--models M,M] [--engines E,E] [--dataset bert=PATH] [--seconds S] [--rounds N]

Prints for each model and engine:
  Offline samples/s of LoadGen, ÷ the engine alone: a plain loop over the same batches with the library's own Python
  API and as many streams, and ÷ the engine's own tool if it has one (OpenVINO's benchmark_app);
  SingleStream's 90th percentile, and how that of the engine alone on the same queries compares with it;
  the score of an accuracy run;
  the mean number of cores that other processes kept busy: much more than 0 makes a row doubtful.

Each side runs in a separate process, and first runs, untimed, a batch of each shape on every stream. The engines take
turns in each round, in the reverse order of the previous round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.bare import BARE, TOOLS, BareLayout, Call, ShapedFeed
from benchmarks.common import apart, command, prepare_test, spread
from benchmarks.offline import loadgen_test, planned, raw_engine, seconds_of
from benchmarks.recovery import run
from benchmarks.scenarios import loadgen_latency
from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.catalog.manifests import Model
from harness.catalog.models import find_model
from harness.engines.base import engine_errors
from harness.errors import ConfigError, HarnessError
from harness.host.machine import core_count, cpu_model, multiplies_int8
from harness.host.usage import CoreMeter
from harness.preparing.prepared import Prepared
from harness.registry import BENCHMARKS, ENGINES, choose, installed
from harness.scenarios.measured import MeasuredScenario
from harness.scenarios.offline import Offline
from harness.scheduling.limits import Limits
from harness.task.shape import Integers
from harness.terminal import console

_TARGET = "0.97"


@dataclass(frozen=True)
class ModelOnEngine:
    """The subject of the measurements: one model on one engine."""

    model: str
    dataset: str | None
    engine: str
    seconds: float
    """Approximate length of each measurement."""
    limits: Limits | None = None
    """Offline's batch limits from the first measurement: otherwise each would choose its own, and differ in batches."""

    def ready(self, scenario: str) -> Prepared:
        """The scenario, prepared with default settings."""
        limits = self.limits if scenario == Offline.name else None
        return prepare_test(self.model, self.dataset, self.engine, scenario, limits=limits)


def offline(work: ModelOnEngine, samples: int) -> tuple[float, int, float, Limits | None]:
    """Samples/s that LoadGen reports for Offline, the number of samples, cores busy with other work, the batch limits.

    With 0 ``samples`` the query takes about ``work.seconds``.
    """
    setup = work.ready("Offline")
    minimum = len(setup.indices)
    with engine_errors(work.engine, "to run"):
        samples = samples or max(minimum, int(raw_engine(setup, max(minimum, 64)) * work.seconds))
        warm_up(_runners(setup), _one_of_each_shape(setup, samples))
    with CoreMeter() as meter:
        rate, _ = loadgen_test(setup, samples)
    choice = setup.scenario.choice
    return rate, samples, _lost(meter), choice.limits if choice else None


def _lost(meter: CoreMeter) -> float:
    """The mean number of cores that others took; 0 if the measurement was too short to show it."""
    return meter.use.lost if meter.use else 0.0


def warm_up(streams: Sequence[Call], batches: Iterable[ShapedFeed]) -> None:
    """Run a batch of each shape on every stream, on all streams at the same time; raises any stream's exception."""
    together = threading.Barrier(len(streams))

    def run(call: Call, batch: ShapedFeed) -> None:
        together.wait()
        call(batch)

    with ThreadPoolExecutor(len(streams)) as pool:
        for batch in dict(batches).items():
            for done in [pool.submit(run, call, batch) for call in streams]:
                done.result()


def _runners(setup: Prepared) -> list[Call]:
    """A call of the harness's engine for each stream."""
    return [lambda batch: setup.sut.runner(batch[0])(batch[1])] * setup.sut.engine.streams


def _one_of_each_shape(setup: Prepared, samples: int) -> list[ShapedFeed]:
    """One batch of each shape in Offline's query."""
    assert isinstance(setup.scenario, Offline)
    query = np.resize(setup.indices, samples)
    query = query[setup.qsl.arrange(query)]
    places = {batch.shape: batch.positions for batch in setup.scenario.planner.plan(setup.qsl.cost(query))}
    return [(shape, setup.sut.feed(setup.qsl.collate(query[each], shape))) for shape, each in places.items()]


def _apart_from_the_harness(
    work: ModelOnEngine, scenario: str, batches: Callable[[Prepared], list[ShapedFeed]]
) -> tuple[BareLayout, list[ShapedFeed]]:
    """Layout and batches of a scenario; the harness's engine is freed when they are returned."""
    setup = work.ready(scenario)
    return BareLayout.of(setup), batches(setup)


def bare_offline(work: ModelOnEngine, samples: int) -> tuple[float, float]:
    """Samples/s of the library alone on the batches of the same query, and cores busy with other work."""
    layout, batches = _apart_from_the_harness(work, "Offline", lambda setup: planned(setup, samples))
    with engine_errors(work.engine, "to run alone"):
        streams = BARE[work.engine](layout, batches)
        warm_up(streams, batches)
        with CoreMeter() as meter:
            seconds = seconds_of(streams, batches)
    return samples / seconds, _lost(meter)


def tool_offline(work: ModelOnEngine, samples: int) -> tuple[float, float]:
    """Samples/s of the engine's own tool, and cores busy with other work."""
    layout, batches = _apart_from_the_harness(work, "Offline", lambda setup: planned(setup, samples))
    with engine_errors(work.engine, "to run in its own tool"), CoreMeter(children=True) as meter:
        rate = TOOLS[work.engine](layout, batches, work.seconds)
    return rate, _lost(meter)


def stream(work: ModelOnEngine) -> tuple[float, list[Integers], float]:
    """LoadGen's 90th percentile of SingleStream in ms, the samples of each query, and cores busy with other work."""
    setup = work.ready("SingleStream")
    expected = setup.scenario.estimate(setup.indices, work.seconds, setup.listener).value
    _, places = np.unique(setup.qsl.cost(setup.indices), return_index=True)
    with engine_errors(work.engine, "to run"):
        warm_up(_runners(setup), _queries(setup, [setup.indices[[place]] for place in places]))
    with CoreMeter() as meter:
        latency, issued = loadgen_latency(setup, expected, work.seconds)
    return latency, issued, _lost(meter)


def bare_stream(work: ModelOnEngine, issued: Sequence[Integers]) -> tuple[float, float]:
    """The same percentile of the library alone for the same queries, and cores busy with other work."""
    layout, queries = _apart_from_the_harness(work, "SingleStream", lambda setup: _queries(setup, issued))
    with engine_errors(work.engine, "to run alone"):
        streams = BARE[work.engine](layout, queries)
        warm_up(streams, queries)
        with CoreMeter() as meter:
            took = [seconds_of(streams[:1], [batch]) for batch in queries]
    return float(np.percentile(took, 90) * 1000), _lost(meter)


def _queries(setup: Prepared, issued: Sequence[Integers]) -> list[ShapedFeed]:
    """The batches of SingleStream's queries for these samples."""
    assert isinstance(setup.scenario, MeasuredScenario)
    shapes = [setup.scenario.table.shape(1, int(setup.qsl.cost(indices)[0])) for indices in issued]
    return [
        (shape, setup.sut.feed(setup.qsl.collate(indices, shape)))
        for indices, shape in zip(issued, shapes, strict=True)
    ]


def score(work: ModelOnEngine, dataset: Path) -> str:
    """The score of an accuracy run, in words."""
    with tempfile.TemporaryDirectory() as folder:
        record: dict[str, Any] = run(Path(work.model), work.engine, "accuracy", dataset, work.seconds, [], Path(folder))
    name, value = next(iter(record["result"]["accuracy"].items()))
    return f"{name} {value:.2f}"


@dataclass
class EngineMeasurements:
    """The measurements of a model on an engine, one of each kind per round."""

    figures: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    samples: int = 0
    """Of Offline's query."""
    issued: Sequence[Integers] = ()
    """The samples of SingleStream's queries."""
    limits: Limits | None = None
    """Offline's batch limits."""
    score: str = ""
    failed: bool = False
    """Whether the harness failed."""
    lost: set[str] = field(default_factory=set)
    """The kinds without the harness that failed; they are not measured again."""

    def add(self, kind: str, value: float, others: float) -> None:
        """Add a measurement, and the cores that were busy with other work meanwhile."""
        self.figures[kind].append(value)
        self.figures["others"].append(others)

    def ratio(self, over: str, under: str) -> str:
        """Median, minimum and maximum of the ratio of two kinds; "" without measurements."""
        pairs = list(zip(self.figures[over], self.figures[under], strict=False))
        return spread([a / b for a, b in pairs]) if pairs else ""

    def median(self, kind: str) -> float:
        """Median of a kind; 0 without measurements."""
        return statistics.median(self.figures[kind] or [0.0])

    def shown(self, kind: str, digits: int) -> str:
        """The median as text; "" without measurements."""
        return f"{self.median(kind):.{digits}f}" if self.figures[kind] else ""


def measure(work: ModelOnEngine, row: EngineMeasurements, turn: int) -> None:
    """One round: both sides of each ratio, in reverse order every second round, because machines drift.

    A measurement without the harness that fails is left out from then on, with a warning.

    Raises:
        HarnessError: the harness failed.
    """

    def harness_offline() -> None:
        rate, row.samples, others, row.limits = apart(offline, replace(work, limits=row.limits), row.samples)
        row.add("offline", rate, others)

    def harness_stream() -> None:
        latency, row.issued, others = apart(stream, work)
        row.add("p90", latency, others)

    def alone(kind: str, side: Callable[..., tuple[float, float]], queries: object) -> None:
        if kind in row.lost:
            return
        try:
            row.add(kind, *apart(side, replace(work, limits=row.limits), queries))
        except HarnessError as error:
            console.warn(str(error))
            row.lost.add(kind)

    pairs = [
        (harness_offline, lambda: alone("bare", bare_offline, row.samples)),
        (harness_stream, lambda: alone("bare p90", bare_stream, row.issued)),
    ]
    for sides in pairs:
        for side in sides if turn % 2 == 0 else reversed(sides):
            side()
    if work.engine in TOOLS:
        alone("tool", tool_offline, row.samples)


def measured(
    model: str, dataset: str | None, engines: Sequence[str], seconds: float, rounds: int
) -> dict[str, EngineMeasurements]:
    """The rows of a model by engine."""
    rows = {engine: EngineMeasurements() for engine in engines}
    works = {engine: ModelOnEngine(model, dataset, engine, seconds) for engine in engines}
    found = find_model(model)
    data = find_dataset(found.benchmark, dataset).path
    for turn in range(rounds):
        for engine in engines if turn % 2 == 0 else reversed(engines):
            row = rows[engine]
            if row.failed:
                continue
            console.note(f"measuring {found.name} on {engine}, round {turn + 1} of {rounds} ...")
            try:
                measure(works[engine], row, turn)
                row.score = row.score or score(ModelOnEngine(str(found.path), dataset, engine, seconds), data)
            except HarnessError as error:
                console.warn(str(error))
                row.failed = True
    return rows


def ranking(rows: Mapping[str, EngineMeasurements]) -> list[str]:
    """The engines that work, the fastest in Offline first."""
    return sorted(
        (name for name, row in rows.items() if not row.failed), key=lambda name: -rows[name].median("offline")
    )


def add_rows(table: Table, name: str, rows: Mapping[str, EngineMeasurements]) -> None:
    """A row of the table for each engine."""
    for engine, row in rows.items():
        table.add_row(
            name,
            engine,
            f"{row.shown('offline', 1)}{' failed' if row.failed else ''}".strip(),
            row.ratio("offline", "bare"),
            row.ratio("offline", "tool"),
            row.shown("p90", 2),
            row.ratio("bare p90", "p90"),
            row.score,
            f"{max(row.figures['others'], default=0.0):.2f}",
        )


def datasets(given: Sequence[str]) -> dict[str, str]:
    """The data sets by benchmark.

    Raises:
        ConfigError: one is not of the form BENCHMARK=PATH.
    """
    found = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals:
            raise ConfigError(f"--dataset {text}: write BENCHMARK=PATH, such as bert=dev-v1.1.json.")
        found[choose("benchmark", BENCHMARKS, name)] = path
    return found


def entry(model: Model, rows: Mapping[str, EngineMeasurements]) -> str:
    """The ranking in the form of models.toml."""
    names = ", ".join(f'"{name}"' for name in ranking(rows))
    key = "engines" if multiplies_int8() else "engines_without_vnni"
    return f"[{model.name}]\n{key} = [{names}]"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shipped = [name for name, (_, entry) in manifests.models().items() if entry.file]
    parser.add_argument("--models", default=",".join(shipped), help="names or paths [%(default)s]")
    parser.add_argument("--engines", default=",".join(installed()), help="[%(default)s]")
    parser.add_argument("--dataset", action="append", default=[], metavar="BENCHMARK=PATH", help="may be repeated")
    parser.add_argument("--seconds", type=float, default=8, help="approximate length of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    engines, data = [choose("engine", ENGINES, name) for name in args.engines.split(",")], datasets(args.dataset)
    table = Table(
        *("model", "engine", "Offline samples/s", f"÷ engine alone, target {_TARGET}", f"÷ its tool, target {_TARGET}"),
        *("SingleStream p90 ms", f"engine alone ÷ it, target {_TARGET}", "score", "others' cores"),
        box=None,
        pad_edge=False,
    )
    entries = []
    for name, model in [(name, find_model(name)) for name in args.models.split(",")]:
        rows = measured(name, data.get(model.benchmark), engines, args.seconds, args.rounds)
        add_rows(table, model.name, rows)
        entries.append(entry(model, rows))
    console.out.print(f"{cpu_model()}, {core_count()} cores; {args.rounds} rounds, median (minimum - maximum)")
    console.print_table(table)
    console.out.print("\nthe fastest first, for models.toml:\n" + "\n".join(entries), markup=False)


if __name__ == "__main__":
    command(main)
