"""The simulation of many nodes: it must find what goes wrong, too."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.cluster_model import Costs, bytes_per_sample, machines, offline, server
from harness.cluster import deal


def test_unequal_nodes_finish_together_and_no_id_is_lost():
    found = offline(machines(20, 30, unequal=4), 120)
    assert found.complete
    assert found.ends < 0.02
    assert found.efficiency > 0.97


def test_chunks_of_equal_size_would_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deal, "_MOST_SECONDS", 1e9)
    monkeypatch.setattr(deal, "_PARTS", 0.1)
    monkeypatch.setattr(deal.OfflineDealer, "answered", lambda *_: None)
    assert offline(machines(20, 30, unequal=4), 120).ends > 0.02


def test_a_driver_that_is_busy_shows():
    quick, slow = (offline(machines(20, 30, 1), 20, Costs(message)) for message in (1e-6, 50e-3))
    assert slow.complete
    assert slow.driver > 5 * quick.driver
    assert slow.efficiency < quick.efficiency


def test_queries_take_longer_where_the_network_is_slow():
    near, far = (server(machines(5, 30, 2), 0.3, 20, 1.0, Costs(latency=latency)) for latency in (0.0, 0.2))
    assert near.complete
    assert far.complete
    assert far.latency > near.latency + 0.3


def test_the_driver_needs_few_bytes_for_a_sample():
    assert 16 <= bytes_per_sample(100_000) < 120


def test_machines_have_the_mean_rate_and_the_ratio_asked_for():
    tokens = np.array([machine.tokens for machine in machines(50, 30, 4)])
    assert tokens.max() / tokens.min() == pytest.approx(4)
    assert tokens.mean() / machines(1, 30, 1)[0].tokens == pytest.approx(1)
