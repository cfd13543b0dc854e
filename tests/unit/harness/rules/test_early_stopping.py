"""The number of queries that early stopping demands."""

from __future__ import annotations

import pytest

from harness.rules.early_stopping import needed_queries
from harness.scenarios.base import find_scenario


def test_the_numbers_are_loadgens():
    """From its own logs: `The minimum number of queries needed is ...`, and the table of the policies."""
    assert [needed_queries(99, late) for late in range(6)] == [459, 662, 838, 1001, 1157, 1307]
    assert [needed_queries(90, late) for late in range(3)] == [44, 64, 81]


@pytest.mark.parametrize(
    ("rate", "late"),
    [
        (0.4, 0),
        (0.6, 0),
        (0.8, 1),
        (1.0, 2),
        (1.2, 3),
        (3.8, 3),
        (4.0, 4),
        (5.0, 6),
        (6.7, 10),
        (16.0, 10),
        (17.9, 11),
        (27.6, 20),
        (15_000.0, 20),
    ],
)
def test_server_allows_for_late_queries_as_far_as_the_time_goes(rate, late):
    """Three in a run of at most a quarter of an hour, more in five minutes, most in two."""
    assert find_scenario("Server").enough(rate) == (needed_queries(99, late), late)
    assert find_scenario("Server").enough(rate, float("inf"))[1] == max(3, late)


def test_streams_need_what_their_estimate_discards_and_offline_nothing():
    assert find_scenario("SingleStream").enough(1.0) == (64, 1)
    assert find_scenario("MultiStream").enough(1.0) == (662, 1)
    assert find_scenario("Offline").enough(1.0) == (1, 0)
