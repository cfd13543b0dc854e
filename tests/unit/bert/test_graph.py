from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from bert.architecture import BERT_LARGE, OBERT_LARGE, BertConfig, build_bert, build_bert_large
from bert.mobilebert import MobileBertConfig, build_mobilebert, build_mobilebert_14, build_mobilebert_24
from bert.sut import BertSUT
from harness.compress.compress import CompressSettings
from harness.engines.base import Signature
from harness.engines.deepsparse import DeepSparseEngine
from harness.engines.onnxruntime import OnnxRuntimeEngine
from harness.errors import ConfigError
from harness.models.compression import compress_file
from harness.models.weights import Checkpoint, Draw, RandomWeights, Weights
from harness.registry import installed
from harness.task.shape import Shape

INPUTS, OUTPUTS = ("input_ids", "attention_mask", "token_type_ids"), ("start_logits", "end_logits")
SIZES = {"heads": 4, "vocabulary": 50, "positions": 12}
BERT = BertConfig(layers=2, hidden=16, feed_forward=24, **SIZES)
MOBILEBERT = MobileBertConfig(
    layers=2, hidden=24, bottleneck=16, embedding=8, feed_forward=20, feed_forwards=3, **SIZES
)
TINY = {"bert": (build_bert, BERT), "mobilebert": (build_mobilebert, MOBILEBERT)}
Builder = Callable[[Weights], onnx.ModelProto]


class Tensors(Weights):
    """Given ones, each of which has to be taken."""

    source = "given"

    def __init__(self, tensors: dict[str, np.ndarray]) -> None:
        self.left = dict(tensors)

    def tensor(self, name: str, shape: tuple[int, ...], draw: Draw) -> np.ndarray:
        found = self.left.pop(name)
        assert found.shape == shape
        return found

    def finish(self, ignored: Sequence[str] = ()) -> None:
        assert not [name for name in self.left if not any(fnmatchcase(name, pattern) for pattern in ignored)]


class Zeros(Weights):
    """Of any shape, at no cost; counts what it is asked for."""

    source = "random: zeros"

    def __init__(self) -> None:
        self.parameters = 0

    def tensor(self, name: str, shape: tuple[int, ...], draw: Draw) -> np.ndarray:
        self.parameters += int(np.prod(shape))
        return np.zeros(shape, np.float32)

    def finish(self, ignored: Sequence[str] = ()) -> None:
        pass


