"""Who chose the settings that change a score."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from harness.catalog.manifests import folder
from harness.errors import ConfigError
from harness.preparing import local
from harness.preparing.doubts import expects_chance_score
from harness.preparing.prepared import Preparation
from harness.settings.request import RunRequest, resolve
from harness.task.base import ASSUMED, FROM_GRAPH, GIVEN, Choice

EFFICIENTNET = "efficientnet-lite0-int8"


def sources(model: str, **options: str) -> dict[str, str]:
    return resolve(RunRequest(model=model, engine="null", options=options)).sources


@pytest.mark.parametrize(
    ("options", "source"),
    [({}, "from models.toml"), ({"preprocessing": "pytorch"}, GIVEN)],
)
def test_a_known_model_brings_its_settings_and_set_overrides_them(options, source):
    found = sources(EFFICIENTNET, **options)
    assert found["preprocessing"] == source
    assert found["label_offset"] == "from models.toml"


def test_a_known_model_stands_for_the_defaults():
    assert sources("minilm-l6-squad-int8")["vocab"] == "from models.toml"


def test_of_an_unknown_model_the_defaults_are_assumed(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(str(folder("resnet50") / "data" / f"{EFFICIENTNET}.onnx"))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "mine.onnx"))
    assert sources(str(tmp_path / "mine.onnx")) == {}
    assert sources(str(tmp_path / "mine.onnx"), preprocessing="mlperf") == {"preprocessing": GIVEN}
    onnx.helper.set_model_props(model, {"preprocessing": "pytorch"})
    onnx.save(model, str(tmp_path / "mine.onnx"))
    assert sources(str(tmp_path / "mine.onnx")) == {"preprocessing": "from the model's file"}


def test_a_choice_says_its_source_unless_it_is_an_assumption():
    assert str(Choice("preprocessing", "mlperf", ASSUMED)) == "preprocessing mlperf"
    assert str(Choice("layout", "NCHW", FROM_GRAPH)) == "layout NCHW (from the graph)"


@pytest.mark.parametrize(
    ("stand_ins", "computes", "expected"), [(False, True, False), (True, True, True), (False, False, True)]
)
def test_stand_ins_and_engines_that_compute_nothing_raise_no_doubt_about_a_score(stand_ins, computes, expected):
    settings, ready = SimpleNamespace(stand_ins=stand_ins), SimpleNamespace(engine=SimpleNamespace(computes=computes))
    assert expects_chance_score(settings, ready) is expected


def test_a_vocabulary_larger_than_the_embedding_is_refused_before_a_batch_runs(tmp_path, monkeypatch):
    vocab = tmp_path / "vocab.txt"
    vocab.write_text((folder("bert") / "data" / "vocab.txt").read_text("utf-8") + "onemore\n", "utf-8")

    monkeypatch.setattr(local, "_warm_up", lambda *given: pytest.fail("a batch would run"))
    request = RunRequest(engine="onnxruntime", dataset="sample", options={"vocab": str(vocab)}, cache_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"30,523 tokens, and the model's embedding 30,522 rows"):
        local.prepare(resolve(request), Preparation(quiet=True))
