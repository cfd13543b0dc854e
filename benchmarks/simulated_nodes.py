"""Simulated nodes of a cluster, and the clock and events that drive them: see `benchmarks.cluster_model`."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from harness.cluster.messages import Answers, NodeReady, Parcel
from harness.results.parts import RecordedEngine, RecordedMachine
from harness.scenarios.base import Estimate
from harness.scheduling.batching import DynamicPlanner
from harness.scheduling.cost import CostTable
from harness.scheduling.server import Backlog, WaitingSample
from harness.task.qsl import SampleLibrary
from harness.task.shape import Array, Integers, Shape

COSTS = np.clip(np.random.default_rng(0).normal(178, 60, 10_833), 40, 384).astype(np.int64)
"""Cost of each sample, about the tokens of SQuAD's features, int64 (n,)."""
TOKENS = float(COSTS.mean())
"""Mean cost of a sample."""
_RATE_ERROR, _NOISE = 0.05, 0.05  # relative deviation of a reported rate, and of a batch's time


@dataclass(frozen=True)
class Costs:
    """The cost of messages; by default as measured on 2 cores, see docs/cluster.md."""

    message: float = 100e-6
    """Seconds of the driver's processor for a message and its answer."""
    sample: float = 2.9e-6
    """The same for a sample and its response."""
    latency: float = 0.0003
    """Seconds that a message travels."""


@dataclass(frozen=True)
class SimulatedMachine:
    """The size and speed of a node."""

    streams: int
    batch: int
    tokens: float
    """Cost units/s of all streams."""

    @property
    def table(self) -> CostTable:
        """The time of batches: larger ones save nothing, so that the rate is always `tokens`."""
        return CostTable(
            {Shape(n, x): n * x * self.streams / self.tokens for n in (1, self.batch) for x in (1, 384)}, fixed=False
        )


class World:
    """The simulation: its clock, its events, and the driver's processor."""

    def __init__(self, costs: Costs, seed: int = 0) -> None:
        self.now, self.costs = 0.0, costs
        self.busy = 0.0
        self.messages = 0
        self.rng = np.random.default_rng(seed)
        self._free = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def clock(self) -> float:
        """The simulated time in seconds."""
        return self.now

    def at(self, when: float, do: Callable[[], None]) -> None:
        """Schedule ``do`` for that time."""
        heapq.heappush(self._events, (when, next(self._order), do))

    def drive(self, samples: int) -> float:
        """Occupy the driver with half of its work for a parcel of ``samples``; returns when that is done."""
        took = (self.costs.message + self.costs.sample * samples) / 2
        self._free = max(self._free, self.now) + took
        self.busy += took
        return self._free

    def run(self) -> None:
        """Run until no event is left."""
        while self._events:
            self.now, _, do = heapq.heappop(self._events)
            do()

    def noise(self) -> float:
        """A random factor on a batch's time."""
        return float(1 + _NOISE * (2 * self.rng.random() - 1))


class Samples(SampleLibrary):
    """A library that only knows costs."""

    def __init__(self) -> None:
        super().__init__(len(COSTS), len(COSTS))

    def cost(self, indices: Integers) -> Integers:
        """Tokens."""
        return COSTS[indices]

    def collate(self, indices: Integers, shape: Shape) -> Mapping[str, Array]:
        """Never called."""
        raise NotImplementedError

    pack = carrier = hold = collate  # type: ignore[assignment]


