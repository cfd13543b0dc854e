"""Who gets which samples: decisions only, without threads, messages or a clock."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.cluster.messages import NodeReady
from harness.task.shape import Integers

_PARTS = 3  # of what is left, a node's share in so many chunks: large first, smaller towards the end
_MOST_SECONDS = 1.0  # of a node's work in a chunk: progress shows, and nobody waits long for the last one
_MOST_CHUNKS = 250  # per second, of all nodes: more would keep the driver busy with messages
_KNOWN_SECONDS = 2.0  # of the test, which count as much as the rate that a node measured before it


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
        available = self.left.stop - self.left.start
        if not available:
            return None
        power, rate, start = self._nodes[node], float(self._rates[node]), self._done
        left, together = float(self._upto[-1] - self._upto[start]), float(self._rates.sum())
        # If all could be divided freely, all nodes would be finished after so many seconds.
        finish = (left + float(self._out.sum())) / together
        room = finish * rate - float(self._out[node])
        want = min(left * rate / together / _PARTS, room, self._seconds * rate)
        least = min(power.least, available)
        if self._out[node] and room < (self._upto[start + least] - self._upto[start]) / 2:
            return None
        # With a key of another type, numpy would convert all costs, every time.
        end = self._upto.dtype.type(self._upto[start] + max(want, 0.0))
        count = int(np.searchsorted(self._upto, end, side="right")) - 1 - start
        count -= count % power.batch
        # The first chunks are small, so that no node waits long while others get theirs.
        count = min(max(count, least) if self._began[node] else least, self._most, available)
        self._began[node] = True
        self._done += count
        self._out[node] += self._upto[self._done] - self._upto[start]
        return slice(start, self._done)

    def answered(self, node: int, cost: int, seconds: float) -> None:
        """A node answered samples that cost ``cost``, with which it was busy for ``seconds``."""
        self._out[node] -= cost
        work, took = self._known[node]
        self._known[node] = work, took = work + cost, took + max(seconds, 0.0)
        self._rates[node] = work / took


class ServerDealer:
    """Gives each query to the node that would be done with it first."""

    def __init__(self, nodes: Sequence[Power]) -> None:
        self._rates = _usable([node.rate for node in nodes])
        self._out = np.zeros(len(nodes))
        self._last = -1

    def choose(self, cost: int) -> int:
        """The node for a query of that cost, which counts as outstanding from now on."""
        waits = (self._out + cost) / self._rates
        best = np.flatnonzero(waits <= waits.min() * (1 + 1e-9))
        # Equal nodes take turns.
        self._last = int(best[np.searchsorted(best, self._last, side="right") % len(best)])
        self._out[self._last] += cost
        return self._last

    def answered(self, node: int, cost: int) -> None:
        """A node answered samples that cost ``cost``."""
        self._out[node] -= cost


def _usable(rates: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Rates above 0: where a node knows none, it counts as the mean of the others."""
    found = np.array(rates, dtype=np.float64)
    known = found > 0
    found[~known] = found[known].mean() if known.any() else 1.0
    return found
