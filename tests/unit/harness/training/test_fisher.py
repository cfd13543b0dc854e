"""The Fisher matrix in blocks against the same in dense float64, from the formulas of arXiv:2203.07259."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed: make setup TRAIN=1")

from harness.training.fisher import FisherInverse, block_width, drawn, memory  # noqa: E402

_DAMPENING = 1e-3


def _gradients(count: int, outputs: int, inputs: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(inputs, inputs)) / inputs**0.5
    return (rng.normal(size=(count, outputs, inputs)) @ mixed).astype(np.float32)


def _measured(gradients: np.ndarray, group: int, block: int, dampening: float = _DAMPENING) -> FisherInverse:
    found = FisherInverse(gradients.shape[1:], group=group, block=block, dampening=dampening)
    for gradient in gradients:
        found.update(torch.from_numpy(gradient))
    return found


def _inverse(measured: FisherInverse) -> np.ndarray:
    return np.concatenate([np.linalg.inv(blocks.numpy()) for _, blocks in measured._chunks()])


def _dense(gradients: np.ndarray, row: int, start: int, stop: int, dampening: float = _DAMPENING) -> np.ndarray:
    """F of some inputs of one output, equation 2."""
    own = gradients[:, row, start:stop].astype(np.float64)
    return dampening * np.eye(own.shape[1]) + own.T @ own / len(own)


@pytest.mark.parametrize(
    ("inputs", "group", "block", "width"),
    [(12, 1, 50, 12), (12, 1, 5, 4), (384, 1, 50, 48), (384, 4, 50, 48), (10, 4, 8, 8), (7, 4, 4, 4), (3, 4, 4, 4)],
)
def test_blocks_divide_the_inputs_evenly_and_cut_no_group(inputs: int, group: int, block: int, width: int) -> None:
    assert block_width(inputs, group, block) == width


@pytest.mark.parametrize(("inputs", "group", "block"), [(12, 1, 6), (12, 4, 8), (10, 4, 8), (7, 1, 3)])
def test_the_inverse_is_that_of_the_dense_matrix(inputs: int, group: int, block: int) -> None:
    gradients = _gradients(40, 3, inputs)
    found = _measured(gradients, group, block)
    blocks = _inverse(found).reshape(3, -1, found.width, found.width)
    for row in range(3):
        for number, inverse in enumerate(blocks[row]):
            start = number * found.width
            expected = np.linalg.inv(_dense(gradients, row, start, start + found.width))
            size = len(expected)
            np.testing.assert_allclose(inverse[:size, :size], expected, rtol=1e-3, atol=1e-4 * expected.max())
            # Behind the last input there is nothing but the dampening.
            np.testing.assert_allclose(inverse[size:, size:], np.eye(found.width - size) / _DAMPENING, rtol=1e-4)


def test_the_inverse_is_that_of_the_papers_recursion() -> None:
    gradients, count = _gradients(30, 1, 6), 30
    expected = np.eye(6) / _DAMPENING
    for gradient in gradients[:, 0].astype(np.float64):
        image = expected @ gradient
        expected -= np.outer(image, image) / (count + gradient @ image)
    found = _inverse(_measured(gradients, 1, 6))[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * expected.max())


def test_scores_of_single_weights() -> None:
    gradients = _gradients(40, 3, 12)
    weight = _gradients(1, 3, 12, seed=1)[0]
    found = _measured(gradients, 1, 6).scores(torch.from_numpy(weight)).numpy()
    assert found.shape == (3, 12)
    for row in range(3):
        for start in (0, 6):
            inverse = np.linalg.inv(_dense(gradients, row, start, start + 6))
            expected = weight[row, start : start + 6] ** 2 / (2 * np.diag(inverse))
            np.testing.assert_allclose(found[row, start : start + 6], expected, rtol=1e-3)


@pytest.mark.parametrize(("inputs", "groups"), [(16, 4), (14, 3)])
def test_scores_of_groups(inputs: int, groups: int) -> None:
    gradients = _gradients(60, 2, inputs)
    weight = _gradients(1, 2, inputs, seed=1)[0]
    found = _measured(gradients, 4, 8).scores(torch.from_numpy(weight)).numpy()
    assert found.shape == (2, groups)
    for row in range(2):
        for group in range(groups):
            start = group // 2 * 8
            inverse = np.linalg.inv(_dense(gradients, row, start, start + 8))
            own = slice(4 * group - start, 4 * group - start + 4)
            w = weight[row, 4 * group : 4 * group + 4].astype(np.float64)
            expected = w @ np.linalg.inv(inverse[own, own]) @ w / 2
            assert found[row, group] == pytest.approx(expected, rel=1e-3)


def test_the_remaining_weights_adapt_as_the_paper_says() -> None:
    gradients = _gradients(60, 2, 12)
    weight = _gradients(1, 2, 12, seed=1)[0]
    keep = np.random.default_rng(2).random((2, 12)) > 0.4
    measured = _measured(gradients, 1, 6)
    found = measured.adapted(torch.from_numpy(weight), torch.from_numpy(keep)).numpy()
    assert not found[~keep].any()
    for row in range(2):
        for start in (0, 6):
            place = slice(start, start + 6)
            inverse = np.linalg.inv(_dense(gradients, row, start, start + 6))
            gone = ~keep[row, place]
            w = weight[row, place].astype(np.float64)
            expected = w - inverse[:, gone] @ np.linalg.solve(inverse[gone][:, gone], w[gone])
            np.testing.assert_allclose(found[row, place], expected, rtol=1e-3, atol=1e-4)


def test_adapting_costs_less_than_only_removing() -> None:
    gradients = _gradients(60, 4, 16)
    weight = torch.from_numpy(_gradients(1, 4, 16, seed=1)[0])
    keep = torch.from_numpy(np.random.default_rng(2).random((4, 16)) > 0.5)
    adapted = _measured(gradients, 4, 16).adapted(weight, keep)

    def cost(found: torch.Tensor) -> float:
        change = (found - weight).numpy().astype(np.float64)
        return sum(change[row] @ _dense(gradients, row, 0, 16) @ change[row] for row in range(4))

    assert cost(adapted) < 0.8 * cost(weight * keep)


def test_the_score_is_the_cost_of_the_change_that_it_predicts() -> None:
    gradients = _gradients(60, 1, 8)
    weight = torch.from_numpy(_gradients(1, 1, 8, seed=1)[0])
    measured = _measured(gradients, 4, 8)
    keep = torch.tensor([[False] * 4 + [True] * 4])
    change = (measured.adapted(weight, keep) - weight)[0].numpy().astype(np.float64)
    cost = change @ _dense(gradients, 0, 0, 8) @ change / 2
    assert float(measured.scores(weight)[0, 0]) == pytest.approx(cost, rel=1e-3)


def test_fewer_gradients_than_weights_and_little_dampening_stay_finite() -> None:
    gradients = 10 * _gradients(5, 2, 48)
    measured = _measured(gradients, 4, 48, dampening=1e-9)
    weight = torch.from_numpy(_gradients(1, 2, 48, seed=1)[0])
    scores = measured.scores(weight)
    assert scores.isfinite().all()
    assert (scores >= 0).all()
    assert measured.adapted(weight, scores.repeat_interleave(4, 1) > scores.median()).isfinite().all()


def test_without_gradients_of_removed_weights_the_others_do_not_see_them() -> None:
    gradients = _gradients(40, 1, 8)
    gradients[:, :, 4:] = 0
    alone = _measured(gradients[:, :, :4], 1, 4)
    weight = torch.from_numpy(_gradients(1, 1, 8, seed=1)[0])
    torch.testing.assert_close(_measured(gradients, 1, 8).scores(weight)[:, :4], alone.scores(weight[:, :4]))


def test_the_number_of_threads_is_restored() -> None:
    before = torch.get_num_threads()
    _measured(_gradients(4, 1, 8), 4, 8).scores(torch.ones(1, 8))
    assert torch.get_num_threads() == before


def test_memory_is_that_of_the_blocks_and_the_waiting_gradients() -> None:
    assert memory((100, 384), 4, 50) == 100 * 384 * (48 + 12) * 4
    assert memory((100, 384), 4, 4) == 100 * 384 * (4 + 1) * 4


def test_labels_are_drawn_as_often_as_the_model_answers_them() -> None:
    shares = np.array([0.5, 0.3, 0.2], np.float32)
    outputs = {
        "logits": torch.from_numpy(np.tile(np.log(shares) + 3, (4000, 1))),
        "shares": torch.from_numpy(np.tile(shares, (4000, 1))),
    }
    found = drawn(outputs, outputs, None, {"shares"}, 1)
    for labels in found.values():
        np.testing.assert_allclose(np.bincount(labels) / 4000, shares, atol=0.03)
    assert not (found["logits"] == found["shares"]).all()
    again = drawn(outputs, outputs, None, {"shares"}, 1)
    assert all((again[name] == labels).all() for name, labels in found.items())


def test_a_batch_in_parts_draws_the_same_labels() -> None:
    generator = torch.Generator().manual_seed(1)
    outputs = {name: torch.randn(9, 5, generator=generator) for name in ("start", "end")}
    whole = drawn(outputs, outputs, None, (), 3)
    for first, last in ((0, 4), (4, 5), (5, 9)):
        part = {name: values[first:last] for name, values in outputs.items()}
        for name, labels in drawn(part, part, None, (), 3, first).items():
            np.testing.assert_array_equal(labels, whole[name][first:last])
    assert len(set(map(tuple, whole.values()))) == 2


def test_padding_is_never_drawn() -> None:
    outputs = {"start": torch.zeros(50, 6)}
    mask = np.arange(6)[None] < np.full((50, 1), 2)
    assert set(drawn(outputs, outputs, mask, (), 0)["start"].tolist()) == {0, 1}
