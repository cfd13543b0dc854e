from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import (
    constants,
    convnet,
    distance,
    embedder,
    folded,
    graph,
    images,
    mlp,
    mlp_feeds,
    node,
    normal,
    operators,
    run,
    texts,
)
from onnx import ModelProto
from pydantic import ValidationError

from harness.compress.compress import CompressSettings, check, compress
from harness.compress.network import Network
from harness.compress.products import choose_ranges, products
from harness.compress.quantise import EngineForm
from harness.compress.ranges import REACHES, Range
from harness.errors import ConfigError
from harness.files.disk import check_writable

CASES = {"mlp": (mlp, mlp_feeds), "convnet": (convnet, images), "embedder": (embedder, lambda: texts(6))}


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    make, feeds = CASES[request.param]
    return folded(make(), tmp_path_factory.mktemp("case")), feeds()


def done(model: ModelProto, feeds, *, engine: EngineForm | None = "deepsparse", **settings):
    return compress(model, feeds, CompressSettings(engine=engine, **settings))


def by_name(report):
    return {layer.name: layer for layer in report.layers}


def worst(found: ModelProto, model: ModelProto, feeds) -> float:
    return max(distance(run(found, feed)[0], run(model, feed)[0]) for feed in feeds)


def zeros(model: ModelProto, layers) -> dict[str, tuple[int, int]]:
    """How many weights of each layer's constant are 0, and how many there are."""
    found = {}
    for item in model.graph.node:
        if item.op_type in ("MatMul", "Gemm", "Conv", "MatMulInteger", "QLinearConv") and item.name in layers:
            weight = constants(model).get(item.input[3 if item.op_type == "QLinearConv" else 1])
            zero = 128 if item.op_type == "MatMulInteger" else 0
            found[item.name] = int((weight == zero).sum()), weight.size
    return found


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("method", ["second-order", "magnitude"])
def test_the_report_shows_what_the_file_holds(case, method, precision):
    model, feeds = case
    before = model.SerializeToString()
    found, report = done(model, feeds, sparsity=0.6, block=2, method=method, precision=precision)
    assert model.SerializeToString() == before
    onnx.checker.check_model(found)
    layers = by_name(report)
    assert list(layers) == [layer.output for layer in Network(model).layers]
    assert zeros(found, layers) == {name: (layer.zeros, layer.weights) for name, layer in layers.items()}
    total = sum(layer.weights for layer in report.layers)
    assert report.sparsity == pytest.approx(sum(layer.zeros for layer in report.layers) / total)
    for layer in report.layers:
        assert layer.precision.startswith(precision)
        assert layer.bytes == layer.weights * (4 if precision == "fp32" else 1) + (precision == "int8") * 4
    inner = [layer.output for layer in Network(model).inner()]
    share = sum(layers[name].zeros for name in inner) / sum(layers[name].weights for name in inner)
    # What is rounded to 0 comes on top.
    assert 0.6 - 0.005 <= share <= (0.605 if precision == "fp32" else 0.63)
    assert all(layer.sparsity < 0.1 for name, layer in layers.items() if name not in inner)
    if method == "magnitude" and precision == "fp32":
        assert all(layers[name].sparsity == pytest.approx(0.6, abs=0.01) for name in inner)


@pytest.mark.slow
def test_floats_keep_their_graph(case):
    """With fp32 only weights and biases change."""
    model, feeds = case
    found, _ = done(model, feeds, sparsity=0.5)
    assert list(found.graph.node) == list(model.graph.node)
    assert list(found.graph.input) == list(model.graph.input)
    assert {n: (t.shape, t.dtype) for n, t in constants(found).items()} == {
        n: (t.shape, t.dtype) for n, t in constants(model).items()
    }


def test_nothing_asked_for_changes_nothing(case):
    model, feeds = case
    found, report = done(model, feeds)
    for name, value in constants(model).items():
        np.testing.assert_allclose(constants(found)[name], value, atol=1e-5)
    assert report.sparsity < 0.01
    assert all(layer.error is None or layer.error < 1e-5 for layer in report.layers)


