from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from golden import draw, images

from harness.engines.base import Signature
from harness.engines.deepsparse import DeepSparseEngine
from harness.errors import ConfigError
from harness.graph import read_graph
from harness.models.weights import Checkpoint, Draw, RandomWeights, Weights
from harness.registry import installed
from resnet50.architecture import build_resnet50
from resnet50.interface import choose_layout, match_output
from resnet50.torchvision import build_resnet50_torchvision


class Torchvision(Weights):
    """The drawn weights of golden.py, under torchvision's names and with its shapes alone."""

    source = "drawn"

    def __init__(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self.left = dict(shapes)

    def tensor(self, name: str, shape: tuple[int, ...], draw_random: Draw) -> np.ndarray:
        assert self.left.pop(name) == shape
        return draw(name, shape)

    def finish(self, ignored: Sequence[str] = ()) -> None:
        assert not [name for name in self.left if not any(fnmatchcase(name, pattern) for pattern in ignored)]


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    return dict(np.load(Path(__file__).parent / "data" / "golden-torchvision.npz"))


@pytest.fixture(scope="module")
def shapes(stored) -> dict[str, tuple[int, ...]]:
    dims = (tuple(map(int, text.split())) for text in stored["shapes"])
    return dict(zip(stored["names"].tolist(), dims, strict=True))


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return build_resnet50_torchvision(RandomWeights(7))


def run(model: onnx.ModelProto, pixels: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": pixels})
    return logits


@pytest.mark.slow
def test_the_logits_are_those_of_torchvision(stored, shapes):
    found = run(build_resnet50_torchvision(Torchvision(shapes)), images())
    assert found.shape == (2, 1000)
    assert np.abs(found - stored["logits"]).max() < 1e-4 * np.abs(stored["logits"]).max()


def test_the_nodes_are_those_of_the_architecture(model):
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 13)]
    assert Counter(node.op_type for node in model.graph.node) == {
        "Conv": 53,
        "Relu": 49,
        "Add": 17,
        "MaxPool": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "MatMul": 1,
    }
    for node in model.graph.node:
        found = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type in ("Conv", "MaxPool"):
            assert found["pads"] == [found["kernel_shape"][0] // 2] * 4


def test_parameters_are_torchvisions_less_the_scales_of_its_batch_normalisations(model, shapes):
    learnt = {name: shape for name, shape in shapes.items() if "running_" not in name and shape}
    assert sum(int(np.prod(shape)) for shape in learnt.values()) == 25_557_032
    scales = sum(shape[0] for name, shape in shapes.items() if name.endswith("running_var"))
    assert scales == 26_560
    assert sum(np.prod(tensor.dims) for tensor in model.graph.initializer) == 25_557_032 - scales


def test_the_benchmark_takes_it(model, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    graph = read_graph(path)
    assert graph.metadata == {"architecture": "ResNet50 v1.5, torchvision", "weights": "random weights, seed 7"}
    assert choose_layout(graph.inputs).channels_first
    assert match_output(graph.outputs) == (graph.outputs[0], 1000)


@pytest.mark.slow
def test_random_answers_vary(model):
    logits = run(model, np.random.default_rng(3).standard_normal((6, 3, 224, 224), dtype=np.float32))
    assert np.isfinite(logits).all()
    assert len(set(logits.argmax(axis=1).tolist())) >= 4


@pytest.mark.slow
def test_a_checkpoint_may_hold_what_only_training_needs(tmp_path, shapes):
    save = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed").save_file
    path = tmp_path / "model.safetensors"
    tensors = {name: draw(name, shape) if shape else np.array(0, np.int64) for name, shape in shapes.items()}
    save(tensors, path)
    expected = build_resnet50_torchvision(Torchvision(shapes)).graph.SerializeToString(deterministic=True)
    assert build_resnet50_torchvision(Checkpoint(path)).graph.SerializeToString(deterministic=True) == expected
    with pytest.raises(ConfigError, match=r"no safetensors checkpoint: use the published resnet50_v1\.onnx"):
        build_resnet50(Checkpoint(path))


@pytest.mark.slow
@pytest.mark.skipif("deepsparse" not in installed(), reason="DeepSparse is not installed")
def test_deepsparse_runs_all_of_it_and_agrees_with_onnx_runtime(model, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    engine = DeepSparseEngine(path, DeepSparseEngine.Settings(threads=2, streams=1))
    pixels = images()
    (found,) = engine.compile(Signature({"input": pixels.shape}, {"logits": (2, 1000)}))({"input": pixels})
    expected = run(model, pixels)
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert engine.describe()["fraction_of_supported_ops"] > 0.98
