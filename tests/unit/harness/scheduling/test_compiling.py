"""Which lengths are compiled, and when it stops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.scheduling.batching import best_lengths
from harness.scheduling.compiling import CompileBudget, next_length, padded_work

COSTS = np.minimum(384, np.random.default_rng(1).gamma(6, 30, 2000).astype(np.int64) + 20)


def compiled(costs, count, before=()):
    lengths = list(before)
    while (length := next_length(costs, lengths, count)) is not None:
        lengths.append(length)
    return lengths


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=80), st.integers(1, 9))
def test_the_lengths_of_an_undisturbed_choice_are_the_best_and_the_longest_comes_first(costs, count):
    costs = np.array(costs)
    found = compiled(costs, count)
    assert found[0] == costs.max()
    assert padded_work(costs, found) == padded_work(costs, best_lengths(costs, count))
    assert len(found) == len(set(found)) <= count


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=5, max_size=80), st.integers(1, 4), st.integers(1, 9), st.data())
def test_given_lengths_are_kept_and_no_other_choice_with_them_is_better(costs, extra, count, data):
    costs = np.array(costs)
    distinct = sorted(set(costs.tolist()))
    given_lengths = data.draw(st.lists(st.sampled_from(distinct), max_size=3, unique=True))
    found = best_lengths(costs, count, given_lengths)
    assert set(given_lengths) | {distinct[-1]} <= set(found)
    free = [length for length in distinct if length not in found]
    swapped = [length for length in found if length not in {*given_lengths, distinct[-1]}]
    for old in swapped:  # a local check; the exact one is for choices without given lengths
        for new in free:
            other = [new if length == old else length for length in found]
            assert padded_work(costs, other) >= padded_work(costs, found)


def test_stopping_early_leaves_good_lengths():
    planned = compiled(COSTS, 12)
    for count in range(2, 13):
        best = padded_work(COSTS, best_lengths(COSTS, count))
        assert padded_work(COSTS, planned[:count]) <= 1.04 * best
    assert padded_work(COSTS, planned[:8]) > padded_work(COSTS, planned)


@pytest.mark.parametrize(("before", "count"), [(3, 5), (3, 12), (6, 8), (8, 4)])
def test_a_changed_mind_keeps_what_is_compiled(before, count):
    first = compiled(COSTS, 12)[:before]
    found = compiled(COSTS, count, first)
    assert found[:before] == first
    assert len(found) == max(before, count)
    assert padded_work(COSTS, found) <= 1.04 * padded_work(COSTS, best_lengths(COSTS, len(found)))


@pytest.mark.parametrize(
    ("took", "shapes"), [([], 12), ([1.0], 12), ([30.0], 4), ([6.0], 10), ([30.0, 2.0, 2.0, 2.0], 6), ([0.0], 12)]
)
def test_the_time_of_the_shapes_so_far_decides_how_many_there_will_be(took, shapes):
    budget = CompileBudget(12, 60.0)
    for seconds in took:
        budget.took(seconds)
    assert budget.shapes == shapes
    assert budget.compiled == len(took)


def test_without_a_limit_of_time_all_are_compiled_and_never_more_than_there_are():
    slow, few = CompileBudget(20), CompileBudget(3, 1.0)
    for budget in (slow, few):
        budget.took(1000.0)
    assert (slow.shapes, few.shapes) == (20, 3)
