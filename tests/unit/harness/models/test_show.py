"""Which zeros `harness models show` counts."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import graph, node

from harness.models.show import Sparsity, sparsity

WEIGHTS = np.array([[0, 1], [0, 2], [3, 0]], np.int8)


@pytest.mark.parametrize(
    ("axis", "zero_point", "zeros"),
    [(1, [0, 1], 3), (0, [1, 0, 0], 3), (0, [5, 2, 3], 2)],
)
def test_integer_zeros_are_those_equal_to_the_zero_point_of_their_channel(axis, zero_point, zeros):
    nodes = [node("DequantizeLinear", "w s z", "d", axis=axis), node("MatMul", "x d", "y")]
    given = {"w": WEIGHTS, "s": np.ones(len(zero_point), np.float32), "z": np.array(zero_point, np.int8)}
    found = sparsity(graph(nodes, {"x": ("N", 3)}, ["y"], given))
    assert found == Sparsity(1, 6, zeros, zeros / 6, zeros / 6)


def test_a_weight_that_the_graph_converts_or_reshapes_counts_once():
    nodes = [node("Cast", "w", "c", to=1), node("Transpose", "c", "t"), node("MatMul", "x t", "a")]
    nodes += [node("MatMul", "a c", "y")]
    found = sparsity(graph(nodes, {"x": ("N", 2)}, ["y"], {"w": WEIGHTS.astype(np.float16)}))
    assert found == Sparsity(1, 6, 3, 0.5, 0.5)
