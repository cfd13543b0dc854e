from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from harness.compress.inputs import range_of
from harness.engines.deepsparse import DeepSparseEngine
from harness.engines.onnxruntime import OnnxRuntimeEngine
from harness.errors import ConfigError
from harness.graph import read_graph
from harness.registry import installed
from resnet50.interface import choose_layout, match_output, settled_outputs
from resnet50.preprocess import PROFILES, normaliser
from resnet50.qsl import ImageLayout
from resnet50.task import ResNet50

NHWC = ImageLayout(channels_first=False)


def classifier(path, *, dims, output=("N", 1000), channels_first=True, dtype=TensorProto.FLOAT):
    """The mean of each channel, multiplied to 1000 classes; its declarations are given."""
    nodes = [
        *([] if channels_first else [helper.make_node("Transpose", ["images"], ["x"], perm=[0, 3, 1, 2])]),
        helper.make_node("Conv", ["images" if channels_first else "x", "kernel"], ["c"], strides=[32, 32]),
        helper.make_node("GlobalAveragePool", ["c"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["logits"]),
    ]
    weights = {"kernel": np.ones((2, 3, 3, 3), np.float32), "w": np.ones((2, 1000), np.float32)}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("images", dtype, dims)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path, read_graph(path)


OPEN = ("a", "b", "c", "d")


@pytest.mark.parametrize("channels_first", [True, False])
def test_a_layout_that_the_graph_leaves_open_is_tried(tmp_path, channels_first):
    path, graph = classifier(tmp_path / "m.onnx", dims=OPEN, channels_first=channels_first)
    assert choose_layout(graph.inputs, path).channels_first == channels_first


def test_a_layout_can_be_given_unless_the_graph_declares_another(tmp_path):
    path, graph = classifier(tmp_path / "m.onnx", dims=OPEN, channels_first=False)
    assert choose_layout(graph.inputs, path, "NHWC") == NHWC
    path, graph = classifier(tmp_path / "m.onnx", dims=("N", 224, 224, 3), channels_first=False)
    assert choose_layout(graph.inputs, path) == NHWC
    with pytest.raises(ConfigError, match=r"layout is NCHW, but .* images float32 \(\?, 224, 224, 3\): omit layout"):
        choose_layout(graph.inputs, path, "NCHW")


def test_a_model_that_runs_with_neither_layout_is_refused(tmp_path):
    path, graph = classifier(tmp_path / "m.onnx", dims=OPEN)
    model = onnx.load(path)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.ones((2, 5, 3, 3), np.float32), "kernel"))
    onnx.save(model, path)
    with pytest.raises(ConfigError, match=r"its input images float32 \(\?, \?, \?, \?\) leaves the layout open"):
        choose_layout(graph.inputs, path)


@pytest.mark.parametrize("output", [None, ("q", "r")])
def test_classes_that_the_graph_leaves_open_are_those_that_it_returns(tmp_path, output):
    path, graph = classifier(tmp_path / "m.onnx", dims=("N", 3, 224, 224), output=output)
    with pytest.raises(ConfigError, match="not an ImageNet classifier"):
        match_output(graph.outputs)
    found, classes = match_output(settled_outputs(graph.outputs, path, graph.inputs[0], ImageLayout()))
    assert (found.name, found.dims, classes) == ("logits", (None, 1000), 1000)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_deepsparse_refuses_types_that_it_lacks_and_names_the_engine_that_has_them(tmp_path, dtype):
    if "deepsparse" not in installed():
        pytest.skip("DeepSparse is not installed")
    path, graph = classifier(tmp_path / "m.onnx", dims=("N", 3, 224, 224), dtype=dtype)
    name = TensorProto.DataType.Name(dtype).lower()
    assert str(graph.inputs[0]) == f"images {name} (?, 3, 224, 224)"
    with pytest.raises(ConfigError, match=f"no type for images {name} .*: use --engine onnxruntime"):
        DeepSparseEngine(path, DeepSparseEngine.Settings())


@pytest.mark.parametrize("dtype", [TensorProto.DOUBLE, TensorProto.BFLOAT16])
def test_an_input_type_that_images_are_not_held_in_is_refused(tmp_path, dtype):
    path, graph = classifier(tmp_path / "m.onnx", dims=("N", 3, 224, 224), dtype=dtype)
    with pytest.raises(ConfigError, match=r"images (bfloat16|float64) .*; one is expected"):
        choose_layout(graph.inputs, path)


def test_both_readers_name_a_type_that_numpy_lacks(tmp_path):
    path, _ = classifier(tmp_path / "m.onnx", dims=("N", 3, 224, 224))
    model = onnx.load(path)
    model.graph.node[-1].output[0] = "f32"
    model.graph.node.append(helper.make_node("Cast", ["f32"], ["logits"], to=TensorProto.BFLOAT16))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.BFLOAT16
    onnx.save(model, path)
    engine = OnnxRuntimeEngine(path, OnnxRuntimeEngine.Settings(streams=1, threads=1))
    assert str(engine.outputs[0]) == str(read_graph(path).outputs[0]) == "logits bfloat16 (?, 1000)"


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("name", PROFILES)
def test_a_graph_that_takes_pixels_scales_them_as_the_profile_does(tmp_path, name, channels_first):
    dims = ("N", 3, 224, 224) if channels_first else ("N", 224, 224, 3)
    path, graph = classifier(tmp_path / "m.onnx", dims=dims, channels_first=channels_first)
    benchmark = ResNet50(ResNet50.Settings(preprocessing=name), tmp_path)
    ((tensor, scaling),) = benchmark.scalings(graph.inputs, path).items()
    image = np.random.default_rng(1).integers(0, 256, (224, 224, 3)).astype(np.uint8)
    expected = np.empty(image.shape, np.float32)
    normaliser(PROFILES[name])(image, expected)
    found = (image - np.array(scaling.mean)) / np.array(scaling.deviation)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)
    assert (tensor, scaling.axis) == ("images", 1 if channels_first else 3)
    assert (range_of(scaling) is not None) == (name == "efficientnet-lite")


@pytest.mark.parametrize("dtype", [TensorProto.UINT8, TensorProto.FLOAT16])
def test_only_images_in_float32_become_pixels(tmp_path, dtype):
    path, graph = classifier(tmp_path / "m.onnx", dims=("N", 3, 224, 224), dtype=dtype)
    assert ResNet50(ResNet50.Settings(), tmp_path).scalings(graph.inputs, path) == {}
