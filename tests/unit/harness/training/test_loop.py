"""The loop: goes on to the same result, divides batches, ends at a loss that is not a number."""

from __future__ import annotations

from contextlib import nullcontext
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest

from bert.architecture import BertConfig, build_bert
from harness.compress.network import Network
from harness.compress.products import products
from harness.errors import ConfigError, RunFailed
from harness.models.weights import RandomWeights
from harness.task.training import TrainingBatch, TrainingData
from harness.training.recipe import Recipe

torch = pytest.importorskip("torch", reason="training is not installed: make setup TRAIN=1")

from harness.trainable.fake import FakeQuantisation  # noqa: E402
from harness.trainable.graph import GraphModule  # noqa: E402
from harness.training import loop  # noqa: E402
from harness.training.history import History  # noqa: E402
from harness.training.loop import Student, Trainer  # noqa: E402
from harness.training.memory import Budget, Demand, KeptBytes, keep_freed, kept  # noqa: E402
from harness.training.objective import Objective, slices  # noqa: E402
from harness.training.pruning import Pruner  # noqa: E402
from harness.training.state import Checkpoints  # noqa: E402

CONFIG = BertConfig(layers=2, hidden=32, heads=2, feed_forward=64, vocabulary=200, positions=24)
BASE = {
    "name": "test",
    "description": "",
    "source": "",
    "sources": {},
    "steps": 8,
    "batch": 4,
    "learning_rate": {"peak": 1e-3, "warmup": 1},
    "distillation": {"logits": 1.0, "hidden": 1.0, "labels": 0.5},
}
FULL = BASE | {
    "pruning": {
        **{"method": "second-order", "sparsity": 0.6, "initial": 0.2, "begin": 1, "end": 5, "every": 2, "block": 4},
        "fisher": {"samples": 3, "batch": 2, "block": 8, "dampening": 1e-4},
    },
    "quantisation": {"begin": 6, "freeze": 7},
}
PLENTY = Budget(Demand(1.0, 0.0), float("inf"))


class Texts(TrainingData):
    """Random tokens with random answers; the score is how often the start is found."""

    def __init__(self) -> None:
        generator = np.random.default_rng(5)
        self._ids = generator.integers(0, 200, (30, 12))
        self._targets = generator.integers(0, 12, (30, 2))
        self.count, self.held_back, self.labelled, self.digest = 24, np.arange(24, 30), True, "texts"
        self.ends_after: int | None = None
        self.seeds: list[tuple[int, ...]] = []

    def varied(self, indices, seed):
        self.seeds.append(seed)
        return self.batch(indices)

    def batch(self, indices):
        if self.ends_after is not None:
            self.ends_after -= 1
            if self.ends_after < 0:
                raise KeyboardInterrupt
        ids = self._ids[indices]
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        start, end = self._targets[indices].T
        names = ("start_logits", "end_logits")
        return TrainingBatch(feed, dict(zip(names, (start, end), strict=True)), names, np.ones(ids.shape, np.bool_))

    def score(self, outputs):
        found = np.concatenate([each["start_logits"].argmax(1) for each in outputs])
        return "found", 100 * float((found == self._targets[self.held_back, 0]).mean())


