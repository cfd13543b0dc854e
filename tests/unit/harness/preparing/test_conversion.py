"""QDQ models of users on an engine that does not run them fast."""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from graphs import distance, folded, graph, node, normal, operators, run
from onnx import ModelProto, helper
from rounded import round_all

from harness.compress.quantise import quantise
from harness.engines.deepsparse import DeepSparseEngine
from harness.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSettings
from harness.errors import ConfigError
from harness.files.digest import sha256_of
from harness.preparing import agreement
from harness.preparing import conversion as module
from harness.preparing.conversion import conversion
from harness.preparing.local import prepare
from harness.preparing.prepared import Preparation
from harness.settings.request import RunRequest, resolve


class Settings(OnnxRuntimeSettings):
    convert: bool = True


class Picky(OnnxRuntimeEngine):
    """ONNX Runtime, as if it were fast in one form only."""

    name = "picky"
    Settings = Settings
    form = "integer"


PICKY = f"{__name__}:Picky"
FEEDS = [{"x": normal(seed, 3, 3, 224, 224, scale=1.0)} for seed in (1, 2)]


def classifier() -> ModelProto:
    """A small classifier of images in floating point."""
    nodes = [
        node("Conv", "x k c", "v", strides=[28, 28]),
        node("Relu", "v", "r"),
        node("GlobalAveragePool", "r", "g"),
        node("Flatten", "g", "f"),
        node("Gemm", "f w b", "y", transB=1),
    ]
    weights = {"k": normal(1, 8, 3, 7, 7), "c": normal(2, 8), "w": normal(3, 1000, 8), "b": normal(4, 1000, scale=0.1)}
    return graph(nodes, {"x": ("N", 3, 224, 224)}, ["y"], weights)


@pytest.fixture
def model(tmp_path):
    """The classifier in 8 bits, as QDQ."""
    found = quantise(round_all(folded(classifier(), tmp_path), FEEDS), "openvino")
    helper.set_model_props(found, {"tool": "test"})
    path = tmp_path / "mine.onnx"
    onnx.save(found, str(path))
    return path


def settings(model, tmp_path, engine=PICKY, dataset=None, **options):
    given = {name: str(value).lower() for name, value in options.items()}
    more = {"options": given, "dataset": dataset, "tuned": False, "cache_dir": tmp_path / "cache"}
    return resolve(RunRequest(model=str(model), engine=engine, mode="accuracy", **more))


def test_deepsparse_needs_integers_and_the_user_can_refuse_them():
    assert DeepSparseEngine.form == "integer"
    assert DeepSparseEngine.Settings().convert
    assert OnnxRuntimeEngine.form is None


def test_a_model_is_converted_once_and_a_note_says_so(model, tmp_path, capsys):
    given = settings(model, tmp_path)
    found = conversion(given)
    said = " ".join(capsys.readouterr().err.split())
    assert "mine is written for other engines (QDQ): 2 of 2 products and convolutions converted to" in said
    assert "convert=false" in said
    path = found.file.path
    assert path.parent == tmp_path / "cache"
    assert found.record().values() == {"form": "integer", "layers": "2 of 2", "sha256": sha256_of(path)}
    written = onnx.load(str(path))
    assert "QLinearConv" in operators(written)
    assert [(entry.key, entry.value) for entry in written.metadata_props] == [
        ("tool", "test"),
        ("converted_layers", "2 of 2"),
    ]
    for feed in FEEDS:
        assert distance(run(written, feed)[0], run(onnx.load(str(model)), feed)[0]) < 8e-3
    os.utime(path, (0, 0))
    assert conversion(given, quiet=True).file.path == path
    assert path.stat().st_mtime == 0
    assert capsys.readouterr().err == ""
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_another_model_and_other_code_give_another_file(model, tmp_path, monkeypatch):
    first = conversion(settings(model, tmp_path)).file.path
    monkeypatch.setattr(module, "code_digest", lambda: "new")
    second = conversion(settings(model, tmp_path)).file.path
    changed = onnx.load(str(model))
    changed.producer_name = "somebody"
    onnx.save(changed, str(model))
    third = conversion(settings(model, tmp_path)).file.path
    assert len({first, second, third}) == 3


def test_nothing_is_converted_where_it_is_not_wanted(model, tmp_path, capsys):
    assert conversion(settings(model, tmp_path, "onnxruntime")) is None
    assert conversion(settings(model, tmp_path, convert=False)) is None
    onnx.save(classifier(), str(model))
    assert conversion(settings(model, tmp_path)) is None
    assert not (tmp_path / "cache").exists()
    assert capsys.readouterr().err == ""


def test_what_cannot_be_converted_stays_with_the_reason(model, tmp_path, monkeypatch, capsys):
    given = settings(model, tmp_path)
    monkeypatch.setattr(module, "available", lambda: 10**4)
    assert conversion(given) is None
    assert "GiB of memory" in " ".join(capsys.readouterr().err.split())
    monkeypatch.setattr(module, "available", lambda: None)
    monkeypatch.setattr(module, "_MAX_FILE_BYTES", 1000)
    assert conversion(given) is None
    assert "more than 2 GB" in " ".join(capsys.readouterr().err.split())


def test_a_conversion_that_fails_does_not_end_the_run(model, tmp_path, monkeypatch, capsys):
    def failing(path):
        raise KeyError("a strange graph")

    monkeypatch.setattr(module, "_converted", failing)
    assert conversion(settings(model, tmp_path)) is None
    assert "converting it failed (KeyError: 'a strange graph')" in " ".join(capsys.readouterr().err.split())


def test_a_graph_with_foreign_operators_stays_as_it_is(model, tmp_path, capsys):
    changed = onnx.load(str(model))
    changed.graph.node[0].domain = "com.microsoft"
    changed.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(changed, str(model))
    assert conversion(settings(model, tmp_path)) is None
    assert "it has operators of com.microsoft" in " ".join(capsys.readouterr().err.split())


def test_a_cache_that_cannot_be_written_is_an_error_of_one_sentence(model, tmp_path):
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(ConfigError, match="convert=false"):
        conversion(settings(model, tmp_path))


def test_a_run_uses_the_converted_file_and_is_compared_with_the_original(model, tmp_path, small_imagenet, monkeypatch):
    """Weights in another file of the model's folder are in the converted file itself."""
    external = onnx.load(str(model))
    onnx.save(external, str(model), save_as_external_data=True, location="weights.bin", size_threshold=0)
    given = settings(model, tmp_path, dataset=str(small_imagenet))
    ready = prepare(given, Preparation(quiet=True))
    assert ready.engine.model == ready.conversion.file.path != model
    assert {model, model.with_name("weights.bin"), ready.conversion.file.path} <= {file.path for file in ready.inputs}
    assert given.model.sha256 != ready.conversion.file.sha256
    ready.qsl.unload(ready.indices)
    loaded = []

    class Reference(OnnxRuntimeEngine):
        def __init__(self, path, settings):
            loaded.append(path)
            super().__init__(path, settings)

    monkeypatch.setattr(agreement, "OnnxRuntimeEngine", Reference)
    found = agreement.agreement(ready.benchmark, ready.sut, np.arange(4), original=model)
    assert loaded == [model]
    assert not found.wrong
