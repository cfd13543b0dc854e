"""The cost of a cluster: two nodes on this machine with half of its cores each, compared with one process with all.

    python -m benchmarks.cluster [--model M] [--engine E] [--dataset D] [--seconds S] [--pairs N]
        [--only messages|driver|runs|server]

messages: nodes that answer at once. Prints the round trip of a single sample (what the cluster adds to a query's
latency), messages/s with one sample each, samples/s in chunks of 64 to 512 with the bytes of BERT (827 to a node, 1,654
back), and for each the driver's processor time per message.
driver: the driver's processor time per sample of LoadGen's Offline scenario, including all its work for a sample, for
questions and images of the shipped models that are sent to nodes with the null engine.
runs: samples/s of LoadGen's Offline scenario on local:2 ÷ in one process with one stream per core, with samples sent to
the nodes and with indices only; the sides of a ratio are measured alternately in one process.
server: likewise the highest target_qps at which 99 % of the queries are answered within the bound. LoadGen's own
verdict (early stopping) needs more queries than a short test has.
"""

from __future__ import annotations

import argparse
import os
import statistics
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from benchmarks.common import apart, command, spread
from harness.catalog import manifests
from harness.cluster.link import Link
from harness.cluster.messages import DATA, INDICES, Answers, NodeReady, NodeRequest, Parcel
from harness.host.machine import core_count, cpu_model
from harness.host.supervise import Beat
from harness.machines import hosts, ray_link
from harness.paths import ROOT
from harness.preparing.prepared import Preparation, Prepared
from harness.preparing.ready import get_ready
from harness.results.parts import RecordedEngine, RecordedMachine
from harness.scenarios.base import Estimate, ShortTest
from harness.scheduling.peak import highest_passing
from harness.settings.request import RunRequest, resolve
from harness.terminal import console

_TOKENS, _RESPONSE = 827 // 4, 1654  # of a question: number of int32 tokens, and bytes of its response
_NODES = "local:2"


class Instant:
    """A node that answers a parcel at once, with responses of a question's size."""

    def open(self, failed: object) -> None:
        """Nothing to do: this node cannot fail."""

    def answer(self, parcel: Parcel, done: object) -> None:
        """Answer at once."""
        count = len(parcel.ids)
        ends = np.arange(count + 1) * _RESPONSE
        assert callable(done)
        done(Answers(parcel.number, parcel.ids, ends, np.zeros(count * _RESPONSE, np.uint8), 1, 0, count))

    def close(self) -> None:
        """Nothing to end."""


def instant(request: NodeRequest, name: str, beat: Beat) -> tuple[Instant, NodeReady]:
    """The `Prepare` of an `Instant` node."""
    nothing = Estimate(1.0, "assumed", 1.0)
    about = (RecordedMachine.here(), RecordedEngine(name="none"))
    return Instant(), NodeReady(name, "", 1, 1, 1.0, nothing, 0.0, 0.0, 1, (), (), "", "", {}, *about)


@dataclass(frozen=True)
class Flow:
    """The traffic between the driver and the nodes."""

    seconds: float
    processor: float
    """CPU seconds of the driver."""
    messages: int
    samples: int


class Driver:
    """Sends parcels, each to the next node, and keeps a number of them in flight on each."""

    def __init__(self, links: Sequence[Link]) -> None:
        self._links, self._free = links, threading.Semaphore(0)
        for link in links:
            link.open(self._answered, self._failed)

    def _answered(self, answers: Answers) -> None:
        self._free.release()

    def _failed(self, error: BaseException) -> None:
        console.error(str(error))
        os._exit(1)

    def flow(self, messages: int, samples: int, in_flight: int) -> Flow:
        """Send ``messages`` of ``samples`` each, with ``in_flight`` on each node at a time."""
        packed = {"tokens": np.zeros(samples * _TOKENS, np.int32), "offsets": np.arange(samples + 1)}
        ids, indices = np.arange(samples, dtype=np.uint64), np.zeros(samples, np.int64)
        began, used = time.perf_counter(), time.process_time()
        for number in range(messages):
            if number >= in_flight * len(self._links):
                self._free.acquire()
            self._links[number % len(self._links)].send(Parcel(number, ids, indices, packed))
        for _ in range(min(messages, in_flight * len(self._links))):
            self._free.acquire()
        ended, spent = time.perf_counter() - began, time.process_time() - used
        return Flow(ended, spent, messages, messages * samples)