def test_integers_are_near_the_floats(case):
    model, feeds = case
    found, report = done(model, feeds, precision="int8")
    assert worst(found, model, feeds) < 0.04
    assert not {"MatMulInteger", "QLinearConv"}.isdisjoint(operators(found))
    assert all(layer.error is None or 0 < layer.error < 0.025 for layer in report.layers)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_qdq_is_near_the_floats(case, engine):
    model, feeds = case
    found, report = done(model, feeds, precision="int8", engine=engine)
    assert {"MatMulInteger", "QLinearConv"}.isdisjoint(operators(found))
    assert "DequantizeLinear" in operators(found)
    assert {layer.precision for layer in report.layers} == {"int8"}
    assert worst(found, model, feeds) < 0.04


def test_qdq_of_an_old_operator_set_has_one_scale_a_layer():
    """DequantizeLinear takes a scale for each output since operator set 13: before, the layer stays in FP32."""
    weight = normal(1, 24, 24)
    weight[:, 3] = 0
    weight[0, 3] = 20
    for opset, precision in ((11, "fp32"), (13, "int8 per output")):
        model = graph(
            [node("Identity", "x", "i"), node("MatMul", "i w", "m"), node("MatMul", "m v", "y")],
            {"x": ("N", 24)},
            ["y"],
            {"w": weight, "v": normal(2, 24, 4)},
            opset=opset,
        )
        x = normal(10, 400, 24, scale=1.0)
        x[:, 0] *= 0.001
        found, report = done(model, [{"x": x}], precision="int8", engine="openvino", tolerance=0.04)
        onnx.checker.check_model(found)
        assert by_name(report)["m"].precision == precision


def test_the_form_is_that_of_the_best_engine_for_the_kind_of_model(tmp_path):
    """Sparse models run fastest in DeepSparse, dense ones in OpenVINO; --for overrides it."""
    model, feeds = folded(mlp(), tmp_path), mlp_feeds()
    sparse, _ = done(model, feeds, precision="int8", sparsity=0.5, engine=None)
    dense, _ = done(model, feeds, precision="int8", engine=None)
    assert ("MatMulInteger" in operators(sparse), "MatMulInteger" in operators(dense)) == (True, False)
    chosen, _ = done(model, feeds, precision="int8", sparsity=0.5, engine="openvino")
    assert "MatMulInteger" not in operators(chosen)


@pytest.mark.parametrize("engine", ["deepsparse", "openvino"])
def test_attention_is_in_8_bits_within_the_tolerance_only(tmp_path, engine):
    """Attention weights by values may have twice the error; what exceeds it stays in FP32, and its operands too."""
    model, feeds = folded(embedder(), tmp_path), texts(6)
    seen = set()
    for tolerance in (0.05, 0.007, 0.003):
        found, report = done(model, feeds, precision="int8", engine=engine, tolerance=tolerance)
        made = {item.name: item for item in found.graph.node}
        names = {name for item in found.graph.node for name in item.input}
        for product, allowed in zip(report.products, (tolerance, 2 * tolerance), strict=True):
            small = 0 < product.error <= allowed
            assert product.precision == ("int8" if small else "fp32")
            left = next(item for item in model.graph.node if item.name == product.name).input[0]
            assert (f"{left}.scale" in names) is small
            assert small or made[product.name].op_type == "MatMul"
            seen.add((product.name, small, product.error > tolerance))
    assert {("scores", True, False), ("scores", False, True)} <= seen
    assert {("context", True, False), ("context", True, True), ("context", False, True)} <= seen


def test_attention_can_be_kept_by_name(tmp_path):
    model, feeds = folded(embedder(), tmp_path), texts(6)
    found, report = done(model, feeds, precision="int8", keep=("scor*",))
    check(Network(model), CompressSettings(precision="int8", keep=("scor*",)))
    assert [(p.precision, p.error) for p in report.products] == [
        ("fp32", None),
        ("int8", pytest.approx(0.02, abs=0.02)),
    ]
    assert operators(found)["MatMul"] == 1


