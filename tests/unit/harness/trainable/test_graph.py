"""A graph in PyTorch computes what ONNX Runtime does, and all its weights get gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from graphs import convnet, embedder, folded, graph, images, mlp, mlp_feeds, node, normal, run, texts
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bert.architecture import BertConfig, build_bert
from bert.mobilebert import MobileBertConfig, build_mobilebert
from harness.compress.network import Network
from harness.errors import ConfigError
from harness.models.weights import RandomWeights

torch = pytest.importorskip("torch", reason="training is not installed: make setup TRAIN=1")

from harness.trainable.graph import GraphModule, restored  # noqa: E402
from harness.trainable.operators import function_of  # noqa: E402

_BERT = BertConfig(layers=2, hidden=32, heads=2, feed_forward=64, vocabulary=1100, positions=24)
_MOBILE = MobileBertConfig(
    layers=2, hidden=64, heads=2, feed_forward=48, bottleneck=32, embedding=16, vocabulary=1100, positions=24
)


def _questions(rows: int = 3, length: int = 17) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(rows * length)
    mask = np.ones((rows, length), np.int64)
    mask[1:, length // 2 :] = 0
    return {
        "input_ids": rng.integers(0, 1100, (rows, length)),
        "attention_mask": mask,
        "token_type_ids": rng.integers(0, 2, (rows, length)),
    }


def _tensors(feed: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(value)) for name, value in feed.items()}


def _agrees(model: ModelProto, feed: Mapping[str, np.ndarray], names: Sequence[str] = ()) -> GraphModule:
    module = GraphModule(Network(model))
    found = module(_tensors(feed), names)
    names = [value.name for value in model.graph.output] + list(names)
    for name, expected in zip(names, run(model, feed, *names), strict=True):
        value = found[name].detach().numpy()
        assert value.shape == expected.shape
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    return module


@pytest.fixture(scope="module")
def bert() -> ModelProto:
    return build_bert(RandomWeights(1), _BERT)


@pytest.fixture(scope="module")
def mobilebert() -> ModelProto:
    return build_mobilebert(RandomWeights(1), _MOBILE)


@pytest.mark.parametrize("name", ["bert", "mobilebert"])
def test_the_architectures_give_the_outputs_of_onnx_runtime_for_any_batch_and_length(
    request: pytest.FixtureRequest, name: str
) -> None:
    model = request.getfixturevalue(name)
    for rows, length in ((3, 17), (1, 5)):
        _agrees(model, _questions(rows, length))


@pytest.mark.parametrize(
    ("model", "feed"),
    [(mlp(), mlp_feeds()[0]), (convnet(), images()[0]), (convnet(11), images()[0]), (embedder(), texts()[0])],
)
def test_small_graphs_give_the_outputs_of_onnx_runtime(model: ModelProto, feed: dict[str, np.ndarray]) -> None:
    _agrees(model, feed)


def test_a_folded_graph_gives_the_outputs_of_onnx_runtime(bert: ModelProto, tmp_path: Path) -> None:
    _agrees(folded(bert, tmp_path), _questions())


def test_every_tensor_within_the_graph_can_be_asked_for(bert: ModelProto) -> None:
    names = [name for item in bert.graph.node for name in item.output]
    _agrees(bert, _questions(), names)


@pytest.mark.parametrize("name", ["bert", "mobilebert"])
def test_all_weights_get_gradients(request: pytest.FixtureRequest, name: str) -> None:
    module = GraphModule(Network(request.getfixturevalue(name)))
    feed = _tensors(_questions())
    feed["token_type_ids"][0, :2] = torch.tensor([0, 1])
    sum(value.square().sum() for value in module(feed).values()).backward()
    still = [name for name in module.names() if not module.parameter(name).grad.abs().sum()]
    assert not still
    assert len(module.names()) > 30
    assert not {"one", "two", "masked", "epsilon"} & set(module.names())


def test_layer_normalisation_and_gelu_run_as_one_function_each(bert: ModelProto) -> None:
    module = GraphModule(Network(bert))
    module(_tensors(_questions()))
    (steps,) = module._programs.values()
    single = [step for step in steps if step.fused and step.layer is None]
    assert len(single) == 5 + 2  # a normalisation of the embeddings and two per layer; a GELU per layer
    assert not any(output.endswith(("/Erf_output_0", "/Sqrt_output_0")) for step in steps for output in step.outputs)


@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("form", range(3))
def test_normalisation_and_gelu_as_other_exporters_write_them(form: int, square: str) -> None:
    scale = ("Div", math.sqrt(2)) if form % 2 else ("Mul", math.sqrt(0.5))
    products = (
        [node("Mul", "n a", "p"), node("Mul", "p half", "y")],
        [node("Mul", "n half", "p"), node("Mul", "p a", "y")],
        [node("Mul", "half a", "p"), node("Mul", "n p", "y")],
    )[form]
    model = graph(
        [
            node("ReduceMean", "x", "m", axes=[-1], keepdims=1),
            node("Sub", "x m", "d"),
            node("Pow", "d two", "s") if square == "Pow" else node("Mul", "d d", "s"),
            node("ReduceMean", "s", "v", axes=[-1], keepdims=1),
            node("Add", "epsilon v", "e"),
            node("Sqrt", "e", "r"),
            node("Div", "d r", "q"),
            node("Mul", "q scale", "t"),
            node("Add", "shift t", "n"),
            node(scale[0], "n root", "z"),
            node("Erf", "z", "f"),
            node("Add", "f one", "a"),
            *products,
        ],
        {"x": ("N", 8)},
        ["y"],
        {
            "two": np.float32(2),
            "one": np.float32(1),
            "half": np.float32(0.5),
            "root": np.float32(scale[1]),
            "epsilon": np.float32(1e-6),
            "scale": normal(1, 8, scale=1.0),
            "shift": normal(2, 8, scale=1.0),
        },
    )
    module = _agrees(model, {"x": normal(3, 5, 8, scale=1.0)})
    assert [len(steps) for steps in module._programs.values()] == [2]


def test_a_normalisation_with_another_reader_is_not_one_function() -> None:
    model = graph(
        [
            node("ReduceMean", "x", "m", axes=[-1], keepdims=1),
            node("Sub", "x m", "d"),
            node("Mul", "d d", "s"),
            node("ReduceMean", "s", "v", axes=[-1], keepdims=1),
            node("Add", "v epsilon", "e"),
            node("Sqrt", "e", "r"),
            node("Div", "d r", "q"),
            node("Mul", "q scale", "t"),
            node("Add", "t shift", "n"),
            node("Add", "n d", "y"),
        ],
        {"x": ("N", 8)},
        ["y"],
        {"epsilon": np.float32(1e-6), "scale": normal(1, 8, scale=1.0), "shift": normal(2, 8, scale=1.0)},
    )
    module = _agrees(model, {"x": normal(3, 5, 8, scale=1.0)})
    assert [len(steps) for steps in module._programs.values()] == [10]


_X = normal(1, 2, 3, 6, 7, scale=1.0)
_INDEX = {
    "one": np.array([1]),
    "last": np.array([-1]),
    "two": np.array([0, 2]),
    "three": np.array([0, -1, 7]),
    "far": np.array([-9]),
}
_SINGLE = [
    node("AveragePool", "x", "y", kernel_shape=[3, 2], pads=[1, 0, 1, 1], strides=[2, 1]),
    node("AveragePool", "x", "y", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    node("AveragePool", "x", "y", kernel_shape=[3, 3], auto_pad="SAME_UPPER", strides=[2, 2]),
    node("MaxPool", "x", "y", kernel_shape=[3, 3], pads=[0, 0, 1, 1], strides=[2, 2]),
    node("MaxPool", "x", "y", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    node("BatchNormalization", "x v w s p", "y"),
    node("Conv", "x k", "y", auto_pad="SAME_LOWER", strides=[2, 2]),
    node("Conv", "x k", "y", pads=[0, 1, 2, 1], dilations=[1, 2]),
    node("Gather", "x two", "y", axis=1),
    node("Gather", "x last", "y", axis=2),
    node("GlobalMaxPool", "x", "y"),
    node("HardSigmoid", "x", "y"),
    node("LeakyRelu", "x", "y", alpha=0.2),
    node("LogSoftmax", "x", "y", axis=1),
    node("Max", "x half w4", "y"),
    node("Pow", "p4 half", "y"),
    node("ReduceMax", "x", "y", axes=[1, -1], keepdims=0),
    node("ReduceMean", "x", "y"),
    node("ReduceSum", "x one", "y", keepdims=0),
    node("Reshape", "x three", "y"),
    node("Slice", "x two three2 two", "y"),
    node("Slice", "x last far one last", "y"),
    node("Split", "x one_two", "y z", axis=1),
    node("Split", "x", "y z", axis=2),
    node("Squeeze", "x1 last", "y"),
    node("Tanh", "x", "y"),
    node("Unsqueeze", "x two", "y"),
    node("Flatten", "x", "y", axis=2),
    node("Gemm", "m m", "y", transA=1, alpha=0.5),
    node("Gemm", "m mt b", "y", alpha=0.5, beta=2.0),
    node("Expand", "x1 wide", "y"),
    node("Concat", "x x", "y", axis=-2),
    node("Neg", "x", "y"),
    node("Sum", "x x half", "y"),
    node("Clip", "x - half", "y"),
]


@pytest.mark.parametrize("item", _SINGLE, ids=lambda item: item.op_type)
def test_each_operator_gives_the_outputs_of_onnx_runtime(item: NodeProto) -> None:
    constants = {
        **_INDEX,
        "three2": np.array([3, 5]),
        "one_two": np.array([1, 2]),
        "wide": np.array([1, 3, 1, 4]),
        "half": np.float32(0.5),
        "k": normal(2, 4, 3, 3, 2),
        "w4": normal(3, 1, 3, 1, 1, scale=1.0),
        "b": normal(4, 5, scale=1.0),
        **{name: normal(5 + index, 3, scale=1.0) for index, name in enumerate("vws")},
        "p": np.abs(normal(9, 3, scale=1.0)) + np.float32(0.1),
        "p4": np.abs(normal(9, 2, 3, scale=1.0)) + np.float32(0.1),
        "mt": normal(12, 7, 5, scale=1.0),
    }
    feed = {"x": _X, "x1": _X[:, :, :, :1], "m": _X[0, 0]}
    read = {name for name in feed if name in item.input}
    model = graph(
        [item],
        {name: feed[name].shape for name in read},
        list(item.output),
        {name: value for name, value in constants.items() if name in item.input},
    )
    _agrees(model, {name: feed[name] for name in read})


def test_a_softmax_before_opset_13_is_over_all_axes_from_its_own_on() -> None:
    model = graph([node("Softmax", "x", "y")], {"x": (2, 3, 4)}, ["y"], {}, opset=11)
    _agrees(model, {"x": normal(1, 2, 3, 4, scale=1.0)})


def test_shapes_are_computed_on_integers() -> None:
    model = graph(
        [
            node("Shape", "x", "s"),
            node("Gather", "s zero", "n"),
            node("Unsqueeze", "n axis", "u"),
            node("Concat", "u minus", "shape", axis=0),
            node("Reshape", "x shape", "flat"),
            node("ConstantOfShape", "shape1", "zeros", value=numpy_helper.from_array(np.array([2.0], np.float32))),
            node("Equal", "u u", "same"),
            node("Where", "same flat zeros", "y"),
        ],
        {"x": ("N", 2, 3)},
        ["y"],
        {"zero": np.array(0), "axis": np.array([0]), "minus": np.array([-1]), "shape1": np.array([6])},
    )
    _agrees(model, {"x": normal(1, 4, 2, 3, scale=1.0)})


def test_an_unknown_operator_is_named() -> None:
    item = helper.make_node("LSTM", ["x", "w", "r"], ["y"], "the-cell", hidden_size=4)
    constants = {"w": normal(1, 1, 16, 3), "r": normal(2, 1, 16, 4)}
    with pytest.raises(ConfigError, match="the operator LSTM of the node the-cell is not supported"):
        GraphModule(Network(graph([item], {"x": (5, 1, 3)}, ["y"], constants)))


def test_stored_again_the_model_is_the_same(bert: ModelProto) -> None:
    assert GraphModule(Network(bert)).store() == bert


def test_a_stored_model_computes_what_the_changed_module_does(bert: ModelProto) -> None:
    module = GraphModule(Network(bert))
    with torch.no_grad():
        for value in module.trained():
            value.add_(0.01 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1)))
    first = module.network.inner()[0]
    mask = torch.arange(32 * 32).reshape(32, 32) % 3 > 0
    module.weights[first.output] = lambda matrix: matrix * mask
    module.rounding[first.output] = lambda matrix: matrix * 1.0
    stored = module.store()
    expected = run(stored, _questions(), "start_logits")[0]
    found = module(_tensors(_questions()))["start_logits"].detach().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert not Network(stored).matrix(first)[~mask.numpy()].any()
    assert (module.matrix(first).detach()[~mask] != 0).any()


@pytest.mark.parametrize("model", [mlp(), convnet()])
def test_matrices_are_those_of_the_network_and_restored_to_its_weights(model: ModelProto) -> None:
    module = GraphModule(Network(model))
    for layer in module.network.layers:
        matrix = module.matrix(layer)
        np.testing.assert_array_equal(matrix.detach().numpy(), module.network.matrix(layer))
        assert torch.equal(restored(layer, matrix, module.weight(layer).shape), module.weight(layer))


def test_a_change_for_several_readers_of_a_tensor_is_applied_once(bert: ModelProto) -> None:
    module = GraphModule(Network(bert))
    calls = []

    def change(value: torch.Tensor) -> torch.Tensor:
        calls.append(value.shape)
        return value * 0

    shared = [layer for layer in module.network.inner() if layer.source == module.network.inner()[0].source]
    assert len(shared) == 3  # queries, keys and values
    for layer in shared:
        module.values[layer.output, 0] = change
    wanted = [layer.output for layer in shared]
    found = module(_tensors(_questions()), wanted)
    assert len(calls) == 1
    assert all(not found[name].any() for name in wanted)


def test_a_changed_result_is_what_its_readers_see() -> None:
    module = GraphModule(Network(mlp()))
    feed = _tensors(mlp_feeds()[0])
    module.results["r1"] = lambda value: value * 0
    found = module(feed, ["a2"])["a2"]
    assert torch.equal(found, module.parameter("b2").expand(found.shape))
    del module.results["r1"]
    assert not torch.equal(module(feed, ["a2"])["a2"], found)


def test_parameters_that_match_a_pattern_are_not_trained(bert: ModelProto) -> None:
    module = GraphModule(Network(bert))
    rest = module.trained(["*embeddings*"])
    assert 0 < len(rest) < len(module.trained())
    assert not any(module.parameter(name) is value for name in module.names() if "embeddings" in name for value in rest)


@pytest.mark.parametrize("axis", [-2, -1, 0, 1, 3])
def test_flatten_at_any_axis(axis: int) -> None:
    model = graph([node("Flatten", "x", "y", axis=axis)], {"x": ("N", 3, 4)}, ["y"], {})
    _agrees(model, {"x": normal(1, 2, 3, 4)})


def test_a_cast_that_is_not_supported_names_its_node() -> None:
    cast = node("Cast", "x", "y", to=TensorProto.STRING)
    with pytest.raises(ConfigError, match="the Cast of the node y to the ONNX type 8 is not supported; export"):
        function_of(cast, 13)
