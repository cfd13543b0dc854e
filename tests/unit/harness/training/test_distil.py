"""The losses, against their formulas, and what they leave out."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training is not installed: make setup TRAIN=1")

from onnx import helper  # noqa: E402

from bert.architecture import BertConfig, build_bert  # noqa: E402
from harness.compress.network import Network  # noqa: E402
from harness.errors import ConfigError  # noqa: E402
from harness.models.weights import RandomWeights  # noqa: E402
from harness.task.training import TrainingBatch  # noqa: E402
from harness.training.distil import drawn_difference, hidden_pairs, loss, probabilities  # noqa: E402
from harness.training.layers import drop_layers  # noqa: E402
from harness.training.recipe import Distillation  # noqa: E402

MASK = np.array([[True, True, True, False], [True, True, False, False]])
ANSWERS = ("start", "end")


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def batch(labelled: bool = True, rows: slice = slice(None)) -> TrainingBatch:
    targets = {"start": np.array([1, 0])[rows], "end": np.array([2, 1])[rows]} if labelled else None
    return TrainingBatch({}, targets, ANSWERS, MASK[rows])


def outputs(seed: int, rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"start": (2, 4), "end": (2, 4), "h": (2, 4, 6)}
    made = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return {name: value[rows].clone().requires_grad_() for name, value in made.items()}


def test_the_divergence_is_hintons():
    student, teacher = outputs(0), outputs(1)
    _, parts = loss(student, teacher, batch(), Distillation(temperature=2.0, logits=1.0))
    expected = []
    for name in ANSWERS:
        for row, count in enumerate(MASK.sum(1)):
            p, q = (softmax(v[name][row, :count].detach().numpy() / 2) for v in (teacher, student))
            expected.append(4 * (p * np.log(p / q)).sum())
    assert float(parts["logits"]) == pytest.approx(np.mean(expected), rel=1e-5)


def test_the_labels_loss_is_cross_entropy_over_tokens():
    student = outputs(0)
    total, parts = loss(student, {}, batch(), None)
    expected = []
    for name, target in batch().targets.items():
        for row, count in enumerate(MASK.sum(1)):
            expected.append(-np.log(softmax(student[name][row, :count].detach().numpy())[target[row]]))
    assert float(total.detach()) == pytest.approx(np.mean(expected), rel=1e-5)
    assert set(parts) == {"labels"}


def test_hidden_states_are_compared_at_tokens_only():
    student, teacher = outputs(0), outputs(1)
    weights = Distillation(logits=0.0, hidden=3.0)
    total, parts = loss(student, teacher, batch(), weights, [("h", "h")])
    own, other = (v["h"].detach().numpy() for v in (student, teacher))
    expected = np.mean(
        [((own[r][m] - other[r][m]) ** 2).mean() / (other[r][m] ** 2).mean() for r, m in enumerate(MASK)]
    )
    assert float(parts["hidden"]) == pytest.approx(expected, rel=1e-5)
    assert float(total.detach()) == pytest.approx(3 * expected, rel=1e-5)
    total.backward()
    assert not student["h"].grad[~torch.as_tensor(MASK)].any()
    assert teacher["h"].grad is None


def test_a_student_equal_to_its_teacher_has_no_loss_to_lose():
    same = outputs(0)
    _, parts = loss(same, same, batch(), Distillation(logits=1.0, hidden=1.0), [("h", "h")])
    assert float(parts["logits"]) == pytest.approx(0, abs=1e-6)
    assert float(parts["hidden"]) == 0


def test_equal_parts_of_a_batch_average_to_its_loss():
    weights = Distillation(logits=0.5, hidden=1.0, labels=0.5)
    whole, _ = loss(outputs(0), outputs(1), batch(), weights, [("h", "h")])
    parts = []
    for rows in (slice(0, 1), slice(1, 2)):
        parts.append(loss(outputs(0, rows), outputs(1, rows), batch(rows=rows), weights, [("h", "h")])[0].detach())
    assert float(whole.detach()) == pytest.approx(float(sum(parts)) / 2, rel=1e-5)


def test_without_labels_there_must_be_a_teacher():
    weights = Distillation(logits=1.0, labels=1.0)
    assert set(loss(outputs(0), outputs(1), batch(labelled=False), weights)[1]) == {"logits"}
    with pytest.raises(ConfigError, match="nothing to train towards"):
        loss(outputs(0), {}, batch(labelled=False), None)


def test_probabilities_are_taken_back_to_logits():
    logits = outputs(0)
    normalised = {name: torch.softmax(logits[name].masked_fill(~torch.as_tensor(MASK), -1e4), -1) for name in ANSWERS}
    expected, _ = loss(logits, {}, batch(), None)
    found, _ = loss(normalised, {}, batch(), None, normalised=ANSWERS)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_softmax_at_the_end_is_seen():
    nodes = [
        helper.make_node("Softmax", ["x"], ["p"]),
        helper.make_node("Identity", ["p"], ["out"]),
        helper.make_node("Relu", ["x"], ["raw"]),
    ]
    values = [helper.make_tensor_value_info(name, 1, ["n", 4]) for name in ("x", "out", "raw")]
    model = helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:]))
    assert probabilities(Network(model)) == {"out"}


def test_layers_are_paired_by_their_numbers():
    config = BertConfig(layers=4, hidden=16, heads=2, feed_forward=32, vocabulary=50, positions=32)
    teacher = Network(build_bert(RandomWeights(1), config))
    student = Network(drop_layers(teacher, [0, 3]))
    pairs = hidden_pairs(student, teacher)
    assert [own == other for own, other in pairs] == [True, True]
    assert [".layer.3." in own for own, _ in pairs] == [False, True]
    with pytest.raises(ConfigError, match="teacher has as well"):
        hidden_pairs(teacher, student)


def test_gradients_of_drawn_hidden_states_make_up_the_hessian_of_their_loss():
    generator = torch.Generator().manual_seed(1)
    inputs = [torch.randn(1, 5, 3, generator=generator) for _ in range(2)]
    weight = torch.randn(3, 2, generator=generator)
    mask = np.array([[True, True, True, False, False]])
    targets = [each @ weight for each in inputs]

    def hidden(own: torch.Tensor) -> torch.Tensor:
        states = {f"s{number}": each @ own for number, each in enumerate(inputs)}
        teacher = {f"t{number}": target for number, target in enumerate(targets)}
        batch = TrainingBatch({}, None, (), mask)
        return loss(states, teacher, batch, Distillation(logits=0.0, hidden=0.7), [("s0", "t0"), ("s1", "t1")])[0]

    hessian = torch.autograd.functional.hessian(hidden, weight).reshape(6, 6)
    own = weight.clone().requires_grad_()
    found, draws = torch.zeros(6, 6), 3000
    for seed in range(draws):
        states = [each @ own for each in inputs]
        gradient = torch.autograd.grad(drawn_difference(states, mask, 0.7, seed), own)[0].flatten()
        found += torch.outer(gradient, gradient) / draws
    assert float((found - hessian).norm() / hessian.norm()) < 0.1


def test_hidden_states_are_drawn_alike_in_parts():
    states = [torch.randn(3, 4, 2) for _ in range(2)]
    whole = drawn_difference(states, None, 1.0, 5)
    parts = [drawn_difference([each[at : at + 1] for each in states], None, 1.0, 5, at) for at in range(3)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)