def test_products_of_other_tensors_than_floats_stay_as_they_are():
    model = graph(
        [
            node("MatMul", "x w", "m"),
            node("Cast", "m", "n", to=onnx.TensorProto.INT64),
            node("MatMul", "n n", "nn"),
            node("Cast", "nn", "y", to=onnx.TensorProto.FLOAT),
        ],
        {"x": (8, 8)},
        ["y"],
        {"w": normal(1, 8, 8, scale=9.0)},
    )
    _, report = done(model, [{"x": normal(2, 8, 8, scale=1.0)}], precision="int8")
    assert [(p.name, p.precision, p.error) for p in report.products] == [("nn", "fp32", None)]


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_product_of_infinite_operands_stays_float(value):
    """No range represents them."""
    x = normal(2, 8, 8, scale=1.0)
    x[2, 3] = value
    model = graph(
        [node("Relu", "x", "r"), node("MatMul", "r w", "m"), node("MatMul", "z z", "y")],
        {"x": (8, 8), "z": (8, 8)},
        ["m", "y"],
        {"w": normal(1, 8, 8)},
    )
    found, report = done(model, [{"x": normal(3, 8, 8, scale=1.0), "z": x}], precision="int8")
    assert [(p.name, p.precision, p.error) for p in report.products] == [("y", "fp32", None)]
    assert operators(found)["MatMul"] == 1


@pytest.mark.parametrize("shape", [(0, 4, 8), (2, 0, 8)])
def test_a_product_without_values_stays_float(shape):
    (product,) = products(Network(graph([node("MatMul", "a b", "y")], {"a": None, "b": None}, ["y"], {})))
    batches = [{"a": np.zeros(shape, np.float32), "b": np.zeros((shape[0], 8, 3), np.float32)}]
    assert choose_ranges(product, batches, {}) is None


def test_a_tensor_multiplied_by_itself_has_one_range():
    """The error is the one of that range, and no other range is better: on the left alone, the outlier is no loss."""
    x = np.abs(normal(4, 12, 12, scale=1.0))
    x[0, 1], x[1] = 10, 0
    (product,) = products(Network(graph([node("MatMul", "x x", "y")], {"x": (12, 12)}, ["y"], {})))
    spans, error = choose_ranges(product, [{"x": x}], {})

    def harm(span: Range) -> float:
        return distance(span.rounded(x) @ span.rounded(x), x @ x)

    low, high = float(x.min()), float(x.max())
    assert list(spans) == ["x"]
    assert error == pytest.approx(harm(spans["x"]), rel=1e-3)
    assert error == pytest.approx(min(harm(Range.of(low * reach, high * reach)) for reach in REACHES), rel=1e-3)


def attention(tail, constant=None, opset: int = 13) -> ModelProto:
    return graph(
        [node("MatMul", "q k", "scores"), *tail],
        {"q": ("N", 6, 8), "k": ("N", 8, 6), "mask": (1, 6)},
        ["y"],
        constant or {"eight": np.float32(8)},
        opset=opset,
    )


@pytest.mark.parametrize(
    ("tail", "centred"),
    [
        ([node("Softmax", "scores", "y", axis=-1)], True),
        ([node("Softmax", "scores", "y", axis=2)], True),
        ([node("Softmax", "scores", "y")], True),
        ([node("Div", "scores eight", "s"), node("Add", "s mask", "m"), node("Softmax", "m", "y")], True),
        ([node("Mul", "eight scores", "s"), node("Add", "mask s", "m"), node("Softmax", "m", "y")], True),
        ([node("Softmax", "scores", "y", axis=1)], False),
        ([node("Div", "eight scores", "s"), node("Softmax", "s", "y")], False),
        ([node("Mul", "scores mask", "s"), node("Softmax", "s", "y")], False),
        ([node("Relu", "scores", "s"), node("Softmax", "s", "y")], False),
        ([node("Softmax", "scores", "p"), node("Add", "p scores", "y")], False),
        ([node("Relu", "scores", "y")], False),
    ],
)
def test_before_a_softmax_only_differences_within_a_row_count(tail, centred):
    """Keys that have much in common give scores with a large part in common, which the softmax ignores."""
    (product,) = products(Network(attention(tail)))
    batch = {"q": normal(1, 4, 6, 8, scale=1.0), "k": normal(2, 4, 8, 6, scale=0.1)}
    batch["k"] += normal(3, 4, 8, 1, scale=3.0)
    spans, error = choose_ranges(product, [batch], {})
    exact = batch["q"] @ batch["k"]
    found = spans["q"].rounded(batch["q"]) @ spans["k"].rounded(batch["k"])
    plain = distance(found, exact)
    rows = [value - value.mean(axis=-1, keepdims=True) for value in (found, exact)]
    assert error == pytest.approx(distance(*rows) if centred else plain, rel=1e-3)
    assert distance(*rows) > 3 * plain


