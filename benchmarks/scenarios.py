"""How far each scenario is from what the engine can do.

    python -m benchmarks.scenarios [--models M,M] [--engines onnxruntime,deepsparse] [--seconds S]

Prints for each model and engine, side by side in one run:
  Server: the highest target_qps at which 99 % of the queries are answered within the bound ÷ Offline samples/s;
  the same ÷ that of a Server which runs one query at a time;
  SingleStream and MultiStream: the 90th percentile of LoadGen ÷ that of the raw engine over the very same batches;
  the harness's own time for a query, in microseconds: SingleStream with an engine that answers at once.

Each side has a process of its own, since two instances of an engine would be in each other's way.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from rich.table import Table

from benchmarks.common import Ready, apart, spread
from harness import catalog, console
from harness.machine import core_count, cpu_model
from harness.registry import default_engine
from harness.scenarios.server import Server
from harness.scheduling.base import Scheduler, StreamThreads, Work
from harness.tuning.peak import highest_passing


class OneByOne(StreamThreads):
    """The reference's Server: a queue, from which each stream runs one query after the other."""

    def __init__(self, server: Server, complete) -> None:
        import queue

        super().__init__(server.sut, complete)
        self._table, self._queue = server.table, queue.SimpleQueue()
        self.start()

    def close(self) -> None:
        """End the threads."""
        for _ in self._threads:
            self._queue.put(None)
        self._join()

    def _accept(self, ids, indices) -> None:
        self._issued(self.sut.qsl.cost(indices))
        for query, index in zip(ids, indices.tolist(), strict=True):
            self._queue.put((query, index))

    def _next(self) -> Work | None:
        item = self._queue.get()
        if item is None:
            return None
        index = np.array(item[1:])
        return Work([item[0]], index, self._table.shape(1, int(self.sut.qsl.cost(index)[0])))


def offline_rates(model: str, dataset: str | None, engine: str, seconds: float, pairs: int) -> list[float]:
    """Samples/s of Offline, several times."""
    offline = Ready.make(model, dataset, engine, "Offline")
    rate, _ = offline.scenario.estimate(offline.indices, seconds, offline.told)
    samples = max(len(offline.indices), int(rate * seconds))
    return [offline.scenario.metric(offline.short_test(min_query_count=samples)).value for _ in range(pairs)]


def server_rates(
    model: str, dataset: str | None, engine: str, seconds: float, pairs: int, guess: float
) -> dict[str, list[float]]:
    """The highest target_qps of Server, and of one query at a time, at which 99 % are answered within the bound.

    LoadGen's own verdict, early stopping, needs more queries than a short test has.
    """
    from harness.loadgen import session

    server = Ready.make(model, dataset, engine, "Server")

    def highest(make: Callable[[], Scheduler]) -> float:
        def holds(qps: float) -> bool:
            detail = server.short_test(make(), min_duration_ms=round(seconds * 1000), server_target_qps=qps)
            return server.scenario.held(detail)

        return highest_passing(holds, guess, most=8)

    rows: dict[str, list[float]] = {"server": [], "one by one": []}
    for _ in range(pairs):
        rows["server"].append(highest(lambda: server.scenario.scheduler(session.complete)))
        rows["one by one"].append(highest(lambda: OneByOne(server.scenario, session.complete)))
    return rows


