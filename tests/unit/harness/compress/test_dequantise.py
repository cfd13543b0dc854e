"""QDQ graphs, read back and written in other operators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from graphs import constants, distance, folded, graph, node, normal, operators, run
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, helper, numpy_helper
from rounded import CASES, formula, round_all

from harness.compress.dequantise import multiplications, obstacle, read_plan
from harness.compress.quantise import quantise
from harness.compress.ranges import Range

QDQ = ("QuantizeLinear", "DequantizeLinear")


def converted(model: ModelProto) -> ModelProto:
    plan = read_plan(model)
    assert plan is not None
    found = quantise(plan, "deepsparse")
    if all(value.type.tensor_type.HasField("shape") for value in found.graph.output):  # as inferred
        onnx.checker.check_model(found)
    return found


@given(scale=st.floats(2.0**-30, 2.0**13, width=32), zero=st.integers(0, 255))
def test_a_range_keeps_scale_and_zero_point_exactly(scale, zero):
    span = Range.of_steps(np.float32(scale), zero)
    assert (span.scale, span.zero) == (np.float32(scale), zero)


@pytest.mark.parametrize("per_output", [False, True])
@pytest.mark.parametrize("name", ["mlp", "convnet", "embedder"])
def test_what_was_written_for_openvino_is_read_back_exactly(tmp_path, name, per_output):
    make, feeds = CASES[name]
    model = folded(make(), tmp_path)
    plan = round_all(model, feeds(), per_output=per_output)
    qdq = quantise(plan, "openvino")
    before = qdq.SerializeToString()
    back = read_plan(qdq)
    assert qdq.SerializeToString() == before
    assert len(back.rounded) == len(plan.rounded)
    for (_, found), (_, expected) in zip(
        sorted(back.rounded.items(), key=lambda item: item[1].values.tobytes()),
        sorted(plan.rounded.items(), key=lambda item: item[1].values.tobytes()),
        strict=True,
    ):
        np.testing.assert_array_equal(found.values, expected.values)
        np.testing.assert_array_equal(found.scale, expected.scale)
    assert back.products == plan.products
    for tensor, span in plan.ranges.items():
        if tensor in back.ranges:
            assert (back.ranges[tensor].scale, back.ranges[tensor].zero) == (span.scale, span.zero)
    assert multiplications(qdq) == len(back.rounded) + len(back.products)


@pytest.mark.parametrize("per_output", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_the_integers_compute_what_the_qdq_graph_does(tmp_path, name, per_output):
    make, feeds = CASES[name]
    model = folded(make(), tmp_path)
    opset = model.opset_import[0].version
    if per_output and opset < 13:
        pytest.skip("DequantizeLinear has no axis yet")
    plan = round_all(model, feeds(), per_output=per_output, convolutions=True)
    qdq = quantise(plan, "openvino")
    found = converted(qdq)
    made = operators(found)
    assert not {"MatMul", "Gemm", "Conv"} & {*made}
    # Without VNNI, ONNX Runtime's sums of weights that all reach their largest integer overflow 16 bits.
    bound = 8e-3 if "vnni" in Path("/proc/cpuinfo").read_text() else 2e-2
    for feed in feeds():
        assert distance(run(found, feed)[0], run(qdq, feed)[0]) < bound
    for old, new in ((qdq.graph.input, found.graph.input), (qdq.graph.output, found.graph.output)):
        assert [value.SerializeToString() for value in old] == [value.SerializeToString() for value in new]


@pytest.mark.parametrize("per_output", [False, True])
@pytest.mark.parametrize("name", ["mlp", "embedder"])
def test_the_graph_is_the_one_that_is_written_for_deepsparse(tmp_path, name, per_output):
    make, feeds = CASES[name]
    plan = round_all(folded(make(), tmp_path), feeds(), per_output=per_output)
    assert formula(converted(quantise(plan, "openvino"))) == formula(quantise(plan, "deepsparse"))


def test_tables_that_the_file_has_in_floating_point_stay_so(tmp_path):
    """What was not quantised by the file's maker is not quantised here."""
    make, feeds = CASES["embedder"]
    model = folded(make(), tmp_path)
    qdq = quantise(round_all(model, feeds()), "openvino")
    table = next(t for t in model.graph.initializer if t.name == "table")
    for item in list(qdq.graph.node):
        if item.op_type == "Gather":
            item.input[0], item.output[0] = "table", "e"
        elif item.op_type == "DequantizeLinear" and item.output[0] == "e":
            qdq.graph.node.remove(item)
    qdq.graph.initializer.append(table)
    found = converted(qdq)
    assert [t.dtype for t in constants(found).values() if t.shape == (1100, 32)] == [np.float32]
    assert distance(run(found, feeds()[0])[0], run(qdq, feeds()[0])[0]) < 1e-2


