"""Files that change between hashing and the end of a test."""

from __future__ import annotations

import os
import shutil
import time
from hashlib import sha256

import numpy as np
import onnx
import pytest
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from harness import graph, paths
from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.catalog.manifests import FetchRecord
from harness.catalog.models import find_model
from harness.errors import ConfigError, RunFailed
from harness.files import fingerprint
from harness.files.digest import sha256_of
from harness.files.fingerprint import FileStamp, Fingerprint, check_unchanged
from harness.graph import weight_files
from harness.preparing.local import prepare
from harness.preparing.prepared import Preparation
from harness.settings.identity import identity
from harness.settings.request import RunRequest, resolve
from harness.sweep.journal import key


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"weights")
    return path


def edit(path):
    with path.open("r+b") as opened:
        opened.write(b"W")


def edit_and_reset_the_time(path):
    stat = path.stat()
    edit(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace(path):
    other = path.with_name("other")
    other.write_bytes(b"Weights")
    other.replace(path)


def replace_by_a_folder(path):
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("change", [edit, edit_and_reset_the_time, replace, replace_by_a_folder, lambda p: p.unlink()])
def test_a_changed_file_is_found_and_named(file, change):
    before = Fingerprint.of(file)
    check_unchanged([before])
    change(file)
    with pytest.raises(RunFailed, match=f"{file} changed while it was in use"):
        check_unchanged([before])


def test_a_file_that_was_touched_or_copied_over_itself_is_unchanged(file, tmp_path):
    before = Fingerprint.of(file)
    file.touch()
    check_unchanged([before])
    shutil.copy(file, tmp_path / "copy")
    (tmp_path / "copy").replace(file)
    check_unchanged([before])


def test_an_unchanged_file_is_not_read_again(file, monkeypatch):
    before = Fingerprint.of(file)
    monkeypatch.setattr(fingerprint, "sha256_of", None)
    check_unchanged([before])


@pytest.fixture
def hashed(monkeypatch):
    """The names of the files that are hashed, from here on."""
    names = []
    monkeypatch.setattr(fingerprint, "sha256_of", lambda path: (names.append(path.name), sha256_of(path))[1])
    return names


@pytest.fixture
def settled(monkeypatch):
    """A clock by which all files are old."""
    monkeypatch.setattr(fingerprint.time, "time_ns", lambda: 2**62)


@pytest.mark.parametrize("change", [edit, edit_and_reset_the_time, replace])
def test_a_file_is_hashed_again_only_after_a_change(file, hashed, settled, change):
    before = Fingerprint.of(file)
    assert Fingerprint.of(file) == before
    assert hashed == ["model.onnx"]
    time.sleep(0.02)  # more than the resolution of the file system's times
    change(file)
    after = Fingerprint.of(file)
    assert after.sha256 == sha256_of(file) != before.sha256
    assert Fingerprint.of(file) == after
    assert hashed == ["model.onnx"] * 2
    with pytest.raises(RunFailed, match="changed while it was in use"):
        check_unchanged([before])


def test_a_file_that_was_only_touched_is_hashed_once_more(file, hashed, settled):
    before = Fingerprint.of(file)
    os.utime(file, (1, 1))
    for _ in range(3):
        check_unchanged([before])
    assert hashed == ["model.onnx"] * 2


def test_changes_within_the_resolution_of_the_times_are_found(file, monkeypatch):
    def coarse(stat):
        times = (ns // 10**9 // 2 for ns in (stat.st_mtime_ns, stat.st_ctime_ns))
        return FileStamp(stat.st_dev, stat.st_ino, stat.st_size, *(two_seconds * 2 * 10**9 for two_seconds in times))

    monkeypatch.setattr(FileStamp, "of", coarse)
    for number in range(20):
        content = b"%03d" % number
        file.write_bytes(content)
        assert Fingerprint.of(file).sha256 == sha256(content).hexdigest()


def test_what_cannot_be_read_is_not_remembered(file, settled):
    Fingerprint.of(file)
    file.unlink()
    with pytest.raises(FileNotFoundError):
        Fingerprint.of(file)


def test_settings_of_many_tests_read_model_and_data_set_once(tmp_path, small_squad, hashed, settled, monkeypatch):
    walks = []
    places = graph._places
    monkeypatch.setattr(
        graph, "_places", lambda file, message, *rest: (walks.append(message), places(file, message, *rest))[1]
    )
    requests = [
        RunRequest(engine="null", dataset=str(small_squad), tuned=False, options={"max_batch": str(batch)})
        for batch in range(1, 6)
    ]
    known = [resolve(each) for each in requests]
    assert len({str(key(each, None)) for each in known}) == 5
    assert sorted(hashed) == [known[0].model.path.name, small_squad.name]
    assert walks.count("model") == 1


def test_settings_of_many_tests_read_a_model_by_its_path_once(tmp_path, hashed, settled, monkeypatch):
    loaded = []
    load = onnx.load
    monkeypatch.setattr(onnx, "load", lambda path, **rest: (loaded.append(path), load(path, **rest))[1])
    request = RunRequest(model=str(classifier(tmp_path / "a")), engine="null", tuned=False)
    first, second = resolve(request), resolve(request)
    assert first.model == second.model
    assert (sorted(hashed), len(loaded)) == (["net.onnx", "weights.bin"], 1)
    time.sleep(0.02)
    classifier(tmp_path / "a", value=2.0)  # the graph is the same, and only the other file has changed
    assert resolve(request).model.sha256 != first.model.sha256


def test_a_folder_changes_with_the_names_in_it(tmp_path, file):
    before = Fingerprint.of(tmp_path)
    edit(file)
    check_unchanged([before])
    (tmp_path / "more").touch()
    with pytest.raises(RunFailed, match="changed while it was in use"):
        check_unchanged([before])


def classifier(folder, value=1.0, location="weights.bin", inside=None):
    """A classifier whose weights are in another file, as an initializer or in a Constant ``inside`` a branch."""
    folder.mkdir(exist_ok=True)
    weights = numpy_helper.from_array(np.full((3, 1000), value, np.float32), "weights")
    (folder / "weights.bin").write_bytes(weights.raw_data)
    external_data_helper.set_external_data(weights, location)
    weights.ClearField("raw_data")
    weights.data_location = TensorProto.EXTERNAL
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 224, 224])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 1000])
    body = helper.make_graph([helper.make_node("Constant", [], ["w"], value=weights)], "body", [], [])
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["scores"]),
    ]
    if inside:
        nodes.append(helper.make_node("If", ["image"], ["unused"], then_branch=body, else_branch=body))
    graph = helper.make_graph(nodes, "net", [image], [scores], [] if inside else [weights])
    path = folder / "net.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString())
    return path