def test_a_softmax_without_an_axis_was_one_of_the_second_axis_before_operator_set_13():
    tail = [node("Softmax", "scores", "y")]
    assert [next(products(Network(attention(tail, opset=opset)))).softmax for opset in (11, 13)] == [1, -1]


@pytest.mark.parametrize(("tolerance", "bound"), [(1e-5, False), (0.05, True)])
def test_only_a_layer_in_8_bits_binds_a_product_of_its_input(tolerance, bound):
    """The best range of the layer leaves out an outlier that its weight mutes, but which the product needs."""
    x = normal(10, 400, 24, scale=1.0)
    x[7, 3] = 25
    weight, other = normal(1, 24, 24), np.zeros((24, 6), np.float32)
    weight[3], other[3] = 0, 1
    model = graph(
        [node("Identity", "x", "i"), node("MatMul", "i w", "m"), node("MatMul", "i z", "p")],
        {"x": ("N", 24), "z": (24, 6)},
        ["m", "p"],
        {"w": weight},
    )
    feeds = [{"x": x, "z": other}]
    _, report = done(model, feeds, precision="int8", tolerance=tolerance)
    assert report.layers[0].precision == ("int8" if bound else "fp32")
    (product,) = products(Network(model))
    _, free = choose_ranges(product, [{"i": x, "z": other}], {})
    assert report.products[0].error > 3 * free if bound else report.products[0].error == pytest.approx(free)


@pytest.mark.slow
def test_second_order_is_nearer_than_magnitude(case):
    """Also on unseen data: it does not overfit the calibration data."""
    model, feeds = case
    seen, unseen = feeds[:-1], feeds[-1:]
    for settings in ({"sparsity": 0.5}, {"sparsity": 0.5, "block": 4, "precision": "int8"}):
        second, plain = (done(model, seen, method=method, **settings) for method in ("second-order", "magnitude"))
        assert worst(second[0], model, seen) < 0.8 * worst(plain[0], model, seen)
        assert worst(second[0], model, unseen) < worst(plain[0], model, unseen)
        pairs = zip(second[1].layers, plain[1].layers, strict=True)
        # Layers that the outputs depend on little are pruned more than by magnitude.
        alike = [(new, old) for new, old in pairs if new.error is not None and new.zeros <= 1.05 * old.zeros]
        assert len(alike) >= 2
        assert all(new.error < max(old.error, 0.02) for new, old in alike)


def test_blocks_are_whole(tmp_path):
    model, feeds = folded(convnet(), tmp_path), images()
    found, _ = done(model, feeds, sparsity=0.5, block=4)
    network = Network(found)
    for layer in network.inner():
        blocks = network.matrix(layer).reshape(-1, 4) == 0
        assert (blocks.all(axis=1) == blocks.any(axis=1)).all()
        assert layer.output == "v3" or blocks.all(axis=1).any()