def product(before="x s z", after="xq s z", weight=(), tail=(), outputs=("y",), **more) -> ModelProto:
    """x (N, 8) times an int8 weight (8, 6) plus a bias, both quantised."""
    nodes = [
        node("QuantizeLinear", before, "xq"),
        node("DequantizeLinear", after, "xf"),
        *(weight or [node("DequantizeLinear", "w ws wz", "wf")]),
        node("MatMul", "xf wf", "m"),
        node("DequantizeLinear", "b bs", "bf"),
        node("Add", "m bf", "y"),
        *tail,
    ]
    values = {
        "s": np.float32(0.03),
        "z": np.uint8(120),
        "w": np.random.default_rng(1).integers(-127, 128, (8, 6)).astype(np.int8),
        "ws": np.float32(0.01),
        "wz": np.int8(0),
        "b": np.arange(-300, 300, 100, dtype=np.int32),
        "bs": np.float32(0.03 * 0.01),
        **more,
    }
    used = {name for item in nodes for name in item.input}
    return graph(nodes, {"x": ("N", 8)}, outputs, {name: values[name] for name in values if name in used})


X = {"x": normal(9, 50, 8, scale=1.0)}
CHAIN = {"QuantizeLinear": 1, "MatMulInteger": 1, "Add": 1, "Cast": 1, "Mul": 1}


def exact(model: ModelProto, bound: float = 1e-6) -> ModelProto:
    """The converted graph, which computes the same."""
    found = converted(model)
    for old, new in zip(run(model, X), run(found, X), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=bound * max(1, np.abs(old).max()))
    return found


