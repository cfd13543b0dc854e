"""How close each scenario comes to the engine's limits.

    python -m benchmarks.scenarios [--models M,M] [--engines onnxruntime,openvino] [--seconds S] [--set NAME=VALUE]

Prints for each model and engine, side by side in one run:
  Server: the highest target_qps at which 99 % of the queries are answered within the bound ÷ Offline samples/s;
  the same ÷ that of a Server like the reference's: one query at a time on all cores, padded to the longest of the data;
  the same ÷ the rate that a queue simulation sustains with the batch times measured before the tests;
  SingleStream and MultiStream: LoadGen's 90th percentile ÷ that of the raw engine on exactly the same batches;
  the harness's own time per query, in microseconds: SingleStream with an engine that answers immediately.

Each side runs in a separate process, because two instances of an engine would slow each other down.
"""

from __future__ import annotations

import argparse
import queue
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from rich.table import Table

from benchmarks.common import NO_OPTIONS, apart, command, prepare_test, spread
from harness.catalog import manifests
from harness.catalog.models import find_model
from harness.engines.base import Runner
from harness.host.machine import core_count, cpu_model
from harness.preparing.prepared import Prepared
from harness.registry import installed
from harness.scenarios.base import ShortTest
from harness.scenarios.measured import MeasuredScenario
from harness.scenarios.server import Server
from harness.scheduling.base import Complete, StreamThreads, Work
from harness.scheduling.peak import highest_passing
from harness.scheduling.stream import StreamScheduler
from harness.task.shape import Array, Integers
from harness.terminal import console

Batch = tuple[Runner, Mapping[str, Array]]
"""What runs a batch, and its tensors."""


class OneByOne(StreamThreads):
    """The reference's Server: a queue whose queries run one after the other, padded to the longest."""

    def __init__(self, server: Server, complete: Complete) -> None:
        super().__init__(server.sut, complete)
        self._shape = server.table.shape(1, server.table.max_length)
        self._queue: queue.SimpleQueue[tuple[int, int] | None] = queue.SimpleQueue()
        self.start(server.sut.engine.streams)

    def close(self) -> None:
        """End the threads."""
        for _ in self._threads:
            self._queue.put(None)
        self._join()

    def _accept(self, ids: Sequence[int], indices: Integers) -> None:
        self._issued(self.sut.qsl.cost(indices))
        for query, index in zip(ids, indices.tolist(), strict=True):
            self._queue.put((query, index))

    def _next(self) -> Work | None:
        item = self._queue.get()
        if item is None:
            return None
        query, index = item
        return Work([query], np.array([index]), self._shape)


class RecordedStreams(StreamScheduler):
    """The scheduler of SingleStream and MultiStream, which also keeps the samples of each query."""

    def __init__(self, scenario: MeasuredScenario, complete: Complete) -> None:
        super().__init__(scenario.sut, scenario.table, complete)
        self.queries: list[Integers] = []

    def _accept(self, ids: Sequence[int], indices: Integers) -> None:
        self.queries.append(indices)
        super()._accept(ids, indices)


def offline_rates(model: str, dataset: str | None, engine: str, seconds: float, pairs: int) -> list[float]:
    """Samples/s of Offline, several times."""
    offline = prepare_test(model, dataset, engine, "Offline")
    rate = offline.scenario.estimate(offline.indices, seconds, offline.listener).per_second
    samples = max(len(offline.indices), int(rate * seconds))
    return [offline.scenario.metric(offline.short_test(ShortTest(queries=samples))).value or 0 for _ in range(pairs)]


def server_rates(
    model: str,
    dataset: str | None,
    engine: str,
    seconds: float,
    pairs: int,
    options: Mapping[str, object] = NO_OPTIONS,
    *,
    one_by_one: bool = False,
) -> tuple[list[float], float]:
    """The highest target_qps of Server with 99 % of answers within the bound, and the simulated one.

    LoadGen's own verdict (early stopping) needs more queries than a short test has.
    """
    from harness.preparing import session

    server = prepare_test(model, dataset, engine, "Server", options)
    scenario = server.scenario
    assert isinstance(scenario, Server)

    def holds(qps: float) -> bool:
        scheduler = OneByOne(scenario, session.complete) if one_by_one else None
        return scenario.meets_bound(server.short_test(ShortTest(rate=qps, seconds=seconds), scheduler))

    peak = scenario.peak(server.indices)
    return [highest_passing(holds, 0.7 * peak or 1, max_tests=10, retest=True) for _ in range(pairs)], peak


def stream_ratio(
    model: str, dataset: str | None, engine: str, seconds: float, pairs: int, name: str
) -> list[tuple[float, float]]:
    """90th percentiles in milliseconds: (LoadGen's, that of the engine alone for exactly the same queries)."""
    ready = prepare_test(model, dataset, engine, name)
    expected = ready.scenario.estimate(ready.indices, seconds, ready.listener).value
    rows = []
    for _ in range(pairs):
        first, issued = loadgen_latency(ready, expected, seconds)
        rows.append((first, raw_latency(ready, issued)))
    return rows


