"""Which node gets which samples: decisions only, without threads, messages or a clock."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.cluster.messages import NodeReady
from harness.task.shape import Integers

_CHUNKS_OF_REST = 3  # per share that a node has in the remaining work: large first, smaller towards the end
_MAX_CHUNK_SECONDS = 1.0  # of a node's work: progress stays visible, and the last chunk ends soon
_MAX_CHUNKS_PER_SECOND = 250  # of all nodes: more would keep the driver busy with messages
_IN_FLIGHT = 2  # chunks per node, and batches per stream: one is computed while the other is sent
_MIN_BATCH_DIVISOR = 4  # at the end a stream gets at least a quarter of a batch, so that all streams end together
_KNOWN_SECONDS = 2.0  # the weight of the rate that a node measured before the test, in seconds of the test
_Numbers = np.ndarray[tuple[int], np.dtype[np.float64]]


class Power(NamedTuple):
    """The capacity of a node."""

    rate: float
    """Cost units/s."""
    fill: int
    """Samples that occupy all of its streams."""
    batch: int
    """Samples of its largest batch."""


def power(ready: NodeReady) -> Power:
    """The capacity that a node reported."""
    return Power(ready.rate, ready.largest * ready.streams, ready.largest)


class OfflineDealer:
    """Cuts a query into chunks so that unequal nodes finish together; the order of samples does not change."""

    def __init__(self, nodes: Sequence[Power]) -> None:
        self._nodes = nodes
        self._cumulative = np.zeros(1, np.int64)
        """Cost of the samples before each position, int64 (n + 1,)."""
        self._max_samples = self._done = 0
        self._rates = _usable([node.rate for node in nodes])
        self._history = [(rate * _KNOWN_SECONDS, _KNOWN_SECONDS) for rate in self._rates.tolist()]
        """Cost that each node has computed, and the seconds it took."""
        self._outstanding = np.zeros(len(nodes))
        """Cost of each node's unanswered samples."""
        self._chunks, self._samples = [0] * len(nodes), [0] * len(nodes)
        self._began = [False] * len(nodes)
        self._seconds = max(_MAX_CHUNK_SECONDS, len(nodes) / _MAX_CHUNKS_PER_SECOND)

    def begin(self, costs: Integers, max_samples: int) -> None:
        """Begin a query, once nothing is left of the previous one; ``costs`` is int64 (n,), in the order of dealing.

        A chunk has at most ``max_samples``, in whole batches, but at least one batch.
        """
        self._cumulative = np.concatenate([np.zeros(1, np.int64), np.cumsum(costs)])
        self._max_samples, self._done = max_samples, 0
        self._began = [False] * len(self._nodes)

    @property
    def left(self) -> slice:
        """The positions of the samples that no node has received."""
        return slice(self._done, len(self._cumulative) - 1)

    def rest(self) -> slice | None:
        """Take all remaining samples, as positions; None if there are none."""
        left = self.left
        self._done = left.stop
        return left if left.start < left.stop else None

    def next(self, node: int) -> slice | None:
        """Take the next chunk for a node, as positions; None if it gets none before its next answer."""
        left, power = self.left.stop - self.left.start, self._nodes[node]
        if not left or (self._chunks[node] >= _IN_FLIGHT and self._samples[node] >= _IN_FLIGHT * power.fill):
            return None
        count = self._count(node, power, left)
        if count:
            limit = max(power.batch, self._max_samples - self._max_samples % power.batch)
            start, self._done = self._done, self._done + min(count, limit, left)
            self._chunks[node] += 1
            self._samples[node] += self._done - start
            self._outstanding[node] += self._cumulative[self._done] - self._cumulative[start]
        return slice(start, self._done) if count else None

    def _count(self, node: int, power: Power, left: int) -> int:
        """Samples of a node's next chunk, of the ``left`` remaining ones; 0 to wait for its next answer."""
        work, fill_cost = self._cost(left), self._cost(min(power.fill, left))
        rate, together = float(self._rates[node]), float(self._rates.sum())
        # If work could be divided freely, all nodes would finish when this one has computed its share.
        share = (work + float(self._outstanding.sum())) * rate / together
        room = share - float(self._outstanding[node])
        if room >= fill_cost:
            if not self._began[node]:
                # The first chunks are small, so that no node waits long while others get theirs.
                self._began[node] = True
                return power.fill
            count = self._within(min(work * rate / together / _CHUNKS_OF_REST, room, self._seconds * rate))
            return max(count - count % power.batch, power.fill)
        # At the end, each stream gets part of a batch: a whole batch on one of them would take too long.
        if len(self._nodes) > _MAX_CHUNKS_PER_SECOND:  # the messages for smaller chunks would take longer
            return 0 if self._chunks[node] and room < fill_cost / 2 else power.fill
        streams = power.fill // power.batch
        smallest = max(1, power.batch // _MIN_BATCH_DIVISOR)
        busy = max(self._chunks[node], -(-self._samples[node] // power.batch))
        if busy and (share if busy < streams else room) < self._cost(min(smallest, left)) * streams:
            return 0
        return max(self._within(room / streams), smallest)

    def _cost(self, count: int) -> float:
        """The cost of the next ``count`` samples."""
        return float(self._cumulative[self._done + count] - self._cumulative[self._done])

    def _within(self, cost: float) -> int:
        """The number of next samples whose total cost is at most ``cost``."""
        # With a key of another type, numpy would convert all costs on every call.
        end = self._cumulative.dtype.type(self._cumulative[self._done] + max(cost, 0.0))
        return int(np.searchsorted(self._cumulative, end, side="right")) - 1 - self._done

    def answered(self, node: int, samples: int, cost: int, seconds: float) -> None:
        """A node answered a chunk of ``samples`` with this total ``cost``, which kept it busy for ``seconds``."""
        self._chunks[node] -= 1
        self._samples[node] -= samples
        self._outstanding[node] -= cost
        work, took = self._history[node]
        self._history[node] = work, took = work + cost, took + max(seconds, 0.0)
        self._rates[node] = work / took


class ServerDealer:
    """Gives each query to the node that would complete it first.

    With exact costs and rates, queries wait no longer than in a single queue for the streams of all nodes, provided
    that the computed part of each node's current samples counts as done. This part is estimated.
    """

    def __init__(self, nodes: Sequence[Power]) -> None:
        self._rates = _usable([node.rate for node in nodes])
        self._streams = [max(1, node.fill // node.batch) for node in nodes]
        self._held: list[list[int]] = [[] for _ in nodes]
        self._outstanding, self._serving = np.zeros(len(nodes)), np.zeros(len(nodes))
        self._speeds, self._since = np.zeros(len(nodes)), np.zeros(len(nodes))
        self._last = -1

    def choose(self, costs: Sequence[int], now: float) -> int:
        """The node for queries of these costs, which count as outstanding from ``now`` on, a time in seconds."""
        done = self._done(now)
        waits = (self._outstanding - done + sum(costs)) / self._rates
        best = np.flatnonzero(waits <= waits.min() * (1 + 1e-9))
        # Equal nodes take turns.
        node = self._last = int(best[np.searchsorted(best, self._last, side="right") % len(best)])
        self._held[node] += costs
        self._outstanding[node] += sum(costs)
        self._advance(node, float(done[node]), now)
        return node

    def answered(self, node: int, costs: Sequence[int], now: float) -> None:
        """A node answered samples of these costs."""
        done = float(self._done(now)[node]) - sum(costs)
        for cost in costs:
            self._held[node].remove(cost)
        self._outstanding[node] -= sum(costs)
        self._advance(node, max(0.0, done), now)

    def _done(self, now: float) -> _Numbers:
        """The cost that each node has probably computed; at most that of the samples on its streams."""
        done: _Numbers = np.minimum((now - self._since) * self._speeds, self._serving)
        return done

    def _advance(self, node: int, done: float, now: float) -> None:
        """Restart a node's estimate at ``now``, when it has computed ``done`` of its samples' cost."""
        held, streams = self._held[node], self._streams[node]
        self._serving[node] = sum(held[:streams])
        speed = self._speeds[node] = self._rates[node] * min(1.0, len(held) / streams)
        self._since[node] = now - (done / speed if speed else 0.0)


def _usable(rates: Sequence[float]) -> _Numbers:
    """Rates above 0: a node without a rate counts as the mean of the others."""
    found: _Numbers = np.array(rates, dtype=np.float64)
    known = found > 0
    found[~known] = found[known].mean() if known.any() else 1.0
    return found