def test_layers_narrower_than_a_block_do_not_count_in_the_sparsity():
    """They cannot be pruned; the others must not be spared because these are counted, nor these count as free."""
    model = graph(
        [
            node("MatMul", "x w0", "m0"),
            node("Relu", "m0", "r0"),
            node("MatMul", "r0 w1", "m1"),
            node("Relu", "m1", "r1"),
            node("MatMul", "r1 w2", "m2"),
            node("Relu", "m2", "r2"),
            node("MatMul", "r2 w3", "y"),
        ],
        {"x": ("N", 8)},
        ["y"],
        {"w0": normal(1, 8, 32), "w1": normal(2, 32, 6), "w2": normal(3, 6, 40), "w3": normal(4, 40, 3)},
    )
    for method in ("second-order", "magnitude"):
        found, report = done(model, [{"x": normal(5, 300, 8, scale=1.0)}], sparsity=0.5, block=8, method=method)
        layers = by_name(report)
        assert layers["m2"].zeros == 0
        assert layers["m1"].sparsity == pytest.approx(0.5, abs=0.03)
        assert np.isfinite(run(found, {"x": normal(6, 5, 8, scale=1.0)})[0]).all()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"sparsity": 0.6, "keep": ("nothing*",)}, r"--keep nothing\* matches no layer: give names or patterns "),
        ({"sparsity": 0.6, "keep": ("*",)}, "no layer can be pruned: --keep or --block excludes all"),
        ({"precision": "int8", "keep": ("*",)}, "no layer can be quantised to 8 bits: --keep excludes all"),
    ],
)
def test_settings_that_leave_nothing_to_do_are_refused_before_there_is_data(case, wrong, said):
    model, _ = case
    with pytest.raises(ConfigError, match=said):
        check(Network(model), CompressSettings(**wrong))


def test_blocks_wider_than_every_layer_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="no layer can be pruned: --keep or --block excludes all"):
        check(Network(folded(mlp(16), tmp_path)), CompressSettings(sparsity=0.6, block=33))


def test_settings_that_leave_something_to_do_are_not_refused(case):
    model, _ = case
    last = Network(model).layers[-1].name
    check(Network(model), CompressSettings(sparsity=0.6, precision="int8", block=4, keep=(last,)))


def test_a_place_where_nothing_can_be_written_is_named_before_the_work(tmp_path):
    (tmp_path / "file").touch()
    check_writable(tmp_path / "folder" / "out.onnx")
    assert not list((tmp_path / "folder").iterdir())
    with pytest.raises(ConfigError, match=r"cannot write .*/file/out\.onnx: .*; choose another place"):
        check_writable(tmp_path / "file" / "out.onnx")


@pytest.mark.slow
def test_layers_to_keep_stay_as_they_are(case):
    model, feeds = case
    names = [layer.output for layer in Network(model).layers]
    pattern = {"y": "v[13]", "m3": "m[12]", "mh": "m[kf]"}[names[-1]]
    found, report = done(model, feeds, sparsity=0.6, precision="int8", keep=(pattern,))
    layers = by_name(report)
    kept = [name for name in names if name[-1] in pattern[2:-1] and name[0] == pattern[0]]
    assert len(kept) == 2
    for name in kept:
        item = next(item for item in found.graph.node if item.name == name)
        assert item.op_type in ("MatMul", "Conv")
        np.testing.assert_array_equal(constants(found)[item.input[1]], constants(model)[item.input[1]])
        assert (layers[name].precision, layers[name].error) == ("fp32", 0.0)
        assert layers[name].bytes == 4 * layers[name].weights
    assert all(layers[name].precision == "int8" for name in names if name not in kept)
    assert np.isfinite(worst(found, model, feeds))


def test_everything_kept_is_the_model_itself(case):
    model, feeds = case
    found, report = done(model, feeds, sparsity=0.6, precision="int8", keep=("*",))
    assert list(found.graph.node) == list(model.graph.node)
    assert {name: value.tobytes() for name, value in constants(found).items()} == {
        name: value.tobytes() for name, value in constants(model).items()
    }
    assert report.sparsity < 0.01


@pytest.mark.parametrize("method", ["second-order", "magnitude"])
@pytest.mark.parametrize("rows", ["one", "all"])
def test_a_layer_that_8_bits_harm_gets_more_scales_or_stays_float(method, rows):
    """Large weights for a small input leave few steps to the others: of one output, or of each."""
    weight = normal(1, 24, 24)
    if rows == "one":
        weight[:, 3] = 0
        weight[0, 3] = 20
    else:
        weight[0] = 20
    model = graph(
        [node("Identity", "x", "i"), node("MatMul", "i w", "m"), node("MatMul", "m v", "y")],
        {"x": ("N", 24)},
        ["y"],
        {"w": weight, "v": normal(2, 24, 4)},
    )
    x = normal(10, 400, 24, scale=1.0)
    x[:, 0] *= 0.001
    feeds = [{"x": x}]
    found, report = done(model, feeds, precision="int8", method=method, tolerance=0.04)
    layers = by_name(report)
    assert layers["m"].precision == ("int8 per output" if rows == "one" else "fp32")
    assert layers["m"].bytes == (24 * 24 + 4 * 24 if rows == "one" else 4 * 24 * 24)
    assert layers["y"].precision == "int8"
    assert operators(found).get("MatMul", 0) == (rows == "all")
    assert worst(found, model, feeds) < 0.04
    loose, report = done(model, feeds, precision="int8", method=method, tolerance=100)
    assert {layer.precision for layer in report.layers} == {"int8"}
    assert worst(loose, model, feeds) > 2 * worst(found, model, feeds)