@pytest.fixture(autouse=True)
def deterministic(monkeypatch):
    """FP32 on any processor. One thread: on a busy machine, threads of tiny operations mostly wait for each other."""
    monkeypatch.setattr("harness.training.objective.computes_bf16", lambda: False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(before)


def trainer(output, values=FULL, data=None, budget=PLENTY) -> tuple[Trainer, GraphModule]:
    recipe, model = Recipe.model_validate(values), build_bert(RandomWeights(1), CONFIG)
    module, teacher = GraphModule(Network(model)), GraphModule(Network(model)).requires_grad_(False)
    pruner = Pruner(module, Network(model).inner(), recipe.pruning) if recipe.pruning else None
    quantisation = None
    if recipe.quantisation:
        network = module.network
        quantisation = FakeQuantisation(module, network.layers, list(products(network)))
    objective = Objective(module, teacher, recipe.distillation, torch.device("cpu"))
    checkpoints = Checkpoints(output, {"recipe": recipe.digest})
    checkpoints.folder.mkdir(exist_ok=True)
    student = Student(module, pruner, quantisation)
    return Trainer(recipe, student, objective, data or Texts(), checkpoints, budget, 0.0), module


def weights(module: GraphModule) -> dict[str, np.ndarray]:
    return {name: value.detach().numpy().copy() for name, value in module.named_parameters()}


@pytest.mark.parametrize(("bf16", "method"), [(False, "second-order"), (True, "second-order"), (False, "layer-wise")])
def test_a_training_that_was_cut_goes_on_to_the_same_result(tmp_path, monkeypatch, bf16, method):
    monkeypatch.setattr("harness.training.objective.computes_bf16", lambda: bf16)
    values = FULL | {"pruning": FULL["pruning"] | {"method": method}}
    whole, module = trainer(tmp_path / "whole.onnx", values)
    history = whole.run()
    for after in (4, 9, 8, 6, 9):  # in gradients of the Fisher matrix, between steps, in the search for ranges
        data = Texts()
        data.ends_after = after
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path / "cut.onnx", values, data=data)[0].run()
    second, found = trainer(tmp_path / "cut.onnx", values)
    again = second.run()
    assert weights(found).keys() == weights(module).keys()
    for name, value in weights(module).items():
        np.testing.assert_array_equal(weights(found)[name], value, err_msg=name)
    assert (again.step, again.units, again.scores[-1]) == (8, history.units, history.scores[-1])
    assert history.units == 8 * 4 * 12
    assert history.scores[-1].sparsity == pytest.approx(0.6, abs=0.01)


def test_each_step_varies_its_samples_by_its_own_seed_also_after_an_interruption(tmp_path):
    values = {key: value for key, value in FULL.items() if key not in ("pruning", "quantisation")}
    values |= {"augment": True, "seed": 3}
    cut, rest = Texts(), Texts()
    cut.ends_after = 6  # the teacher's score takes batches too
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "a.onnx", values, cut)[0].run()
    trainer(tmp_path / "a.onnx", values, rest)[0].run()
    assert {*cut.seeds, *rest.seeds} == {(3, 4, step) for step in range(8)}
    assert 0 < len(cut.seeds) < 8
    plain = Texts()
    trainer(tmp_path / "b.onnx", values | {"augment": False}, plain)[0].run()
    assert not plain.seeds


def test_a_processor_with_bf16_trains_in_it_and_scores_in_fp32(tmp_path, monkeypatch):
    found = {}
    for bf16 in (False, True):
        monkeypatch.setattr("harness.training.objective.computes_bf16", lambda bf16=bf16: bf16)
        training, module = trainer(tmp_path / f"{bf16}.onnx")
        history = training.run()
        found[bf16] = history.dense, weights(module), history.peak_bytes
    assert found[True][0] == found[False][0]  # the teacher's score, with its loss not yet known
    differences = [np.abs(found[True][1][name] - value).max() for name, value in found[False][1].items()]
    assert 0 < max(differences) < 0.1
    assert found[True][2] >= 2**20


def test_a_training_that_is_done_is_not_repeated(tmp_path):
    first, module = trainer(tmp_path / "a.onnx")
    first.run()
    data = Texts()
    data.ends_after = 1
    second, found = trainer(tmp_path / "a.onnx", data=data)
    assert second.run().step == 8
    for name, value in weights(module).items():
        np.testing.assert_array_equal(weights(found)[name], value)


@pytest.mark.parametrize("moment", ["step", "score"])
def test_an_interruption_at_the_end_loses_nothing(tmp_path, monkeypatch, moment):
    quantised = BASE | {"quantisation": {"begin": 8, "freeze": 8}}
    whole, module = trainer(tmp_path / "whole.onnx", quantised)
    history = whole.run()
    event, step, score = Event(), Trainer._step, Trainer._score

    def last_step(self, number):
        step(self, number)
        if number == 7 and moment == "step":
            event.set()

    def last_score(self):
        score(self)
        if self._history.step == 8 and moment == "score":
            event.set()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "stoppable", lambda: nullcontext(event))
        patch.setattr(Trainer, "_step", last_step)
        patch.setattr(Trainer, "_score", last_score)
        with pytest.raises(KeyboardInterrupt):
            trainer(tmp_path / "cut.onnx", quantised)[0].run()
    second, found = trainer(tmp_path / "cut.onnx", quantised)
    again = second.run()
    assert [each.step for each in again.scores] == [each.step for each in history.scores]
    assert again.scores[-1] == history.scores[-1]
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(found.state_dict()[name], value, err_msg=name)
    state = Checkpoints(tmp_path / "cut.onnx", {}).load()
    assert state["done"]
    assert state["quantisation"].keys() == Checkpoints(tmp_path / "whole.onnx", {}).load()["quantisation"].keys()


