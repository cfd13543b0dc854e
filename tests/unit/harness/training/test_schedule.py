"""Schedules: learning rate, cubic sparsity, and the phases of AC/DC."""

from itertools import pairwise

import pytest

from harness.training.recipe import LearningRate, Pruning, RatePhase, Recipe
from harness.training.schedule import dense_at, prunes_at, rate_at, sparsity_at


def _recipe(rate: LearningRate) -> Recipe:
    return Recipe(name="x", description="", source="", steps=100, batch=1, learning_rate=rate, sources={})


def test_the_rate_rises_then_falls_to_its_end() -> None:
    rates = [rate_at(_recipe(LearningRate(peak=1.0, final=0.1, warmup=9)), step) for step in range(101)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert max(rates) == pytest.approx(1.0)
    assert all(a > b for a, b in pairwise(rates[9:]))
    assert rates[100] == pytest.approx(0.1)


def test_a_cosine_falls_slowly_at_both_ends() -> None:
    recipe = _recipe(LearningRate(peak=1.0, shape="cosine"))
    assert rate_at(recipe, 0) == 1.0
    assert rate_at(recipe, 10) > 0.97
    assert rate_at(recipe, 50) == pytest.approx(0.5)
    assert rate_at(recipe, 90) < 0.03


def test_rewinds_repeat_a_cycle() -> None:
    phases = (
        RatePhase(until=20, start=1.0, final=0.0),
        RatePhase(until=80, start=1.0, final=0.5, cycle=20),
        RatePhase(until=100, start=0.2, final=0.0),
    )
    recipe = _recipe(LearningRate(peak=1.0, phases=phases))
    rates = [rate_at(recipe, step) for step in range(100)]
    assert rates[0] == rates[20] == rates[40] == rates[60] == 1.0
    assert rates[10] == pytest.approx(0.5)
    assert rates[39] == pytest.approx(0.525)
    assert rates[80] == pytest.approx(0.2)
    assert rates[99] == pytest.approx(0.01)
    assert rate_at(recipe, 100) == 0.0


def test_the_sparsity_is_cubic_and_changes_only_where_masks_do() -> None:
    pruning = Pruning(method="magnitude", sparsity=0.9, initial=0.3, begin=10, end=50, every=10)
    assert [step for step in range(100) if prunes_at(pruning, step)] == [10, 20, 30, 40, 50]
    assert sparsity_at(pruning, 9) == 0.0
    assert dense_at(pruning, 9)
    assert not dense_at(pruning, 10)
    for number, step in enumerate([10, 20, 30, 40, 50]):
        assert sparsity_at(pruning, step) == pytest.approx(0.9 - 0.6 * (1 - number / 4) ** 3)
        assert sparsity_at(pruning, step + 9) == sparsity_at(pruning, step)
    assert sparsity_at(pruning, 99) == 0.9


def test_the_end_prunes_also_where_the_interval_does_not_divide() -> None:
    pruning = Pruning(method="magnitude", sparsity=0.9, begin=0, end=25, every=10)
    assert [step for step in range(100) if prunes_at(pruning, step)] == [0, 10, 20, 25]
    assert sparsity_at(pruning, 25) == 0.9


def test_a_single_pruning() -> None:
    pruning = Pruning(method="magnitude", sparsity=0.9, initial=0.3, begin=5, end=5, every=1)
    assert [step for step in range(9) if prunes_at(pruning, step)] == [5]
    assert [sparsity_at(pruning, step) for step in (4, 5, 6)] == [0.0, 0.9, 0.9]


def test_acdc_alternates_and_ends_compressed() -> None:
    pruning = Pruning(method="acdc", sparsity=0.8, begin=10, end=50, every=10)
    assert [step for step in range(100) if prunes_at(pruning, step)] == [10, 30, 50]
    dense = [step for step in range(100) if dense_at(pruning, step)]
    assert dense == [*range(10), *range(20, 30), *range(40, 50)]
    assert all(sparsity_at(pruning, step) == (0.0 if step in dense else 0.8) for step in range(100))
