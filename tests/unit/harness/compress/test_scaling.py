"""Graphs that take bytes in place of floats."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from graphs import constants, convnet, distance, folded, graph, node, operators, run
from onnx import ModelProto, TensorProto, numpy_helper
from rounded import formula

from harness.compress.compress import CompressSettings, compress
from harness.compress.dequantise import read_plan
from harness.compress.inputs import range_of
from harness.compress.quantise import quantise
from harness.compress.scaling import Scaling
from harness.engines.base import Signature
from harness.engines.deepsparse import DeepSparseEngine
from harness.engines.openvino import OpenVinoEngine
from harness.registry import installed

ALIKE = Scaling((126.99,) * 3, (128.01,) * 3, 1)
"""The bytes are the 8 bits of the floats."""
COLOURS = Scaling((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 1)
FORMS = ("deepsparse", "openvino")
ENGINES = {"deepsparse": DeepSparseEngine, "openvino": OpenVinoEngine}


def pixels(seed: int, axis: int = 1) -> np.ndarray:
    """Bytes for `convnet`, of which many are black or white at the edges, where padding matters."""
    found = np.random.default_rng(seed).integers(-60, 316, (6, 20, 20, 3)).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(np.moveaxis(found, 3, axis))


def floats(values: np.ndarray, scaling: Scaling) -> np.ndarray:
    shape = [3 if axis == scaling.axis else 1 for axis in range(4)]
    mean, deviation = (np.array(part, np.float64).reshape(shape) for part in (scaling.mean, scaling.deviation))
    return ((values - mean) / deviation).astype(np.float32)


def made(model: ModelProto, scaling: Scaling, form: str, *, given: bool = True, **settings: object) -> ModelProto:
    feeds = [{"x": floats(pixels(seed, scaling.axis), scaling)} for seed in (1, 2)]
    chosen = CompressSettings(precision="int8", engine=form, **settings)
    found, _ = compress(model, feeds, chosen, scalings={"x": scaling} if given else {})
    onnx.checker.check_model(found)
    return found


def takes_bytes(model: ModelProto) -> bool:
    return [value.type.tensor_type.elem_type for value in model.graph.input] == [TensorProto.UINT8]


@pytest.mark.parametrize("form", FORMS)
def test_bytes_that_are_the_8_bits_go_straight_into_the_first_layer(tmp_path, form):
    dense = folded(convnet(), tmp_path)
    found, before = made(dense, ALIKE, form), made(dense, ALIKE, form, given=False)
    assert takes_bytes(found)
    assert not takes_bytes(before)
    assert operators(found).get("QuantizeLinear") == operators(before)["QuantizeLinear"] - 1
    assert not {"Cast", "Sub"} & {*operators(made(dense, ALIKE, "openvino"))}
    values = pixels(3)
    expected = run(dense, {"x": floats(values, ALIKE)})[0]
    rounded = run(before, {"x": floats(values, ALIKE)})[0]
    assert distance(run(found, {"x": values})[0], expected) < max(0.03, 1.2 * distance(rounded, expected))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scaling", [COLOURS, Scaling((126.8,) * 3, (127.5,) * 3, 1)], ids=["colours", "not a byte"])
def test_other_bytes_are_normalised_first_to_the_same_numbers(tmp_path, form, scaling):
    dense, values = folded(convnet(), tmp_path), pixels(3)
    found, before = made(dense, scaling, form), made(dense, scaling, form, given=False)
    assert takes_bytes(found)
    assert [item.op_type for item in found.graph.node[:4]] == ["Cast", "Sub", "Mul", "QuantizeLinear"]
    new, old = run(found, {"x": values})[0], run(before, {"x": floats(values, scaling)})[0]
    np.testing.assert_allclose(new, old, rtol=0, atol=1e-5 * np.abs(old).max())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scaling", [ALIKE, COLOURS], ids=["alike", "colours"])
def test_a_first_layer_in_floating_point_reads_the_same_numbers(tmp_path, form, scaling):
    dense, values = folded(convnet(), tmp_path), pixels(3)
    settings = {"keep": ("v0",)}
    found, before = made(dense, scaling, form, **settings), made(dense, scaling, form, given=False, **settings)
    assert takes_bytes(found)
    new, old = run(found, {"x": values})[0], run(before, {"x": floats(values, scaling)})[0]
    assert distance(new, old) < (0.02 if scaling is ALIKE else 1e-4)  # 126.99 counts as 127


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scaling", [ALIKE, COLOURS], ids=["alike", "colours"])
def test_channels_may_come_last(tmp_path, form, scaling):
    first = convnet()
    nodes = [node("Transpose", "x", "t", perm=[0, 3, 1, 2]), *first.graph.node]
    nodes[1].input[0] = "t"
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in first.graph.initializer}
    dense = folded(graph(nodes, {"x": ("N", 20, 20, 3)}, ["y"], weights), tmp_path)
    scaling = Scaling(scaling.mean, scaling.deviation, 3)
    found, values = made(dense, scaling, form), pixels(3, 3)
    assert takes_bytes(found)
    assert distance(run(found, {"x": values})[0], run(dense, {"x": floats(values, scaling)})[0]) < 0.05
    if range_of(scaling):
        stem = next(item for item in found.graph.node if "Conv" in item.op_type)
        zero = {"QLinearConv": lambda: stem.input[2], "Conv": lambda: f"{stem.input[0].removesuffix('.f')}.zero"}
        assert constants(found)[zero[stem.op_type]()] == 127


@pytest.mark.parametrize("scaling", [ALIKE, COLOURS], ids=["alike", "colours"])
def test_the_form_of_one_engine_becomes_that_of_another(tmp_path, scaling):
    dense, values = folded(convnet(), tmp_path), pixels(3)
    qdq = made(dense, scaling, "openvino")
    found = quantise(read_plan(qdq), "deepsparse")
    onnx.checker.check_model(found)
    assert takes_bytes(found)
    assert operators(found)["QLinearConv"] == 5
    assert distance(run(found, {"x": values})[0], run(qdq, {"x": values})[0]) < 2e-2
    stem = next(item for item in found.graph.node if item.op_type == "QLinearConv")
    assert (stem.input[0] == "x") == (scaling is ALIKE)


def test_bytes_that_are_read_back_give_the_very_graph_of_the_other_engine(tmp_path):
    model = graph(
        [node("Conv", "x k b", "v", pads=[1, 1, 1, 1]), node("Relu", "v", "y")],
        {"x": ("N", 3, 20, 20)},
        ["y"],
        {"k": constants(convnet())["k0"], "b": constants(convnet())["c0"]},
    )
    dense = folded(model, tmp_path)
    back = quantise(read_plan(made(dense, ALIKE, "openvino")), "deepsparse")
    assert formula(back) == formula(made(dense, ALIKE, "deepsparse"))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("scaling", [ALIKE, COLOURS], ids=["alike", "colours"])
def test_every_engine_takes_the_bytes(tmp_path, name, scaling):
    if name not in installed():
        pytest.skip(f"{name} is not installed")
    found, values = made(folded(convnet(), tmp_path), scaling, name), pixels(3)
    path = tmp_path / "bytes.onnx"
    onnx.save(found, str(path))
    engine = ENGINES[name](path, ENGINES[name].Settings(streams=1, threads=1))
    assert [tensor.dtype for tensor in engine.inputs] == [np.uint8]
    (answer,) = engine.compile(Signature({"x": values.shape}, {"y": (6, 10)}))({"x": values})
    assert distance(answer, run(found, {"x": values})[0]) < 0.03
    assert engine.remark() == ""


@pytest.mark.parametrize(
    ("mean", "deviation", "zero"),
    [
        ((127.0,) * 3, (128.0,) * 3, 127),
        ((126.99,) * 3, (128.01,) * 3, 127),
        ((0.0,), (255.0,), 0),
        ((126.9,) * 3, (128.0,) * 3, None),
        ((256.0,) * 3, (1.0,) * 3, None),
        ((127.0, 127.0, 126.0), (1.0,) * 3, None),
        ((127.0,) * 3, (1.0, 1.0, 2.0), None),
    ],
)
def test_one_zero_point_is_the_mean_of_all_channels_or_none(mean, deviation, zero):
    span = range_of(Scaling(mean, deviation, 1))
    if zero is None:
        assert span is None
    else:
        assert (span.zero, span.scale) == (zero, np.float32(1 / deviation[0]))


def test_without_8_bits_an_input_stays_as_it_is(tmp_path):
    dense = folded(convnet(), tmp_path)
    feeds = [{"x": floats(pixels(1), ALIKE)}]
    found, _ = compress(dense, feeds, CompressSettings(sparsity=0.5, method="magnitude"), scalings={"x": ALIKE})
    assert not takes_bytes(found)