@pytest.fixture(params=TINY)
def golden(request) -> tuple[Builder, dict[str, np.ndarray], dict[str, np.ndarray]]:
    """What builds a tiny model, its weights, and what transformers answers with them (see make_golden.py)."""
    builder, config = TINY[request.param]
    stored = dict(np.load(Path(__file__).parent / "data" / f"golden-{request.param}.npz"))
    weights = {key.removeprefix("weights/"): stored.pop(key) for key in list(stored) if key.startswith("weights/")}
    return lambda weights: builder(weights, config), weights, stored


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def questions(batch: int, length: int, vocabulary: int = 50, names: Sequence[str] = INPUTS) -> dict[str, np.ndarray]:
    """Random words, a quarter of the last row padding."""
    ids = np.random.default_rng(length).integers(0, vocabulary, (batch, length))
    mask = np.ones_like(ids)
    mask[-1, length - length // 4 :] = 0
    segments = np.zeros_like(ids)
    segments[:, length // 3 :] = 1
    return dict(zip(names, (ids, mask, segments), strict=True))


def test_the_logits_are_those_of_transformers(golden):
    build, weights, stored = golden
    found = session(build(Tensors(weights))).run(OUTPUTS, {name: stored[name] for name in INPUTS})
    real = stored["attention_mask"] == 1
    for logits, name in zip(found, OUTPUTS, strict=True):
        expected = stored[name]
        assert logits.shape == (3, 12)
        assert expected.std() > 0.1
        assert np.abs(logits - expected)[real].max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("golden", ["bert"], indirect=True)
def test_a_question_alone_has_the_logits_that_it_has_in_a_padded_batch(golden):
    # Not MobileBERT's, in which the last word of a question sees the embedding of the word after it: padding or none.
    build, weights, stored = golden
    runner = session(build(Tensors(weights)))
    for row, length in enumerate(stored["attention_mask"].sum(axis=1)):
        alone = runner.run(OUTPUTS, {name: stored[name][row : row + 1, :length] for name in INPUTS})
        for logits, name in zip(alone, OUTPUTS, strict=True):
            assert np.abs(logits[0] - stored[name][row, :length]).max() < 1e-5 * np.abs(stored[name]).max()


def test_a_checkpoint_gives_the_same_graph(golden, tmp_path):
    save = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed").save_file
    build, weights, _ = golden
    expected = build(Tensors(weights)).graph.SerializeToString(deterministic=True)
    prefix = next(iter(weights)).partition(".")[0]
    heads = {f"{prefix}.pooler.dense.weight": np.zeros((2, 2), np.float32), "cls.bias": np.zeros(2, np.float32)}
    save(weights | heads, tmp_path / "model.safetensors")
    model = build(Checkpoint(tmp_path))
    assert model.graph.SerializeToString(deterministic=True) == expected
    assert {entry.key: entry.value for entry in model.metadata_props}["weights"].startswith(tmp_path.name)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("bert", {"layers": 1}, r"does not use: bert\.encoder\.layer\.1\..* and 13 more"),
        ("bert", {"layers": 3}, r"bert\.encoder\.layer\.2\.attention\.self\.query\.weight is not in the checkpoint"),
        ("bert", {"feed_forward": 32}, r"\(24, 16\) instead of \(32, 16\)"),
        ("mobilebert", {"layers": 1}, r"does not use: mobilebert\.encoder\.layer\.1\."),
        ("mobilebert", {"feed_forwards": 4}, r"mobilebert\.encoder\.layer\.0\.ffn\.2\..* is not in the checkpoint"),
    ],
)
def test_a_checkpoint_of_another_size_is_refused(tmp_path, name, change, message):
    save = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed").save_file
    stored = np.load(Path(__file__).parent / "data" / f"golden-{name}.npz")
    weights = {key.removeprefix("weights/"): stored[key] for key in stored if key.startswith("weights/")}
    save(weights, tmp_path / "model.safetensors")
    builder, config = TINY[name]
    with pytest.raises(ConfigError, match=message):
        builder(Checkpoint(tmp_path), replace(config, **change))


@pytest.mark.parametrize("name", TINY)
def test_any_engine_of_the_last_years_can_read_it(name):
    builder, config = TINY[name]
    model = builder(RandomWeights(0), config)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 13)]
    assert model.ir_version == 7
    for value in (*model.graph.input, *model.graph.output):
        assert [dim.dim_param for dim in value.type.tensor_type.shape.dim] == ["batch", "sequence"]
    used = {tensor for node in model.graph.node for tensor in node.input}
    assert all(tensor.name in used for tensor in model.graph.initializer)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", TINY)
def test_the_same_seed_gives_the_same_bytes_and_another_other_weights(name):
    builder, config = TINY[name]
    first, same, other = (
        builder(RandomWeights(seed), config).SerializeToString(deterministic=True) for seed in (1, 1, 2)
    )
    assert first == same
    assert first != other


@pytest.mark.parametrize(
    ("build", "names"),
    [
        (
            lambda weights: build_bert(weights, replace(BERT, interface=BERT_LARGE.interface)),
            [("input_ids", "input_mask", "segment_ids"), ("output_start_logits", "output_end_logits")],
        ),
        (lambda weights: build_bert(weights, BERT), [INPUTS, OUTPUTS]),
        (lambda weights: build_mobilebert(weights, MOBILEBERT), [INPUTS, OUTPUTS]),
    ],
    ids=["reference", "obert", "mobilebert"],
)
def test_the_sut_takes_it(tmp_path, build, names):
    path = tmp_path / "model.onnx"
    path.write_bytes(build(RandomWeights(0)).SerializeToString())
    engine = OnnxRuntimeEngine(path, OnnxRuntimeEngine.Settings(threads=1, streams=1))
    signature = BertSUT(engine, SimpleNamespace()).signature(Shape(3, 7))
    assert [tuple(signature.inputs), tuple(signature.outputs)] == names


