"""LoadGen's side: deals samples to nodes, and answers each exactly once."""

from __future__ import annotations

import threading
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.cluster.deal import OfflineDealer, ServerDealer, power
from harness.cluster.link import Link
from harness.cluster.messages import DATA, Answers, Parcel
from harness.cluster.verify import verify
from harness.errors import RunFailed
from harness.scheduling.base import Complete, Observer, Scheduler, Work, no_responses
from harness.task.qsl import SampleLibrary
from harness.task.shape import Floats, Integers, Shape
from harness.task.sut import Responses

Clock = Callable[[], float]

PARCEL_BYTES = 16 << 20
"""About the most that travels in one message."""
_TOGETHER = 0.0005  # seconds: queries of Server that arrive within them travel together
_AT_ONCE = 8  # messages of Server before those that arrived meanwhile: if more wait, several go to one node
_NO_TIMES = np.empty(0)


@dataclass
class NodeCounters:
    """What a node has done in a test; written under the scheduler's lock, read at any time."""

    name: str
    parcels: int = 0
    samples: int = 0
    batches: int = 0
    padded: int = 0
    done_cost: int = 0
    cpu_seconds: float = 0.0
    """As the node counts them."""
    began: float = 0.0
    """When it got its first parcel, in seconds of time.perf_counter(); 0 if it got none."""
    ended: float = 0.0
    """When its last answer arrived."""
    idle: float = 0.0
    """Seconds, until it got its last parcel, in which it had none."""
    free_since: float | None = None
    """Since when it has had none."""

    def idle_until(self, end: float) -> float:
        """Seconds from the beginning of the test until ``end`` in which it had no parcel."""
        return self.idle + (max(0.0, end - self.free_since) if self.free_since is not None else 0.0)


class _Sent(NamedTuple):
    """A parcel that a node has not answered."""

    ids: NDArray[np.uint64]
    costs: Integers
    when: float
    arrivals: Floats

    @property
    def cost(self) -> int:
        """Of all samples."""
        return int(self.costs.sum())


@dataclass
class _Node:
    """A link, and what travels there."""

    place: int
    link: Link
    counters: NodeCounters
    sent: dict[int, _Sent] = field(default_factory=dict)


