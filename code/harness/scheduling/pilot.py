"""A few seconds of a Server test without LoadGen: how many queries are late at a rate.

Measured batch times do not show what queries at random times cost: caches that went cold, threads that must wake up,
and a neighbour's hiccup while others wait.
"""

import time
from collections.abc import Callable

import numpy as np

from harness.scheduling.base import Scheduler
from harness.task.shape import Integers


def late_queries(
    scheduler: Scheduler, indices: Integers, rate: float, queries: int, most: int, on_query: Callable[[], None]
) -> int:
    """How many of ``queries`` that arrive at random, ``rate`` per second, are late; it ends with more than ``most``.

    ``indices`` are loaded samples, int64 (n,). The scheduler is closed at the end. ``on_query()`` is called for each.

    Raises:
        Exception: the scheduler's failure.
    """
    rng = np.random.default_rng(0)
    due = time.perf_counter() + np.cumsum(rng.exponential(1 / rate, queries))
    samples = rng.choice(indices, queries)
    for number, (when, sample) in enumerate(zip(due.tolist(), samples.tolist(), strict=True)):
        time.sleep(max(0.0, when - time.perf_counter()))
        scheduler.issue([number], [sample])
        on_query()
        if scheduler.failed.is_set() or scheduler.counters.late > most:
            scheduler.give_up()
            break
    scheduler.close()
    if scheduler.failure:
        raise scheduler.failure
    return scheduler.counters.late
