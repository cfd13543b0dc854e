"""LoadGen's early stopping: how many queries make it sure of a percentile (loadgen/early_stopping.cc)."""

from __future__ import annotations

import math
from functools import cache

_CONFIDENCE = 0.99


@cache
def needed_queries(percentile: int, above: int) -> int:
    """The minimum number of queries that make LoadGen sure of a percentile if ``above`` of them took longer.

    For Server, ``above`` counts the queries over the latency bound. The estimate for SingleStream and MultiStream
    discards the slowest queries, at least one.

    >>> [needed_queries(99, late) for late in (0, 1, 5)], needed_queries(90, 1)
    ([459, 662, 1307], 64)
    """
    share = 1 - percentile / 100
    queries = above + 1
    while _at_most(above, queries, share) > 1 - _CONFIDENCE:
        queries += 1
    return queries


def _at_most(above: int, queries: int, share: float) -> float:
    """The probability that at most ``above`` of ``queries`` are slow if a ``share`` of all are."""
    return math.fsum(
        math.comb(queries, slow) * share**slow * (1 - share) ** (queries - slow) for slow in range(above + 1)
    )