class _Simulated:
    """A link to a simulated node."""

    def __init__(self, name: str, world: World, machine: SimulatedMachine) -> None:
        self.name, self.world, self.machine = name, world, machine
        reported = machine.tokens * float(world.rng.normal(1, _RATE_ERROR))
        self.ready = _ready(name, reported, machine)
        self.idle = machine.streams
        self._left: dict[int, int] = {}
        self._parcels: dict[int, Parcel] = {}

    def open(self, answered: Callable[[Answers], None], failed: Callable[[BaseException], None]) -> None:
        """Begin a test."""
        self.answered = answered

    def send(self, parcel: Parcel) -> None:
        """Send a parcel, once the driver has time."""
        self.world.messages += 1
        self.world.at(self.world.drive(len(parcel.ids)) + self.world.costs.latency, lambda: self._arrive(parcel))

    def give_up(self) -> None:
        """Not simulated."""

    def load(self, indices: Integers) -> None:
        """Not simulated."""

    def close(self) -> None:
        """Nothing to end."""

    def _arrive(self, parcel: Parcel) -> None:
        self._parcels[parcel.number], self._left[parcel.number] = parcel, len(parcel.ids)
        self.take(parcel)
        self._start_batches()

    def _start_batches(self) -> None:
        while self.idle and (batch := self.next()):
            self.idle -= 1
            numbers, seconds = batch
            self.world.at(self.world.now + seconds * self.world.noise(), lambda numbers=numbers: self._end(numbers))  # type: ignore[misc]

    def _end(self, numbers: Sequence[int]) -> None:
        self.idle += 1
        for number in numbers:
            self._left[number] -= 1
            if not self._left[number]:
                del self._left[number]
                parcel = self._parcels.pop(number)
                self.world.at(self.world.now + self.world.costs.latency, lambda parcel=parcel: self._back(parcel))  # type: ignore[misc]
        self._start_batches()

    def _back(self, parcel: Parcel) -> None:
        n = len(parcel.ids)
        answers = Answers(parcel.number, parcel.ids, np.zeros(n + 1, np.int64), np.empty(0, np.uint8), 1, 0, 0)
        self.world.at(self.world.drive(n), lambda: self.answered(answers))

    def take(self, parcel: Parcel) -> None:
        """Queue a parcel that arrived."""
        raise NotImplementedError

    def next(self) -> tuple[Sequence[int], float] | None:
        """The parcel number of each sample of the next batch, and the batch's seconds; None if nothing is queued."""
        raise NotImplementedError


class OfflineNode(_Simulated):
    """A node whose batches are those that the Offline scheduler plans."""

    def __init__(self, name: str, world: World, machine: SimulatedMachine) -> None:
        super().__init__(name, world, machine)
        self._planner = DynamicPlanner(machine.batch, 384 * machine.batch)
        self._queue: list[tuple[int, int, float]] = []

    def take(self, parcel: Parcel) -> None:
        """Plan and queue its batches."""
        machine = self.machine
        for batch in reversed(self._planner.plan(COSTS[parcel.indices])):
            seconds = batch.padded * machine.streams / machine.tokens
            self._queue.insert(0, (parcel.number, len(batch.positions), seconds))

    def next(self) -> tuple[Sequence[int], float] | None:
        """The oldest queued batch."""
        if not self._queue:
            return None
        number, samples, seconds = self._queue.pop()
        return [number] * samples, seconds


class ServerNode(_Simulated):
    """A node whose batches are those that the Server scheduler takes from its backlog."""

    def __init__(self, name: str, world: World, machine: SimulatedMachine, bound: float) -> None:
        super().__init__(name, world, machine)
        self._table = machine.table
        self._backlog = Backlog(self._table, bound)

    def take(self, parcel: Parcel) -> None:
        """Put its samples into the backlog."""
        for index in parcel.indices.tolist():
            self._backlog.push(WaitingSample(self.world.now, parcel.number, index, int(COSTS[index])))

    def next(self) -> tuple[Sequence[int], float] | None:
        """The oldest sample and those that share its batch."""
        if not len(self._backlog):
            return None
        chosen = self._backlog.take(self.world.now, -(-len(self._backlog) // self.idle))
        longest = max(sample.cost for sample in chosen)
        return [sample.id for sample in chosen], self._table.seconds(len(chosen), longest)


def _ready(name: str, rate: float, machine: SimulatedMachine) -> NodeReady:
    estimate = Estimate(rate / TOKENS, "simulated", rate / TOKENS)
    known = (name, "simulated", machine.streams, machine.streams, rate, estimate, 0.0, 0.0, machine.batch)
    return NodeReady(*known, (), (), "", "", {}, RecordedMachine.here(), RecordedEngine(name="simulated"))