def test_weights_in_other_files_are_part_of_the_model(tmp_path):
    one, other = find_model(str(classifier(tmp_path / "a"))), find_model(str(classifier(tmp_path / "b", value=2.0)))
    assert sha256_of(one.path) == sha256_of(other.path)
    assert one.sha256 != other.sha256
    shutil.copytree(tmp_path / "a", tmp_path / "c")
    assert find_model(str(tmp_path / "c" / "net.onnx")).sha256 == one.sha256
    assert [file.path.name for file in one.files] == ["net.onnx", "weights.bin"]
    settings = [resolve(RunRequest(model=str(model.path), engine="null", tuned=False)) for model in (one, other)]
    assert identity(settings[0]).difference(identity(settings[1])) == "model"


def test_a_model_in_one_file_has_the_sha256_of_that_file():
    model = find_model(manifests.default_model())
    assert model.sha256 == sha256_of(model.path)
    assert [file.path for file in model.files] == [model.path]


def test_weights_of_a_node_within_a_branch_are_found(tmp_path):
    assert weight_files(classifier(tmp_path / "a", inside=True)) == ("weights.bin",)


def test_names_of_weight_files_are_those_that_onnx_reads(tmp_path):
    path = classifier(tmp_path / "a", location="sub/weights.bin")
    read = onnx.load(path, load_external_data=False)
    assert weight_files(path) == tuple(entry.value for entry in read.graph.initializer[0].external_data)


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("../weights.bin", "refers to a file outside its folder"),
        ("/dev/zero", "refers to a file outside its folder"),
        ("other.bin", "other.bin, a weight file of .*, is missing"),
    ],
)
def test_weights_that_are_missing_or_elsewhere_are_refused(tmp_path, location, problem):
    (tmp_path / "weights.bin").touch()
    with pytest.raises(ConfigError, match=problem):
        find_model(str(classifier(tmp_path / "a", location=location)))