# Parameters: what torch counts of transformers' BertForQuestionAnswering and MobileBertForQuestionAnswering (5.24.0)
# with the published configurations.
LAYER = {"MatMul": 8, "Softmax": 1, "Erf": 1, "Sqrt": 2, "Pow": 2, "Sub": 2, "ReduceMean": 4, "Reshape": 4}
MOBILE_LAYER = {"MatMul": 8 + 8 + 1, "Relu": 4, "Softmax": 1, "Reshape": 4, "Transpose": 4, "Div": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "layers", "layer", "others", "parameters"),
    [
        (build_bert_large, 24, LAYER, {"MatMul": 1, "Sqrt": 1, "Pow": 1, "Sub": 2, "ReduceMean": 2}, 334_094_338),
        (build_mobilebert_24, 24, MOBILE_LAYER, {"MatMul": 2}, 24_582_914),
        (build_mobilebert_14, 14, MOBILE_LAYER, {"MatMul": 2}, 16_160_514),
    ],
    ids=["bert-large", "mobilebert", "mobilebert-14"],
)
def test_operators_and_parameters_are_those_that_others_count(build, layers, layer, others, parameters):
    weights = Zeros()
    model = build(weights)
    assert weights.parameters == parameters
    learnt = sum(np.prod(tensor.dims) for tensor in model.graph.initializer if "." in tensor.name)
    assert learnt == parameters
    counts = Counter(node.op_type for node in model.graph.node)
    assert {op: counts[op] for op in layer} == {op: layers * count + others.get(op, 0) for op, count in layer.items()}


def test_obert_large_differs_from_the_reference_in_its_names_alone():
    assert replace(OBERT_LARGE, interface=BERT_LARGE.interface) == BERT_LARGE


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        build_mobilebert_24,
        build_mobilebert_14,
        lambda weights: build_bert(weights, BertConfig(hidden=256, feed_forward=512, heads=4, vocabulary=30522)),
    ],
    ids=["mobilebert", "mobilebert-14", "bert"],
)
def test_random_logits_differ_between_tokens_and_questions(build):
    feed = questions(2, 64, 30522)
    found = session(build(RandomWeights(5))).run(OUTPUTS, feed)
    for logits in found:
        assert np.isfinite(logits).all()
        assert logits.std(axis=1).min() > 0.1
        assert logits.std(axis=1).max() < 20
        assert np.abs(np.corrcoef(logits)[0, 1]) < 0.9


@pytest.mark.slow
@pytest.mark.skipif("deepsparse" not in installed(), reason="DeepSparse is not installed")
@pytest.mark.parametrize(
    "build",
    [
        lambda weights: build_bert(weights, BertConfig(layers=2, hidden=256, heads=4, feed_forward=1024)),
        lambda weights: build_mobilebert(weights, MobileBertConfig(layers=2)),
    ],
    ids=["bert", "mobilebert"],
)
def test_deepsparse_runs_all_of_it_and_agrees_with_onnx_runtime(tmp_path, build):
    model = build(RandomWeights(5))
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    feed = questions(2, 64, 30522)
    engine = DeepSparseEngine(path, DeepSparseEngine.Settings(threads=2, streams=1))
    shapes = Signature(dict.fromkeys(INPUTS, (2, 64)), dict.fromkeys(OUTPUTS, (2, 64)))
    for found, expected in zip(engine.compile(shapes)(feed), session(model).run(OUTPUTS, feed), strict=True):
        assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max()
    assert engine.describe()["fraction_of_supported_ops"] > 0.98


def test_tokens_are_not_images(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(build_bert(RandomWeights(5), BERT).SerializeToString())
    settings = CompressSettings(precision="int8", input="uint8")
    with pytest.raises(ConfigError, match=r"^--input uint8: the model's inputs \(input_ids int64 .*\) are not images"):
        compress_file(str(path), tmp_path / "out.onnx", settings, None, 1)
    assert list(tmp_path.iterdir()) == [path]
