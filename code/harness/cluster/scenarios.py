"""LoadGen's scenarios with several nodes: their measurements added up, and a scheduler that deals to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from harness.cluster.link import Link
from harness.cluster.messages import DATA
from harness.cluster.scheduler import ClusterScheduler
from harness.errors import ConfigError
from harness.scenarios.base import (
    FULL_WARM_UP,
    BatchFacts,
    Estimate,
    Listener,
    RunShortTest,
    Scenario,
    ShortTest,
    Trial,
    WarmUp,
)
from harness.scenarios.offline import MARGIN, Offline
from harness.scenarios.server import Server
from harness.scheduling.base import Complete, Observer, Scheduler
from harness.task.shape import Integers
from harness.task.sut import SUT

_PILOT_SECONDS = 1.0  # of work for all nodes, to measure their joint rate
_MAX_PILOT_SAMPLES = 1e6  # in that work
_MIN_SHARE_OF_RATES = 0.7  # of the sum of their rates: in such a short query, nodes do not end at the same time


class _ClusterScenario(Scenario):
    """The common part of scenarios with several nodes."""

    def __init__(
        self,
        sut: SUT,
        costs: Integers,
        max_cost: int,
        bound: float,
        links: Sequence[Link],
        payload: str = DATA,
        warm_up: WarmUp = FULL_WARM_UP,
    ) -> None:
        """``payload`` is what is sent to the nodes: `DATA` or `INDICES`; the others are those of `Scenario`."""
        super().__init__(sut, costs, max_cost, bound, warm_up)
        self.links, self.payload = links, payload

    def get_ready(self, indices: Integers, listener: Listener) -> float:
        """Seconds of the slowest batch of any node; the nodes are already ready."""
        return max(link.ready.slowest for link in self.links)

    def describe(self) -> BatchFacts:
        """The shapes of all nodes."""
        return BatchFacts(sorted({shape for link in self.links for shape in link.ready.batches.shapes}))


class NodesOffline(_ClusterScenario, Offline):
    """One query, divided among nodes by their measured rates."""

    def estimate(self, indices: Integers, seconds: float, listener: Listener) -> Estimate:
        """The sum of the nodes' own estimates, or their joint rate if that is much lower."""
        found = _total(self.links)
        reached = self._reached(indices, found.per_second, listener)
        if reached >= _MIN_SHARE_OF_RATES * found.per_second:
            return found
        how = f"{reached:.4g} samples/s measured with all nodes together, less than {found.how}"
        return Estimate(reached * found.value / found.per_second, how, reached, found.remark)

    def fastest(self, indices: Integers, listener: Listener) -> Estimate:
        """The sum of the nodes' rates."""
        return _total(self.links)

    def _reached(self, indices: Integers, rate: float, listener: Listener) -> float:
        """Samples/s of all nodes on a query that takes `_PILOT_SECONDS` at ``rate``, or fills all streams once."""
        minimum = sum(link.ready.largest * link.ready.streams for link in self.links)
        count = max(minimum, round(min(_MAX_PILOT_SAMPLES, _PILOT_SECONDS * rate)))
        spread = np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(np.int64)
        query = np.resize(indices[spread], count)
        scheduler = self.scheduler(lambda ids, responses: listener.ran())
        scheduler.issue(np.arange(len(query)).tolist(), query.tolist())
        scheduler.close()
        if scheduler.failure:
            raise scheduler.failure
        return len(query) / (scheduler.counters.ended - scheduler.counters.began)

    def trial(self, indices: Integers, seconds: float, test: RunShortTest, listener: Listener) -> Trial:
        """Samples/s of a short test of all nodes together, messages included."""
        found = test(ShortTest(rate=_total(self.links).per_second, seconds=seconds))
        rate = self.metric(found).value or 0.0
        return Trial(rate, rate * MARGIN)

    def scheduler(self, complete: Complete, observer: Observer | None = None) -> Scheduler:
        """A scheduler that deals chunks of the query."""
        return ClusterScheduler.offline(self.sut.qsl, self.links, complete, observer, self.payload)


class NodesServer(_ClusterScenario, Server):
    """Queries go to the node that would complete them first."""

    def peak(self, indices: Integers) -> float:
        """The sum of the nodes' simulated peaks; 0 if one of them finds none."""
        peaks = [link.ready.peak for link in self.links]
        return sum(peaks) if all(peaks) else 0.0

    def fastest(self, indices: Integers, listener: Listener) -> Estimate:
        """The sum of the nodes' simulated peaks, or of their own estimates if a simulation finds no rate."""
        peak, found = self.peak(indices), _total(self.links)
        return Estimate(peak, "the sum of the rates that the nodes' queue simulations sustain", peak) if peak else found

    def _cautious(self, indices: Integers, peak: float) -> Estimate:
        return super()._cautious(indices, peak) if peak else _total(self.links)

    def scheduler(self, complete: Complete, observer: Observer | None = None) -> Scheduler:
        """A scheduler that deals query by query."""
        return ClusterScheduler.server(self.sut.qsl, self.links, complete, self.bound, observer, self.payload)


Clustered = NodesOffline | NodesServer
"""A scenario with several nodes."""


def clustered(kind: type[Scenario]) -> type[NodesOffline] | type[NodesServer]:
    """The multi-node form of a scenario.

    Raises:
        ConfigError: the scenario has one query at a time.
    """
    if kind.latency:
        raise ConfigError(
            f"{kind.name} has one query at a time, which several nodes answer no faster than one: omit the cluster."
        )
    return NodesServer if kind.paced else NodesOffline


def _total(links: Sequence[Link]) -> Estimate:
    """The sum of the nodes' estimates; its text quotes the first four."""
    found: Mapping[str, Estimate] = {link.ready.name: link.ready.estimate for link in links}
    words = "; ".join(f"{name}: {each.how}" for name, each in list(found.items())[:4])
    more = f" and {len(found) - 4} more" if len(found) > 4 else ""
    nodes = "1 node" if len(found) == 1 else f"{len(found)} nodes"
    remarks = "; ".join(f"{name}: {each.remark}" for name, each in found.items() if each.remark)
    return Estimate(
        sum(each.value for each in found.values()),
        f"the sum of {nodes} ({words}{more})",
        sum(each.per_second for each in found.values()),
        remarks,
    )
