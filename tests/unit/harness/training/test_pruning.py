"""Masks: they follow the schedule, regrow only with AC/DC, and hold weights at zero through training."""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pytest
from graphs import convnet, images, mlp, mlp_feeds
from onnx import ModelProto

from harness.compress.compress import CompressSettings, compress
from harness.compress.network import Network
from harness.errors import ConfigError, RunFailed
from harness.training.recipe import Fisher, Pruning
from harness.training.schedule import sparsity_at

torch = pytest.importorskip("torch", reason="training is not installed: make setup TRAIN=1")

from harness.trainable.graph import GraphModule  # noqa: E402
from harness.training.pruning import FisherMemory, Pruner  # noqa: E402

_FISHER = Fisher(samples=12, block=8, dampening=1e-6)


def _pruning(method: str = "magnitude", **others: object) -> Pruning:
    fields = {"sparsity": 0.6, "initial": 0.2, "begin": 2, "end": 10, "every": 2, "block": 4, "fisher": _FISHER}
    return Pruning.model_validate({"method": method, **fields, **others})


def _pruner(pruning: Pruning, width: int = 32) -> Pruner:
    network = Network(mlp(width))
    return Pruner(GraphModule(network), network.layers, pruning)


def _feeds(module: GraphModule, width: int = 32) -> list[dict[str, torch.Tensor]]:
    given = images() if module.network.layers[0].node.op_type == "Conv" else mlp_feeds(width=width)
    return [{"x": torch.from_numpy(feed["x"])} for feed in given]


def _loss(module: GraphModule, number: int) -> torch.Tensor:
    feeds = _feeds(module)
    return (module(feeds[number % len(feeds)])["y"] * (1 + number % 3)).square().mean()


def _gradients(module: GraphModule, pruner: Pruner) -> Callable[[int], Iterator[Mapping[str, torch.Tensor]]]:
    def found(count: int) -> Iterator[Mapping[str, torch.Tensor]]:
        for number in range(count):
            module.zero_grad()
            _loss(module, number).backward()
            yield pruner.gradients()
        module.zero_grad()

    return found


def _compressed(model: ModelProto, sparsity: float) -> ModelProto:
    feeds = images() if Network(model).layers[0].node.op_type == "Conv" else mlp_feeds()
    return compress(model, feeds, CompressSettings(sparsity=sparsity, block=4))[0]


def _train(module: GraphModule, pruner: Pruner, steps: int) -> Iterator[int]:
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    for step in range(steps):
        pruner.step(step, _gradients(module, pruner), _compressed)
        _loss(module, step).backward()
        optimizer.step()
        optimizer.zero_grad()
        pruner.apply()
        yield step


def _zeros(module: GraphModule, pruner: Pruner) -> dict[str, torch.Tensor]:
    return {layer.output: module.matrix(layer).detach() == 0 for layer in pruner.layers}