class ClusterScheduler(Scheduler):
    """Owns the query ids of a test whose samples are computed by nodes. The first failure of any ends the test."""

    def __init__(
        self,
        qsl: SampleLibrary,
        links: Sequence[Link],
        complete: Complete,
        observer: Observer | None = None,
        travels: str = DATA,
        clock: Clock = time.perf_counter,
    ) -> None:
        """``travels`` is what of the samples does: `DATA` or `INDICES`."""
        super().__init__(qsl, complete, observer)
        self._travels, self._clock = travels, clock
        self._parcels = self._passed_on = 0
        self._answered_all = threading.Condition()
        self._nodes = [_Node(place, link, NodeCounters(link.name)) for place, link in enumerate(links)]
        self._powers = [power(link.ready) for link in links]
        for node in self._nodes:
            node.link.open(partial(self._answered, node), self._fail)

    @staticmethod
    def offline(
        qsl: SampleLibrary,
        links: Sequence[Link],
        complete: Complete,
        observer: Observer | None = None,
        travels: str = DATA,
    ) -> ClusterScheduler:
        """For a query that holds all samples."""
        return OfflineCluster(qsl, links, complete, observer, travels)

    @staticmethod
    def server(
        qsl: SampleLibrary,
        links: Sequence[Link],
        complete: Complete,
        bound: float,
        observer: Observer | None = None,
        travels: str = DATA,
    ) -> ClusterScheduler:
        """For queries that arrive at random; ``bound`` is the latency bound in seconds."""
        scheduler = ServerCluster(qsl, links, complete, observer, travels)
        scheduler.late_after = bound
        scheduler.start()
        return scheduler

    @property
    def nodes(self) -> Sequence[NodeCounters]:
        """What each node has done, in the order of the links."""
        return [node.counters for node in self._nodes]

    def give_up(self) -> None:
        """Also on the nodes."""
        super().give_up()
        for node in self._nodes:
            node.link.give_up()

    def stop(self) -> None:
        """Also on the nodes, so that they are soon free."""
        super().stop()
        for node in self._nodes:
            node.link.give_up()

    def close(self) -> None:
        """Wait until LoadGen knows the answers to every parcel, or never will."""
        with self._answered_all:
            while self.failure is None and self._passed_on < self._parcels:
                self._answered_all.wait()

    @abstractmethod
    def _free(self, node: _Node, sent: _Sent, seconds: float) -> None:
        """A node answered a parcel after so many seconds of work."""

    def _send(self, node: _Node, ids: NDArray[np.uint64], indices: Integers, costs: Integers, arrivals: Floats) -> None:
        """One parcel; ``costs`` are those of its samples. Once the test is given up, it is answered here."""
        if self.failed.is_set():
            return
        if self._given_up:
            with self._lock:
                self.counters.completed += len(ids)
            self._complete(ids.tolist(), no_responses(len(ids)))
            return
        packed = self.qsl.pack(indices) if self._travels == DATA else None
        with self._lock:
            now, counters = self._clock(), node.counters
            parcel = Parcel(self._parcels, ids, indices, packed)
            self._parcels += 1
            counters.began = counters.began or now
            counters.idle = counters.idle_until(now)
            counters.free_since = None
            node.sent[parcel.number] = _Sent(ids, costs, now, arrivals)
        node.link.send(parcel)

    def _begins(self, when: float) -> None:
        """The first query arrived: nodes without a parcel are idle from now on."""
        with self._lock:
            for node in self._nodes:
                if node.counters.free_since is None and not node.counters.began:
                    node.counters.free_since = when

    def _answered(self, node: _Node, answers: Answers) -> None:
        """A link's callback. Never raises."""
        try:
            with self._lock:
                sent = node.sent.pop(answers.number, None)
            if sent is None:
                raise RunFailed(
                    f"node {node.link.name} answered parcel {answers.number} twice, or one that it never got."
                )
            sizes = verify(node.link.name, sent.ids, answers)
            seconds = self._count(node, sent, answers)
            if not self.failed.is_set():
                self._complete(answers.ids.tolist(), Responses(answers.offsets[:-1], sizes, answers.buffer))
                self._free(node, sent, seconds)
        except BaseException as error:  # noqa: BLE001  it would vanish in a thread that carries messages
            self._fail(error)
        with self._answered_all:
            self._passed_on += 1
            self._answered_all.notify_all()

    def _count(self, node: _Node, sent: _Sent, answers: Answers) -> float:
        """Count before LoadGen knows: the last answer ends the test. Seconds that the node worked on it."""
        count = len(answers.ids)
        with self._lock:
            end, mine, all_nodes = self._clock(), node.counters, self.counters
            start = max(sent.when, mine.ended)
            late = int((end - sent.arrivals > self.late_after).sum()) if len(sent.arrivals) else 0
            mine.parcels += 1
            mine.samples += count
            mine.batches += answers.batches
            mine.padded += answers.padded
            mine.done_cost += answers.done_cost
            mine.cpu_seconds = max(mine.cpu_seconds, answers.cpu_seconds)
            mine.ended = all_nodes.ended = end
            if not node.sent:
                mine.free_since = end
            all_nodes.completed += count  # before `late`: see `LocalScheduler`
            all_nodes.late += late
            all_nodes.batches += answers.batches
            all_nodes.padded += answers.padded
            all_nodes.done_cost += answers.done_cost
            if self.observer:
                shape = Shape(count, -(-answers.padded // max(1, count)))
                work = Work(answers.ids.tolist(), np.empty(0, np.int64), shape, sent.arrivals.tolist())
                self.observer.answered(start, end, work, sent.cost)
        return end - start

    def _fail(self, error: BaseException) -> None:
        super()._fail(error)
        with self._answered_all:
            self._answered_all.notify_all()


class OfflineCluster(ClusterScheduler):
    """One query, the longest samples first, in chunks by the nodes' rates."""

    def __init__(
        self,
        qsl: SampleLibrary,
        links: Sequence[Link],
        complete: Complete,
        observer: Observer | None = None,
        travels: str = DATA,
        clock: Clock = time.perf_counter,
    ) -> None:
        super().__init__(qsl, links, complete, observer, travels, clock)
        self._dealer = OfflineDealer(self._powers)
        self._ids, self._indices = np.empty(0, np.uint64), np.empty(0, np.int64)

    def _accept(self, ids: Sequence[int], indices: Integers) -> None:
        now = self._clock()
        if self.observer:
            self.observer.arrived(now)
        self._issued(self.qsl.cost(indices))
        self._begins(now)
        with self._lock:
            left = self._dealer.left
            query_ids = np.concatenate([self._ids[left], np.array(ids, dtype=np.uint64)])
            indices = np.concatenate([self._indices[left], indices])
            order = self.qsl.arrange(indices)
            order = order[np.argsort(-self.qsl.cost(indices)[order], kind="stable")]
            self._ids, self._indices = query_ids[order], indices[order]
            self._dealer.begin(self.qsl.cost(self._indices), self._most(self._indices))
        waiting = self._nodes
        while waiting:  # every node has one chunk before any has two
            waiting = [node for node in waiting if self._deal(node)]

    def _most(self, indices: Integers) -> int:
        """Samples of a parcel, by the bytes of the longest."""
        if self._travels != DATA or not len(indices):
            return max(1, len(indices))
        size = sum(array.nbytes for array in self.qsl.pack(indices[:1]).values())
        return max(1, PARCEL_BYTES // max(1, size))

    def _deal(self, node: _Node) -> bool:
        """Send a node its next chunk, if there is one for it."""
        with self._lock:
            part = self._dealer.rest() if self._given_up else self._dealer.next(node.place)
            if part is None:
                return False
            ids, indices = self._ids[part], self._indices[part]
        self._send(node, ids, indices, self.qsl.cost(indices), _NO_TIMES)
        return True

    def _free(self, node: _Node, sent: _Sent, seconds: float) -> None:
        with self._lock:
            self._dealer.answered(node.place, len(sent.ids), sent.cost, seconds)
        while self._deal(node):
            pass


class _Query(NamedTuple):
    id: int
    sample: int
    cost: int
    arrival: float


class ServerCluster(ClusterScheduler):
    """Each query goes to the node that would be done with it first; those that arrive together travel together."""

    _thread: threading.Thread | None = None

    def __init__(
        self,
        qsl: SampleLibrary,
        links: Sequence[Link],
        complete: Complete,
        observer: Observer | None = None,
        travels: str = DATA,
        clock: Clock = time.perf_counter,
    ) -> None:
        super().__init__(qsl, links, complete, observer, travels, clock)
        self._dealer = ServerDealer(self._powers)
        self._queue: deque[_Query] = deque()
        self._arrived = threading.Condition()
        self._closing = False

    def start(self) -> None:
        """Start the thread that sends: LoadGen's, which issues, must not wait."""
        self._thread = threading.Thread(target=self._work, name="deal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send what waits, and wait for the answers."""
        with self._arrived:
            self._closing = True
            self._arrived.notify_all()
        if self._thread:
            self._thread.join()
        super().close()

    def deal(self) -> None:
        """Send the queries that wait."""
        with self._arrived:
            queries = list(self._queue)
            self._queue.clear()
        parts: dict[int, list[_Query]] = {}
        size = max(1, -(-len(queries) // _AT_ONCE)) if len(self._nodes) > _AT_ONCE else 1
        with self._lock:
            now = self._clock()
            for start in range(0, len(queries), size):
                group = queries[start : start + size]
                parts.setdefault(self._dealer.choose([query.cost for query in group], now), []).extend(group)
        for place, part in parts.items():
            ids, indices, costs, arrivals = zip(*part, strict=True)
            self._send(
                self._nodes[place],
                np.array(ids, dtype=np.uint64),
                np.array(indices, dtype=np.int64),
                np.array(costs, dtype=np.int64),
                np.array(arrivals),
            )

    def _accept(self, ids: Sequence[int], indices: Integers) -> None:
        now = self._clock()
        costs = self.qsl.cost(indices)
        self._issued(costs)
        if self.counters.issued == len(ids):
            self._begins(now)
        with self._arrived:
            self._queue.extend(map(_Query, ids, indices.tolist(), costs.tolist(), [now] * len(ids)))
            self._arrived.notify()

    def _free(self, node: _Node, sent: _Sent, seconds: float) -> None:
        with self._lock:
            self._dealer.answered(node.place, sent.costs.tolist(), self._clock())

    def _work(self) -> None:
        dealt = 0.0
        while True:
            with self._arrived:
                while not self._queue:
                    if self._closing:
                        return
                    self._arrived.wait()
            time.sleep(max(0.0, dealt + _TOGETHER - time.perf_counter()))
            dealt = time.perf_counter()
            try:
                self.deal()
            except BaseException as error:  # noqa: BLE001  as in `Scheduler.issue`
                self._fail(error)