@pytest.mark.parametrize("method", ["second-order", "magnitude"])
def test_a_layer_that_stays_float_for_its_inputs_keeps_its_weights(method):
    """Rounded weights in floating point would cost precision and save nothing, and its error would be overstated."""
    feeds = [{"x": normal(10, 400, 24, scale=1.0)}]
    model = graph(
        [
            node("Relu", "x", "r"),
            node("Mul", "r r", "r2"),
            node("Mul", "r2 r2", "r4"),
            node("Mul", "r4 r4", "r8"),  # heavy tails
            node("Sub", "r8 big", "s"),
            node("MatMul", "s w", "m"),
            node("MatMul", "m v", "y"),
        ],
        {"x": ("N", 24)},
        ["y"],
        {"big": np.float32(1e3), "w": normal(1, 24, 24), "v": normal(2, 24, 4)},
    )
    found, report = done(model, feeds, precision="int8", method=method, tolerance=0.004)
    layers = by_name(report)
    assert layers["m"].precision == "fp32"
    np.testing.assert_allclose(constants(found)["w"], constants(model)["w"], atol=1e-5)
    assert layers["m"].error < 1e-5


@pytest.mark.parametrize("outlier", [25, -25])
def test_the_range_of_inputs_leaves_out_rare_outliers(outlier):
    """One large value, for an input of little effect, would leave the others few steps."""
    x = normal(10, 4000, 24, scale=1.0)
    x[7, 3] = outlier
    weight = normal(1, 24, 24)
    weight[3] *= 0.05
    model = graph(
        [node("Identity", "x", "i"), node("MatMul", "i w", "m"), node("MatMul", "m v", "y")],
        {"x": ("N", 24)},
        ["y"],
        {"w": weight, "v": normal(2, 24, 4)},
    )
    found, _ = done(model, [{"x": x}], precision="int8")
    scale = next(value for name, value in constants(found).items() if name == "i.scale")
    assert scale < 0.8 * (x.max() - x.min()) / 255


