from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bert.accuracy import VOCAB
from bert.features import build_features
from bert.qsl import BertQSL
from bert.squad import read_squad
from bert.sut import BertSUT
from harness import agreement
from harness.agreement import LIMIT, Agreement
from harness.engines.base import Engine, EngineSettings
from harness.errors import EngineError
from harness.graph import Tensor
from harness.scheduling.batching import Shape


def test_only_what_is_no_rounding_is_wrong():
    fine = Agreement({Shape(16, 1): 0.04, Shape(64, 1): LIMIT})
    assert fine.warning("deepsparse") == ""
    assert fine.worst == LIMIT
    assert Agreement({Shape(16, 1): 0.04, Shape(64, 1): 0.43}).warning("deepsparse") == (
        "in batches of 64 x 1, what deepsparse computes is 43% off what ONNX Runtime does, which is no rounding: "
        "try --set max_batch=32, or use --engine onnxruntime."
    )


def test_a_single_sample_cannot_be_split():
    warning = Agreement({Shape(1, 384): 0.5, Shape(2, 128): np.float64(0.6)}).warning("mine")
    assert warning.startswith("in batches of 1 x 384, 2 x 128, what mine computes is 60% off")
    assert warning.endswith("rounding: use --engine onnxruntime.")
    assert "max_batch" not in warning


class Reshaping(Engine):
    """Its logits are the tokens; it takes other lengths than its graph has."""

    name = "reshaping"
    reshapes = True

    def __init__(self, model, settings):
        super().__init__(model, settings)
        inputs, outputs = ("input_ids", "attention_mask", "token_type_ids"), ("start", "end")
        self.inputs = tuple(Tensor(name, np.dtype(np.int64), (1, 64)) for name in inputs)
        self.outputs = tuple(Tensor(name, np.dtype(np.float32), (1, 64)) for name in outputs)

    def compile(self, signature):
        return lambda batch: [batch["input_ids"].astype(np.float32)] * 2


class Fixed(Reshaping):
    name = "onnxruntime"
    reshapes = False

    def compile(self, signature):
        assert set(signature.inputs.values()) == {(1, 64)}
        return super().compile(signature)


class Refusing(Fixed):
    def __init__(self, model, settings):
        raise RuntimeError("no such operator")


@pytest.fixture
def sut(small_squad):
    qsl = BertQSL(build_features(read_squad(small_squad), VOCAB))
    return BertSUT(Reshaping(Path("model.onnx"), EngineSettings()), qsl)


def compared(sut, monkeypatch, reference, shapes):
    monkeypatch.setattr(agreement, "OnnxRuntimeEngine", reference)
    for shape in shapes:
        sut.prepare(shape)
    return agreement.agreement(SimpleNamespace(make_sut=BertSUT), sut, np.arange(sut.qsl.count))


def test_a_graph_of_one_length_is_compared_by_samples_that_fit_it(sut, monkeypatch):
    shapes = [Shape(2, 32), Shape(1, 64), Shape(2, 384)]
    assert sut.qsl.cost(np.arange(sut.qsl.count)).max() > 64
    assert compared(sut, monkeypatch, Fixed, shapes).differences == dict.fromkeys(shapes, 0.0)
    assert sut.qsl.loaded == 0


def test_samples_that_fit_nowhere_are_not_compared(sut, monkeypatch):
    assert compared(sut, monkeypatch, Fixed, [Shape(2, 2)]) is None


def test_a_model_that_onnx_runtime_does_not_load_is_an_error_of_it(sut, monkeypatch):
    with pytest.raises(EngineError, match=r"onnxruntime failed to load model\.onnx: no such operator"):
        compared(sut, monkeypatch, Refusing, [Shape(2, 384)])
