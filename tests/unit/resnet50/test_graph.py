from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper, shape_inference

from harness.engines.base import Signature
from harness.engines.deepsparse import DeepSparseEngine
from harness.engines.onnxruntime import OnnxRuntimeEngine
from harness.engines.openvino import OpenVinoEngine
from harness.graph import read_graph
from harness.models.weights import RandomWeights
from harness.registry import installed
from harness.task.shape import Shape
from resnet50.architecture import build_resnet50
from resnet50.qsl import IMAGES, ImageLayout
from resnet50.sut import ResNet50SUT

IMAGE, ARG_MAX, SOFTMAX = "input_tensor:0", "ArgMax:0", "softmax_tensor:0"
ENGINES = {"deepsparse": DeepSparseEngine, "onnxruntime": OnnxRuntimeEngine, "openvino": OpenVinoEngine}


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return build_resnet50(RandomWeights(7))


@pytest.fixture(scope="module")
def path(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("resnet50") / "random.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture(scope="module")
def shapes(model) -> dict[str, tuple[int, ...]]:
    """Of every tensor of one image, without the batch dimension, and of every weight."""
    inferred = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    found = {tensor.name: tuple(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        found[value.name] = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim[1:])
    return found


@pytest.fixture(params=ENGINES)
def engine(request, path):
    if request.param == "deepsparse" and "deepsparse" not in installed():
        pytest.skip("DeepSparse is not installed")
    engine_class = ENGINES[request.param]
    exact = {"precision": "f32"} if request.param == "openvino" else {}
    return engine_class(path, engine_class.Settings(threads=2, streams=1, **exact))


def attributes(node: onnx.NodeProto) -> dict[str, object]:
    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def nodes(model: onnx.ModelProto, op: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op]


def noise(count: int, seed: int = 1) -> np.ndarray:
    """Images as they look once their mean is subtracted, on the scale of 0 to 255."""
    return np.random.default_rng(seed).standard_normal((count, 3, 224, 224), dtype=np.float32) * np.float32(64)


def test_the_nodes_are_those_of_the_reference(model):
    assert Counter(node.op_type for node in model.graph.node) == {
        "Conv": 53,
        "Relu": 49,
        "Add": 17,
        "MaxPool": 1,
        "ReduceMean": 1,
        "Squeeze": 1,
        "MatMul": 1,
        "Softmax": 1,
        "ArgMax": 1,
    }
    assert all(len(node.input) == 3 for node in nodes(model, "Conv"))  # the bias of a folded batch normalisation


def test_nodes_and_tensors_have_the_names_that_scripts_for_the_reference_use(model):
    names = {node.name for node in model.graph.node}
    assert {f"resnet_model/Relu{n}" for n in ("", *(f"_{n}" for n in range(1, 49)))} <= names
    assert {f"resnet_model/conv2d{n}/Conv2D" for n in ("", *(f"_{n}" for n in range(1, 53)))} <= names
    assert {f"resnet_model/add{n}" for n in ("", *(f"_{n}" for n in range(1, 16)))} <= names
    assert [node.name for node in model.graph.node[-6:]] == [
        "resnet_model/Mean",
        "resnet_model/Squeeze",
        "resnet_model/dense/MatMul",
        "resnet_model/dense/BiasAdd",
        "softmax_tensor",
        "ArgMax",
    ]
    tensors = {tensor for node in model.graph.node for tensor in (*node.input, *node.output)}
    assert {"resnet_model/Relu_48:0", "resnet_model/dense/BiasAdd:0", "resnet_model/dense/kernel/read:0"} <= tensors


def test_any_engine_of_the_last_years_can_read_it(model):
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 11)]
    assert model.ir_version == 7
    assert [value.name for value in model.graph.input] == [IMAGE]
    assert [value.name for value in model.graph.output] == [ARG_MAX, SOFTMAX]
    for value in (*model.graph.input, *model.graph.output):
        assert value.type.tensor_type.shape.dim[0].dim_param == "N"


def test_the_stride_of_a_bottleneck_is_in_its_3x3_convolution(model):
    producer = {node.output[0]: node for node in nodes(model, "Conv")}
    relued = {node.input[0] for node in nodes(model, "Relu")}
    strided = {name: node for name, node in producer.items() if attributes(node)["strides"] == [2, 2]}
    assert all(attributes(node)["strides"] == [1, 1] for name, node in producer.items() if name not in strided)
    in_branches = [attributes(node)["kernel_shape"] for name, node in strided.items() if name in relued]
    projections = [attributes(node)["kernel_shape"] for name, node in strided.items() if name not in relued]
    assert in_branches == [[7, 7], [3, 3], [3, 3], [3, 3]]
    assert projections == [[1, 1]] * 3


def test_padding_is_that_of_tensorflow(model):
    for node in nodes(model, "Conv"):
        found = attributes(node)
        assert found["pads"] == {1: [0] * 4, 3: [1] * 4, 7: [3] * 4}[found["kernel_shape"][0]]
        assert found["dilations"] == [1, 1]
    (pool,) = nodes(model, "MaxPool")
    assert attributes(pool) == {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [0, 0, 1, 1]}


