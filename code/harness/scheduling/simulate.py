"""A simulation of the Server scheduler under load, from measured times, without running the engine.

It uses the `Backlog` of the test; only the clock and the engine are simulated. It takes a second where a test takes
minutes, so it can find an initial rate before LoadGen starts.
"""

import heapq

import numpy as np

from harness.scheduling.cost import CostTable
from harness.scheduling.peak import highest_passing
from harness.scheduling.server import Backlog, WaitingSample
from harness.task.shape import Floats, Integers

_SIMULATED_QUERIES = 4000  # simulated at each rate


def server_latencies(
    table: CostTable, costs: Integers, streams: int, bound: float, rate: float, jitter: Floats, seed: int = 0
) -> Floats:
    """Seconds, float64 (n,), from the arrival of each simulated query to its answer.

    Queries arrive at random (a Poisson process, as in LoadGen) at ``rate`` per second, with costs drawn from ``costs``
    (int64 (m,)). A batch takes its seconds in the table times a random factor from ``jitter`` (float64 (k,)).
    """
    rng = np.random.default_rng(seed)
    arrivals = np.cumsum(rng.exponential(1 / rate, _SIMULATED_QUERIES)).tolist()
    drawn = rng.choice(costs, _SIMULATED_QUERIES).tolist()
    noise = rng.choice(jitter, _SIMULATED_QUERIES).tolist()
    backlog = Backlog(table, bound)
    free = [0.0] * streams
    latencies = np.empty(_SIMULATED_QUERIES)
    arrived, batches, now = 0, 0, 0.0
    while arrived < _SIMULATED_QUERIES or len(backlog):
        now = max(now, free[0], 0.0 if len(backlog) else arrivals[arrived])
        while arrived < _SIMULATED_QUERIES and arrivals[arrived] <= now:
            backlog.push(WaitingSample(arrivals[arrived], arrived, arrived, drawn[arrived]))
            arrived += 1
        idle = sum(time <= now for time in free)
        chosen = backlog.take(now, -(-len(backlog) // idle))
        end = now + table.seconds(len(chosen), max(sample.cost for sample in chosen)) * noise[batches]
        batches += 1
        heapq.heapreplace(free, end)
        for sample in chosen:
            latencies[sample.id] = end - sample.arrival
    return latencies


def server_peak(table: CostTable, costs: Integers, streams: int, bound: float, jitter: Floats) -> float:
    """The highest rate in queries/s at which 99 % are answered within ``bound`` seconds; 0 if no rate is low enough."""

    def holds(rate: float) -> bool:
        latencies = server_latencies(table, costs, streams, bound, rate, jitter)
        return float(np.percentile(latencies, 99)) <= bound

    alone = float(np.mean([table.seconds(1, cost) for cost in costs[:1000].tolist()]))
    return highest_passing(holds, 0.7 * streams / alone, precision=0.02, max_tests=14)