def measure_messages(count: int) -> tuple[list[float], dict[str, Flow]]:
    """Seconds of each round trip of a single sample, and the flows by name; runs in a process of its own."""
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    request = NodeRequest(b"", "benchmarks.cluster:instant")
    links = ray_link.connect(hosts.read(_NODES), request, lambda within, doing="": None)
    try:
        driver = Driver(links)
        driver.flow(200, 1, 8)  # the first messages are slower
        trips = sorted(driver.flow(1, 1, 1).seconds for _ in range(500))
        flows = {"1 sample, 32 in flight on each node": driver.flow(count, 1, 32)}
        for samples in (64, 512):
            flows[f"{samples} samples, 3 in flight on each node"] = driver.flow(
                max(20, 16 * count // samples), samples, 3
            )
        return trips, flows
    finally:
        for link in links:
            link.close()


def prepared(
    model: str, dataset: str | None, engine: str, cluster: str | None, samples: str, scenario: str = "Offline"
) -> Prepared:
    """A scenario, warmed up, in this process or on nodes."""
    request = RunRequest(
        model=model, engine=engine, scenario=scenario, dataset=dataset, cluster=cluster, cluster_samples=samples
    )
    return get_ready(resolve(request), Preparation(quiet=True))


def measure_driver(model: str, samples: int) -> float:
    """Seconds of the driver's processor per sample; runs in a process of its own."""
    side = prepared(model, None, "null", _NODES, DATA)

    def spent(count: int) -> float:
        began = time.process_time()
        side.short_test(ShortTest(queries=count))
        return time.process_time() - began

    try:
        spent(samples)
        # The difference between two tests leaves out the fixed cost of a test.
        return (spent(4 * samples) - spent(samples)) / (3 * samples)
    finally:
        side.close(lambda within, doing="": None, 60.0)


def measure_runs(
    model: str, dataset: str | None, engine: str, samples: str, seconds: float, pairs: int
) -> list[tuple[float, float]]:
    """Samples/s on two nodes and in one process, alternately; runs in a process of its own."""
    sides = [prepared(model, dataset, engine, cluster, samples) for cluster in (_NODES, None)]

    def rate(side: Prepared, count: int) -> float:
        detail = side.short_test(ShortTest(queries=count))
        return float(detail.values[side.scenario.result_key])

    try:
        count = max(200, int(rate(sides[1], 200) * seconds))
        rate(sides[0], count)
        rows = []
        for pair in range(pairs):
            order = (0, 1) if pair % 2 else (1, 0)
            found = {side: rate(sides[side], count) for side in order}
            rows.append((found[0], found[1]))
        return rows
    finally:
        for side in sides:
            side.close(lambda within, doing="": None, 60.0)


def measure_server(
    model: str, dataset: str | None, engine: str, seconds: float, pairs: int
) -> list[tuple[float, float]]:
    """The highest target_qps on two nodes and in one process, alternately; runs in a process of its own."""
    sides = [prepared(model, dataset, engine, cluster, DATA, "Server") for cluster in (_NODES, None)]
    begin = 0.7 * sides[1].scenario.peak(sides[1].indices) or 1

    def highest(side: Prepared) -> float:
        def holds(qps: float) -> bool:
            return side.scenario.meets_bound(side.short_test(ShortTest(rate=qps, seconds=seconds)))

        return highest_passing(holds, begin, max_tests=10, retest=True)

    try:
        rows = []
        for pair in range(pairs):
            order = (0, 1) if pair % 2 else (1, 0)
            found = {side: highest(sides[side]) for side in order}
            rows.append((found[0], found[1]))
        return rows
    finally:
        for side in sides:
            side.close(lambda within, doing="": None, 60.0)


def _show_messages(count: int) -> None:
    trips, flows = apart(measure_messages, count)
    table = Table("messages", "samples/s", "messages/s", "driver's CPU µs per message", box=None, pad_edge=False)
    for name, flow in flows.items():
        table.add_row(
            name,
            f"{flow.samples / flow.seconds:,.0f}",
            f"{flow.messages / flow.seconds:,.0f}",
            f"{flow.processor / flow.messages * 1e6:,.0f}",
        )
    console.print_table(table)
    middle, slow = statistics.median(trips) * 1e3, trips[int(0.99 * len(trips))] * 1e3
    console.out.print(f"round trip of one sample: median {middle:.2f} ms, 99th percentile {slow:.2f} ms (target: 3 ms)")


def _show_driver(samples: int) -> None:
    table = Table("model", "driver's CPU µs per sample", box=None, pad_edge=False)
    for name in (name for name, (_, entry) in manifests.models().items() if entry.file):
        found = [apart(measure_driver, name, samples) * 1e6 for _ in range(3)]
        table.add_row(name, f"{statistics.median(found):.1f} ({min(found):.1f} - {max(found):.1f})")
    console.print_table(table)


def _show_runs(args: argparse.Namespace) -> None:
    table = Table(f"{_NODES} ÷ one process", "median (min - max)", "target", "figures", box=None, pad_edge=False)
    for samples in (DATA, INDICES):
        rows = apart(measure_runs, args.model, args.dataset, args.engine, samples, args.seconds, args.pairs)
        nodes, one = (statistics.median(column) for column in zip(*rows, strict=True))
        table.add_row(samples, spread([a / b for a, b in rows]), "0.95", f"{nodes:,.1f} and {one:,.1f} samples/s")
    console.print_table(table)


def _show_server(args: argparse.Namespace) -> None:
    rows = apart(measure_server, args.model, args.dataset, args.engine, args.seconds, args.pairs)
    nodes, one = (statistics.median(column) for column in zip(*rows, strict=True))
    table = Table(f"{_NODES} ÷ one process", "median (min - max)", "target", "figures", box=None, pad_edge=False)
    table.add_row("Server", spread([a / b for a, b in rows]), "0.9", f"{nodes:,.1f} and {one:,.1f} queries/s")
    console.print_table(table)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=manifests.default_model())
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--dataset", default=None)
    parser.add_argument("--seconds", type=float, default=10, help="approximate length of each test")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--messages", type=int, default=5000, help="messages of one sample")
    parser.add_argument("--samples", type=int, default=20_000, help="samples of the shorter test of the driver")
    parser.add_argument("--only", choices=("messages", "driver", "runs", "server"), default=None)
    args = parser.parse_args()
    console.out.print(f"{args.model} on {args.engine}, {cpu_model()}, {core_count()} cores")
    if args.only in (None, "messages"):
        _show_messages(args.messages)
    if args.only in (None, "driver"):
        _show_driver(args.samples)
    if args.only in (None, "runs"):
        _show_runs(args)
    if args.only in (None, "server"):
        _show_server(args)


if __name__ == "__main__":
    command(main)
