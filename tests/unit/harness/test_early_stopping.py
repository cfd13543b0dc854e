"""The number of queries that early stopping demands."""

from __future__ import annotations

import pytest

from harness.rules.early_stopping import needed_queries
from harness.scenarios.base import find_scenario


def test_the_numbers_are_loadgens():
    """From its own logs: `The minimum number of queries needed is ...`, and the table of the policies."""
    assert [needed_queries(99, late) for late in range(6)] == [459, 662, 838, 1001, 1157, 1307]
    assert [needed_queries(90, late) for late in range(3)] == [44, 64, 81]


@pytest.mark.parametrize("rate", [0.5, 5.0, 14.0, 20.0, 25.0, 300.0, 15_000.0])
def test_server_allows_for_late_queries_as_far_as_ninety_seconds_go(rate):
    queries, late = find_scenario("Server").enough(rate)
    assert queries == needed_queries(99, late)
    assert 3 <= late <= 5
    assert late == 3 or queries <= 90 * rate
    assert late == 5 or needed_queries(99, late + 1) > 90 * rate


def test_streams_need_what_their_estimate_discards_and_offline_nothing():
    assert find_scenario("SingleStream").enough(1.0) == (64, 1)
    assert find_scenario("MultiStream").enough(1.0) == (662, 1)
    assert find_scenario("Offline").enough(1.0) == (1, 0)
