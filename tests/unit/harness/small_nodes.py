"""Nodes in this process whose SUT answers each sample with its number as text."""

from __future__ import annotations

import threading
import time
from collections import Counter
from types import SimpleNamespace

import numpy as np
from echo import COSTS

from harness.cluster.local_link import LocalLink
from harness.cluster.messages import DATA, NodeReady
from harness.cluster.node import Node
from harness.engines.null import NullEngine, NullSettings
from harness.errors import EngineError
from harness.results.parts import RecordedEngine, RecordedMachine
from harness.scenarios.base import Estimate
from harness.scheduling.batching import DynamicPlanner
from harness.scheduling.cost import CostTable
from harness.scheduling.offline import OfflineScheduler
from harness.scheduling.server import ServerScheduler
from harness.task.qsl import Carrier, SampleLibrary, extended
from harness.task.shape import Shape
from harness.task.sut import SUT, Responses

TABLE = CostTable({Shape(n, x): 1e-4 for n in (1, 4) for x in (1, 384)}, fixed=False)
_WIDTH = 16


class Numbers(SampleLibrary):
    """Sample i is the number i; its cost is that of the echo tests."""

    def __init__(self) -> None:
        super().__init__(len(COSTS), len(COSTS))
        self.held = np.empty(0, np.int64)

    @classmethod
    def full(cls):
        made = cls()
        made.load(np.arange(made.count))
        return made

    def cost(self, indices):
        return COSTS[indices]

    def numbers(self, indices):
        return self.held[self.rows(indices)]

    def collate(self, indices, shape):
        raise AssertionError("the SUT asks for numbers")

    def hold(self, indices):
        self.held = indices.copy()

    def pack(self, indices):
        return {"numbers": self.numbers(indices), "costs": COSTS[indices]}

    def carrier(self, places):
        return Carried(places)


class Carried(Carrier):
    def __init__(self, places) -> None:
        super().__init__(places)
        self.held, self.costs = np.zeros(places, np.int64), np.zeros(places, np.int64)

    def cost(self, indices):
        return self.costs[indices]

    def numbers(self, indices):
        return self.held[self.rows(indices)]

    collate = Numbers.collate

    def _fill(self, places, packed):
        self.held[places], self.costs[places] = packed["numbers"], packed["costs"]

    def _extend(self, places):
        self.held, self.costs = extended(self.held, places), extended(self.costs, places)


class TextSut(SUT):
    """Responses of unequal length, with gaps between them in the buffer."""

    unit = "tokens"

    def __init__(self, streams=1, fail_at=None, delay=0.0):
        super().__init__(NullEngine(None, NullSettings(streams=streams)), Numbers.full())
        self.fail_at, self.delay = fail_at, delay
        self.seen: list[int] = []

    def signature(self, shape):
        raise AssertionError

    feed = encode = signature

    def answer(self, indices, shape):
        assert len(indices) <= shape.batch
        assert self.qsl.cost(indices).max() <= shape.length
        numbers = self.qsl.numbers(indices).tolist()
        self.seen += numbers
        if self.fail_at in numbers:
            raise EngineError("the engine broke")
        time.sleep(self.delay)
        texts = [text(number) for number in numbers]
        buffer = np.zeros((shape.batch, _WIDTH), np.uint8)
        for row, each in enumerate(texts):
            buffer[row, : len(each)] = np.frombuffer(each, np.uint8)
        return Responses(np.arange(len(texts)) * _WIDTH, np.array([len(each) for each in texts]), buffer)


def text(number: int) -> bytes:
    return b"#" * (number % 7) + str(number).encode()


def ready(name="one", rate=1000.0, streams=1, largest=4) -> NodeReady:
    return NodeReady(
        name=name,
        host="here",
        streams=streams,
        parallel=streams,
        rate=rate,
        estimate=Estimate(rate, "assumed", rate),
        peak=0.0,
        slowest=0.0,
        largest=largest,
        inputs=(),
        outputs=(),
        model_sha256="",
        code="",
        versions={},
        machine=RecordedMachine.here(),
        engine=RecordedEngine(name="none"),
    )


def offline_of(sut):
    """A scenario that is ready."""
    return SimpleNamespace(sut=sut, scheduler=lambda *to: OfflineScheduler(sut, DynamicPlanner(4, 2000), *to))


def server_of(sut, bound=10.0):
    return SimpleNamespace(sut=sut, scheduler=lambda *to: ServerScheduler(sut, TABLE, bound, *to))


def make_link(name="one", scenario_of=offline_of, payload=DATA, sut=None, **about) -> LocalLink:
    made = sut or TextSut(about.get("streams", 1))
    return LocalLink(Node(scenario_of(made), payload), ready(name, **about))


class Collected:
    """Records the answers that LoadGen gets."""

    def __init__(self) -> None:
        self.answers: dict[int, bytes] = {}
        self.times: Counter[int] = Counter()
        self._lock = threading.Lock()

    def __call__(self, ids, responses) -> None:
        data = responses.buffer.reshape(-1).view(np.uint8).tobytes()
        with self._lock:
            self.times.update(ids)
            for query, offset, size in zip(ids, responses.offsets.tolist(), responses.sizes.tolist(), strict=True):
                self.answers[query] = data[offset : offset + size]


FIRST = 1 << 40  # LoadGen's ids are addresses


def issue(scheduler, queries) -> list[int]:
    """Issue them, and return all sample numbers in the order of their ids."""
    start = FIRST
    for query in queries:
        scheduler.issue(list(range(start, start + len(query))), list(query))
        start += len(query)
    scheduler.flush()
    return [number for query in queries for number in query]
