"""A few seconds of a Server test without LoadGen: how many queries are late at a rate.

Measured batch times do not show what random arrivals cost: cold caches, threads that must wake up, and hiccups by
other processes while queries wait.
"""

import time
from collections.abc import Callable

import numpy as np

from harness.scheduling.base import Complete, Scheduler
from harness.task.shape import Integers
from harness.task.sut import Responses

_BEAT_SECONDS = 1.0  # of waiting for the next query between two calls of ``on_query``


def late_queries(
    scheduler_of: Callable[[Complete], Scheduler],
    indices: Integers,
    rate: float,
    queries: int,
    max_late: int,
    on_query: Callable[[], None],
) -> int:
    """The number of late ones among ``queries`` random arrivals at ``rate`` per second; ends early above ``max_late``.

    As in LoadGen, a query's latency starts when it is due, not when a busy machine gets round to issuing it.
    ``indices`` are loaded samples, int64 (n,). ``scheduler_of`` makes a scheduler, which is closed at the end.
    ``on_query()`` is called at least every second while a query is awaited.

    Raises:
        Exception: the scheduler's failure.
    """
    rng = np.random.default_rng(0)
    samples = rng.choice(indices, queries).tolist()
    due = (time.perf_counter() + np.cumsum(rng.exponential(1 / rate, queries))).tolist()
    late: list[int] = []

    def complete(ids: list[int], responses: Responses) -> None:
        now = time.perf_counter()
        late.extend(number for number in ids if now - due[number] > scheduler.late_after)

    scheduler = scheduler_of(complete)
    for number, (when, sample) in enumerate(zip(due, samples, strict=True)):
        while (left := when - time.perf_counter()) > 0:
            time.sleep(min(left, _BEAT_SECONDS))
            on_query()
        scheduler.issue([number], [sample])
        if scheduler.failed.is_set() or len(late) > max_late:
            scheduler.give_up()
            break
        on_query()
    scheduler.close()
    if scheduler.failure:
        raise scheduler.failure
    return len(late)
