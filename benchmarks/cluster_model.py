"""How Offline and Server divide samples among many nodes: the real schedulers with a simulated clock.

    python -m benchmarks.cluster_model [--nodes 100,1000] [--seconds S] [--rate R] [--unequal F] [--load L]

Nodes, network and the driver's processor are simulated: a node has streams that compute one batch each, a message
occupies the driver's processor for some time, and a batch takes time by its cost, with noise. The rate that
a node reports is wrong by a few percent. Prints for each number of nodes:
  Offline: samples/s ÷ the capacity of all nodes; the time between the first and the last node's end ÷ the test's
  duration; the nodes' time without a parcel ÷ their total time; messages/s; how busy the driver is; the driver's memory
  per sample in bytes;
  Server: the 99th percentile of the latency at a fraction of that rate, next to that of a mean node without a network;
  how busy the driver is.
Then, for published rates of a node: how many nodes the driver's processor and its network can feed in Offline, and, for
80 % of the smaller number, the simulated samples/s ÷ the capacity of these nodes.
"""

from __future__ import annotations

import argparse
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from rich.table import Table

from benchmarks.simulated_nodes import COSTS, TOKENS, Costs, OfflineNode, Samples, ServerNode, SimulatedMachine, World
from harness.cluster.messages import INDICES
from harness.cluster.scheduler import PARCEL_BYTES, ClusterScheduler, OfflineCluster, ServerCluster
from harness.scheduling.base import Observer, Work
from harness.task.sut import Responses
from harness.terminal import console

_MAX_QUERIES = 200_000  # of Server, at most
_MESSAGE_GAP_SECONDS = 0.0005  # between two messages of Server
_MEASURED = Costs()
_BATCH_SIZE = 16  # samples that a published node computes at once, on each of its streams


class AnswerCount:
    """Counts how often each id is answered."""

    def __init__(self, samples: int) -> None:
        self.times = np.zeros(samples, np.uint8)

    def __call__(self, ids: list[int], responses: Responses) -> None:
        """Count these answers."""
        np.add.at(self.times, ids, 1)

    @property
    def complete(self) -> bool:
        """Whether each id was answered exactly once."""
        return bool((self.times == 1).all())


@dataclass(frozen=True)
class SimulatedOffline:
    """The result of a simulated Offline test."""

    samples: int
    complete: bool
    """Whether each sample was answered exactly once."""
    efficiency: float
    """Samples/s ÷ the capacity of all nodes."""
    ends: float
    """Time between the first and the last node's end ÷ the test's duration."""
    idle: float
    """Nodes' time without a parcel ÷ their total time."""
    messages: float
    """Per second."""
    driver: float
    """Busy time ÷ total time."""


def machines(number: int, rate: float, unequal: float, streams: int = 4, batch: int = 8) -> Sequence[SimulatedMachine]:
    """``number`` nodes with a mean of ``rate`` samples/s; the fastest is ``unequal`` times as fast as the slowest."""
    factors = np.geomspace(1, unequal, number)
    tokens = rate * TOKENS * factors / factors.mean()
    return [SimulatedMachine(streams, batch, float(each)) for each in np.random.default_rng(1).permutation(tokens)]


def offline(nodes: Sequence[SimulatedMachine], seconds: float, costs: Costs = _MEASURED) -> SimulatedOffline:
    """Simulate an Offline query of about ``seconds``."""
    world = World(costs)
    links = [OfflineNode(f"node{n}", world, machine) for n, machine in enumerate(nodes)]
    able = sum(machine.tokens for machine in nodes)
    indices = world.rng.integers(0, len(COSTS), int(seconds * able / TOKENS))
    answers = AnswerCount(len(indices))
    scheduler = OfflineCluster(Samples(), links, answers, payload=INDICES, clock=world.clock)
    scheduler.issue(range(len(indices)), indices)  # type: ignore[arg-type]  # an array saves the list
    world.run()
    _check(scheduler)
    ends = [node.ended for node in scheduler.nodes]
    end = max(ends)
    idle = sum(node.idle_until(end) for node in scheduler.nodes)
    work = float(COSTS[indices].sum())
    return SimulatedOffline(
        len(indices),
        answers.complete,
        work / able / end,
        (end - min(ends)) / end,
        idle / end / len(nodes),
        world.messages / end,
        world.busy / end,
    )