def test_a_known_graph_with_other_weights_is_not_the_known_model(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "MODELS_DIR", tmp_path)
    entry = manifests.ModelEntry(
        description="tiny",
        source="here",
        official_name="resnet50",
        precision="fp32",
        input_data_types="fp32",
        weight_transformations="no",
    )
    monkeypatch.setattr(manifests, "models", lambda: {"tiny": ("resnet50", entry)})
    path = classifier(tmp_path / "a")
    data = {"weights.bin": sha256_of(path.with_name("weights.bin"))}
    record = FetchRecord(source="x", time="", sha256=sha256_of(path), size=1, verified=None, data=data)
    (tmp_path / "tiny.json").write_text(record.model_dump_json())
    same, other = find_model(str(path)), find_model(str(classifier(tmp_path / "b", value=2.0)))
    assert (same.name, other.name) == ("tiny", "net")
    assert same.sha256 != other.sha256


def request(dataset, tmp_path, **more):
    return RunRequest(
        dataset=str(dataset), engine="null", mode="accuracy", tuned=False, cache_dir=tmp_path / "cache", **more
    )


def test_model_data_set_and_vocabulary_of_a_run_are_watched(small_squad, tmp_path):
    vocab = tmp_path / "vocab.txt"
    shutil.copy(manifests.folder("bert") / "data" / "vocab.txt", vocab)
    settings = resolve(request(small_squad, tmp_path, options={"vocab": str(vocab)}))
    ready = prepare(settings, Preparation(quiet=True))
    assert {file.path for file in ready.inputs} == {settings.model.path, small_squad, vocab}
    edit(vocab)
    with pytest.raises(RunFailed, match=f"{vocab} changed"):
        check_unchanged(ready.inputs)


def test_images_and_labels_of_a_run_are_watched(small_imagenet, tmp_path):
    model = classifier(tmp_path / "a")
    ready = prepare(resolve(request(small_imagenet, tmp_path, model=str(model))), Preparation(quiet=True))
    images = sorted((small_imagenet / "val").iterdir())
    expected = {model, model.with_name("weights.bin"), small_imagenet / "val_map.txt", *images}
    assert {file.path for file in ready.inputs} == expected
    shutil.copy(images[1], images[0])
    with pytest.raises(RunFailed, match=f"{images[0].name} changed"):
        check_unchanged(ready.inputs)


def test_the_identity_of_class_folders_is_the_images_in_them(tmp_path):
    for number in range(3):
        folder = tmp_path / f"n{number:08}"
        folder.mkdir()
        (folder / "a.JPEG").touch()
    before = find_dataset("resnet50", str(tmp_path))
    assert find_dataset("resnet50", str(tmp_path)).sha256 == before.sha256
    (tmp_path / "n00000001" / "b.JPEG").touch()
    assert find_dataset("resnet50", str(tmp_path)).sha256 != before.sha256
    with pytest.raises(RunFailed, match="n00000001 changed"):
        check_unchanged(before.files)


def test_a_folder_as_a_setting_is_identified_by_its_small_files(small_squad, tmp_path):
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "vocab.txt").write_text("[PAD]\n")
    settings = resolve(request(small_squad, tmp_path, options={"vocab": str(folder)}))
    before = identity(settings).benchmark_settings["vocab"]
    assert before == identity(settings).benchmark_settings["vocab"] != folder.name
    (folder / "vocab.txt").write_text("[UNK]\n")
    assert identity(settings).benchmark_settings["vocab"] != before
