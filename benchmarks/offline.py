"""Overhead and gain of the harness in the Offline scenario.

    python -m benchmarks.offline [--model M] [--dataset D] [--engines onnxruntime,openvino] [--seconds S]

Prints for any model, side by side in one run:
  (a) LoadGen Offline samples/s ÷ the raw engine over the same batches;
  (b) LoadGen Offline samples/s ÷ the reference's way with the same engine: one sample at a time, padded in full;
  (c) the null engine ÷ LoadGen's bare Python null SUT;
  (d) padded ÷ real cost (tokens, images).

Each LoadGen test runs in a separate process. The two sides of a ratio are measured alternately, several times, because
machines drift; each pair gives a ratio, and the median of the ratios is printed with the minimum and maximum.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from rich.table import Table

from benchmarks.common import apart, command, prepare_test, spread
from harness.catalog import manifests
from harness.host.machine import core_count, cpu_model
from harness.preparing.prepared import Prepared
from harness.registry import installed
from harness.scenarios.base import ShortTest
from harness.scenarios.offline import Offline
from harness.task.shape import Array, Shape
from harness.terminal import console

T = TypeVar("T")
_ONE_SHAPE = {"deepsparse": {"shapes": 1}}


class EngineRatios(NamedTuple):
    """What (a) and (d) compare of one engine."""

    rows: list[tuple[float, float, float]]
    """Samples/s of LoadGen and of the raw engine, and padded ÷ real cost, of each pair."""
    samples: int
    shapes: Sequence[Shape]
    """Empty if the engine runs any."""


def loadgen_test(setup: Prepared, samples: int) -> tuple[float, float]:
    """Samples/s that LoadGen reports for one query of about ``samples``, and padded ÷ real tokens."""
    from harness.preparing import session

    scheduler = setup.scenario.scheduler(session.complete)
    detail = setup.short_test(ShortTest(queries=samples), scheduler)
    return float(Offline.metric(detail).value or 0), float(scheduler.counters.padding_ratio or 0)


def planned(setup: Prepared, samples: int) -> list[tuple[Shape, Mapping[str, Array]]]:
    """The batches of a query of about ``samples``: shape and tensors of each."""
    assert isinstance(setup.scenario, Offline)
    query = np.resize(setup.indices, samples)
    query = query[setup.qsl.arrange(query)]
    return [
        (batch.shape, setup.sut.feed(setup.qsl.collate(query[batch.positions], batch.shape)))
        for batch in setup.scenario.planner.plan(setup.qsl.cost(query))
    ]


def seconds_of(streams: Sequence[Callable[[T], object]], work: Iterable[T]) -> float:
    """The time that the streams, each in a thread, take for the work; each takes the next item when it is free."""
    lock, items = threading.Lock(), iter(work)

    def stream(run: Callable[[T], object]) -> None:
        while True:
            with lock:
                try:
                    item = next(items)
                except StopIteration:
                    return
            run(item)

    threads = [threading.Thread(target=stream, args=(run,)) for run in streams]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def raw_engine(setup: Prepared, samples: int) -> float:
    """Samples/s of the engine alone on the batches of the same query, with tensors prepared in advance."""
    work = [(setup.sut.runner(shape), tensors) for shape, tensors in planned(setup, samples)]
    return samples / seconds_of([lambda item: item[0](item[1])] * setup.sut.engine.streams, work)


def reference_way(setup: Prepared, seconds: float) -> float:
    """Samples/s of one sample at a time on all cores, padded to the maximum length."""
    shape = Shape(1, setup.scenario.max_cost)
    setup.sut.answer(setup.indices[:1], shape)
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        setup.sut.answer(setup.indices[done % len(setup.indices)][None], shape)
        done += 1
    return done / (time.perf_counter() - start)


def bare_null(samples: int, count: int) -> float:
    """Samples/s of LoadGen's own Python null SUT: an empty response for each query id, in a single call."""
    import mlperf_loadgen as lg

    from harness.loadgen.logs import read_detail

    def issue(query: list[Any]) -> None:
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in query])

    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.Offline, lg.TestMode.PerformanceOnly
    settings.min_duration_ms, settings.min_query_count = 0, samples
    with tempfile.TemporaryDirectory() as folder:
        output = lg.LogOutputSettings()
        output.outdir = folder
        log = lg.LogSettings()
        log.log_output, log.enable_trace = output, False
        sut = lg.ConstructSUT(issue, lambda: None)
        qsl = lg.ConstructQSL(count, count, lambda _: None, lambda _: None)
        lg.StartTestWithLogSettings(sut, qsl, settings, log, "")
        lg.DestroyQSL(qsl)
        lg.DestroySUT(sut)
        return float(Offline.metric(read_detail(Path(folder), "performance")).value or 0)