def loadgen_latency(ready: Prepared, expected: float, seconds: float) -> tuple[float, list[Integers]]:
    """LoadGen's 90th percentile in milliseconds, and the indices of each query that it issued."""
    from harness.preparing import session

    assert isinstance(ready.scenario, MeasuredScenario)
    scheduler = RecordedStreams(ready.scenario, session.complete)
    queries = int(np.clip(1000 * seconds / expected * 0.7, 20, 250))
    detail = ready.short_test(ShortTest(latency=expected, queries=queries), scheduler)
    return detail.latencies["90.00"], scheduler.queries


def raw_latency(ready: Prepared, issued: list[Integers]) -> float:
    """90th percentile in milliseconds of the engine alone over the batches of these queries."""
    scheduler = ready.scenario.scheduler(lambda ids, responses: None)
    assert isinstance(scheduler, StreamScheduler)
    work = [
        [list(stream_batches(ready, indices[share])) for share in scheduler.shares(ready.qsl.cost(indices))]
        for indices in issued
    ]

    def run(batches: Sequence[Batch]) -> None:
        for runner, tensors in batches:
            runner(tensors)

    took = []
    with ThreadPoolExecutor(max(1, ready.sut.engine.streams - 1)) as others:
        for streams in work:
            start = time.perf_counter()
            pending = [others.submit(run, batches) for batches in streams[1:]]
            run(streams[0])
            for other in pending:
                other.result()
            took.append(time.perf_counter() - start)
    scheduler.close()
    return float(np.percentile(took, 90) * 1000)


def stream_batches(ready: Prepared, indices: Integers) -> Iterator[Batch]:
    """The batches of a stream's share of a query."""
    assert isinstance(ready.scenario, MeasuredScenario)
    table, lengths = ready.scenario.table, ready.qsl.cost(indices).tolist()
    for start, end in table.split(lengths):
        shape = table.shape(end - start, lengths[start])
        yield ready.sut.runner(shape), ready.sut.feed(ready.qsl.collate(indices[start:end], shape))


def own_time(model: str, dataset: str | None) -> float:
    """Microseconds of a SingleStream query with the null engine."""
    ready = prepare_test(model, dataset, "null", "SingleStream")
    detail = ready.short_test(ShortTest(latency=0.05, queries=20_000))
    return detail.latencies["50.00"] * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = [name for name, (_, entry) in manifests.models().items() if entry.file]
    parser.add_argument("--models", default=",".join(models), help="names or paths [%(default)s]")
    parser.add_argument("--datasets", default="", help="one per model, in the same order")
    parser.add_argument("--engines", default=",".join(installed()))
    parser.add_argument("--seconds", type=float, default=10, help="approximate length of each test")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="engine option of Server")
    args = parser.parse_args()
    options = dict(pair.split("=", 1) for pair in args.set)
    datasets = args.datasets.split(",") if args.datasets else []

    table = Table("what", "ratio: median (min - max)", "target", "figures", box=None, pad_edge=False)
    for number, model in enumerate(args.models.split(",")):
        dataset = datasets[number] if number < len(datasets) else None
        for engine in args.engines.split(","):
            who = f"{find_model(model).name}, {engine}"
            console.note(f"measuring {who} ...")
            same = (model, dataset, engine, args.seconds, args.pairs)
            offline = apart(offline_rates, *same)
            rates, peak = apart(server_rates, *same, options)
            alone = {"streams": 1, "max_batch": 1, **({"shapes": 1} if engine == "deepsparse" else {})}
            reference, _ = apart(server_rates, *same, alone, one_by_one=True)
            for other, values, target in (
                ("offline", offline, "0.8"),
                ("reference's way", reference, "1.5"),
                ("simulated limit", [peak] * args.pairs, ""),
            ):
                ratios = [a / b if b else float("inf") for a, b in zip(rates, values, strict=True)]
                figures = f"{statistics.median(rates):.1f} and {statistics.median(values):.1f} samples/s"
                table.add_row(f"{who}: Server ÷ {other}", spread(ratios), target, figures)
            for name in ("SingleStream", "MultiStream"):
                pairs = apart(stream_ratio, *same, name)
                figures = " and ".join(f"{statistics.median(column):.2f}" for column in zip(*pairs, strict=True))
                table.add_row(f"{who}: {name} ÷ raw engine", spread([a / b for a, b in pairs]), "1.05", f"{figures} ms")
        console.note("measuring the harness's own time ...")
        microseconds = apart(own_time, model, dataset)
        table.add_row(f"{find_model(model).name}: own time per query", "", "", f"{microseconds:.0f} µs")
    console.out.print(f"{cpu_model()}, {core_count()} cores; each side {args.pairs} times")
    console.print_table(table)


if __name__ == "__main__":
    command(main)