def test_a_batch_in_parts_gives_the_same_step(tmp_path):
    values = BASE | {"steps": 2, "learning_rate": {"peak": 1e-3}}
    trained = []
    for name, budget in (("whole", PLENTY), ("parts", Budget(Demand(1.0, 0.0), 20.0))):
        each, module = trainer(tmp_path / f"{name}.onnx", values, budget=budget)
        each.run()
        trained.append(weights(module))
    assert Budget(Demand(1.0, 0.0), 20.0).samples(12) == 1
    for name, value in trained[0].items():
        np.testing.assert_allclose(trained[1][name], value, atol=2e-4, err_msg=name)


def test_the_parts_of_a_batch_are_all_of_it():
    batch = Texts().batch(np.arange(7))
    parts = list(slices(batch, 3))
    assert [len(part.feed["input_ids"]) for part in parts] == [2, 2, 3]
    np.testing.assert_array_equal(np.concatenate([part.feed["input_ids"] for part in parts]), batch.feed["input_ids"])
    np.testing.assert_array_equal(np.concatenate([part.mask for part in parts]), batch.mask)
    for name, values in batch.targets.items():
        np.testing.assert_array_equal(np.concatenate([part.targets[name] for part in parts]), values)


def test_a_loss_that_is_not_a_number_keeps_the_last_good_checkpoint(tmp_path, monkeypatch):
    each, module = trainer(tmp_path / "a.onnx", BASE)
    loss, calls = Objective.loss, iter(range(100))
    monkeypatch.setattr(
        Objective, "loss", lambda self, batch: loss(self, batch) * (float("nan") if next(calls) == 3 else 1.0)
    )
    with pytest.raises(RunFailed, match=r"loss of step 3 is infinite or not a number.*from before.*learning_rate"):
        each.run()
    state = Checkpoints(tmp_path / "a.onnx", {}).load()
    assert History.restored(state["history"]).step == 3
    assert all(bool(value.isfinite().all()) for value in state["module"].values())
    assert all(np.isfinite(value).all() for value in weights(module).values())


def test_another_recipe_does_not_go_on(tmp_path):
    trainer(tmp_path / "a.onnx", BASE)[0].run()
    with pytest.raises(ConfigError, match="another recipe"):
        trainer(tmp_path / "a.onnx", BASE | {"batch": 2})[0].run()


def test_frozen_parameters_stay(tmp_path):
    each, module = trainer(tmp_path / "a.onnx", BASE | {"frozen": ("*embeddings*",), "weight_decay": 0.1})
    before = {name: module.parameter(name).detach().numpy().copy() for name in module.names()}
    each.run()
    changed = {name for name, value in before.items() if not np.array_equal(module.parameter(name).detach(), value)}
    assert changed
    assert changed == {name for name in before if "embeddings" not in name}


def test_ac_dc_alternates_and_ends_sparse(tmp_path, monkeypatch):
    pruning = {"method": "acdc", "sparsity": 0.5, "begin": 1, "end": 5, "every": 2}
    each, _ = trainer(tmp_path / "a.onnx", BASE | {"pruning": pruning})
    seen, step = [], Trainer._step

    def watched(self, number):
        step(self, number)
        seen.append(round(self._student.sparsity, 2))

    monkeypatch.setattr(Trainer, "_step", watched)
    each.run()
    assert seen == [0, 0.5, 0.5, 0, 0, 0.5, 0.5, 0.5]