def test_the_main_branch_comes_first_in_each_sum_and_the_shortcut_second(model):
    producer = {node.output[0]: node.op_type for node in model.graph.node}
    convolved = {node.output[0]: node.input[0] for node in nodes(model, "Conv")}
    for number, node in enumerate(nodes(model, "Add")[:-1]):
        main, shortcut = node.input
        assert producer[convolved[main]] == "Relu"
        assert producer[shortcut] == ("Conv" if number in (0, 3, 7, 13) else "Relu")


def test_every_stage_has_its_published_shape(model, shapes):
    stages = [(256, 56, 56)] * 3, [(512, 28, 28)] * 4, [(1024, 14, 14)] * 6, [(2048, 7, 7)] * 3
    sums = nodes(model, "Add")
    assert [shapes[node.output[0]] for node in sums[:-1]] == [shape for stage in stages for shape in stage]
    assert shapes[nodes(model, "Relu")[0].output[0]] == (64, 112, 112)
    assert shapes[nodes(model, "MaxPool")[0].output[0]] == (64, 56, 56)
    assert shapes["resnet_model/Mean:0"] == (2048, 1, 1)
    assert shapes["resnet_model/Squeeze:0"] == (2048,)
    assert shapes[SOFTMAX] == shapes[sums[-1].output[0]] == (1001,)
    assert shapes[ARG_MAX] == ()


def test_parameters_and_multiplications_are_those_that_others_count(model, shapes):
    # torchvision's resnet50 (which has v1.5's strides): 25,557,032 parameters, 4,089,184,256 multiplications. Folded in
    # are the 53 batch normalisations of 26,560 channels, and here is one class more.
    used = {name for node in model.graph.node for name in node.input}
    assert all(tensor.name in used for tensor in model.graph.initializer)
    assert sum(np.prod(tensor.dims) for tensor in model.graph.initializer) == 25_557_032 - 26_560 + 2048 + 1
    convolutions = sum(
        np.prod(shapes[node.input[1]]) * np.prod(shapes[node.output[0]][1:]) for node in nodes(model, "Conv")
    )
    assert convolutions + np.prod(shapes["resnet_model/dense/kernel/read:0"]) == 4_089_184_256 + 2048


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_other_weights(model):
    same, other = build_resnet50(RandomWeights(7)), build_resnet50(RandomWeights(8))
    assert same.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
    for mine, theirs in zip(model.graph.initializer, other.graph.initializer, strict=True):
        assert mine.name == theirs.name
        assert mine.raw_data != theirs.raw_data


def test_it_says_that_its_weights_are_random(path):
    assert read_graph(path).metadata == {"architecture": "ResNet50 v1.5", "weights": "random weights, seed 7"}


def test_no_filter_sees_what_all_channels_have_in_common(model):
    for tensor in model.graph.initializer:
        weights = numpy_helper.to_array(tensor)
        assert np.isfinite(weights).all()
        if weights.ndim > 1:
            filters = weights.T if weights.ndim == 2 else weights.reshape(len(weights), -1)
            assert np.abs(filters.mean(axis=1)).max() < 1e-3 * weights.std()


@pytest.mark.slow
def test_activations_keep_their_scale_and_half_of_them_are_zero(model):
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(onnx.ValueInfoProto(name=node.output[0]) for node in nodes(model, "Relu"))
    session = ort.InferenceSession(tapped.SerializeToString(), providers=["CPUExecutionProvider"])
    _, _, *activations = session.run(None, {IMAGE: noise(1)})
    assert len(activations) == 49
    for activation in activations:
        assert 0.7 < np.sqrt(np.square(activation).mean()) < 2.5
        assert 0.15 < (activation == 0).mean() < 0.6


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1.0, 1 / 64], ids=["mlperf", "unit-variance"])
def test_answers_vary_whatever_the_scale_of_the_images(path, scale):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    answers = []
    for seed in range(3):
        found, probabilities = session.run(None, {IMAGE: noise(4, seed) * np.float32(scale)})
        assert found.dtype == np.int64
        assert np.isfinite(probabilities).all()
        assert np.allclose(probabilities.sum(axis=1), 1, atol=1e-4)
        assert (probabilities.argmax(axis=1) == found).all()
        answers += found.tolist()
    assert len(set(answers)) >= 8


@pytest.mark.slow
def test_engines_agree_and_run_all_of_the_graph(engine, path):
    images = noise(3)
    runner = engine.compile(Signature({IMAGE: images.shape}, {SOFTMAX: (3, 1001), ARG_MAX: (3,)}))
    probabilities, answers = runner({IMAGE: images})
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    expected_answers, expected = session.run(None, {IMAGE: images})
    assert answers.dtype == np.int64
    assert answers.tolist() == expected_answers.tolist()
    assert np.allclose(probabilities, expected, rtol=5e-3, atol=1e-6)
    assert engine.describe().get("fraction_of_supported_ops", 1.0) > 0.98


@pytest.mark.slow
def test_the_sut_answers_with_labels_that_leave_out_the_background(engine):
    images = noise(2)
    qsl = SimpleNamespace(
        layout=ImageLayout(),
        collate=lambda indices, shape: {IMAGES: images},
    )
    sut = ResNet50SUT(engine, qsl)
    assert list(sut.signature(Shape(2, 1)).outputs) == [ARG_MAX]
    sut.prepare(Shape(2, 1))
    (answers,) = sut.runner(Shape(2, 1))({IMAGE: images})
    assert sut.answer(np.arange(2), Shape(2, 1)).buffer.tolist() == [answer - 1 for answer in answers]
