"""Quantisation-aware training computes with the 8 bits that the compressor writes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from graphs import convnet, embedder, graph, images, mlp, mlp_feeds, node, normal, run, texts
from onnx import ModelProto, TensorProto, numpy_helper

from harness.compress.network import Layer, Network
from harness.compress.products import products
from harness.compress.quantise import EngineForm, quantise
from harness.compress.ranges import Range, observe
from harness.compress.rounding import keep_sums, nearest

torch = pytest.importorskip("torch", reason="training is not installed: make setup TRAIN=1")

from harness.trainable.fake import FakeQuantisation  # noqa: E402
from harness.trainable.graph import GraphModule  # noqa: E402
from harness.trainable.rounded import ActivationQuantiser, WeightQuantiser, in_bytes  # noqa: E402

_Feeds = list[dict[str, np.ndarray]]
_CASES: dict[str, tuple[ModelProto, _Feeds]] = {
    "mlp": (mlp(), mlp_feeds()),
    "convnet": (convnet(), images()),
    "embedder": (embedder(), texts()),
}


def _tensors(feed: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in feed.items()}


def _quantised(model: ModelProto, feeds: _Feeds) -> tuple[GraphModule, FakeQuantisation]:
    module = GraphModule(Network(model))
    quantisation = FakeQuantisation(module, module.network.layers, list(products(module.network)))
    quantisation.observe(map(_tensors, feeds))
    quantisation.enable()
    return module, quantisation


def _layer(model: ModelProto, number: int = 0) -> Layer:
    return Network(model).layers[number]


@pytest.mark.parametrize("name", _CASES)
@pytest.mark.parametrize("engine", ["deepsparse", "onnxruntime"])
def test_the_written_graph_computes_what_the_module_does(name: str, engine: EngineForm) -> None:
    model, feeds = _CASES[name]
    module, quantisation = _quantised(model, feeds)
    module.eval()
    written = quantise(quantisation.plan(), engine)
    exact = run(model, feeds[0], "y")[0]
    with torch.no_grad():
        found = module(_tensors(feeds[0]))["y"].numpy()
    expected = run(written, feeds[0], "y")[0]
    difference = np.abs(found - expected)
    # Biases are finer here than in the file, so that some values are rounded to the next of the 255 steps.
    assert difference.max() < 0.01 * (exact.max() - exact.min())
    assert difference.mean() < 0.15 * np.abs(found - exact).mean()


@pytest.mark.parametrize("name", _CASES)
def test_ranges_are_parts_of_what_was_observed(name: str) -> None:
    model, feeds = _CASES[name]
    _, quantisation = _quantised(model, feeds)
    plan = quantisation.plan()
    assert set(plan.ranges) >= plan.needed()
    assert len(plan.rounded) == len(Network(model).layers)
    assert set(plan.products) == {product.output for product in products(Network(model))}
    for name, whole in observe(Network(model), plan.ranges, feeds).items():
        span = plan.ranges[name]
        assert whole.low * 1.001 <= span.low <= whole.low * 0.29
        assert whole.high * 0.29 <= span.high <= whole.high * 1.001


def test_convolutions_keep_the_whole_range() -> None:
    model, feeds = _CASES["convnet"]
    _, quantisation = _quantised(model, feeds)
    plan = quantisation.plan()
    names = plan.needed() - {"f4"}  # what the classifier reads
    whole = observe(Network(model), names, feeds)
    for name in names:
        assert plan.ranges[name].high == pytest.approx(whole[name].high, rel=1e-3)


def test_nothing_is_rounded_before_it_is_enabled() -> None:
    model, feeds = _CASES["convnet"]
    module = GraphModule(Network(model))
    expected = module(_tensors(feeds[0]))["y"]
    quantisation = FakeQuantisation(module, module.network.layers, [])
    quantisation.observe(map(_tensors, feeds))
    assert torch.equal(module(_tensors(feeds[0]))["y"], expected)
    quantisation.enable()
    assert not torch.equal(module(_tensors(feeds[0]))["y"], expected)


def test_only_the_given_layers_are_rounded() -> None:
    model, feeds = _CASES["mlp"]
    module = GraphModule(Network(model))
    quantisation = FakeQuantisation(module, module.network.inner(), [])
    quantisation.observe(map(_tensors, feeds))
    quantisation.enable()
    assert set(quantisation.plan().rounded) == {layer.output for layer in module.network.inner()}
    assert set(module.rounding) == set(quantisation.plan().rounded)


def test_masked_weights_stay_zero_in_the_plan() -> None:
    model, feeds = _CASES["mlp"]
    module, quantisation = _quantised(model, feeds)
    layer = module.network.layers[1]
    mask = torch.arange(module.matrix(layer).numel()).reshape(module.matrix(layer).shape) % 4 == 0
    module.weights[layer.output] = lambda matrix: matrix * mask
    values = quantisation.plan().rounded[layer.output].values
    assert not values[~mask.numpy()].any()
    assert values[mask.numpy()].any()


def test_gradients_reach_all_parameters_through_the_rounding() -> None:
    for model, feeds in _CASES.values():
        module, _ = _quantised(model, feeds)
        module(_tensors(feeds[0]))["y"].square().sum().backward()
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in module.parameters())


def test_ranges_follow_the_data_in_training_until_they_are_frozen() -> None:
    model, feeds = _CASES["mlp"]
    module, quantisation = _quantised(model, feeds)
    wider = {"x": torch.from_numpy(feeds[0]["x"] * 10)}
    before = quantisation.plan().ranges["x"]
    with torch.no_grad():
        module(wider)
    assert quantisation.plan().ranges["x"] == before  # scoring changes nothing
    module(wider)
    assert quantisation.plan().ranges["x"] == before  # neither do gradients apart from steps
    with quantisation.following():
        module(wider)
    after = quantisation.plan().ranges["x"]
    assert before.high < after.high < 2 * before.high
    quantisation.freeze()
    with quantisation.following():
        module(wider)
    assert quantisation.plan().ranges["x"] == after


def test_a_step_in_parts_moves_the_ranges_once() -> None:
    model, feeds = _CASES["mlp"]
    found = []
    for parts in (1, 3):
        module, quantisation = _quantised(model, feeds)
        with quantisation.following():
            for values in np.array_split(feeds[1]["x"] * 10, parts):
                module({"x": torch.from_numpy(values)})
        found.append(quantisation.state_dict()["activations"])
    for name, state in found[0].items():
        assert found[1][name]["low"] == pytest.approx(state["low"], rel=1e-4), name
        assert found[1][name]["high"] == pytest.approx(state["high"], rel=1e-4), name


def test_values_that_are_not_finite_leave_the_ranges_unchanged() -> None:
    model, feeds = _CASES["mlp"]
    module, quantisation = _quantised(model, feeds)
    before = quantisation.plan().ranges["x"]
    for value in (float("nan"), float("inf")):
        with quantisation.following():
            module({"x": torch.full((1, 2, 32), value)})
    assert quantisation.plan().ranges["x"] == before


def test_a_restored_state_goes_on_alike() -> None:
    model, feeds = _CASES["embedder"]
    module, quantisation = _quantised(model, feeds)
    with quantisation.following():
        module(_tensors(feeds[1]))
    quantisation.freeze()
    other = GraphModule(Network(model))
    again = FakeQuantisation(other, other.network.layers, list(products(other.network)))
    again.load_state_dict(quantisation.state_dict())
    assert torch.equal(other(_tensors(feeds[0]))["y"], module(_tensors(feeds[0]))["y"])
    assert again.state_dict() == quantisation.state_dict()


def test_activations_are_rounded_as_the_range_says() -> None:
    values = normal(1, 4000, scale=1.0)
    for span in (Range.of(-1.5, 2.0), Range.of(0.0, 3.0), Range.of(-4.0, 0.0)):
        found = in_bytes(torch.from_numpy(values), span).numpy()
        np.testing.assert_allclose(found, span.rounded(values), atol=float(span.scale) * 1e-3)


def test_the_gradient_passes_within_the_range_only() -> None:
    activation = ActivationQuantiser(low=-1.0, high=1.0)
    value = torch.tensor([-2.0, -0.5, 0.5, 2.0], requires_grad=True)
    activation(value).sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [0, 1, 1, 0]


@pytest.mark.parametrize("per_output", [False, True])
def test_weights_are_rounded_as_the_compressor_does(per_output: bool) -> None:
    model = mlp()
    weight = WeightQuantiser(_layer(model), per_output)
    matrix = torch.from_numpy(Network(model).matrix(_layer(model)).copy())
    expected = nearest(matrix.numpy(), per_output=per_output)
    found = weight.rounded(matrix)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-6)
    assert found.scale.shape == expected.scale.shape
    np.testing.assert_allclose(weight(matrix).numpy(), expected.weight, atol=1e-6)


def test_grouped_convolutions_keep_the_sums_of_their_weights() -> None:
    model = convnet()
    layer = next(layer for layer in Network(model).layers if layer.groups > 1)
    matrix = torch.from_numpy(Network(model).matrix(layer).copy()).requires_grad_()
    weight = WeightQuantiser(layer)
    np.testing.assert_allclose(weight(matrix).detach().numpy(), keep_sums(matrix.detach().numpy()).weight, atol=1e-6)
    weight(matrix).sum().backward()
    assert matrix.grad is not None
    assert matrix.grad.min() == matrix.grad.max() == 1


def test_the_8_bits_of_a_convolution_pass_through_a_reshape() -> None:
    model = graph(
        [
            node("Conv", "x k c", "v"),
            node("Relu", "v", "r"),
            node("Flatten", "r", "f"),
            node("MatMul", "f w", "y"),
        ],
        {"x": ("N", 3, 4, 4)},
        ["y"],
        {"k": normal(1, 8, 3, 4, 4), "c": normal(2, 8, scale=0.3), "w": normal(3, 8, 5)},
    )
    feeds = [{"x": normal(4 + number, 6, 3, 4, 4, scale=1.0)} for number in range(2)]
    module, quantisation = _quantised(model, feeds)
    plan = quantisation.plan()
    assert plan.ranges["f"] == plan.ranges["r"]
    with torch.no_grad():
        found = module(_tensors(feeds[0]))["y"].numpy()
    step = float(plan.ranges["r"].scale) * np.abs(plan.rounded["y"].weight).max()
    for engine in ("openvino", "deepsparse"):
        difference = np.abs(run(quantise(plan, engine), feeds[0], "y")[0] - found)
        assert np.median(difference) < 1e-5
        # One value of r in the next step; without VNNI, ONNX Runtime's QLinearConv overflows.
        assert difference.max() < 1.01 * step or engine == "deepsparse"


def test_embeddings_are_rounded_in_the_range_of_their_table() -> None:
    model, feeds = _CASES["embedder"]
    module, quantisation = _quantised(model, feeds)
    found = module(_tensors(feeds[0]), ["e"])["e"].detach().numpy()
    table = next(numpy_helper.to_array(item) for item in model.graph.initializer if item.name == "table")
    span = Range.of(float(table.min()), float(table.max()))
    np.testing.assert_allclose(found, span.rounded(table[feeds[0]["ids"]]), atol=1e-5)
    written = quantise(quantisation.plan(), "openvino")
    assert any(
        item.data_type == TensorProto.UINT8 and tuple(item.dims) == table.shape for item in written.graph.initializer
    )


@pytest.mark.parametrize(("opset", "per_output"), [(13, True), (11, False)])
def test_matrix_products_have_a_scale_for_each_output_where_the_file_can(opset: int, per_output: bool) -> None:
    """With one scale in five layers of MiniLM, each within the tolerance, the loss was five times as high."""
    model = mlp()
    model.opset_import[0].version = opset
    _, quantisation = _quantised(model, mlp_feeds())
    assert {each.per_output for each in quantisation.plan().rounded.values()} == {per_output}


def test_ranges_stay_where_they_were_found_while_the_batches_stay_alike() -> None:
    model, feeds = mlp(), mlp_feeds()
    feeds = [{name: value * factor for name, value in feeds[0].items()} for factor in (0.5, 1.0, 2.0)]
    module, quantisation = _quantised(model, feeds)
    before = quantisation.plan().ranges
    for number in range(300):
        with quantisation.following():
            module(_tensors(feeds[number % 3]))
    for name, after in quantisation.plan().ranges.items():
        assert after.low == pytest.approx(before[name].low, rel=0.05)
        assert after.high == pytest.approx(before[name].high, rel=0.05)
