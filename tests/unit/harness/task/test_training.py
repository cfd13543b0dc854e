"""The order of training data, and what is held back of it."""

from __future__ import annotations

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.task.training import alike_order, hold_back, order


def test_an_epoch_uses_each_sample_once():
    used = np.concatenate([order(10, 4, step, seed=3) for step in range(5)])
    assert sorted(used[:10]) == sorted(used[10:]) == list(range(10))
    assert used[:10].tolist() != used[10:].tolist()


def test_the_order_depends_on_seed_and_step_alone():
    assert order(100, 8, 17, 1).tolist() == order(100, 8, 17, 1).tolist()
    assert order(100, 8, 17, 1).tolist() != order(100, 8, 17, 2).tolist()
    costs = np.random.default_rng(0).integers(10, 384, 1000)
    assert alike_order(costs, 8, 17, 1).tolist() == alike_order(costs, 8, 17, 1).tolist()


def test_a_batch_may_be_larger_than_the_data():
    assert np.bincount(order(3, 7, 0, 0)).tolist() in ([3, 2, 2], [2, 3, 2], [2, 2, 3])
    assert len(alike_order(np.array([5, 6, 7]), 7, 3, 0)) == 7


def test_batches_of_like_cost_use_each_sample_once_and_pad_little():
    costs = np.random.default_rng(0).integers(10, 384, 400)
    batches = [alike_order(costs, 8, step, 0) for step in range(50)]
    assert sorted(np.concatenate(batches)) == list(range(400))
    assert np.mean([np.ptp(costs[batch]) for batch in batches]) < 15
    firsts = [int(costs[batch].min()) for batch in batches]
    assert firsts != sorted(firsts)


@pytest.mark.parametrize(("count", "batch"), [(200, 32), (33, 32), (32, 32), (700, 8)])
def test_a_batch_has_no_sample_twice(count, batch):
    costs = np.random.default_rng(0).integers(10, 384, count)
    batches = [alike_order(costs, batch, step, 0) for step in range(200)]
    assert {len(set(each.tolist())) for each in batches} == {batch}
    epoch = np.concatenate(batches[: count // batch])
    assert len(set(epoch.tolist())) == len(epoch)
    used = np.bincount(np.concatenate(batches), minlength=count)
    assert used.min() > 0


def test_missing_training_data_is_reported():
    with pytest.raises(ConfigError, match="at least one"):
        order(0, 4, 0, 0)


def test_groups_are_never_divided():
    groups, parts = np.arange(1000) // 10, np.arange(1000) // 2
    train, held = hold_back(groups, parts, 0.1, seed=0)
    assert (len(train), len(held)) == (900, 100)
    assert not set(groups[train]) & set(groups[held])
    assert hold_back(groups, parts, 0.1, seed=1)[1].tolist() != held.tolist()


def test_of_much_that_is_held_back_a_part_is_scored():
    groups, parts = np.arange(10_000) // 100, np.arange(10_000) // 3
    train, held = hold_back(groups, parts, 0.5, seed=0, max_scored=90)
    assert len(train) == 5000
    assert 85 <= len(held) <= 90
    assert not set(groups[train]) & set(groups[held])
    counts = np.bincount(parts[held])
    assert all(counts[part] == (parts[np.isin(groups, groups[held])] == part).sum() for part in np.unique(parts[held]))


def test_a_group_that_is_too_large_is_trained_on():
    groups = np.r_[np.zeros(900, np.int64), 1 + np.arange(100)]
    train, held = hold_back(groups, np.arange(1000), 0.05, seed=0)
    assert len(held) == 50
    assert set(groups[train]) >= {0}


def test_at_least_one_group_is_held_back_and_one_is_left():
    train, held = hold_back(np.array([0, 0, 0, 1, 1]), np.arange(5), 0.1, seed=0)
    assert (train.tolist(), held.tolist()) == ([0, 1, 2], [3, 4])
    train, held = hold_back(np.array([0, 1]), np.arange(2), 0.99, seed=0)
    assert (len(train), len(held)) == (1, 1)


def test_nothing_is_held_back_if_nothing_is_to_be():
    train, held = hold_back(np.zeros(4, np.int64), np.arange(4), 0.0, seed=0)
    assert (train.tolist(), held.tolist()) == ([0, 1, 2, 3], [])


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_shares_outside_the_range_are_rejected(share):
    with pytest.raises(ConfigError, match="from 0 to below 1"):
        hold_back(np.arange(4), np.arange(4), share, seed=0)


def test_a_single_piece_cannot_be_divided():
    with pytest.raises(ConfigError, match="one piece"):
        hold_back(np.zeros(4, np.int64), np.arange(4), 0.5, seed=0)
