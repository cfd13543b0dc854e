"""What the Server scheduler would do under a load, from measured times, without running the engine.

The very `Backlog` of the test decides; only the clock and the engine are made up. It costs a second where a test takes
minutes, so that a rate to begin with can be found before LoadGen starts.
"""

from __future__ import annotations

import heapq

import numpy as np

from harness.scheduling.cost import CostTable
from harness.scheduling.peak import highest_passing
from harness.scheduling.server import Backlog, Waiting
from harness.task.shape import Floats, Integers

_QUERIES = 4000


def server_latencies(
    table: CostTable, costs: Integers, streams: int, bound: float, rate: float, jitter: Floats, seed: int = 0
) -> Floats:
    """Seconds, float64 (n,), from the arrival of each of some queries to its answer.

    Queries come at random (a Poisson process, as in LoadGen) at ``rate`` a second, with costs drawn from ``costs``
    (int64 (m,)). A batch takes what the table says, times one of ``jitter`` (float64 (k,)).
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, _QUERIES)).tolist()
    drawn = rng.choice(costs, _QUERIES).tolist()
    noise = rng.choice(jitter, _QUERIES).tolist()
    backlog = Backlog(table, bound)
    free = [0.0] * streams
    latencies = np.empty(_QUERIES)
    came, batches, now = 0, 0, 0.0
    while came < _QUERIES or len(backlog):
        now = max(now, free[0], 0.0 if len(backlog) else arrivals[came])
        while came < _QUERIES and arrivals[came] <= now:
            backlog.push(Waiting(arrivals[came], came, came, drawn[came]))
            came += 1
        idle = sum(time <= now for time in free)
        chosen = backlog.take(now, -(-len(backlog) // idle))
        end = now + table.seconds(len(chosen), max(sample.cost for sample in chosen)) * noise[batches]
        batches += 1
        heapq.heapreplace(free, end)
        for sample in chosen:
            latencies[sample.id] = end - sample.arrival
    return latencies


def server_peak(table: CostTable, costs: Integers, streams: int, bound: float, jitter: Floats) -> float:
    """Queries a second, the most of which 99 % are answered within ``bound`` seconds; 0 where no rate is low enough."""

    def holds(rate: float) -> bool:
        latencies = server_latencies(table, costs, streams, bound, rate, jitter)
        return float(np.percentile(latencies, 99)) <= bound

    alone = float(np.mean([table.seconds(1, cost) for cost in costs[:1000].tolist()]))
    return highest_passing(holds, 0.7 * streams / alone, precision=0.02, most=14)