PER_OUTPUT = {"ws": np.linspace(0.005, 0.02, 6, dtype=np.float32), "wz": np.zeros(6, np.int8)}
CONSTANT = numpy_helper.from_array(normal(1, 8, 6, scale=50).astype(np.int8))
VARIANTS = {
    "uint8": product(),
    "int8": product(z=np.int8(-8)),
    "int8 of zero point 0": product(z=np.int8(0)),
    "without zero points": product("x s", "xq s", [node("DequantizeLinear", "w ws", "wf")]),
    "constants in nodes": product(
        weight=[node("Constant", "", "w2", value=CONSTANT), node("DequantizeLinear", "w2 ws wz", "wf")]
    ),
    "uint8 weights": product(w=np.random.default_rng(1).integers(1, 256, (8, 6)).astype(np.uint8), wz=np.uint8(128)),
    "a weight stored transposed": product(
        weight=[node("DequantizeLinear", "w ws wz", "wt", axis=0), node("Transpose", "wt", "wf", perm=[1, 0])],
        w=np.random.default_rng(1).integers(-127, 128, (6, 8)).astype(np.int8),
        **PER_OUTPUT,
    ),
    "a scale for each output": product(
        weight=[node("DequantizeLinear", "w ws wz", "wf", axis=-1)],
        bs=np.float32(0.03) * PER_OUTPUT["ws"],
        **PER_OUTPUT,
    ),
    "a weight that the graph quantises": product(
        weight=[node("QuantizeLinear", "w ws wz", "wq"), node("DequantizeLinear", "wq ws wz", "wf")],
        w=normal(3, 8, 6, scale=0.5),
    ),
    "a bias in floating point": product(tail=[], b=np.arange(-3, 3, dtype=np.int8), bs=np.float32(0.1)),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_and_activations_as_quantisers_write_them(variant):
    model = VARIANTS[variant]
    for item in model.graph.node:  # DequantizeLinear of a scale for each output needs its axis
        if item.op_type == "DequantizeLinear" and item.input[0] == "b" and "each output" in variant:
            item.attribute.append(helper.make_attribute("axis", 0))
    onnx.checker.check_model(model)
    step = 0.5 * 0.03 * 0.02 if "floating" in variant or "transposed" in variant else 1e-6
    assert operators(exact(model, max(step, 1e-6))) == CHAIN


@pytest.mark.parametrize(
    "left",
    [
        product(wz=np.int8(1)),
        product(w=np.zeros((8, 6), np.uint8), wz=np.uint8(7)),
        product(
            weight=[node("DequantizeLinear", "w ws wz", "wf", axis=0)],
            ws=np.ones(8, np.float32),
            wz=np.zeros(8, np.int8),
        ),
        product(after="xq s2 z", s2=np.float32(0.04)),
    ],
    ids=["weights with a zero point", "asymmetric uint8 weights", "a scale for each input", "two scales"],
)
def test_what_is_not_symmetric_or_has_other_scales_is_left(left):
    assert read_plan(left) is None


def test_a_graph_in_floating_point_gives_no_plan():
    assert read_plan(graph([node("MatMul", "x w", "y")], {"x": ("N", 8)}, ["y"], {"w": normal(1, 8, 6)})) is None


def test_what_other_operators_read_stays_rounded():
    """They get the same bytes, dequantised once."""
    model = product(
        tail=[node("Relu", "xf", "r"), node("ReduceMean", "xf", "n", axes=[1])], outputs=["y", "r", "n", "xf"]
    )
    found = exact(model)
    assert operators(found)["QuantizeLinear"] == operators(found)["DequantizeLinear"] == 1


def test_another_range_of_the_same_tensor_stays_with_those_that_read_it():
    more = [node("QuantizeLinear", "x s2 z", "xq2"), node("DequantizeLinear", "xq2 s2 z", "xf2")]
    model = product(
        tail=[
            *more,
            node("Relu", "xf2", "r"),
            node("MatMul", "xf2 vf", "v"),
            node("DequantizeLinear", "w ws wz", "vf"),
        ],
        outputs=["y", "r", "v"],
        s2=np.float32(0.01),
    )
    found = exact(model)
    assert operators(found)["MatMul"] == operators(found)["MatMulInteger"] == 1


def test_a_product_of_activations_may_be_quantised_before_its_transposition():
    model = product(
        tail=[node("Transpose", "xf2", "xt", perm=[1, 0]), node("MatMul", "xf xt", "p")], outputs=["y", "p"]
    )
    second = node("DequantizeLinear", "xq s z", "xf2")  # quantisers give each reader its own
    model.graph.node.insert(2, second)
    found = exact(model)
    assert operators(found)["MatMulInteger"] == 2
    assert "MatMul" not in operators(found)


def convolution(tail, result, outputs=("y",), **more) -> ModelProto:
    """A quantised convolution c of x, what comes after it, and the 8 bits y of ``result``."""
    return graph(
        [
            node("QuantizeLinear", "x s z", "xq"),
            node("DequantizeLinear", "xq s z", "xf"),
            node("DequantizeLinear", "w ws wz", "wf", axis=0),
            node("DequantizeLinear", "b bs", "bf", axis=0),
            node("Conv", "xf wf bf", "c", pads=[1, 1, 1, 1]),
            *tail,
            node("QuantizeLinear", f"{result} t tz", "yq"),
            node("DequantizeLinear", "yq t tz", "y"),
        ],
        {"x": ("N", 3, 8, 8)},
        outputs,
        {
            "s": np.float32(0.03),
            "z": np.uint8(120),
            "w": np.random.default_rng(1).integers(-63, 64, (4, 3, 3, 3)).astype(np.int8),
            "ws": np.linspace(0.005, 0.02, 4, dtype=np.float32),
            "wz": np.zeros(4, np.int8),
            "b": np.arange(-300, 100, 100, dtype=np.int32),
            "bs": np.float32(0.03) * np.linspace(0.005, 0.02, 4, dtype=np.float32),
            "t": np.float32(6 / 255),
            "tz": np.uint8(0),
            "low": np.float32(0),
            "six": np.float32(6),
            **more,
        },
    )


PIXELS = {"x": normal(30, 4, 3, 8, 8, scale=2.0)}


@pytest.mark.parametrize(
    ("tail", "result", "more", "whole"),
    [
        ([], "c", {}, True),
        ([node("Relu", "c", "r")], "r", {}, True),
        ([node("Clip", "c low six", "r")], "r", {}, True),
        ([node("Clip", "c low six", "r")], "r", {"six": np.float32(5.9999)}, True),  # less than half a step
        ([node("Clip", "c low six", "r")], "r", {"six": np.float32(4)}, False),
        ([node("Relu", "c", "r")], "r", {"tz": np.uint8(128)}, False),
        ([node("Sigmoid", "c", "r")], "r", {}, False),
    ],
)
def test_a_convolution_is_in_8_bits_if_its_output_is(tail, result, more, whole):
    model = convolution(tail, result, **more)
    if not whole:
        assert read_plan(model) is None
        return
    found = converted(model)
    assert operators(found) == {"QuantizeLinear": 1, "QLinearConv": 1, "DequantizeLinear": 1, "Identity": 1}
    new, old = run(found, PIXELS)[0], run(model, PIXELS)[0]
    assert np.abs(new - old).max() < 1.1 * 6 / 255
    assert distance(new, old) < 5e-3


def test_a_convolution_whose_exact_output_others_read_stays_float():
    assert read_plan(convolution([node("Neg", "c", "n")], "c", ["y", "n"])) is None


BODY = helper.make_graph([], "g", [], [])


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda node: setattr(node, "domain", "com.microsoft"), "com.microsoft"),
        (
            lambda node: node.attribute.append(helper.make_attribute("body", helper.make_graph([], "g", [], []))),
            "branches",
        ),
    ],
)
def test_graphs_that_cannot_be_read_back_say_why(change, why):
    model = product()
    change(model.graph.node[0])
    assert why in obstacle(model)
    assert read_plan(model) is None


