from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bert.features import build_features
from bert.qsl import BertQSL
from bert.squad import read_squad
from bert.sut import BertSUT
from bert.vocabulary import VOCAB
from harness.engines.base import Engine, EngineSettings
from harness.errors import EngineError
from harness.graph import Tensor
from harness.preparing import agreement
from harness.preparing.agreement import NotCompared
from harness.task.shape import Shape


class Reshaping(Engine):
    """Its logits are the tokens; it accepts other lengths than its graph has."""

    name = "reshaping"
    reshapes = True

    def __init__(self, model, settings):
        super().__init__(model, settings)
        inputs, outputs = ("input_ids", "attention_mask", "token_type_ids"), ("start", "end")
        self.inputs = tuple(Tensor(name, np.dtype(np.int64), (1, 64)) for name in inputs)
        self.outputs = tuple(Tensor(name, np.dtype(np.float32), (1, 64)) for name in outputs)

    def compile(self, signature):
        return lambda batch: [batch["input_ids"].astype(np.float32)] * 2


class Mixing(Reshaping):
    """Wrong in batches of more than ``most``: each row gets another row's logits."""

    most = 2

    def compile(self, signature):
        wrong = signature.inputs["input_ids"][0] > self.most
        return lambda batch: [np.roll(batch["input_ids"], int(wrong), axis=0).astype(np.float32)] * 2


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
def sut(small_squad, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").touch()
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


@pytest.mark.parametrize(("most", "right"), [(16, None), (7, 4), (2, 2), (1, 1)])
def test_the_correct_batches_are_found(sut, monkeypatch, most, right):
    monkeypatch.setattr(Mixing, "most", most)
    monkeypatch.setattr(Fixed, "compile", Reshaping.compile)
    mixing = BertSUT(Mixing(Path("model.onnx"), EngineSettings()), sut.qsl)
    found = compared(mixing, monkeypatch, Fixed, [Shape(2, 64), Shape(8, 64)])
    assert found.wrong == [Shape(batch, 64) for batch in (2, 8) if batch > most]
    assert found.right == right


class Picky(Mixing):
    """Compiles only the shapes of the test."""

    def compile(self, signature):
        if signature.inputs["input_ids"][0] < 8:
            raise RuntimeError("no kernel")
        return super().compile(signature)


def test_a_smaller_batch_that_the_engine_cannot_run_is_not_advised_and_ends_nothing(sut, monkeypatch):
    monkeypatch.setattr(Fixed, "compile", Reshaping.compile)
    picky = BertSUT(Picky(Path("model.onnx"), EngineSettings()), sut.qsl)
    found = compared(picky, monkeypatch, Fixed, [Shape(8, 64)])
    assert (found.wrong, found.right) == ([Shape(8, 64)], None)


def test_samples_that_fit_nowhere_are_not_compared(sut, monkeypatch):
    assert compared(sut, monkeypatch, Fixed, [Shape(2, 2)]) is None


def test_a_model_that_onnx_runtime_cannot_load_is_its_error(sut, monkeypatch):
    with pytest.raises(NotCompared, match=r"onnxruntime failed to load model\.onnx: no such operator"):
        compared(sut, monkeypatch, Refusing, [Shape(2, 384)])


class Breaking(Fixed):
    def compile(self, signature):
        def runner(batch):
            raise RuntimeError("no memory")

        return runner


def test_samples_are_unloaded_even_if_onnx_runtime_fails_at_its_first_batch(sut, monkeypatch):
    with pytest.raises(NotCompared, match="no memory"):
        compared(sut, monkeypatch, Breaking, [Shape(2, 64)])
    assert sut.qsl.loaded == 0


class Streams(Reshaping):
    """Several streams, each with what ``keep`` makes of its outputs."""

    streams = 3
    keep = staticmethod(lambda outputs: outputs)

    def compile(self, signature):
        inner = super().compile(signature)
        return lambda batch: self.keep(inner(batch))


def in_one_buffer(outputs, kept={}):  # noqa: B006  one for all streams is the fault
    buffer = kept.setdefault(outputs[0].shape, np.empty_like(outputs))
    buffer[...] = outputs
    return list(buffer)


def in_a_buffer_of_the_thread(outputs, local=threading.local()):  # noqa: B008
    local.kept = vars(local).get("kept", {})
    return in_one_buffer(outputs, local.kept)


def from_one_buffer(outputs, kept={}):  # noqa: B006
    """Copies, made after other streams have overwritten it."""
    buffer = in_one_buffer(outputs, kept)
    time.sleep(0.05)
    return [each.copy() for each in buffer]


def overwritten_later(outputs):
    threading.Timer(0.001, lambda: [output.fill(1) for output in outputs]).start()
    return outputs


def at_once(sut, monkeypatch, keep):
    monkeypatch.setattr(Streams, "keep", staticmethod(keep))
    monkeypatch.setattr(Fixed, "compile", Reshaping.compile)
    several = BertSUT(Streams(Path("model.onnx"), EngineSettings()), sut.qsl)
    return compared(several, monkeypatch, Fixed, [Shape(2, 64)])


def test_one_buffer_for_all_streams_is_the_engines_error(sut, monkeypatch):
    with pytest.raises(
        EngineError, match=r"in the same memory: .* Return new arrays for each batch, or use --set stream"
    ):
        at_once(sut, monkeypatch, in_one_buffer)


def test_a_buffer_for_each_thread_is_right(sut, monkeypatch):
    assert at_once(sut, monkeypatch, in_a_buffer_of_the_thread).wrong == []


def test_streams_that_disturb_each_other_are_found(sut, monkeypatch):
    found = at_once(sut, monkeypatch, from_one_buffer)
    assert (found.wrong, found.at_once) == ([Shape(2, 64)], 3)


def test_outputs_that_are_overwritten_later_are_found(sut, monkeypatch):
    assert at_once(sut, monkeypatch, overwritten_later).wrong == [Shape(2, 64)]


def test_a_subclass_of_onnx_runtimes_engine_is_also_compared(sut, monkeypatch):
    class Own(Fixed):
        streams = 2

        def compile(self, signature):
            inner = super().compile(signature)
            return lambda batch: in_one_buffer(inner(batch))

    own = BertSUT(Own(Path("model.onnx"), EngineSettings()), sut.qsl)
    with pytest.raises(EngineError, match="in the same memory"):
        compared(own, monkeypatch, Fixed, [Shape(1, 64)])


def test_an_error_of_the_engine_is_not_taken_for_onnx_runtimes(sut, monkeypatch):
    def fail(outputs):
        raise RuntimeError("too many at once")

    with pytest.raises(EngineError, match="reshaping failed to run a batch: too many at once") as raised:
        at_once(sut, monkeypatch, fail)
    assert not isinstance(raised.value, NotCompared)