@pytest.mark.parametrize("method", ["magnitude", "second-order"])
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_gradual_pruning_follows_the_schedule_and_never_regrows(
    method: str, block: int, scope: str, model: str
) -> None:
    network = Network(mlp() if model == "mlp" else convnet())
    module = GraphModule(network)
    pruning = _pruning(method, block=block, scope=scope)
    pruner = Pruner(module, network.inner(), pruning)
    before = _zeros(module, pruner)
    for step in _train(module, pruner, 12):
        now = _zeros(module, pruner)
        assert all(bool((now[output] >= was).all()) for output, was in before.items())
        weights = sum(value.numel() for value in now.values())
        share = sum(int(value.sum()) for value in now.values()) / weights
        assert share == pytest.approx(sparsity_at(pruning, step), abs=8 / weights * len(now))
        assert pruner.sparsity == pytest.approx(share)
        before = now
    if scope == "layer":
        assert all(value.float().mean() == pytest.approx(0.6, abs=0.01) for value in before.values())
    groups = [value[:, : value.shape[1] // block * block].reshape(-1, block) for value in before.values()]
    assert all(bool((value.all(1) == value.any(1)).all()) for value in groups)


@pytest.mark.parametrize("model", ["mlp", "convnet"])
def test_layer_wise_pruning_follows_the_schedule_never_regrows_and_fits_what_stays(model: str) -> None:
    network = Network(mlp() if model == "mlp" else convnet())
    module = GraphModule(network)
    pruning = _pruning("layer-wise", initial=0.3)
    pruner = Pruner(module, network.inner(), pruning)
    found = {}
    before = _zeros(module, pruner)
    for step in range(12):
        values = {name: module.parameter(name).detach().clone() for name in module.names()}
        found[step] = pruner.step(step, None, _compressed)
        now = _zeros(module, pruner)
        assert all(bool((now[output] >= was).all()) for output, was in before.items())
        assert pruner.sparsity == pytest.approx(sparsity_at(pruning, step), abs=0.02)
        changed = {name for name, value in values.items() if not torch.equal(value, module.parameter(name))}
        assert bool(changed) == found[step]
        with torch.no_grad():
            for layer in pruner.layers:
                module.weight(layer).add_(0.01 * torch.randn(module.weight(layer).shape))
        pruner.apply()
        before = _zeros(module, pruner)
    assert [step for step, changed in found.items() if changed] == [2, 4, 6, 8, 10]
    groups = [value[:, : value.shape[1] // 4 * 4].reshape(-1, 4) for value in before.values()]
    assert all(bool((value.all(1) == value.any(1)).all()) for value in groups)
    with pytest.raises(ValueError, match="pruned model"):
        pruner.step(10, None)


def test_the_first_step_prunes_to_the_initial_sparsity_and_later_steps_only_where_scheduled() -> None:
    pruner = _pruner(_pruning())
    assert [step for step in range(20) if pruner.step(step, None)] == [2, 4, 6, 8, 10]
    assert pruner.sparsity == pytest.approx(0.6, abs=0.001)


def test_magnitude_removes_the_smallest_groups_of_all_layers() -> None:
    pruner = _pruner(_pruning(begin=0, end=0, every=1))
    network = Network(mlp())
    norms = {
        layer.output: np.square(network.matrix(layer)).reshape(len(network.matrix(layer)), -1, 4).sum(2)
        for layer in network.layers
    }
    assert pruner.step(0, None)
    masks = {output: mask.numpy()[:, ::4] for output, mask in pruner.masks.items()}
    kept = np.concatenate([norms[output][mask] for output, mask in masks.items()])
    gone = np.concatenate([norms[output][~mask] for output, mask in masks.items()])
    assert gone.max() <= kept.min()
    assert len({round(float(mask.mean()), 2) for mask in masks.values()}) > 1


def test_equal_weights_are_removed_in_order_to_the_exact_number() -> None:
    model = mlp()
    network = Network(model)
    for layer in network.layers:
        network.replace(layer, np.ones_like(network.matrix(layer)))
    pruner = Pruner(GraphModule(network), network.layers, _pruning(begin=0, end=0, every=1))
    pruner.step(0, None)
    assert pruner.sparsity == pytest.approx(0.6, abs=4 / 5000)


def test_inputs_after_the_last_whole_block_stay() -> None:
    pruner = _pruner(_pruning(begin=0, end=0, every=1, sparsity=0.9), width=30)
    pruner.step(0, None)
    tails = [mask[:, mask.shape[1] // 4 * 4 :] for mask in pruner.masks.values()]
    assert {tail.shape[1] for tail in tails} == {0, 2}
    assert all(bool(tail.all()) for tail in tails)
    assert pruner.sparsity == pytest.approx(0.9, abs=0.002)


def test_second_order_handles_inputs_after_the_last_whole_block() -> None:
    network = Network(mlp(30))
    module = GraphModule(network)
    pruner = Pruner(module, network.layers, _pruning("second-order", begin=0, end=0, every=1))

    def gradients(count: int) -> Iterator[Mapping[str, torch.Tensor]]:
        for number in range(count):
            module.zero_grad()
            module(_feeds(module, 30)[number % 4])["y"].square().mean().backward()
            yield pruner.gradients()

    assert pruner.step(0, gradients)
    assert pruner.sparsity == pytest.approx(0.6, abs=0.002)


def test_more_sparsity_than_whole_blocks_can_give_is_refused() -> None:
    with pytest.raises(ConfigError, match="of the weights are in whole blocks of 4 inputs"):
        _pruner(_pruning(sparsity=0.99), width=6)


def test_layers_are_kept_out_by_the_names_of_nodes_and_weights() -> None:
    pruner = _pruner(_pruning(keep=("m0", "w3"), begin=0, end=0, every=1))
    assert [layer.output for layer in pruner.layers] == ["m1", "m2"]
    with pytest.raises(ConfigError, match=r"pruning\.keep leaves no layer"):
        _pruner(_pruning(keep=("*",)))


def test_the_forward_pass_and_the_stored_graph_are_masked() -> None:
    network = Network(mlp())
    module = GraphModule(network)
    pruner = Pruner(module, network.inner(), _pruning(begin=0, end=0, every=1))
    pruner.step(0, None)
    output = module(_feeds(module)[0])["y"].detach()
    with torch.no_grad():  # what an optimizer's momentum does
        for layer in pruner.layers:
            module.weight(layer).add_(0.0 + (module.matrix(layer) == 0).t())
    torch.testing.assert_close(module(_feeds(module)[0])["y"].detach(), output)
    stored = Network(module.store())
    for layer in stored.inner():
        assert np.mean(stored.matrix(layer) == 0) == pytest.approx(float((~pruner.masks[layer.output]).float().mean()))
    assert not any(bool(value.any()) for value in _gradient_under_masks(module, pruner))
    pruner.apply()
    assert all(bool((~mask == (module.matrix(layer) == 0)).all()) for layer, mask in _masked(pruner))


def _masked(pruner: Pruner) -> list[tuple[object, torch.Tensor]]:
    return [(layer, pruner.masks[layer.output]) for layer in pruner.layers]


def _gradient_under_masks(module: GraphModule, pruner: Pruner) -> list[torch.Tensor]:
    _loss(module, 0).backward()
    return [pruner.gradients()[output][~mask] for output, mask in pruner.masks.items()]


def test_acdc_masks_return_in_dense_phases_and_are_chosen_again() -> None:
    network = Network(convnet())
    module = GraphModule(network)
    pruning = _pruning("acdc", begin=2, end=10, every=2, scope="layer", initial=0.0)
    pruner = Pruner(module, network.inner(), pruning)
    sparsities, chosen = [], []
    for step in _train(module, pruner, 14):
        sparsities.append(round(pruner.sparsity, 2))
        if step in (2, 6, 10):
            chosen.append(pruner.masks)
        if step == 5:
            with torch.no_grad():  # so that the next compressed phase finds others
                for layer in pruner.layers:
                    weight = module.weight(layer)
                    weight.copy_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(step)))
        dense = sparsity_at(pruning, step) == 0
        assert dense == all(bool(mask.all()) for mask in pruner.masks.values())
    assert sparsities == [0, 0, 0.6, 0.6, 0, 0, 0.6, 0.6, 0, 0, 0.6, 0.6, 0.6, 0.6]
    assert any(not torch.equal(mask, chosen[1][output]) for output, mask in chosen[0].items())


def test_second_order_adapts_what_stays_and_beats_magnitude_in_the_loss() -> None:
    found = {}
    for method in ("magnitude", "second-order"):
        network = Network(mlp())
        module = GraphModule(network)
        feed = {"x": torch.from_numpy(np.concatenate([f["x"].reshape(-1, 32) for f in mlp_feeds()]))}
        expected = module(feed)["y"].detach()
        fisher = Fisher(samples=200, block=64, dampening=1e-7)
        pruner = Pruner(module, network.inner(), _pruning(method, begin=0, end=0, every=1, fisher=fisher))

        def gradients(
            count: int, module: GraphModule = module, pruner: Pruner = pruner
        ) -> Iterator[Mapping[str, torch.Tensor]]:
            generator = torch.Generator().manual_seed(0)
            for number in range(count):
                module.zero_grad()
                row = {"x": _feeds(module)[number % 4]["x"].reshape(-1, 32)[number % 50 : number % 50 + 1]}
                output = module(row)["y"]
                (output * torch.randn(output.shape, generator=generator)).sum().backward()
                yield pruner.gradients()

        assert pruner.step(0, gradients)
        found[method] = float((module(feed)["y"].detach() - expected).square().mean())
    assert found["second-order"] < 0.8 * found["magnitude"]


def test_a_memory_limit_divides_the_layers_and_changes_nothing() -> None:
    found = []
    for limit in (8.0, 2e-5, 1e-9):
        network = Network(convnet())
        module = GraphModule(network)
        fisher = Fisher(samples=6, block=8, dampening=1e-6, memory=limit)
        pruner = Pruner(module, network.inner(), _pruning("second-order", begin=0, end=0, every=1, fisher=fisher))
        asked: list[int] = []
        each = _gradients(module, pruner)

        def gradients(
            count: int, asked: list[int] = asked, each: Callable[[int], Iterator[Mapping[str, torch.Tensor]]] = each
        ) -> Iterator[Mapping[str, torch.Tensor]]:
            asked.append(count)
            return each(count)

        assert pruner.step(0, gradients)
        assert asked == [6] * pruner.fisher_memory.passes
        if limit == 2e-5:
            weights = sum(mask.numel() for mask in pruner.masks.values())
            assert pruner.fisher_memory.bytes <= limit * 2**30 + weights * (4 + 2)  # the weights, and scores of blocks
        found.append({layer.output: module.matrix(layer).detach() for layer in pruner.layers})
    assert pruner.fisher_memory.passes == 2 * sum(len(mask) for mask in pruner.masks.values())
    for others in found[1:]:
        for output, value in found[0].items():
            torch.testing.assert_close(others[output], value, rtol=1e-4, atol=1e-5)


def test_no_gradients_are_computed_to_remove_nothing() -> None:
    pruner = _pruner(_pruning("second-order", initial=0.0))

    def unwanted(count: int) -> Iterator[Mapping[str, torch.Tensor]]:
        pytest.fail(f"{count} gradients")

    assert not pruner.step(2, unwanted)
    assert pruner.sparsity == 0


def test_gradients_that_are_not_finite_end_the_run() -> None:
    pruner = _pruner(_pruning("second-order", begin=0, end=0, every=1))
    nothing = {output: torch.full(mask.shape, torch.nan) for output, mask in pruner.masks.items()}
    with pytest.raises(RunFailed, match="not finite"):
        pruner.step(0, lambda count: iter([nothing] * count))


def test_methods_without_gradients_need_no_memory() -> None:
    assert _pruner(_pruning()).fisher_memory == FisherMemory(0, 0)


def test_masks_are_saved_and_restored() -> None:
    pruner = _pruner(_pruning())
    pruner.step(2, None)
    state = pruner.state_dict()
    assert all(mask.dtype == torch.bool for mask in state.values())
    other = _pruner(_pruning())
    other.load_state_dict(state)
    assert all(torch.equal(mask, other.masks[output]) for output, mask in pruner.masks.items())
    pruner.step(4, None)
    assert other.sparsity < pruner.sparsity
    with pytest.raises(ConfigError, match="belong to another model"):
        _pruner(_pruning(), width=16).load_state_dict(state)


def test_the_zeros_of_a_pruned_model_are_adopted() -> None:
    network = Network(mlp())
    layer = network.layers[1]
    matrix = network.matrix(layer).copy()
    matrix[:, :8] = 0
    matrix[0, 9] = 0
    network.replace(layer, matrix)
    pruner = Pruner(GraphModule(network), network.layers, _pruning())
    assert pruner.sparsity == 0
    pruner.adopt()
    assert not pruner.masks[layer.output][:, :8].any()
    assert pruner.masks[layer.output][:, 8:].all()