def stream_ratio(
    model: str, dataset: str | None, engine: str, seconds: float, pairs: int, name: str
) -> list[tuple[float, float]]:
    """90th percentiles in milliseconds: (LoadGen's, that of the engine alone for the very same queries)."""
    from harness.loadgen import session

    ready = Ready.make(model, dataset, engine, name)
    scenario, table = ready.scenario, ready.scenario.table
    expected, _ = scenario.estimate(ready.indices, seconds, ready.told)
    queries = int(np.clip(1000 * seconds / expected * 0.7, 20, 250))
    expectation = dict.fromkeys(
        ("single_stream_expected_latency_ns", "multi_stream_expected_latency_ns"), expected * 1e6
    )

    def loadgen() -> tuple[float, list[np.ndarray]]:
        scheduler = scenario.scheduler(session.complete)
        issued, accept = [], scheduler._accept

        def recorded(ids: list[int], indices: np.ndarray) -> None:
            issued.append(indices)
            accept(ids, indices)

        scheduler._accept = recorded
        detail = ready.short_test(scheduler, min_query_count=queries, **expectation)
        return detail.latencies["90.00"], issued

    def raw(issued: list[np.ndarray]) -> float:
        scheduler = scenario.scheduler(lambda ids, responses: None)
        work = []
        for indices in issued:
            streams = []
            for share in scheduler.shares(ready.qsl.cost(indices)):
                lengths = ready.qsl.cost(indices[share]).tolist()
                streams.append([])
                for start, end in table.split(lengths):
                    shape = table.shape(end - start, lengths[start])
                    tensors = ready.sut.feed(ready.qsl.collate(indices[share[start:end]], shape))
                    streams[-1].append((ready.sut.runner(shape), tensors))
            work.append(streams)

        def run(batches: list) -> None:
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

    rows = []
    for _ in range(pairs):
        first, issued = loadgen()
        rows.append((first, raw(issued)))
    return rows


def own_time(model: str, dataset: str | None) -> float:
    """Microseconds of a SingleStream query with the null engine."""
    ready = Ready.make(model, dataset, "null", "SingleStream")
    detail = ready.short_test(min_query_count=20_000, single_stream_expected_latency_ns=50_000.0)
    return detail.latencies["50.00"] * 1000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    models = [name for name, (_, entry) in catalog.models().items() if entry.file]
    parser.add_argument("--models", default=",".join(models), help="names or paths [%(default)s]")
    parser.add_argument("--datasets", default="", help="one for each model, in their order")
    engines = ["onnxruntime", "deepsparse"] if default_engine() == "deepsparse" else ["onnxruntime"]
    parser.add_argument("--engines", default=",".join(engines))
    parser.add_argument("--seconds", type=float, default=10, help="about how long each test takes")
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_args()
    datasets = args.datasets.split(",") if args.datasets else []

    table = Table("what", "ratio: median (least - greatest)", "aim", "figures", box=None, pad_edge=False)
    for number, model in enumerate(args.models.split(",")):
        dataset = datasets[number] if number < len(datasets) else None
        for engine in args.engines.split(","):
            who = f"{catalog.find_model(model).name}, {engine}"
            console.note(f"measuring {who} ...")
            offline = apart(offline_rates, model, dataset, engine, args.seconds, args.pairs)
            guess = 0.7 * statistics.median(offline)
            rows = apart(server_rates, model, dataset, engine, args.seconds, args.pairs, guess) | {"offline": offline}
            rates = {name: statistics.median(values) for name, values in rows.items()}
            for other, aim in (("offline", "0.8"), ("one by one", "1.5")):
                ratios = [a / b if b else float("inf") for a, b in zip(rows["server"], rows[other], strict=True)]
                figures = f"{rates['server']:.1f} and {rates[other]:.1f} samples/s"
                table.add_row(f"{who}: Server ÷ {other}", spread(ratios), aim, figures)
            for name in ("SingleStream", "MultiStream"):
                pairs = apart(stream_ratio, model, dataset, engine, args.seconds, args.pairs, name)
                figures = " and ".join(f"{statistics.median(column):.2f}" for column in zip(*pairs, strict=True))
                table.add_row(f"{who}: {name} ÷ raw engine", spread([a / b for a, b in pairs]), "1.05", f"{figures} ms")
        console.note("measuring the harness's own time ...")
        microseconds = apart(own_time, model, dataset)
        table.add_row(f"{catalog.find_model(model).name}: own time of a query", "", "", f"{microseconds:.0f} µs")
    console.out.print(f"{cpu_model()}, {core_count()} cores; each side {args.pairs} times, in turn")
    console.print_table(table)


if __name__ == "__main__":
    main()
