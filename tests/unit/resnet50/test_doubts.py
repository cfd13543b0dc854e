from __future__ import annotations

from math import comb

import numpy as np
import pytest

from resnet50.doubts import at_least, label_doubts

RNG = np.random.default_rng(3)


def classified(count: int, right: float, labels: np.ndarray) -> dict[int, int]:
    """Answers of which that share is right, the rest at random."""
    answers = np.where(RNG.random(count) < right, labels[:count], RNG.integers(0, 1000, count))
    return dict(enumerate(answers.tolist()))


@pytest.mark.parametrize(("hits", "total", "chance"), [(0, 5, 0.3), (3, 10, 0.2), (10, 10, 0.9), (11, 10, 0.9)])
def test_the_probability_of_so_many_hits(hits, total, chance):
    exact = sum(comb(total, k) * chance**k * (1 - chance) ** (total - k) for k in range(hits, total + 1))
    assert at_least(hits, total, chance) == pytest.approx(exact, abs=1e-12)


def test_the_probability_holds_for_50_000_images():
    assert at_least(50, 50_000, 0.001) == pytest.approx(0.52, abs=0.02)
    assert at_least(40_000, 50_000, 0.001) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("count", [7, 24, 500, 50_000])
def test_answers_of_a_good_model_raise_no_doubt(count):
    labels = RNG.integers(0, 1000, count)
    assert label_doubts(classified(count, 0.75, labels), labels) == ()


@pytest.mark.parametrize("count", [12, 24, 500, 50_000])
def test_labels_in_another_order_of_classes_are_at_chance_and_named(count):
    labels = RNG.integers(0, 1000, count)
    (doubt,) = label_doubts(classified(count, 0.75, RNG.permutation(1000)[labels]), labels)
    assert "right is no better than guessing: labels, output or preprocessing" in doubt
    assert ("use another order of classes" in doubt) == (count == 50_000)


def test_answers_at_random_are_not_taken_for_another_order():
    labels = RNG.integers(0, 1000, 50_000)
    (doubt,) = label_doubts(classified(50_000, 0, labels), labels)
    assert "guessing" in doubt
    assert "order" not in doubt


def test_a_few_images_prove_nothing():
    assert label_doubts({0: 1, 1: 2, 2: 3}, np.array([7, 8, 5])) == ()


def test_a_model_that_always_says_the_same_is_at_chance():
    labels = np.repeat([3, 4], 50)
    assert label_doubts(dict.fromkeys(range(100), 3), labels) == ()  # half is right: that is not for us to judge
    labels = RNG.integers(0, 20, 100)
    assert "guessing" in label_doubts(dict.fromkeys(range(100), 3), labels)[0]


@pytest.mark.parametrize(("shift", "words"), [(1, "added to"), (-1, "subtracted from")])
@pytest.mark.parametrize("count", [5, 24])
def test_a_shift_that_doubles_the_score_is_named(shift, words, count):
    labels = np.arange(100, 100 + 7 * count, 7)
    answers = labels - shift
    answers[0] = labels[0]  # some are right all the same
    (doubt,) = label_doubts(dict(enumerate(answers.tolist())), labels)
    assert f"with 1 {words} each answer, top-1 would be {100 * (count - 1) / count:.3f} %" in doubt