@dataclass(frozen=True)
class SimulatedServer:
    """The result of a simulated Server test."""

    complete: bool
    latency: float
    """The 99th percentile, in seconds."""
    driver: float
    """Busy time ÷ total time."""


def server(
    nodes: Sequence[SimulatedMachine], load: float, seconds: float, bound: float, costs: Costs = _MEASURED
) -> SimulatedServer:
    """Simulate Server queries at ``load`` times the rate of the nodes with single samples."""
    world = World(costs)
    links = [ServerNode(f"node{n}", world, machine, bound) for n, machine in enumerate(nodes)]
    rate = load * sum(machine.tokens for machine in nodes) / TOKENS
    arrivals = np.cumsum(world.rng.exponential(1 / rate, int(seconds * rate)))
    indices = world.rng.integers(0, len(COSTS), len(arrivals))
    answers, latencies = AnswerCount(len(arrivals)), Latencies()
    scheduler = ServerCluster(Samples(), links, answers, latencies, INDICES, world.clock)
    scheduler.late_after = bound
    sender = _Sender(world, scheduler)
    for number, (when, index) in enumerate(zip(arrivals.tolist(), indices.tolist(), strict=True)):
        world.at(when, lambda number=number, index=index: sender.issue(number, index))  # type: ignore[misc]
    world.run()
    _check(scheduler)
    return SimulatedServer(answers.complete, float(np.percentile(latencies.found, 99)), world.busy / world.now)


class Latencies(Observer):
    """Collects the latencies of all queries, in seconds."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def arrived(self, when: float) -> None:
        """Ignored."""

    def answered(self, start: float, end: float, work: Work, cost: int) -> None:
        """Record the latencies of an answered parcel."""
        self.found += [end - arrival for arrival in work.arrivals]


class _Sender:
    """The thread of `ServerCluster` in simulated time."""

    def __init__(self, world: World, scheduler: ServerCluster) -> None:
        self._world, self._scheduler = world, scheduler
        self._next, self._waits = 0.0, False

    def issue(self, number: int, index: int) -> None:
        """A query arrives, and leaves at once unless others have just left."""
        self._scheduler.issue([number], [index])
        if not self._waits:
            self._waits = True
            self._world.at(max(self._world.now, self._next), self._deal)

    def _deal(self) -> None:
        self._scheduler.deal()
        self._waits = False
        # It sends one message after the other, then lets further queries collect.
        self._next = max(self._world.now + _MESSAGE_GAP_SECONDS, self._world.drive(0))


def bytes_per_sample(samples: int = 1_000_000) -> float:
    """Peak bytes per sample that `OfflineCluster` needs besides LoadGen's own lists, for a query of ``samples``."""
    world = World(Costs())
    links = [OfflineNode(f"node{n}", world, machine) for n, machine in enumerate(machines(100, 100, 1))]
    scheduler = OfflineCluster(Samples(), links, lambda ids, responses: None, payload=INDICES, clock=world.clock)
    ids, indices = list(range(samples)), np.random.default_rng(0).integers(0, len(COSTS), samples)
    tracemalloc.start()
    scheduler.issue(ids, indices)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    _check(scheduler)
    return peak / samples


def _check(scheduler: ClusterScheduler) -> None:
    if scheduler.failure:
        raise scheduler.failure


class PublishedNode(NamedTuple):
    """A published result of two processors with 96 cores each, as a node."""

    name: str
    rate: float
    """Samples/s."""
    sent: float
    """Bytes of a sample on its way to the node."""
    back: float
    """Bytes of a response."""
    image: bool = False


PUBLISHED = (
    PublishedNode("oBERT-Large", 1370, 4 * TOKENS + 8, 8 * TOKENS),
    PublishedNode("oBERT-MobileBERT", 5600, 4 * TOKENS + 8, 8 * TOKENS),
    PublishedNode("ResNet50, pixels", 19_600, 224 * 224 * 3, 4, image=True),
)


