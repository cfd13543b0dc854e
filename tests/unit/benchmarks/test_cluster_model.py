"""The simulation of many nodes: it must also find what goes wrong."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.cluster_model import (
    PUBLISHED,
    Costs,
    PublishedNode,
    bytes_per_sample,
    machines,
    nodes_of_driver,
    nodes_of_network,
    offline,
    server,
)

from harness.cluster import deal


def test_unequal_nodes_finish_together_and_no_id_is_lost():
    found = offline(machines(20, 30, unequal=4), 120)
    assert found.complete
    assert found.ends < 0.02
    assert found.efficiency > 0.97


def test_chunks_of_equal_size_would_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(deal, "_MAX_CHUNK_SECONDS", 1e9)
    monkeypatch.setattr(deal, "_CHUNKS_OF_REST", 0.1)
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


def test_queries_would_wait_longer_if_what_a_node_has_computed_did_not_count(monkeypatch: pytest.MonkeyPatch):
    nodes = machines(50, 30, unequal=4)
    found = server(nodes, 0.5, 10, 1.0)
    monkeypatch.setattr(deal.ServerDealer, "_done", lambda dealer, now: np.zeros(len(nodes)))
    blind = server(nodes, 0.5, 10, 1.0)
    assert found.complete
    assert blind.complete
    assert found.latency < 0.9 * blind.latency


def test_the_driver_needs_few_bytes_for_a_sample():
    assert 16 <= bytes_per_sample(100_000) < 120


def test_machines_have_the_mean_rate_and_the_ratio_asked_for():
    tokens = np.array([machine.tokens for machine in machines(50, 30, 4)])
    assert tokens.max() / tokens.min() == pytest.approx(4)
    assert tokens.mean() / machines(1, 30, 1)[0].tokens == pytest.approx(1)


def test_what_feeds_how_many_nodes():
    row = PublishedNode("small", 1000, sent=1000, back=4)
    assert nodes_of_driver(row, Costs(message=0, sample=1e-4)) == pytest.approx(10)
    assert nodes_of_driver(row, Costs(message=0.05, sample=1e-4)) == pytest.approx(1 / 0.15)  # one parcel per second
    assert nodes_of_network(row, gigabits=8) == pytest.approx(1000)
    assert nodes_of_network(row._replace(back=10_000), gigabits=8) == pytest.approx(100)


def test_a_driver_feeds_about_as_many_nodes_as_the_model_says():
    row, costs = PublishedNode("small", 100, 100, 100), Costs(message=0, sample=1e-3)
    assert nodes_of_driver(row, costs) == pytest.approx(10)
    few, many = (offline(machines(number, row.rate, 1), 30, costs) for number in (7, 20))
    assert few.efficiency > 0.9
    assert many.efficiency == pytest.approx(0.5, abs=0.05)


def test_pixels_need_more_than_one_driver():
    images = next(row for row in PUBLISHED if row.image)
    assert nodes_of_network(images, 100) < 5
