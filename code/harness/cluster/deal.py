"""Who gets which samples: decisions only, without threads, messages or a clock."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.cluster.messages import NodeReady
from harness.task.shape import Integers

_PARTS = 3  # of what is left, a node's share in so many chunks: large first, smaller towards the end
_MOST_SECONDS = 1.0  # of a node's work in a chunk: progress shows, and nobody waits long for the last one
_MOST_CHUNKS = 250  # per second, of all nodes: more would keep the driver busy with messages
_IN_FLIGHT = 2  # chunks of a node, each of a batch per stream: it computes one while the other one travels
_SMALLEST = 4  # of a batch, at the end: so that all streams end together
_KNOWN_SECONDS = 2.0  # of the test, which count as much as the rate that a node measured before it
_Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]


class Power(NamedTuple):
    """What a node can do."""

    rate: float
    """Cost units/s."""
    least: int
    """Samples that occupy all of its streams."""
    batch: int
    """Samples of its largest batch."""


def power(ready: NodeReady) -> Power:
    """The power of a node by what it said."""
    return Power(ready.rate, ready.largest * ready.streams, ready.largest)


class OfflineDealer:
    """Cuts a query into chunks, so that unequal nodes finish together; its order of samples stays."""

    def __init__(self, nodes: Sequence[Power]) -> None:
        self._nodes = nodes
        self._upto = np.zeros(1, np.int64)
        self._most = self._done = 0
        self._rates = _usable([node.rate for node in nodes])
        self._known = [(rate * _KNOWN_SECONDS, _KNOWN_SECONDS) for rate in self._rates.tolist()]
        self._out = np.zeros(len(nodes))
        self._chunks, self._samples = [0] * len(nodes), [0] * len(nodes)
        self._began = [False] * len(nodes)
        self._seconds = max(_MOST_SECONDS, len(nodes) / _MOST_CHUNKS)

    def begin(self, costs: Integers, most: int) -> None:
        """A query, once nothing is left of the one before: int64 (n,), in the order of dealing.

        A chunk has at most ``most`` samples.
        """
        self._upto = np.concatenate([np.zeros(1, np.int64), np.cumsum(costs)])
        self._most, self._done = most, 0
        self._began = [False] * len(self._nodes)

    @property
    def left(self) -> slice:
        """What nobody has, as positions."""
        return slice(self._done, len(self._upto) - 1)

    def rest(self) -> slice | None:
        """All that is left, which then nobody else gets; None if there is nothing."""
        left = self.left
        self._done = left.stop
        return left if left.start < left.stop else None

    def next(self, node: int) -> slice | None:
        """The chunk that a node gets now, as positions; None if there is none for it before its next answer."""
        left, power = self.left.stop - self.left.start, self._nodes[node]
        if not left or (self._chunks[node] >= _IN_FLIGHT and self._samples[node] >= _IN_FLIGHT * power.least):
            return None
        count = self._count(node, power, left)
        if count:
            start, self._done = self._done, self._done + min(count, self._most, left)
            self._chunks[node] += 1
            self._samples[node] += self._done - start
            self._out[node] += self._upto[self._done] - self._upto[start]
        return slice(start, self._done) if count else None

    def _count(self, node: int, power: Power, left: int) -> int:
        """Samples of a node's next chunk, not more than are left; 0 to wait for its next answer."""
        work, least = self._cost(left), self._cost(min(power.least, left))
        rate, together = float(self._rates[node]), float(self._rates.sum())
        # If work could be divided freely, all nodes would be finished when this one has computed its share.
        share = (work + float(self._out.sum())) * rate / together
        room = share - float(self._out[node])
        if room >= least:
            if not self._began[node]:
                # The first chunks are small, so that no node waits long while others get theirs.
                self._began[node] = True
                return power.least
            count = self._within(min(work * rate / together / _PARTS, room, self._seconds * rate))
            return max(count - count % power.batch, power.least)
        # At the end, each stream gets a part of a batch: a batch on one of them would take too long.
        if len(self._nodes) > _MOST_CHUNKS:  # so many messages would take longer
            return 0 if self._chunks[node] and room < least / 2 else power.least
        streams = power.least // power.batch
        smallest = max(1, power.batch // _SMALLEST)
        busy = max(self._chunks[node], -(-self._samples[node] // power.batch))
        if busy and (share if busy < streams else room) < self._cost(min(smallest, left)) * streams:
            return 0
        return max(self._within(room / streams), smallest)

    def _cost(self, count: int) -> float:
        """Of the next samples."""
        return float(self._upto[self._done + count] - self._upto[self._done])

    def _within(self, cost: float) -> int:
        """The next samples that cost at most this together."""
        # With a key of another type, numpy would convert all costs, every time.
        end = self._upto.dtype.type(self._upto[self._done] + max(cost, 0.0))
        return int(np.searchsorted(self._upto, end, side="right")) - 1 - self._done

    def answered(self, node: int, samples: int, cost: int, seconds: float) -> None:
        """A node answered a chunk of so many samples, with which it was busy for ``seconds``."""
        self._chunks[node] -= 1
        self._samples[node] -= samples
        self._out[node] -= cost
        work, took = self._known[node]
        self._known[node] = work, took = work + cost, took + max(seconds, 0.0)
        self._rates[node] = work / took


class ServerDealer:
    """Gives each query to the node that would be done with it first.

    If costs and rates were exact, queries would wait no longer than in one queue for the streams of all nodes. So what
    a node has computed of the samples that it works on counts as done, before it answers them.
    """

    def __init__(self, nodes: Sequence[Power]) -> None:
        self._rates = _usable([node.rate for node in nodes])
        self._streams = [max(1, node.least // node.batch) for node in nodes]
        self._held: list[list[int]] = [[] for _ in nodes]
        self._out, self._serving = np.zeros(len(nodes)), np.zeros(len(nodes))
        self._speeds, self._since = np.zeros(len(nodes)), np.zeros(len(nodes))
        self._last = -1

    def choose(self, costs: Sequence[int], now: float) -> int:
        """The node for queries of these costs, which count as outstanding from ``now`` on, a moment in seconds."""
        done = self._done(now)
        waits = (self._out - done + sum(costs)) / self._rates
        best = np.flatnonzero(waits <= waits.min() * (1 + 1e-9))
        # Equal nodes take turns.
        node = self._last = int(best[np.searchsorted(best, self._last, side="right") % len(best)])
        self._held[node] += costs
        self._out[node] += sum(costs)
        self._go_on(node, float(done[node]), now)
        return node

    def answered(self, node: int, costs: Sequence[int], now: float) -> None:
        """A node answered samples of these costs."""
        done = float(self._done(now)[node]) - sum(costs)
        for cost in costs:
            self._held[node].remove(cost)
        self._out[node] -= sum(costs)
        self._go_on(node, max(0.0, done), now)

    def _done(self, now: float) -> _Numbers:
        """By all that is known, of what each node has; at most the samples that its streams work on."""
        done: _Numbers = np.minimum((now - self._since) * self._speeds, self._serving)
        return done

    def _go_on(self, node: int, done: float, now: float) -> None:
        held, streams = self._held[node], self._streams[node]
        self._serving[node] = sum(held[:streams])
        speed = self._speeds[node] = self._rates[node] * min(1.0, len(held) / streams)
        self._since[node] = now - (done / speed if speed else 0.0)


def _usable(rates: Sequence[float]) -> _Numbers:
    """Rates above 0: where a node knows none, it counts as the mean of the others."""
    found: _Numbers = np.array(rates, dtype=np.float64)
    known = found > 0
    found[~known] = found[known].mean() if known.any() else 1.0
    return found