def nodes_of_driver(row: PublishedNode, costs: Costs) -> float:
    """The number of such nodes that the driver's processor can feed in Offline."""
    together = max(1, PARCEL_BYTES // row.sent // _BATCH_SIZE) * _BATCH_SIZE  # samples of a parcel, in whole batches
    parcels = max(1.0, row.rate / together)  # per second
    return 1 / (row.rate * costs.sample + parcels * costs.message)


def nodes_of_network(row: PublishedNode, gigabits: float) -> float:
    """The number of such nodes that a network of ``gigabits`` Gb/s, each way, can feed."""
    return gigabits * 1e9 / 8 / (row.rate * max(row.sent, row.back))


def _capacity(arguments: argparse.Namespace) -> Iterator[Sequence[str]]:
    for row in PUBLISHED:
        each = arguments.image_us if row.image else arguments.sample_us
        costs = Costs(arguments.message_us * 1e-6, each * 1e-6)
        driver, network = nodes_of_driver(row, costs), nodes_of_network(row, arguments.gigabits)
        number, reached = int(0.8 * min(driver, network)), "-"
        if number > 1:
            nodes = machines(number, row.rate, 1.2, streams=48, batch=_BATCH_SIZE)
            reached = f"{offline(nodes, 30, costs).efficiency:.3f}"
        yield row.name, f"{row.rate:,}", f"{driver:.2g}", f"{network:.2g}", f"{number}", reached


def _rows(arguments: argparse.Namespace) -> Iterator[Sequence[str]]:
    memory = bytes_per_sample()
    for number in map(int, arguments.nodes.split(",")):
        nodes = machines(number, arguments.rate, arguments.unequal)
        found = offline(nodes, arguments.seconds)
        served = server(
            nodes, arguments.load, min(arguments.seconds, _MAX_QUERIES / number / arguments.rate), arguments.bound
        )
        one = machines(1, arguments.rate, 1)
        alone = server(one, arguments.load, arguments.seconds * 10, arguments.bound, Costs(0, 0, 0))
        yield (
            f"{number:,}",
            f"{found.samples:,}",
            "yes" if found.complete and served.complete else "NO",
            f"{found.efficiency:.3f}",
            f"{found.ends:.2%}",
            f"{found.idle:.2%}",
            f"{found.messages:,.0f}",
            f"{found.driver:.0%}",
            f"{memory:.0f}",
            f"{1000 * served.latency:.0f}",
            f"{1000 * alone.latency:.0f}",
            f"{served.driver:.0%}",
        )


def main() -> None:
    """Parse, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", default="100,1000")
    parser.add_argument("--seconds", type=float, default=120.0, help="duration of a test")
    parser.add_argument("--rate", type=float, default=30.0, help="mean samples/s of a node")
    parser.add_argument("--unequal", type=float, default=4.0, help="rate of the fastest node ÷ the slowest")
    parser.add_argument("--load", type=float, default=0.5, help="Server's rate ÷ Offline's")
    parser.add_argument(
        "--message-us", type=float, default=1e6 * Costs.message, help="the driver's time for a message and its answer"
    )
    parser.add_argument("--sample-us", type=float, default=1e6 * Costs.sample, help="the same for a question")
    parser.add_argument("--image-us", type=float, default=35.0, help="the same for an image's pixels")
    parser.add_argument("--gigabits", type=float, default=100.0, help="the driver's network in Gb/s, each way")
    parser.add_argument("--bound", type=float, default=1.0, help="Server's latency bound in seconds")
    arguments = parser.parse_args()
    table = Table("nodes", "samples", "all once", "÷ capacity", "ends", "idle", "messages/s", "driver", "B/sample")
    for column in ("p99, ms", "p99 of one node", "driver"):
        table.add_column(column)
    for row in _rows(arguments):
        table.add_row(*row)
    console.print_table(table)
    capacity = Table("node", "samples/s", "nodes by driver", "nodes by network", "simulated", "÷ capacity")
    for row in _capacity(arguments):
        capacity.add_row(*row)
    console.print_table(capacity)


if __name__ == "__main__":
    main()
