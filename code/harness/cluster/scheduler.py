"""The driver's scheduler: deals samples to nodes, and answers each query id exactly once."""

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

PARCEL_BYTES = 4 << 20
"""Approximate maximum size of a message, unless a batch of the node is larger.

A node that receives more at once takes longer for each image: the pixels no longer stay in its caches until they are
read.
"""
_SAME_MESSAGE_SECONDS = 0.0005  # Server queries that arrive within this time are sent together
_MAX_MESSAGES_IN_A_ROW = 8  # of Server: if more queries wait, several go to one node
_NO_TIMES = np.empty(0)


@dataclass
class NodeCounters:
    """A node's progress in a test; written under the scheduler's lock, read at any time."""

    name: str
    parcels: int = 0
    samples: int = 0
    batches: int = 0
    padded: int = 0
    done_cost: int = 0
    cpu_seconds: float = 0.0
    """CPU time of the node's process, as it reports it."""
    began: float = 0.0
    """When it received its first parcel, in seconds of the scheduler's clock; 0 if it received none."""
    ended: float = 0.0
    """When its last answer arrived."""
    idle: float = 0.0
    """Seconds without a parcel, up to its last one."""
    free_since: float | None = None
    """When it became free of parcels; None if it has one, or if the test has not begun."""

    def idle_until(self, end: float) -> float:
        """Seconds without a parcel, from the beginning of the test until ``end``."""
        return self.idle + (max(0.0, end - self.free_since) if self.free_since is not None else 0.0)


class _Sent(NamedTuple):
    """A parcel that its node has not answered yet."""

    ids: NDArray[np.uint64]
    costs: Integers
    when: float
    arrivals: Floats

    @property
    def cost(self) -> int:
        """The total cost of its samples."""
        return int(self.costs.sum())


@dataclass
class _LinkedNode:
    """A link, and its parcels in flight by number."""

    place: int
    link: Link
    counters: NodeCounters
    sent: dict[int, _Sent] = field(default_factory=dict)


