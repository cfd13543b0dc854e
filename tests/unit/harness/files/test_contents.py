"""Files that are not what a user took them for; external files of models."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import re
import shutil
import subprocess
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, external_data_helper, helper, numpy_helper
from PIL import Image
from safetensors.numpy import save

from bert.squad import read_squad
from harness.catalog.models import find_model
from harness.engines.base import engine_errors, find_engine
from harness.errors import ConfigError, EngineError
from harness.files.disk import read_input
from harness.graph import check_weights
from resnet50.labels import read_val_map
from resnet50.preprocess import PROFILES, pixels

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 133\n"
HTML = b"<html>404</html>\n"


def zipped(**files: bytes) -> bytes:
    with zipfile.ZipFile(content := io.BytesIO(), "w") as archive:
        for name, data in files.items():
            archive.writestr(name.replace("__", "/"), data)
    return content.getvalue()


def tarred(name: str, data: bytes) -> bytes:
    with tarfile.open(fileobj=(content := io.BytesIO()), mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return content.getvalue()


def saved(function, *args, **settings) -> bytes:
    content = io.BytesIO()
    function(content, *args, **settings)
    return content.getvalue()


def classifier(location: str | None = None, **place: int) -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 224, 224]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    if location is not None:
        external_data_helper.set_external_data(weight, location, **place)
        weight.ClearField("raw_data")
    graph = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7).SerializeToString()


MODEL = classifier()
STAND_INS = {
    "lfs": (LFS, "is a Git LFS pointer", "run `git lfs pull` in its repository, or download the file itself"),
    "annex": (b"/annex/objects/MD5E-s1--a.onnx\n", "is a git-annex pointer", "run `git annex get` on it"),
    "html": (HTML, r"is a web page \(HTML\)", "download the file again, using the link to the file itself"),
    "doctype": (b"\n<!DOCTYPE html><html>", r"is a web page \(HTML\)", "download the file again"),
    "s3": (
        b'<?xml version="1.0"?>\n<Error><Code>x',
        r"is an error message of a server \(XML\)",
        "download the file again",
    ),
    "empty": (b"", "is empty", "download or copy it again"),
    "zeros": (bytes(5000), "is full of zeros", "download or copy it again"),
    "zip": (zipped(a=b"x"), "is a zip archive", "unpack it"),
    "gzip": (gzip.compress(MODEL), "is packed by gzip", "unpack it"),
    "bzip2": (bz2.compress(MODEL), "is packed by bzip2", "unpack it"),
    "xz": (lzma.compress(MODEL), "is packed by xz", "unpack it"),
    "tar": (tarred("m.onnx", MODEL), "is a tar archive", "unpack it"),
    "torch": (zipped(m__data__pkl=b"x").replace(b"m/data/pkl", b"m/data.pkl"), "is a PyTorch checkpoint", ""),
    "pickle": (pickle.dumps({"a": 1}), "is a Python pickle, such as a PyTorch checkpoint", ""),
    "safetensors": (save({"a": np.ones(3)}), "is a safetensors checkpoint", ""),
    "tflite": (b"\x1c\0\0\0TFL3\x14\0", "is a TensorFlow Lite model", ""),
    "npy": (saved(np.save, np.ones(3)), "is a NumPy array", ""),
    "npz": (saved(np.savez, a=np.ones(3)), "is an archive of NumPy arrays", ""),
    "image": (saved(Image.new("RGB", (9, 9)).save, "PNG"), "is an image", ""),
    "hdf5": (b"\x89HDF\r\n\x1a\n\0", "is an HDF5 file, such as a Keras model", ""),
}
TEXTS = {
    "json": (b'{"a": 1}', "is a JSON file"),
    "text": ("Größe\n".encode(), "is a text file"),
    "openvino": (b'<?xml version="1.0"?>\n<net name="x" version="11">', r"is an OpenVINO model \(XML\)"),
}


@pytest.mark.parametrize("kind", [*STAND_INS, *TEXTS])
def test_a_file_that_is_not_a_model_is_named(tmp_path: Path, kind: str) -> None:
    content, what, cure = (*TEXTS.get(kind, ()), "") if kind in TEXTS else STAND_INS[kind]
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    cure = cure or "export the model to ONNX, and give the path of that file"
    between = "" if kind == "empty" else ", not an ONNX model"
    with pytest.raises(ConfigError, match=rf"/m\.onnx {what}{between}: {cure}"):
        find_model(str(path))


@pytest.mark.parametrize("kind", [kind for kind, (_, _, cure) in STAND_INS.items() if cure and kind != "empty"])
@pytest.mark.parametrize("read", [read_squad, read_val_map, lambda path: read_input(path, "vocabulary")])
def test_a_file_that_is_not_text_is_named(tmp_path: Path, kind: str, read) -> None:
    content, what, cure = STAND_INS[kind]
    (tmp_path / "data").write_bytes(content)
    with pytest.raises(ConfigError, match=rf"/data {what}: {cure}"):
        read(tmp_path / "data")


@pytest.mark.parametrize("kind", ["lfs", "html", "zip"])
def test_a_file_that_is_not_an_image_is_named(kind: str) -> None:
    content, what, cure = STAND_INS[kind]
    with pytest.raises(ValueError, match=rf"it {what}, not an image .{cure}"):
        pixels(content, next(iter(PROFILES.values())))


@pytest.mark.parametrize("left", [len(MODEL) - 1, len(MODEL) // 2, 60])
def test_a_model_that_was_cut_short_is_named(tmp_path: Path, left: int) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(MODEL[:left])
    with pytest.raises(ConfigError, match=rf"an ONNX model \(it ends after {left} of at least \d+ bytes\): download"):
        find_model(str(path))


@pytest.mark.parametrize("content", [b"\xf7\x93\x81\xfe" * 99, b"\xf0\xff" * 5000])
def test_an_unknown_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ConfigError, match=r"it does not begin like one\): check the path"):
        find_model(str(tmp_path / "m.onnx"))


def test_a_folder_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(MODEL)
    with pytest.raises(ConfigError, match=r"is a folder: give the path of an ONNX file in it \(a\.onnx\)"):
        find_model(str(tmp_path))
    assert find_model(str(tmp_path / "a.onnx")).benchmark == "resnet50"


def test_git_lfs_gets_the_file_behind_a_pointer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository := tmp_path / "repository").mkdir()
    (repository / "m.onnx").write_bytes(LFS)
    subprocess.run(["git", "init", "-q"], cwd=repository, check=True)
    with pytest.raises(ConfigError) as refused:
        find_model(str(repository / "m.onnx"))
    command = re.search(r"run `(.*)` in its repository", str(refused.value))[1]
    (tmp_path / "real").write_bytes(MODEL)
    (program := tmp_path / "git-lfs").write_text(f'#!/bin/sh\n[ "$1" = pull ] && cp "{tmp_path}/real" m.onnx\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    subprocess.run(command.split(), cwd=repository, check=True)
    assert find_model(str(repository / "m.onnx")).benchmark == "resnet50"


def test_a_packed_model_is_found_once_it_is_unpacked(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(gzip.compress(MODEL))
    with pytest.raises(ConfigError, match="unpack it, and give the path of the file in it"):
        find_model(str(tmp_path / "m.onnx"))
    (tmp_path / "n.onnx").write_bytes(gzip.decompress((tmp_path / "m.onnx").read_bytes()))
    find_model(str(tmp_path / "n.onnx"))


def in_a_constant(location: str) -> bytes:
    weight = numpy_helper.from_array(np.ones(4, np.float32), "w")
    external_data_helper.set_external_data(weight, location)
    weight.ClearField("raw_data")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 224, 224]) for name in ("x", "y")]
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), helper.make_node("Mul", ["x", "w"], ["y"])]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7).SerializeToString()


OUTSIDE = "refers to a file outside its folder"
EXTERNAL = {
    "up": ("../escaped/evil", {}, OUTSIDE),
    "absolute": ("/etc/passwd", {}, OUTSIDE),
    "through": ("a/../../escaped/evil", {}, OUTSIDE),
    "windows": ("..\\evil", {}, OUTSIDE),
    "drive": ("c:evil", {}, OUTSIDE),
    "nothing": ("", {}, OUTSIDE),
    "link": ("link", {}, "is a link to another folder: replace the link with a copy"),
    "linked folder": ("linked/evil", {}, "is a link to another folder: replace the link with a copy"),
    "dangling": ("dangling", {}, "is missing: copy or download it there"),
    "missing": ("none", {}, "is missing: copy or download it there"),
    "folder": ("folder", {}, "is not a regular file: use another copy"),
    "fifo": ("fifo", {}, "is not a regular file: use another copy"),
    "offset": ("w", {"offset": 10, "length": 16}, "has 16 bytes, but the model reads up to byte 26"),
    "length": ("w", {"offset": 0, "length": 1600}, "has 16 bytes, but the model reads up to byte 1,600"),
    "negative": ("w", {"offset": -16, "length": 16}, "is not an ONNX model"),
}


def places(tmp_path: Path) -> Path:
    """A folder with a file of weights, and other things."""
    (tmp_path / "escaped").mkdir()
    (tmp_path / "escaped" / "evil").write_bytes(bytes(16))
    (folder := tmp_path / "m").mkdir()
    (folder / "w").write_bytes(np.ones(4, np.float32).tobytes())
    (folder / "folder").mkdir()
    (folder / "inside").symlink_to("w")
    (folder / "link").symlink_to("../escaped/evil")
    (folder / "linked").symlink_to("../escaped")
    (folder / "dangling").symlink_to("nowhere")
    os.mkfifo(folder / "fifo")
    return folder


@pytest.mark.parametrize("make", [classifier, in_a_constant])
@pytest.mark.parametrize("case", EXTERNAL)
def test_external_files_stay_in_the_folder_and_are_complete(tmp_path: Path, case: str, make) -> None:
    location, place, message = EXTERNAL[case]
    folder = places(tmp_path)
    if place and make is in_a_constant:
        pytest.skip("the same check")
    (folder / "m.onnx").write_bytes(make(location, **place))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match=message):
        find_model(str(folder / "m.onnx"))
    for name in ("onnxruntime", "openvino", "deepsparse", "null"):
        cls = find_engine(name)
        with pytest.raises(ConfigError, match=message):
            cls(folder / "m.onnx", cls.Settings())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("location", ["w", "./w", "inside"])
def test_external_files_in_the_folder_are_used(tmp_path: Path, location: str) -> None:
    folder = places(tmp_path)
    (folder / "m.onnx").write_bytes(classifier(location, offset=0, length=16))
    find_model(str(folder / "m.onnx"))
    check_weights(folder / "m.onnx")


def test_a_linked_model_works_once_its_files_are_copied(tmp_path: Path) -> None:
    """The cache of huggingface_hub links each file to one that is named by its hash."""
    (blobs := tmp_path / "blobs").mkdir()
    (snapshot := tmp_path / "snapshot").mkdir()
    for name, content in (("m.onnx", classifier("w", offset=0, length=16)), ("w", bytes(16))):
        (blobs / f"hash-{name}").write_bytes(content)
        (snapshot / name).symlink_to(f"../blobs/hash-{name}")
    with pytest.raises(ConfigError, match=r"snapshot/m\.onnx is a link .* copy all of its files .* `cp -L`") as refused:
        find_model(str(snapshot / "m.onnx"))
    (copies := tmp_path / "copies").mkdir()
    command = re.search(r"`(.*)`", str(refused.value))[1]
    subprocess.run([*command.split(), *map(str, snapshot.iterdir()), str(copies)], check=True)
    find_model(str(copies / "m.onnx"))


def test_a_missing_external_file_is_used_once_it_is_there(tmp_path: Path) -> None:
    (folder := tmp_path / "m").mkdir()
    (folder / "m.onnx").write_bytes(classifier("w", offset=0, length=16))
    with pytest.raises(ConfigError) as refused:
        find_model(str(folder / "m.onnx"))
    (tmp_path / "w").write_bytes(bytes(16))
    shutil.copy(tmp_path / "w", re.match(r"(\S*), a weight file of m\.onnx, is missing: copy", str(refused.value))[1])
    find_model(str(folder / "m.onnx"))


def test_json_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([1]))
    assert read_input(tmp_path / "a.json", "log") == b"[1]"


@pytest.mark.parametrize(
    ("field", "version", "reason"),
    [("ir_version", 99, "Unsupported model IR version: 99, max"), ("opset", 99, "Opset 99 is under development")],
)
def test_a_version_that_the_engine_does_not_know_is_named(
    tmp_path: Path, field: str, version: int, reason: str
) -> None:
    model = ModelProto.FromString(MODEL)
    if field == "opset":
        model.opset_import[0].version = version
    else:
        model.ir_version = version
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    cls = find_engine("onnxruntime")
    with pytest.raises(EngineError, match=reason), engine_errors("onnxruntime", "to load it"):
        cls(tmp_path / "m.onnx", cls.Settings())
