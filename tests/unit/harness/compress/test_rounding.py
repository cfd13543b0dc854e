from __future__ import annotations

import numpy as np
import pytest
from graphs import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.compress import rounding
from harness.compress.prune import Statistics


def data(outputs: int = 12, inputs: int = 150, count: int = 300, seed: int = 1, scales: float = 1.0):
    """A weight, a third of it zeros, and the statistics of inputs that depend on each other.

    More inputs than are rounded in one go; ``scales`` is by how much the last row is larger than the first.
    """
    x = normal(seed, count, inputs, scale=1.0) @ normal(seed + 1, inputs, inputs, scale=inputs**-0.5)
    x += normal(seed + 2, count, 1, scale=1.0)
    weight = normal(seed + 3, outputs, inputs, scale=1.0) * np.geomspace(1, scales, outputs, dtype=np.float32)[:, None]
    weight[np.random.default_rng(seed).random(weight.shape) < 0.33] = 0
    y = x @ weight.T
    found = Statistics(x.T @ x, y.T @ x, float((y**2).sum()), x.mean(axis=0), y.mean(axis=0))
    return weight, x, found.damped(weight)


WAYS = {
    "nearest": lambda weight, found, **options: rounding.nearest(weight, **options),
    "clipped": rounding.nearest,
    "second_order": rounding.second_order,
}


@pytest.mark.parametrize("per_output", [False, True])
@pytest.mark.parametrize("way", WAYS)
def test_zeros_stay_zeros_within_seven_bits_and_a_sign(way, per_output):
    """A correction that fills pruned places costs the sparsity; -128 has no opposite, and is 0 once 128 is added."""
    weight, _, found = data()
    weight[3, :] = 0  # a row of its own scale that has nothing to scale
    rounded = WAYS[way](weight, found, per_output=per_output)
    assert rounded.values.dtype == np.int8
    assert np.abs(rounded.values.astype(int)).max() <= 127
    assert not rounded.values[weight == 0].any()
    assert rounded.scale.shape == ((len(weight), 1) if per_output else (1, 1))
    assert rounded.scale.dtype == rounded.weight.dtype == np.float32
    assert rounded.per_output is per_output
    assert (rounded.scale > 0).all()
    np.testing.assert_array_equal(rounded.weight, rounded.values.astype(np.float32) * rounded.scale)


@pytest.mark.parametrize("per_output", [False, True])
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e6]))
def test_rounding_to_the_nearest_is_off_by_half_a_step_at_most(per_output, seed, scale):
    weight = normal(seed, 5, 9, scale=scale)
    rounded = rounding.nearest(weight, per_output=per_output)
    assert (np.abs(rounded.weight - weight) <= rounded.scale * 0.5001).all()
    greatest = np.abs(weight).max(axis=1 if per_output else None, keepdims=True)
    np.testing.assert_allclose(rounded.scale, greatest / 127, rtol=1e-5)
    assert (np.abs(rounded.values).max(axis=1 if per_output else None) == 127).all()


def test_all_zeros_stay_all_zeros():
    """The scale must not become 0 or NaN."""
    weight, _, found = data(4, 10)
    for way in (*WAYS.values(), lambda weight, found: rounding.keep_sums(weight)):
        rounded = way(np.zeros_like(weight), found)
        assert not rounded.weight.any()
        assert np.isfinite(rounded.scale).all()
        assert (rounded.scale > 0).all()


def test_clipping_gives_up_an_outlier_that_no_input_meets():
    weight, x, _ = data(inputs=40)
    weight[0, 7] = 3 * np.abs(weight).max()
    x[:, 7] = 0
    y = x @ weight.T
    found = Statistics(x.T @ x, y.T @ x, float((y**2).sum()), x.mean(axis=0), y.mean(axis=0))
    plain, clipped = rounding.nearest(weight), rounding.nearest(weight, found)
    assert clipped.scale < 0.6 * plain.scale
    assert found.loss(clipped.weight) < found.loss(plain.weight)


@pytest.mark.parametrize("per_output", [False, True])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), outputs=st.integers(1, 6), inputs=st.integers(1, 20))
def test_second_order_is_never_worse_than_the_nearest(per_output, seed, outputs, inputs):
    weight, _, found = data(outputs, inputs, 50, seed)
    best = found.loss(rounding.second_order(weight, found, per_output=per_output).weight)
    for other in (
        rounding.nearest(weight, found, per_output=per_output),
        rounding.nearest(weight, per_output=per_output),
    ):
        assert best <= found.loss(other.weight) + 1e-6


@pytest.mark.parametrize("per_output", [False, True])
def test_second_order_makes_less_error_where_inputs_depend_on_each_other(per_output):
    weight, x, found = data()

    def error(way: str) -> float:
        return float(np.linalg.norm(x @ (WAYS[way](weight, found, per_output=per_output).weight - weight).T))

    assert error("second_order") < 0.85 * error("clipped")


def test_the_error_is_made_good_across_the_blocks_of_columns():
    """Column 127 of a weight is off by almost half a step; only column 128, with the same input, can correct it."""
    x = normal(1, 200, 200, scale=1.0)
    x[:, 127] += 4 * x[:, 128]
    weight = np.zeros((1, 200), np.float32)
    weight[0, [0, 127, 128]] = 127, 20.45, 50
    y = x @ weight.T
    found = Statistics(x.T @ x, y.T @ x, float((y**2).sum()), x.mean(axis=0), y.mean(axis=0)).damped(weight)
    rounded = rounding.second_order(weight, found)
    assert rounded.scale.item() == pytest.approx(1)
    assert rounded.values[0, [0, 127, 128]].tolist() == [127, 20, 52]


@pytest.mark.parametrize("way", WAYS)
def test_a_scale_for_each_output_helps_where_rows_differ(way):
    weight, x, found = data(scales=300)
    y = x @ weight.T

    def errors(per_output: bool) -> np.ndarray:
        rounded = WAYS[way](weight, found, per_output=per_output)
        return np.linalg.norm(x @ rounded.weight.T - y, axis=0) / np.linalg.norm(y, axis=0)

    assert errors(False)[0] > 10 * errors(True)[0]
    assert errors(True).max() < 0.02


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 99), outputs=st.integers(1, 8), inputs=st.sampled_from([1, 4, 9, 25]))
def test_sums_are_kept_within_half_a_step(seed, outputs, inputs):
    weight = normal(seed, outputs, inputs)
    rounded = rounding.keep_sums(weight)
    step = rounded.scale.item()
    off = rounded.weight.sum(axis=1, dtype=np.float64) - weight.sum(axis=1, dtype=np.float64)
    assert np.abs(off).max() <= 0.501 * step
    assert np.abs(rounded.weight - weight).max() < 1.001 * step  # none goes further than up or down
    assert np.abs(rounded.values.astype(int)).max() <= 127


def test_sums_are_kept_where_the_nearest_would_shift_them():
    weight = np.full((1, 9), 10.4, np.float32)
    weight[0, 0] = 127
    assert abs(rounding.nearest(weight).weight.sum() - weight.sum()) > 3
    assert abs(rounding.keep_sums(weight).weight.sum() - weight.sum()) < 0.5
    assert not rounding.keep_sums(np.array([[0, 1, 0, 0.5]], np.float32)).values[0, [0, 2]].any()