@pytest.mark.slow
def test_the_same_data_gives_the_same_bytes(case):
    model, feeds = case
    settings = {"sparsity": 0.5, "block": 2, "precision": "int8"}
    first, second = (done(model, feeds, **settings)[0].SerializeToString(deterministic=True) for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_batches_of_any_size_count_by_their_rows(case):
    """One batch or many, the statistics are the same, and all of so few samples are tried."""
    model, feeds = case
    feeds = feeds[:3]
    apart = [{name: value[i : i + 2] for name, value in feed.items()} for feed in feeds for i in range(0, 6, 2)]
    feeds = [{name: value[:6] for name, value in feed.items()} for feed in feeds]
    together, split = (done(model, data, sparsity=0.3)[0] for data in (feeds, apart))
    assert worst(split, together, feeds) < (0.02 if "Conv" in operators(model) else 0.01)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_residual_of_another_shape_makes_no_difference(precision):
    """What is added may be broadcast: positions to each sentence, a sentence to each of its words."""
    for shape in ((1, 5, 8), (5, 8), ("N", 1, 8), ("N", 5, 1), ("N", 5, 8)):
        model = graph(
            [
                node("Relu", "p", "q"),
                node("MatMul", "x w0", "m0"),
                node("Add", "m0 b0", "a0"),
                node("MatMul", "a0 w1", "m1"),
                node("Add", "m1 b1", "a1"),
                node("Add", "a1 q", "s1"),
                node("MatMul", "s1 w2", "m2"),
                node("Add", "m2 b2", "y"),
            ],
            {"x": ("N", 5, 8), "p": shape},
            ["y"],
            {**{f"w{i}": normal(i, 8, 8) for i in range(3)}, **{f"b{i}": normal(i + 5, 8) for i in range(3)}},
        )
        sizes = [6 if size == "N" else size for size in shape]
        feeds = [{"x": normal(20 + i, 6, 5, 8, scale=1.0), "p": normal(30 + i, *sizes, scale=1.0)} for i in range(2)]
        found, _ = done(model, feeds, sparsity=0.2, precision=precision)
        assert worst(found, model, feeds) < 0.25


def test_a_residual_of_channels_makes_no_difference():
    model = graph(
        [
            node("Conv", "x k0 c0", "v0"),
            node("GlobalAveragePool", "v0", "p"),
            node("Relu", "v0", "r0"),
            node("Conv", "r0 k1 c1", "v1"),
            node("Add", "v1 p", "s"),
            node("Conv", "s k2 c2", "y"),
        ],
        {"x": ("N", 3, 6, 6)},
        ["y"],
        {
            "k0": normal(1, 8, 3, 3, 3),
            "k1": normal(2, 8, 8, 1, 1),
            "k2": normal(3, 4, 8, 1, 1),
            **{f"c{i}": normal(i + 5, 8 if i < 2 else 4) for i in range(3)},
        },
    )
    feeds = [{"x": normal(10, 5, 3, 6, 6, scale=1.0)}]
    found, _ = done(model, feeds, sparsity=0.2)
    assert worst(found, model, feeds) < 0.2


def test_the_residual_makes_up_for_what_was_lost_before():
    """A layer whose outputs are added to pruned ones, and whose inputs contain what those lost, restores it."""
    w = 24
    model = graph(
        [
            node("Relu", "x", "u"),
            node("MatMul", "u wa", "ma"),
            node("Add", "ma ba", "a"),
            node("Mul", "u two", "v"),
            node("MatMul", "v wb", "mb"),
            node("Add", "mb bb", "b"),
            node("Add", "b a", "s"),
            node("MatMul", "s wy", "y"),
        ],
        {"x": ("N", w)},
        ["y"],
        {
            "two": np.float32(2),
            "wa": normal(1, w, w),
            "wb": normal(2, w, w),
            "wy": normal(3, w, 4),
            "ba": normal(4, w),
            "bb": normal(5, w),
        },
    )
    feeds = [{"x": normal(10, 600, w, scale=1.0)}]
    found, _ = done(model, feeds, sparsity=0.5)

    def error(*names: str) -> float:
        pairs = zip(run(found, feeds[0], *names), run(model, feeds[0], *names), strict=True)
        return sum(float(np.linalg.norm(new - old)) ** 2 for new, old in pairs) ** 0.5

    assert error("a") > 0
    assert error("s") < 0.9 * error("a", "b")  # errors that know nothing of each other add up to that


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_error_of_the_report_is_that_of_the_outputs(tmp_path, precision):
    """What the biases make good, and what the layers before changed, included; and the rounding of inputs."""
    model, feeds = folded(mlp(), tmp_path), mlp_feeds()
    found, report = done(model, feeds, sparsity=0.6, precision=precision)
    for name, after in (("m0", "a0"), ("m1", "a1"), ("m2", "a2"), ("m3", "y")):
        new, old, bare = (
            np.concatenate([run(m, feed, n)[0].reshape(-1) for feed in feeds])
            for m, n in ((found, after), (model, after), (model, name))
        )
        expected = np.linalg.norm(new - old) / np.linalg.norm(bare)
        assert by_name(report)[name].error == pytest.approx(
            expected, rel=0.01 if precision == "fp32" else 0.15, abs=1e-5
        )


def test_layers_get_the_sparsity_that_they_bear(tmp_path):
    """Second-order pruning spares the layer that loses more: the one whose inputs are all different."""
    model, feeds = folded(mlp(), tmp_path), mlp_feeds()
    layers = by_name(done(model, feeds, sparsity=0.5)[1])
    assert layers["m1"].sparsity < layers["m2"].sparsity - 0.05


@pytest.mark.parametrize("quiet", [0, 1])
def test_a_layer_that_the_outputs_hardly_hear_of_is_pruned_more(quiet):
    """Two branches of the same inputs and like weights, of which one is all but muted before the output."""
    model = graph(
        [
            node("Relu", "x", "r"),
            *[node("MatMul", f"r w{i}", f"m{i}") for i in range(2)],
            *[node("Mul", f"m{i} c{i}", f"s{i}") for i in range(2)],
            node("Add", "s0 s1", "a"),
            node("MatMul", "a w2", "y"),
        ],
        {"x": ("N", 24)},
        ["y"],
        {
            **{f"w{i}": normal(i + 1, 24, 24) for i in range(2)},
            **{f"c{i}": np.float32(0.02 if i == quiet else 1) for i in range(2)},
            "w2": normal(4, 24, 4),
        },
    )
    layers = by_name(done(model, [{"x": normal(10, 400, 24, scale=1.0)}], sparsity=0.4)[1])
    muted, heard = layers[f"m{quiet}"], layers[f"m{1 - quiet}"]
    assert muted.sparsity > heard.sparsity + 0.2
    assert muted.zeros + heard.zeros == pytest.approx(0.4 * 2 * 24 * 24, abs=2)


def test_a_model_that_gives_only_its_arg_max_is_pruned_by_what_its_layers_lose(tmp_path):
    model, feeds = folded(mlp(), tmp_path), mlp_feeds()
    layers = [layer.zeros for layer in done(model, feeds, sparsity=0.5)[1].layers]
    model.graph.node.append(node("ArgMax", "y", "best", axis=2))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("best", onnx.TensorProto.INT64, None))
    blind = by_name(done(model, feeds, sparsity=0.5)[1])
    assert sum(layer.zeros for layer in blind.values()) == pytest.approx(sum(layers), abs=2)
    assert blind["m1"].sparsity < blind["m2"].sparsity


