"""What a trained model says about itself."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="training is not installed: make setup TRAIN=1")
from harness.training.train import joined


def test_an_earlier_training_is_named_first():
    before = {"weights": "mine", "training": "a, 9 steps", "recipe": "a", "recipe_sha256": "1", "training_data": "x"}
    now = {"training": "b, 5 steps", "recipe": "b", "recipe_sha256": "2", "training_data": "y", "precision": "int8"}
    assert joined({"weights": "mine"}, now) == {"weights": "mine", **now}
    assert joined(before, now) == {
        "weights": "mine",
        "training": "a, 9 steps; then b, 5 steps",
        "recipe": "a; then b",
        "recipe_sha256": "1; then 2",
        "training_data": "x; then y",
        "precision": "int8",
    }