def engine_ratios(model: str, dataset: str | None, engine: str, seconds: float, pairs: int) -> EngineRatios:
    """(a) and (d) of one engine; runs in a separate process."""
    setup = prepare_test(model, dataset, engine, "Offline")
    assert isinstance(setup.scenario, Offline)
    rough = raw_engine(setup, max(len(setup.indices), 64))
    samples = max(len(setup.indices), int(rough * seconds))
    rows = []
    for pair in range(pairs):
        # Alternate which side is first, so that a slow drift of the machine favours neither.
        if pair % 2:
            raw, (loadgen, padding) = raw_engine(setup, samples), loadgen_test(setup, samples)
        else:
            (loadgen, padding), raw = loadgen_test(setup, samples), raw_engine(setup, samples)
        rows.append((loadgen, raw, padding))
    return EngineRatios(rows, samples, setup.scenario.planner.shapes)


def reference_rates(model: str, dataset: str | None, engine: str, seconds: float, pairs: int) -> list[float]:
    """The other side of (b), in a separate process: two instances of an engine would slow each other down."""
    options = {"threads": core_count(), "streams": 1, **_ONE_SHAPE.get(engine, {})}
    reference = prepare_test(model, dataset, engine, "Offline", options)
    reference.sut.prepare(Shape(1, reference.scenario.max_cost))
    return [reference_way(reference, seconds / 2) for _ in range(pairs)]


def null_ratios(model: str, dataset: str | None, pairs: int) -> list[tuple[float, float]]:
    """(c): pairs of (null engine, bare null SUT) in samples/s."""
    loaded = len(prepare_test(model, dataset, "null", "Offline").indices)
    # At most the loaded samples: batches that are contiguous in memory need no copy.
    setup = prepare_test(model, dataset, "null", "Offline", {"max_batch": min(1024, loaded)})
    return [(loadgen_test(setup, 500_000)[0], bare_null(500_000, len(setup.indices))) for _ in range(pairs)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=manifests.default_model())
    parser.add_argument("--dataset", default=None)
    parser.add_argument("--engines", default=",".join(installed()))
    parser.add_argument("--seconds", type=float, default=15, help="approximate length of each measurement")
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()

    table = Table("what", "ratio: median (min - max)", "target", "figures", box=None, pad_edge=False)
    for engine in filter(None, args.engines.split(",")):
        console.note(f"measuring {engine} ...")
        found = apart(engine_ratios, args.model, args.dataset, engine, args.seconds, args.pairs)
        loadgen, raw, padding = (list(column) for column in zip(*found.rows, strict=True))
        reference = apart(reference_rates, args.model, args.dataset, engine, args.seconds, args.pairs)
        rates = f"{statistics.median(loadgen):.1f} and {{:.1f}} samples/s, {found.samples} samples"
        ratio = [a / b for a, b in zip(loadgen, raw, strict=True)]
        table.add_row(
            f"(a) {engine}: LoadGen ÷ raw engine", spread(ratio), "0.98", rates.format(statistics.median(raw))
        )
        ratio = [a / b for a, b in zip(loadgen, reference, strict=True)]
        median = statistics.median(reference)
        table.add_row(f"(b) {engine}: LoadGen ÷ reference's way", spread(ratio), "2.5", rates.format(median))
        target = "1.09" if found.shapes else "1.03"
        shapes = " ".join(f"{batch}x{length}" for batch, length in found.shapes) or "any shape"
        table.add_row(f"(d) {engine}: padded ÷ real cost", spread(padding), target, shapes)
    console.note("measuring the null engine ...")
    pairs = apart(null_ratios, args.model, args.dataset, args.pairs)
    figures = " and ".join(f"{statistics.median(column):,.0f}" for column in zip(*pairs, strict=True))
    table.add_row("(c) null engine ÷ bare null SUT", spread([a / b for a, b in pairs]), "0.5", f"{figures} samples/s")
    console.out.print(f"{args.model} on {cpu_model()}, {core_count()} cores; each side {args.pairs} times, alternately")
    console.print_table(table)


if __name__ == "__main__":
    command(main)