def test_a_depthwise_convolution_keeps_its_sums(tmp_path):
    model = folded(convnet(), tmp_path)
    found, _ = done(model, images(), precision="int8")
    tensors = constants(found)
    scale = tensors["v2.weight.scale"].item()
    sums = tensors["v2.weight"].astype(np.float64).sum(axis=(1, 2, 3)) * scale
    assert np.abs(sums - constants(model)["k2"].sum(axis=(1, 2, 3))).max() < 0.51 * scale


def test_means_of_outputs_stay(tmp_path):
    """What pruning and rounding shift, the biases make good."""
    model, feeds = folded(convnet(), tmp_path), images()
    found, _ = done(model, feeds, sparsity=0.5)

    def mean(m: ModelProto) -> np.ndarray:
        return np.concatenate([run(m, feed, "y")[0] for feed in feeds]).mean(axis=0)

    assert np.abs(mean(found) - mean(model)).max() < 1e-3


@pytest.mark.slow
def test_progress_grows_to_the_total(case):
    model, feeds = case
    for settings in ({"sparsity": 0.5, "block": 4}, {"precision": "int8"}, {"sparsity": 0.5, "method": "magnitude"}):
        reported = []
        compress(model, feeds, CompressSettings(**settings), lambda *each: reported.append(each))  # noqa: B023
        counts, totals, shares = zip(*reported, strict=True)
        assert (list(shares), shares[0], shares[-1]) == (sorted(shares), 0.0, 1.0)
        assert list(counts) == sorted(counts)
        assert len(set(totals)) == 1
        assert counts[-1] == totals[-1]


@pytest.mark.parametrize(
    "wrong",
    [{"sparsity": 1.0}, {"sparsity": -0.1}, {"block": 0}, {"precision": "int4"}, {"tolerance": 0}, {"colour": "red"}],
)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        CompressSettings(**wrong)


def test_a_compressed_model_is_refused_if_given_again(tmp_path):
    """None of its layers can be compressed."""
    model, feeds = folded(mlp(), tmp_path), mlp_feeds(1)
    found, _ = done(model, feeds, precision="int8")
    assert Network(folded(found, tmp_path)).layers == []
