from __future__ import annotations

import numpy as np
import pytest
from graphs import normal
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.compress import prune
from harness.compress.prune import Statistics


def data(outputs: int = 12, inputs: int = 24, count: int = 400, seed: int = 1):
    """A weight, inputs that depend on each other and are of various size, and their statistics."""
    mix = normal(seed, inputs, inputs, scale=inputs**-0.5) + 0.3 * np.eye(inputs, dtype=np.float32)
    x = normal(seed + 1, count, inputs, scale=1.0) @ mix * np.linspace(0.2, 2, inputs, dtype=np.float32)
    weight = normal(seed + 2, outputs, inputs)
    return weight, x, statistics(weight, x)


def statistics(weight: np.ndarray, x: np.ndarray) -> Statistics:
    y = x @ weight.T
    return Statistics(x.T @ x, y.T @ x, float((y**2).sum()), x.mean(axis=0), y.mean(axis=0))


def masks(weight: np.ndarray, block: int) -> np.ndarray:
    """Which weights of each whole block are zeros, bool (outputs, blocks, block)."""
    whole = weight.shape[1] // block * block
    return (weight[:, :whole] == 0).reshape(len(weight), -1, block)


@pytest.mark.parametrize("way", ["magnitude", "second_order"])
@settings(max_examples=25, deadline=None)
@given(
    outputs=st.integers(1, 9), inputs=st.integers(4, 21), block=st.sampled_from([1, 2, 3, 4]), share=st.floats(0, 0.95)
)
def test_the_sparsity_is_that_asked_for_in_whole_blocks(way, outputs, inputs, block, share):
    """Wrong where the number of inputs is not a multiple of the block, or where a block crosses the rows."""
    weight, _, found = data(outputs, inputs, 60)
    if way == "magnitude":
        sparse = prune.magnitude(weight, share, block)
    else:
        sparse = prune.second_order(weight, found.damped(weight), share, block)
    zeros = masks(sparse, block)
    assert (zeros.all(axis=2) == zeros.any(axis=2)).all()
    whole = inputs // block * block
    assert np.count_nonzero(sparse[:, whole:]) == outputs * (inputs - whole)
    blocks = min(round(share * weight.size / block), outputs * (inputs // block))
    assert zeros.all(axis=2).sum() == blocks
    assert np.isfinite(sparse).all()


def test_magnitude_removes_the_blocks_of_smallest_square_sum_and_keeps_the_others():
    weight = np.array([[3, 0.1, 1, 1, 9], [0.5, 0.5, -2, 2, 0.01]], np.float32)
    expected = [[3, 0.1, 0, 0, 9], [0, 0, -2, 2, 0.01]]
    np.testing.assert_array_equal(prune.magnitude(weight, 0.4, 2), np.float32(expected))


def test_a_layer_narrower_than_a_block_stays_dense():
    """Statistics of no blocks cannot be stacked."""
    weight, _, found = data(inputs=6)
    assert np.count_nonzero(prune.magnitude(weight, 0.5, 16)) == weight.size
    assert np.count_nonzero(prune.second_order(weight, found, 0.5, 16)) == weight.size


def test_fit_reaches_the_least_squares_solution_of_each_row():
    weight, x, found = data()
    keep = np.random.default_rng(5).random(weight.shape) < 0.5
    fitted = prune.fit(weight, keep, found, 60)
    assert not fitted[~keep].any()
    y = x @ weight.T
    for row, mask, target in zip(fitted, keep, y.T, strict=True):
        expected = np.linalg.lstsq(x[:, mask], target, rcond=None)[0]
        np.testing.assert_allclose(row[mask], expected, atol=2e-3 * np.abs(expected).max())


def test_fit_finds_other_targets_than_what_it_starts_with():
    """Where layers before changed the inputs, the dense weights are not the solution."""
    weight, x, _ = data()
    changed = x + normal(8, *x.shape, scale=0.3)
    y = x @ weight.T
    found = Statistics(changed.T @ changed, y.T @ changed, float((y**2).sum()), *[np.zeros(1, np.float32)] * 2)
    fitted = prune.fit(weight, np.ones(weight.shape, bool), found, 60)
    expected = np.linalg.lstsq(changed, y, rcond=None)[0].T
    np.testing.assert_allclose(fitted, expected, atol=2e-3)


def test_fit_stays_finite_once_it_has_arrived():
    """Conjugate gradients divide by what is left."""
    weight, _, found = data(4, 6)
    fitted = prune.fit(weight, np.ones(weight.shape, bool), found, 300)
    np.testing.assert_allclose(fitted, weight, atol=1e-3)
    assert not prune.fit(weight, np.zeros(weight.shape, bool), found, 10).any()


def test_the_loss_is_the_squared_error_less_a_constant():
    weight, x, found = data()
    other = prune.magnitude(weight, 0.5, 1)
    y = x @ weight.T
    expected = float(((x @ other.T - y) ** 2).sum()) / found.energy
    assert found.loss(other) - found.loss(weight) == pytest.approx(expected, rel=1e-3)
    assert found.loss(weight) == pytest.approx(-1, rel=1e-4)


def test_the_bias_makes_the_means_equal():
    weight, x, found = data()
    sparse = prune.magnitude(weight, 0.6, 1)
    np.testing.assert_allclose((x @ sparse.T + found.bias(sparse)).mean(axis=0), (x @ weight.T).mean(axis=0), atol=1e-5)


def test_damping_draws_to_the_dense_weights_where_data_says_nothing():
    weight, x, _ = data()
    x[:, 3] = 0
    found = statistics(weight, x).damped(weight)
    fitted = prune.fit(weight * 0.5, np.ones(weight.shape, bool), found, 60)
    np.testing.assert_allclose(fitted, weight, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_second_order_loses_less_than_magnitude(block, share):
    weight, _, found = data(16, 32)
    damped = found.damped(weight)
    least = damped.loss(weight)
    lost = damped.loss(prune.second_order(weight, damped, share, block)) - least
    plain = prune.magnitude(weight, share, block)
    assert lost < 0.8 * (damped.loss(plain) - least)
    # and less than magnitude whose remaining weights are fitted as well: the choice of weights also matters
    assert lost < damped.loss(prune.fit(plain, plain != 0, damped, 60)) - least


def test_second_order_removes_what_another_input_can_replace():
    """Two equal inputs: one of their weights is removed first, however large, and the other takes over its part."""
    x = normal(1, 400, 6, scale=1.0)
    x[:, 1] = x[:, 0]
    weight = np.float32([[2, 2, 1, 1, 1, 1]])
    found = statistics(weight, x).damped(weight)
    (sparse,) = prune.second_order(weight, found, 1 / 6, 1)
    assert sorted(np.round(sparse[:2], 1)) == [0, 4]


@pytest.mark.parametrize("block", [1, 4])
def test_losses_grow_with_sparsity_from_none_to_all(block):
    weight, _, found = data(16, 32)
    curve = prune.losses(weight, found.damped(weight), block, 0.5).curve
    shares, lost = zip(*curve, strict=True)
    assert list(shares) == sorted(shares)
    assert list(lost) == sorted(lost)
    assert (curve[0], curve[-1]) == ((0.0, 0.0), (1.0, 1.0))
    assert 0 < lost[1] < 0.05 < lost[-2] < 1


def test_an_output_of_great_variance_does_not_hide_the_others():
    weight, _, found = data(16, 32)
    curve = prune.losses(weight, found.damped(weight), 1, 0.5).curve
    large = weight.copy()
    large[0] *= 100  # its row is the last that is pruned, so that the others lose more
    harmed = prune.losses(large, statistics(large, data(16, 32)[1]).damped(large), 1, 0.5).curve
    assert harmed[5][1] > 0.9 * curve[5][1]


@pytest.mark.parametrize(("asked", "measured"), [(0.33, 0.3), (0.5, 0.5), (0.99, 0.9)])
def test_a_trial_has_the_weights_of_about_the_sparsity_and_their_loss(asked, measured):
    weight, _, found = data(16, 32)
    trial = prune.losses(weight, found.damped(weight), 1, asked)
    assert np.mean(trial.weight == 0) == pytest.approx(measured, abs=2e-3)
    assert trial.loss == dict(trial.curve)[measured]
    scaled = dict(trial.scaled(7.0))
    assert scaled[measured] == pytest.approx(7)
    assert scaled[1.0] == pytest.approx(7 / trial.loss)


def curve(fragility: float) -> list[tuple[float, float]]:
    return [(s, fragility * s**3) for s in np.linspace(0, 0.9, 10)] + [(1.0, max(1.0, fragility))]


@settings(max_examples=15, deadline=None)
@given(
    layers=st.lists(st.tuples(st.floats(1e-4, 1), st.integers(100, 5000)), min_size=1, max_size=6),
    sparsity=st.floats(0.01, 0.99),
)
def test_the_allocation_meets_the_total(layers, sparsity):
    curves = {str(i): curve(fragility) for i, (fragility, _) in enumerate(layers)}
    sizes = {str(i): size for i, (_, size) in enumerate(layers)}
    found = prune.allocate(curves, sizes, sparsity)
    assert set(found) == set(curves)
    assert all(0 <= share <= max(0.95, sparsity) + 1e-9 for share in found.values())
    total = sum(found[name] * sizes[name] for name in sizes) / sum(sizes.values())
    assert total == pytest.approx(sparsity, abs=1e-6)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_allocation_meets_the_total_whatever_the_curves(power):
    """Losses that grow in a straight line, as of weights of one size, or ever slower, leap between all and nothing."""
    straight = [(s, s**power) for s in np.linspace(0, 1, 11)]
    for sizes in ({"a": 1000}, {"a": 1000, "b": 1000}, {"a": 300, "b": 2000, "c": 700}):
        found = prune.allocate(dict.fromkeys(sizes, straight), sizes, 0.5)
        total = sum(found[name] * sizes[name] for name in sizes) / sum(sizes.values())
        assert total == pytest.approx(0.5, abs=1e-3)


def test_the_allocation_gives_fragile_layers_less_and_minimises_the_sum():
    curves = {"fragile": curve(1.0), "middle": curve(0.1), "robust": curve(0.01)}
    sizes = {"fragile": 1000, "middle": 1000, "robust": 1000}
    found = prune.allocate(curves, sizes, 0.6)
    assert found["fragile"] < found["middle"] < found["robust"]

    def loss(shares) -> float:
        return sum(np.interp(share, *zip(*curves[name], strict=True)) for name, share in shares.items())

    assert loss(found) < 0.5 * loss(dict.fromkeys(curves, 0.6))


def test_the_allocation_weighs_what_a_weight_costs_and_not_a_layer():
    """Of two layers with the same curve, the larger one gives more weights for the same loss."""
    found = prune.allocate(dict.fromkeys("ab", curve(0.5)), {"a": 100, "b": 10000}, 0.5)
    assert found["a"] < found["b"]
