from __future__ import annotations

import numpy as np
import pytest

from harness.scheduling.cost import CostTable
from harness.scheduling.simulate import server_latencies, server_peak
from harness.task.shape import Shape

STEADY = np.ones(1)
EQUAL = np.full(100, 10)
ONE = CostTable({Shape(1, 10): 0.010}, fixed=True)
GAINING = CostTable({Shape(1, 10): 0.010, Shape(4, 10): 0.016}, fixed=True)


def test_without_load_a_sample_takes_as_long_as_alone():
    latencies = server_latencies(ONE, EQUAL, 1, 0.1, 0.01, STEADY)
    assert np.median(latencies) == pytest.approx(0.010)


def test_the_mean_wait_is_that_of_queueing_theory():
    """M/D/1: the mean wait is rho / (2 (1 - rho)) service times (Pollaczek and Khinchine)."""
    waits = [server_latencies(ONE, EQUAL, 1, 10.0, 60, STEADY, seed).mean() - 0.010 for seed in range(8)]
    assert np.mean(waits) == pytest.approx(0.010 * 0.6 / (2 * 0.4), rel=0.15)


def test_two_streams_wait_less_than_one_at_the_same_load():
    one = server_latencies(ONE, EQUAL, 1, 10.0, 80, STEADY).mean()
    assert server_latencies(ONE, EQUAL, 2, 10.0, 160, STEADY).mean() < one


@pytest.mark.parametrize("streams", [1, 2, 5])
@pytest.mark.parametrize("rate", [50, 400])
def test_nothing_is_answered_before_it_could_be(streams, rate):
    latencies = server_latencies(GAINING, EQUAL, streams, 0.05, rate, STEADY)
    assert latencies.min() >= 0.010 - 1e-9


def test_the_mean_wait_of_two_streams_is_that_of_queueing_theory():
    """M/D/2 by Cosmetatos' approximation, at a load of 0.7: 0.3 % off where it was tabulated."""
    load, service = 0.7, 0.010
    exponential = service * load**2 / (1 - load**2)  # the mean wait of M/M/2
    expected = exponential / 2 * (1 + (1 - load) * (np.sqrt(14) - 2) / (32 * load))
    waits = [server_latencies(ONE, EQUAL, 2, 10.0, 140, STEADY, seed).mean() - service for seed in range(8)]
    assert np.mean(waits) == pytest.approx(expected, rel=0.15)


def test_the_peak_meets_the_bound_and_a_higher_rate_does_not():
    peak = server_peak(ONE, EQUAL, 1, 0.05, STEADY)
    assert 60 < peak < 100
    assert np.percentile(server_latencies(ONE, EQUAL, 1, 0.05, peak, STEADY), 99) <= 0.05
    assert np.percentile(server_latencies(ONE, EQUAL, 1, 0.05, 1.1 * peak, STEADY), 99) > 0.05


@pytest.mark.slow
def test_batches_and_streams_raise_the_peak_and_jitter_lowers_it():
    peak = server_peak(ONE, EQUAL, 1, 0.05, STEADY)
    assert server_peak(GAINING, EQUAL, 1, 0.05, STEADY) > 1.5 * peak
    assert server_peak(ONE, EQUAL, 2, 0.05, STEADY) > 1.8 * peak
    assert server_peak(ONE, EQUAL, 1, 0.05, np.array([0.8, 1.0, 1.9])) < 0.95 * peak


def test_no_rate_meets_a_bound_that_a_single_sample_misses():
    assert server_peak(ONE, EQUAL, 1, 0.009, STEADY) == 0