def test_unused_domains_of_operators_are_dropped():
    """onnxruntime.quantization declares several, and DeepSparse refuses them."""
    model = product()
    model.opset_import.insert(0, helper.make_opsetid("ai.onnx.ml", 5))
    assert [(entry.domain, entry.version) for entry in converted(model).opset_import] == [("", 13)]


@pytest.mark.parametrize("kind", ["QInt8", "QUInt8"])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("name", ["mlp", "convnet", "embedder"])
def test_graphs_of_onnx_runtimes_quantiser_are_read(tmp_path, name, per_channel, kind):
    quantization = pytest.importorskip("onnxruntime.quantization")
    make, feeds = CASES[name]
    source, target = tmp_path / "model.onnx", tmp_path / "qdq.onnx"
    onnx.save(make(), str(source))

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.rest = iter(feeds())

        def get_next(self):
            return next(self.rest, None)

    quantization.quantize_static(
        *(str(source), str(target), Reader()),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=getattr(quantization.QuantType, kind),
        weight_type=quantization.QuantType.QInt8,
    )
    model = onnx.load(str(target))
    found = converted(model)
    assert {*operators(found)} & {"MatMulInteger", "QLinearConv"}
    for feed in feeds():
        assert distance(run(found, feed)[0], run(model, feed)[0]) < 0.03