class ClusterScheduler(Scheduler):
    """Owns the query ids of a test that nodes compute. The first failure of a node ends the test."""

    def __init__(
        self,
        qsl: SampleLibrary,
        links: Sequence[Link],
        complete: Complete,
        observer: Observer | None = None,
        payload: str = DATA,
        clock: Clock = time.perf_counter,
    ) -> None:
        """``payload`` says what is sent to the nodes: `DATA` or `INDICES`."""
        super().__init__(qsl, complete, observer)
        self._payload, self._clock = payload, clock
        self._parcels = self._passed_on = 0
        self._answered_all = threading.Condition()
        self._nodes = [_LinkedNode(place, link, NodeCounters(link.name)) for place, link in enumerate(links)]
        self._powers = [power(link.ready) for link in links]
        for node in self._nodes:
            node.link.open(partial(self._answered, node), self._fail)

    @staticmethod
    def offline(
        qsl: SampleLibrary,
        links: Sequence[Link],
        complete: Complete,
        observer: Observer | None = None,
        payload: str = DATA,
    ) -> ClusterScheduler:
        """For a query that holds all samples."""
        return OfflineCluster(qsl, links, complete, observer, payload)

    @staticmethod
    def server(
        qsl: SampleLibrary,
        links: Sequence[Link],
        complete: Complete,
        bound: float,
        observer: Observer | None = None,
        payload: str = DATA,
    ) -> ClusterScheduler:
        """For queries that arrive at random; ``bound`` is the latency bound in seconds."""
        scheduler = ServerCluster(qsl, links, complete, observer, payload)
        scheduler.late_after = bound
        scheduler.start()
        return scheduler

    @property
    def nodes(self) -> Sequence[NodeCounters]:
        """The progress of each node, in the order of the links."""
        return [node.counters for node in self._nodes]

    def give_up(self) -> None:
        """Give up here and on the nodes: see `Scheduler.give_up`."""
        super().give_up()
        for node in self._nodes:
            node.link.give_up()

    def stop(self) -> None:
        """Stop, and make the nodes give up, so that they are soon free."""
        super().stop()
        for node in self._nodes:
            node.link.give_up()

    def close(self) -> None:
        """Wait until LoadGen has the answers to every parcel, or the test has failed."""
        with self._answered_all:
            while self.failure is None and self._passed_on < self._parcels:
                self._answered_all.wait()

    @abstractmethod
    def _free(self, node: _LinkedNode, sent: _Sent, seconds: float) -> None:
        """Called after a node answered a parcel, for which it took ``seconds``."""

    def _send(
        self, node: _LinkedNode, ids: NDArray[np.uint64], indices: Integers, costs: Integers, arrivals: Floats
    ) -> None:
        """Send one parcel; ``costs`` has one entry per sample. After `give_up`, answer it here instead."""
        if self.failed.is_set():
            return
        if self._given_up:
            with self._lock:
                self.counters.completed += len(ids)
            self._complete(ids.tolist(), no_responses(len(ids)))
            return
        packed = self.qsl.pack(indices) if self._payload == DATA else None
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
        """The first query arrived at ``when``: nodes without a parcel are idle from then on."""
        with self._lock:
            for node in self._nodes:
                if node.counters.free_since is None and not node.counters.began:
                    node.counters.free_since = when

    def _answered(self, node: _LinkedNode, answers: Answers) -> None:
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
        except BaseException as error:  # noqa: BLE001  the link's thread would swallow it
            self._fail(error)
        with self._answered_all:
            self._passed_on += 1
            self._answered_all.notify_all()

    def _count(self, node: _LinkedNode, sent: _Sent, answers: Answers) -> float:
        """Update the counters before the last answer lets LoadGen end the test; returns the node's busy seconds."""
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
    """Divides one query, longest samples first, into chunks sized by the nodes' rates."""

    def __init__(
        self,
        qsl: SampleLibrary,
        links: Sequence[Link],
        complete: Complete,
        observer: Observer | None = None,
        payload: str = DATA,
        clock: Clock = time.perf_counter,
    ) -> None:
        super().__init__(qsl, links, complete, observer, payload, clock)
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
            self._dealer.begin(self.qsl.cost(self._indices), self._max_samples(self._indices))
        waiting = self._nodes
        while waiting:  # every node gets one chunk before any gets two
            waiting = [node for node in waiting if self._deal(node)]

    def _max_samples(self, indices: Integers) -> int:
        """Maximum number of samples in a parcel, from the size of the first sample, which is the longest."""
        if self._payload != DATA or not len(indices):
            return max(1, len(indices))
        size = sum(array.nbytes for array in self.qsl.pack(indices[:1]).values())
        return max(1, PARCEL_BYTES // max(1, size))

    def _deal(self, node: _LinkedNode) -> bool:
        """Send a node its next chunk; False if there is none for it now."""
        with self._lock:
            part = self._dealer.rest() if self._given_up else self._dealer.next(node.place)
            if part is None:
                return False
            ids, indices = self._ids[part], self._indices[part]
        self._send(node, ids, indices, self.qsl.cost(indices), _NO_TIMES)
        return True

    def _free(self, node: _LinkedNode, sent: _Sent, seconds: float) -> None:
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
    """Gives each query to the node that would complete it first; queries that arrive together are sent together."""

    _thread: threading.Thread | None = None

    def __init__(
        self,
        qsl: SampleLibrary,
        links: Sequence[Link],
        complete: Complete,
        observer: Observer | None = None,
        payload: str = DATA,
        clock: Clock = time.perf_counter,
    ) -> None:
        super().__init__(qsl, links, complete, observer, payload, clock)
        self._dealer = ServerDealer(self._powers)
        self._queue: deque[_Query] = deque()
        self._arrived = threading.Condition()
        self._closing = False

    def start(self) -> None:
        """Start the sending thread: LoadGen's own thread must not wait."""
        self._thread = threading.Thread(target=self._work, name="deal", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send all waiting queries, and wait for the answers."""
        with self._arrived:
            self._closing = True
            self._arrived.notify_all()
        if self._thread:
            self._thread.join()
        super().close()

    def deal(self) -> None:
        """Send all waiting queries."""
        with self._arrived:
            queries = list(self._queue)
            self._queue.clear()
        parts: dict[int, list[_Query]] = {}
        size = max(1, -(-len(queries) // _MAX_MESSAGES_IN_A_ROW)) if len(self._nodes) > _MAX_MESSAGES_IN_A_ROW else 1
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

    def _free(self, node: _LinkedNode, sent: _Sent, seconds: float) -> None:
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
            time.sleep(max(0.0, dealt + _SAME_MESSAGE_SECONDS - time.perf_counter()))
            dealt = time.perf_counter()
            try:
                self.deal()
            except BaseException as error:  # noqa: BLE001  as in `Scheduler.issue`
                self._fail(error)
