from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import ConfigError
from harness.scheduling.batching import DynamicPlanner, FixedPlanner, best_lengths

costs_of = st.lists(st.integers(1, 384), max_size=200).map(lambda c: np.array(c, dtype=np.int64))
limits = st.tuples(st.integers(1, 64), st.integers(1, 5000))


def check_plan(planner, costs):
    batches = planner.plan(costs)
    positions = np.concatenate([b.positions for b in batches]) if batches else np.array([], int)
    assert sorted(positions.tolist()) == list(range(len(costs)))
    for batch in batches:
        assert 0 < len(batch.positions) <= batch.shape.batch
        assert costs[batch.positions].max() <= batch.shape.length
    return batches


@given(costs_of, limits)
def test_dynamic_plan_holds_each_position_once_and_keeps_its_limits(costs, limits):
    max_batch, max_tokens = limits
    for batch in check_plan(DynamicPlanner(max_batch, max_tokens), costs):
        assert batch.shape.batch == len(batch.positions) <= max_batch
        assert batch.padded <= max_tokens or batch.shape.batch == 1


@given(costs_of, limits, st.integers(1, 8), st.one_of(st.none(), st.integers(1, 40)))
def test_fixed_plan_holds_each_position_once_and_uses_only_its_shapes(costs, limits, count, batch):
    lengths = best_lengths(costs, count) if len(costs) else [384]
    planner = FixedPlanner(lengths, *limits, batch=batch)
    batches = check_plan(planner, costs)
    assert {b.shape for b in batches} <= set(planner.shapes)
    assert sum(len(b.positions) < b.shape.batch for b in batches) <= len(planner.shapes)


def test_only_one_batch_of_many_samples_is_not_full():
    planner = FixedPlanner([64, 128, 384], 64, 2048)
    costs = np.random.default_rng(1).integers(1, 385, 5000)
    assert sum(len(b.positions) < b.shape.batch for b in planner.plan(costs)) <= 1


def test_a_sample_longer_than_every_shape_is_refused_not_cut():
    with pytest.raises(ConfigError, match="a sample of length 300 does not fit the longest shape, 128"):
        FixedPlanner([64, 128], 8, 1024).plan(np.array([10, 300]))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=60), st.integers(1, 5))
def test_best_lengths_are_the_best_of_all_choices(costs, count):
    costs = np.array(costs)

    def work(lengths):
        return np.array(lengths)[np.searchsorted(lengths, costs)].sum()

    chosen = best_lengths(costs, count)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= count
    assert chosen[-1] == costs.max()
    others = sorted(set(costs.tolist()) - {costs.max()})
    every = [[*some, costs.max()] for k in range(min(count, len(others) + 1)) for some in combinations(others, k)]
    assert work(chosen) == min(work(sorted(lengths)) for lengths in every)
