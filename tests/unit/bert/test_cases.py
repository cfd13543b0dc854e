"""Question answering as met in the field: ../shared/cases, with its right values."""

from __future__ import annotations

import json

import numpy as np
import pytest
from squad_data import log_entries

from bert.task import Bert, BertSettings
from harness.catalog.manifests import Dataset
from harness.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSettings
from harness.task.base import ASSUMED
from harness.task.shape import Shape

RIGHT = {"F1": 67.80511758772626, "exact match": 56.52173913043478}


@pytest.fixture(scope="module")
def q96(cases):
    return Dataset(name="q96", path=cases / "squad-96.json", sha256=None)


@pytest.fixture(scope="module")
def reversed_outputs(case_graphs, q96, tmp_path_factory):
    """The model whose end logits come first, and its answers to every question."""
    folder = tmp_path_factory.mktemp("q96")
    bert = Bert(BertSettings(), folder)
    engine = OnnxRuntimeEngine(case_graphs / "qa-numbered-outputs-reversed.onnx", OnnxRuntimeSettings(streams=1))
    qsl = bert.open(q96, None, engine.inputs)
    sut = bert.make_sut(engine, qsl)
    indices = np.arange(qsl.count)
    qsl.load(indices)
    answers = [
        sut.answer(indices[n : n + 1], Shape(1, int(length))).buffer[0] for n, length in enumerate(qsl.cost(indices))
    ]
    return bert, sut, answers, folder


def scored(bert, answers, q96, folder):
    log = folder / "log.json"
    log.write_text(json.dumps(log_entries(answers)))
    return bert.score(log, q96, None, folder / "accuracy.txt", None)


@pytest.mark.slow
def test_numbered_outputs_in_reverse_order_give_the_right_score(reversed_outputs, q96):
    bert, sut, answers, folder = reversed_outputs
    accuracy = scored(bert, answers, q96, folder)
    assert accuracy.metrics == RIGHT
    assert accuracy.doubts == ()
    (outputs,) = (choice for choice in bert.scoring_choices(sut) if choice.name == "start and end")
    assert (outputs.value, outputs.source) == ("unstack:0 and unstack:1", ASSUMED)


@pytest.mark.slow
def test_outputs_in_the_wrong_order_are_named_and_the_advice_gives_the_right_score(reversed_outputs, q96):
    _, sut, answers, folder = reversed_outputs
    wrong = Bert(BertSettings(outputs="unstack:1,unstack:0"), folder)
    wrong.make_sut(sut.engine, sut.qsl)
    accuracy = scored(wrong, [answer[:, ::-1] for answer in answers], q96, folder)
    assert accuracy.metrics["F1"] == pytest.approx(35.360, abs=0.001)
    (doubt,) = accuracy.doubts
    assert doubt.startswith("with start and end swapped, F1 would be 67.805 instead of 35.360")
    advised = doubt.rpartition("--set outputs=")[2].rstrip(".")
    told = Bert(BertSettings(outputs=advised), folder).make_sut(sut.engine, sut.qsl)
    assert told.answers[:2] == sut.answers[:2]