def test_weights_that_return_with_ac_dc_move_by_little_more_than_the_learning_rate(tmp_path, monkeypatch):
    """The removed weights had no gradients for 80 steps, in which AdamW's mean of their squares decays."""
    rate, pruning = 1e-3, {"method": "acdc", "sparsity": 0.5, "begin": 1, "end": 161, "every": 80}
    values = BASE | {"steps": 162, "batch": 2, "learning_rate": {"peak": rate, "final": rate}, "pruning": pruning}
    each, module = trainer(tmp_path / "a.onnx", values | {"distillation": {"logits": 1.0, "labels": 1.0}})
    moved, before, masks, step = [], {}, {}, Trainer._step

    def watched(self, number):
        pruner = self._student.pruner
        if number < 81:
            masks.update(pruner.masks)
        before.update({layer.output: module.matrix(layer).detach().clone() for layer in pruner.layers})
        step(self, number)
        if number >= 81:
            changes = [module.matrix(layer).detach() - before[layer.output] for layer in pruner.layers]
            returned = [change[~masks[layer.output]] for change, layer in zip(changes, pruner.layers, strict=True)]
            moved.append(max(float(value.abs().max()) for value in returned))
        if number == 90:
            raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "_step", watched)
    monkeypatch.setattr(Trainer, "_keep", lambda self: None)
    with pytest.raises(KeyboardInterrupt):
        each.run()
    assert 0.5 * rate < max(moved) < 1.5 * rate


def test_gradients_of_the_fisher_matrix_leave_the_ranges_unchanged(tmp_path, monkeypatch):
    each, _ = trainer(tmp_path / "a.onnx", FULL | {"quantisation": {"begin": 2, "freeze": 8}})
    gradients, counted = Trainer._gradients, []

    def watched(self, count):
        before = self._student.quantisation.state_dict()
        yield from gradients(self, count)
        assert self._student.quantisation.state_dict() == before
        counted.append(before["enabled"])

    monkeypatch.setattr(Trainer, "_gradients", watched)
    each.run()
    assert counted[-1]


def test_the_memory_of_samples_is_measured_without_the_parameters():
    weight = torch.nn.Parameter(torch.ones(100, 100))

    def bytes_of(rows: int) -> int:
        return sum(kept(lambda: (torch.ones(rows, 100, requires_grad=True) @ weight).relu().sum(), [weight]).elements())

    assert bytes_of(20) == 2 * bytes_of(10) >= 10 * 100 * 4
    # Of 100 x 100 weights, the masked copy is kept once; a row and its product for each sample.
    found = KeptBytes.by(lambda rows: (torch.ones(rows, 100, requires_grad=True) @ (weight * 2)).relu().sum(), [weight])
    assert found == KeptBytes(bytes_of(2) - bytes_of(1), 100 * 4, 100 * 100 * 4)
    demand = Demand.of((10, 10 * 7 + 100 * 3), (20, 20 * 7 + 400 * 3))
    assert (demand.linear, demand.square) == pytest.approx((7.0, 3.0))
    assert Demand.of((1, 50), (1, 50)).bytes(1) == 50
    assert Budget(demand, 1200.0).samples(10) == 2
    assert Budget(demand, 1.0).samples(10) == 1
    assert PLENTY.samples(384) > 1_000
    of_two_mib = Budget(Demand(1.0, 0.0), float("inf"), Demand(0.0, 2.0**21 / 100**2))
    assert [of_two_mib.samples(length) for length in (100, 200, 800)] == [16, 4, 1]
    assert Budget.restored(of_two_mib.state()) == of_two_mib


@pytest.mark.parametrize(("free", "changed"), [(1000, True), (999, False), (None, False)])
def test_freed_memory_is_kept_where_there_is_ten_times_what_is_needed(monkeypatch, free, changed):
    asked = []
    library = SimpleNamespace(mallopt=lambda *values: asked.append(values))
    monkeypatch.setattr("harness.training.memory.ctypes", SimpleNamespace(CDLL=lambda _: library))
    monkeypatch.setattr("harness.host.memory.available", lambda: free)
    keep_freed(100)
    assert asked == ([(-3, 32 * 2**20), (-1, -1)] if changed else [])
