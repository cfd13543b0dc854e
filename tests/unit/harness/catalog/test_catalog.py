from __future__ import annotations

import subprocess
import sys

import pytest

from harness import paths
from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.catalog.models import BENCHMARKS, find_model
from harness.errors import ConfigError, did_you_mean
from harness.files import fingerprint
from harness.files.digest import sha256_of
from harness.settings.options import options_help
from harness.settings.request import RunRequest, resolve


def settings(**changes):
    given = {"model": None, "engine": "null", "scenario": "Offline", "mode": "accuracy", "options": {}}
    return resolve(RunRequest(**{**given, **changes}))


def test_the_shipped_files_match_the_manifests():
    for benchmark in BENCHMARKS:
        for entry in manifests.datasets(benchmark).values():
            shipped = entry.shipped or (None if entry.urls else entry.file)
            if shipped:
                assert sha256_of(manifests.folder(benchmark) / shipped) == entry.sha256
    for name, (_, entry) in manifests.models().items():
        if entry.file:
            assert find_model(name).name == name


def test_a_model_that_is_not_shipped_says_how_to_get_it():
    with pytest.raises(
        ConfigError,
        match=r"resnet50-fp32 is not shipped: fetch it .*, or give the path .*zenodo.*`harness models build",
    ):
        find_model("resnet50-fp32")
    with pytest.raises(ConfigError, match=r"efficientnet-lite0-fp32 is not shipped: .* 0\.1\.0, exported to ONNX"):
        find_model("efficientnet-lite0-fp32")


def test_a_changed_shipped_file_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(fingerprint, "sha256_of", lambda _: "0" * 64)
    with pytest.raises(ConfigError, match="its sha256 differs"):
        find_model("minilm-l6-squad-int8")


def test_a_copy_of_the_official_data_set_is_known_by_its_content(tmp_path, monkeypatch):
    path = tmp_path / "copy.json"
    path.write_text("x")
    official = manifests.datasets("bert")["squad-v1.1"]
    monkeypatch.setattr(fingerprint, "sha256_of", lambda _: official.sha256)
    found = find_dataset("bert", str(path))
    assert (found.official, found.samples) == (True, 10833)
    monkeypatch.setattr(fingerprint, "sha256_of", lambda _: "1" * 64)
    assert find_dataset("bert", str(path)).official is False


def test_the_full_data_set_is_the_default_once_it_was_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DATA_DIR", tmp_path)
    assert find_dataset("bert", None).name == "sample"
    (tmp_path / "dev-v1.1.json").write_text("x")
    with pytest.raises(ConfigError, match=r"is not squad-v1\.1 \(its sha256 differs\)"):
        find_dataset("bert", None)


def test_a_manifest_with_a_typo_names_the_field(tmp_path):
    path = tmp_path / "models.toml"
    path.write_text('[m]\ndescripton = "x"\n')
    with pytest.raises(ConfigError, match=r"models.toml, .*'descrip"):
        manifests._manifest(path, manifests.ModelEntry)


def test_options_reach_their_owner():
    made = settings(options={"max_batch": "7", "vocab": "v.txt"})
    assert made.engine_settings.max_batch == 7
    assert str(made.benchmark_settings.vocab) == "v.txt"


def test_every_option_is_listed_with_its_description():
    rows = options_help()
    assert {("deepsparse", "shapes"), ("onnxruntime", "threads"), ("openvino", "precision"), ("bert", "vocab")} <= {
        row[:2] for row in rows
    }
    assert all("None" not in row[2].partition(":")[2] for row in rows)


@pytest.mark.parametrize("engine", [":Foo", "os:getcwd", "os:", "no.such.module:Engine"])
def test_an_outside_class_that_is_not_an_engine_is_refused(engine):
    with pytest.raises(ConfigError):
        settings(engine=engine)


@pytest.mark.parametrize("duration", [float("inf"), float("nan"), 0.0001])
def test_an_impossible_duration_is_refused(duration):
    with pytest.raises(ConfigError, match="duration"):
        settings(duration=duration)


def test_the_null_engine_cannot_make_an_official_run_under_any_name():
    for engine in ("null", "harness.engines.null:NullEngine"):
        with pytest.raises(ConfigError, match="computes nothing"):
            settings(engine=engine, official=True)


def test_an_unknown_home_folder_is_not_a_traceback():
    with pytest.raises(ConfigError, match="there is no model file"):
        settings(model="~nobody-of-that-name/x.onnx")


def test_the_nearest_name_is_offered_in_any_case():
    assert did_you_mean("DEEPSPARS", ["deepsparse", "null"]) == "did you mean 'deepsparse'?"
    assert did_you_mean("qqq", ["a", "b"]) == "choose from a, b."


@pytest.mark.slow
def test_the_command_line_loads_neither_engines_nor_loadgen():
    code = (
        "import sys, harness.cli, harness.settings.request, harness.running.run\n"
        "harness.settings.request.resolve(harness.settings.request.RunRequest("
        "model=None, engine='deepsparse', scenario='Offline', mode='accuracy', options={}))\n"
        "heavy = ('onnxruntime', 'deepsparse', 'openvino', 'onnx', 'mlperf_loadgen', 'tokenizers')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize("find", [find_model, lambda name: find_dataset("bert", name)])
def test_a_path_that_the_system_refuses_is_one_sentence(find):
    with pytest.raises(ConfigError, match=r"cannot be read \(File name too long\): check the path"):
        find("/tmp/" + "x" * 300)
