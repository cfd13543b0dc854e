from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from huggingface_hub import constants
from onnx import ModelProto, TensorProto, external_data_helper, helper, numpy_helper
from typer.testing import CliRunner
from web import Site, serving

from harness import cli, paths
from harness.catalog import manifests
from harness.catalog import models as catalog
from harness.catalog.models import find_model
from harness.compress.compress import CompressSettings
from harness.errors import ConfigError, RunFailed
from harness.files import download as downloading
from harness.files import fingerprint
from harness.files.disk import claim, room_for
from harness.models import archives
from harness.models import fetch as sources
from harness.models.archives import is_archive, unpack
from harness.models.compression import compress_file
from harness.models.fetch import fetch
from harness.models.show import describe
from harness.settings.request import RunRequest, resolve


def classifier(operator: str = "Relu", metadata: dict[str, str] | None = None, shape: tuple = (3, 224, 224)) -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    helper.set_model_props(model, metadata or {})
    return model.SerializeToString()


MODEL = classifier()
INT8 = classifier("DequantizeLinear")
SHA, MD5 = hashlib.sha256(MODEL).hexdigest(), hashlib.md5(MODEL).hexdigest()
FACTS = {"description": "", "source": "Somewhere.", "official_name": "resnet50", "precision": "fp32"}
FACTS |= {"input_data_types": "fp32", "weight_transformations": "no"}


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(downloading, "time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def site() -> Iterator[Site]:
    with serving() as made:
        made.content = MODEL
        yield made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(paths, "MODELS_DIR", tmp_path / "models")
    return tmp_path / "models"


@pytest.fixture
def know(folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes tiny-fp32 a model of these sources and checksums, and the only one that is known."""

    def set_entry(*where: str, **facts: object) -> None:
        entry = manifests.ModelEntry(**{**FACTS, "fetch": where, **facts})
        monkeypatch.setattr(manifests, "models", lambda: {"tiny-fp32": ("resnet50", entry)})

    return set_entry


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def tar(path: Path, members: dict[str, bytes], extra: tarfile.TarInfo | None = None) -> Path:
    with tarfile.open(path, "w:xz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if extra:
            archive.addfile(extra)
    return path


def test_a_model_is_fetched_recorded_and_then_found_by_its_name(site, folder, know):
    know(site.url, md5=MD5, size=len(MODEL), settings={"preprocessing": "mlperf"})
    with pytest.raises(ConfigError, match="fetch it with `harness models fetch tiny-fp32`"):
        find_model("tiny-fp32")
    found = fetch("tiny-fp32")
    assert names(folder) == ["tiny-fp32.json", "tiny-fp32.onnx"]
    record = json.loads((folder / "tiny-fp32.json").read_text())
    assert (record["source"], record["sha256"], record["size"]) == (site.url, SHA, len(MODEL))
    assert record["verified"] == "md5"
    assert find_model("tiny-fp32").model_dump() == found.model_dump()
    assert (found.sha256, found.remark, found.settings) == (SHA, "", {"preprocessing": "mlperf"})
    fetch("tiny-fp32")
    assert len(site.log) == 1


@pytest.mark.parametrize("command", ["fetch", "verify", "show"])
def test_a_file_is_hashed_and_its_graph_read_once(site, folder, know, monkeypatch, command):
    know(site.url)
    if command != "fetch":
        fetch("tiny-fp32")
    reads: list[str] = []

    def counted(name: str, read):
        return lambda path: (reads.append(name), read(path))[1]

    for module, name in ((fingerprint, "sha256_of"), (catalog, "read_graph")):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    assert CliRunner().invoke(cli.app, ["models", command, "tiny-fp32"]).exit_code == 0
    assert sorted(reads) == ["read_graph", "sha256_of"]


def test_a_copy_elsewhere_is_known_by_its_md5(folder, know, tmp_path):
    know(md5=MD5)
    (tmp_path / "other.onnx").write_bytes(MODEL)
    assert find_model(str(tmp_path / "other.onnx")).name == "tiny-fp32"


def test_where_no_checksum_is_published_everything_says_so(site, folder, know):
    know(site.url)
    fetched = CliRunner().invoke(cli.app, ["models", "fetch", "tiny-fp32"])
    assert fetched.exit_code == 0, fetched.output
    assert f"not verified: no checksum is published, sha256 {SHA}" in fetched.output
    given = {"engine": "onnxruntime", "scenario": "Offline", "mode": "performance", "options": {}}
    for official in (False, True):
        notices = resolve(RunRequest(model="tiny-fp32", official=official, **given)).notices
        assert "Model tiny-fp32: not verified: no checksum is published." in notices


@pytest.mark.parametrize("known", [{"md5": "0" * 32}, {"sha256": "0" * 64}, {"md5": MD5, "size": 7}])
def test_another_file_is_refused_and_nothing_stays(site, folder, know, known):
    know(site.url, **known)
    with pytest.raises(
        RunFailed, match=r"tiny-fp32 cannot be fetched \(http.*: .*\): import your own copy .* --from PATH`\."
    ):
        fetch("tiny-fp32")
    assert names(folder) == []


@pytest.mark.parametrize(
    ("content", "precision", "message"),
    [
        (b"<html>gone</html>", "fp32", r"model\.onnx is a web page \(HTML\), not an ONNX model"),
        (classifier(shape=(5,)), "fp32", r"its inputs are .*, not those of resnet50"),
        (INT8, "fp32", "its weights are int8"),
        (MODEL, "int8", "its weights are not int8"),
        (classifier(metadata={"weights": "random weights, seed 0"}), "fp32", "made by this harness"),
        (classifier(metadata={"tool": "mlperf-cpu-harness 0.1.0"}), "fp32", "made by this harness"),
    ],
)
def test_without_a_checksum_the_graph_has_to_be_that_model_s(site, folder, know, content, precision, message):
    know(site.url, precision=precision)
    site.content = content
    with pytest.raises(RunFailed, match=message):
        fetch("tiny-fp32")
    assert names(folder) == []


def test_a_download_that_broke_off_goes_on_the_next_time_and_from_a_mirror(site, folder, know):
    with serving() as mirror:
        mirror.content = MODEL
        site.cuts, site.statuses = [40], [200, 404]
        mirror.statuses = [404]
        know(site.url, mirror.url, sha256=SHA)
        with pytest.raises(RunFailed, match=r"HTTP 404 Not Found; http.*HTTP 404"):
            fetch("tiny-fp32")
        assert names(folder) == [".tiny-fp32.fetch"]
        site.statuses = [404]
        fetch("tiny-fp32")
        assert mirror.log[-1]["Range"] == "bytes=40-"
    assert names(folder) == ["tiny-fp32.json", "tiny-fp32.onnx"]


def test_a_changed_file_is_refused_with_the_cure(site, folder, know):
    know(site.url, md5=MD5)
    fetch("tiny-fp32")
    (folder / "tiny-fp32.onnx").write_bytes(INT8)
    message = r"is not the file fetched as tiny-fp32 .*: remove .*tiny-fp32.onnx and fetch it again"
    for find in (find_model, fetch):
        with pytest.raises(ConfigError, match=message):
            find("tiny-fp32")
    checked = CliRunner().invoke(cli.app, ["models", "verify"])
    assert checked.exit_code == 1
    assert "its sha256 differs" in checked.output


def test_a_file_that_was_not_fetched_is_not_found_under_the_name(folder, know):
    know("hf:a/b/c.onnx")
    folder.mkdir()
    (folder / "tiny-fp32.onnx").write_bytes(classifier(metadata={"weights": "random weights, seed 0"}))
    with pytest.raises(ConfigError, match=r"was not fetched, .* no record .* --from PATH`"):
        find_model("tiny-fp32")
    (folder / "tiny-fp32.onnx").rename(folder / "tiny-fp32-random.onnx")
    with pytest.raises(ConfigError, match="is not shipped"):
        find_model("tiny-fp32")
    listed = CliRunner().invoke(cli.app, ["models", "list", "--json"])
    assert json.loads(listed.output)[0]["here"] == "built random"
    for kind in ("built", "dense-random", "dense-built"):
        (folder / f"tiny-fp32-{kind}.onnx").write_bytes(MODEL)
    listed = CliRunner().invoke(cli.app, ["models", "list", "--json"])
    assert json.loads(listed.output)[0]["here"] == "built random, built, built dense random, built dense"


def test_verify_skips_what_is_not_here_unless_it_is_named(site, folder, know):
    know(site.url, md5=MD5)
    run = CliRunner().invoke
    assert run(cli.app, ["models", "verify"]).exit_code == 0
    assert run(cli.app, ["models", "verify", "tiny-fp32"]).exit_code == 1
    with pytest.raises(ConfigError, match="did you mean 'tiny-fp32'"):
        run(cli.app, ["models", "verify", "tiny-fp23"], catch_exceptions=False)
    fetch("tiny-fp32")
    assert f"tiny-fp32: verified by md5, sha256 {SHA}" in run(cli.app, ["models", "verify"]).output


@pytest.mark.parametrize("kind", ["file", "folder", "deep", "tar", "zip", "member"])
def test_the_user_s_copy_is_taken_in(folder, know, tmp_path, kind):
    know(sha256=SHA)
    place = tmp_path / "mine"
    place.mkdir()
    copy = place / "model.onnx"
    if kind == "tar":
        copy = tar(place / "model.tar.xz", {"a/model.onnx": MODEL, "a/README": b"", "a/._model.onnx": b""})
    elif kind in ("zip", "member"):
        copy = place / "model.zip"
        with zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("deployment/model.onnx", MODEL)
            if kind == "member":
                archive.writestr("other.onnx", INT8)
    elif kind == "deep":
        (place / "deployment").mkdir()
        (place / "deployment" / "model.onnx").write_bytes(MODEL)
        copy = place
    else:
        copy.write_bytes(MODEL)
        copy = place if kind == "folder" else copy
    fetch("tiny-fp32", f"{copy}#deployment/model.onnx" if kind == "member" else str(copy))
    assert names(folder) == ["tiny-fp32.json", "tiny-fp32.onnx"]
    assert (folder / "tiny-fp32.onnx").read_bytes() == MODEL
    assert copy.exists()


def test_a_copy_that_is_another_model_is_refused(folder, know, tmp_path):
    know(sha256=SHA)
    (tmp_path / "m.onnx").write_bytes(INT8)
    with pytest.raises(ConfigError, match=rf"that is not tiny-fp32: its sha256 is .* instead of {SHA}"):
        fetch("tiny-fp32", str(tmp_path / "m.onnx"))
    with pytest.raises(ConfigError, match=r"/none does not exist: give the path"):
        fetch("tiny-fp32", str(tmp_path / "none"))
    (tmp_path / "n.onnx").write_bytes(MODEL)
    with pytest.raises(ConfigError, match=r"contains 2 ONNX files \(m.onnx, n.onnx\): give the path of one"):
        fetch("tiny-fp32", str(tmp_path))
    assert names(folder) == []


def with_weights_beside(location: str) -> bytes:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 224, 224]) for name in ("x", "y")]
    weight = numpy_helper.from_array(np.ones(2, np.float32), "w")
    external_data_helper.set_external_data(weight, location)
    weight.ClearField("raw_data")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()


def test_weights_beside_the_graph_come_along_and_are_verified(folder, know, tmp_path):
    know()
    copy = tar(tmp_path / "m.tar", {"a/m.onnx": with_weights_beside("w.data"), "a/w.data": b"12345678", "w.data": b""})
    fetch("tiny-fp32", str(copy))
    assert names(folder) == ["tiny-fp32.json", "tiny-fp32.onnx", "w.data"]
    (folder / "w.data").write_bytes(b"87654321")
    with pytest.raises(ConfigError, match=r"w\.data is not the file fetched"):
        find_model("tiny-fp32")


def test_weights_that_are_damaged_while_they_are_copied_are_not_kept(folder, know, tmp_path, monkeypatch):
    know()
    copy = tar(tmp_path / "m.tar", {"m.onnx": with_weights_beside("w.data"), "w.data": b"12345678"})
    monkeypatch.setattr("shutil.copyfile", lambda source, target: target.write_bytes(b"1234567"))
    with pytest.raises(RunFailed, match=r"cannot be stored in .*: the copy of w\.data differs from it"):
        fetch("tiny-fp32", str(copy))
    assert names(folder) == []


@pytest.mark.parametrize("location", ["../../w.data", "/etc/passwd"])
def test_a_graph_cannot_reach_out_of_its_folder(folder, know, tmp_path, location):
    know()
    (tmp_path / "w.data").write_bytes(b"12345678")
    (tmp_path / "m.onnx").write_bytes(with_weights_beside(location))
    tar(tmp_path / "m.tar", {"m.onnx": with_weights_beside(location)})
    for copy in ("m.onnx", "m.tar"):
        with pytest.raises(ConfigError, match="refers to a file outside its folder"):
            fetch("tiny-fp32", str(tmp_path / copy))
    assert names(folder) == []


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "c:x", "a\\..\\x"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_an_archive_cannot_write_elsewhere(tmp_path, name, kind):
    archive = tmp_path / "in" / "m"
    archive.parent.mkdir()
    if kind == "tar":
        tar(archive, {"m.onnx": MODEL, name: b"attack"})
    else:
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("m.onnx", MODEL)
            file.writestr(zipfile.ZipInfo(name), b"attack")
    with pytest.raises(ConfigError, match="refers to a file outside its folder"):
        unpack(archive, None, tmp_path / "room")
    assert names(tmp_path) == ["in"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, "zip"])
def test_links_and_devices_are_refused(tmp_path, kind):
    archive = tmp_path / "m"
    if kind == "zip":
        info = zipfile.ZipInfo("link")
        info.external_attr = 0o120777 << 16
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("m.onnx", MODEL)
            file.writestr(info, "/etc/passwd")
    else:
        extra = tarfile.TarInfo("link")
        extra.type, extra.linkname = kind, "/etc/passwd"
        tar(archive, {"m.onnx": MODEL}, extra)
    with pytest.raises(ConfigError, match=r"contains a link or a device \('link'\)"):
        unpack(archive, None, tmp_path / "room")


def test_an_archive_that_grows_is_refused(tmp_path):
    archive = tmp_path / "bomb"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("m.onnx", bytes(10_000_000))
    with pytest.raises(ConfigError, match="unpacks to more than 1,000,000 bytes"):
        unpack(archive, None, tmp_path / "room", limit=1_000_000)


def header(kind: bytes, name: str = "x", size: int = 0) -> bytes:
    """One block of a tar archive."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def long_header(kind: bytes, content: bytes) -> bytes:
    return header(kind, size=len(content)) + content + bytes(-len(content) % 512)


def sparse_pax(numbers: bytes) -> bytes:
    records = b"".join(
        b"%d %s\n" % (len(pair) + 4, pair)
        for pair in (b"GNU.sparse.major=1", b"GNU.sparse.minor=0", b"GNU.sparse.name=x.onnx")
    )
    return long_header(tarfile.XHDTYPE, records) + long_header(tarfile.REGTYPE, numbers)


BIG = 2**16
TOO_LARGE = "has larger headers than any archive of a model"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (long_header(tarfile.XHDTYPE, bytes(BIG)), TOO_LARGE),
        (long_header(tarfile.XGLTYPE, bytes(BIG)), TOO_LARGE),
        (long_header(tarfile.GNUTYPE_LONGNAME, b"a" * BIG), TOO_LARGE),
        (long_header(tarfile.GNUTYPE_LONGLINK, b"a" * BIG), TOO_LARGE),
        (
            long_header(tarfile.GNUTYPE_LONGNAME, b"a" * 9) * 5000 + header(b"0"),
            TOO_LARGE,
        ),
        (sparse_pax(b"100000000\n" + b"1\n" * (BIG // 2)), TOO_LARGE),
        (header(tarfile.GNUTYPE_SPARSE), r"contains a link or a device \('x'\)"),
        (b"".join(header(tarfile.DIRTYPE, f"d{number}") for number in range(101)), "or 100 files"),
        (header(b"0", "m.onnx", 2**40), "unpacks to more than 17,179,869,184 bytes"),
    ],
)
def test_headers_cannot_fill_the_memory(tmp_path, monkeypatch, content, message, pack):
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 100)
    monkeypatch.setattr(archives, "_MAX_TAR_HEADER_BYTES", 16 * 1024)
    archive = tmp_path / "m.tar"
    archive.write_bytes(pack(content))
    assert is_archive(archive)
    with pytest.raises(ConfigError, match=message):
        unpack(archive, None, tmp_path / "room")


def test_a_small_archive_with_a_large_header_takes_no_memory(tmp_path):
    archive = tmp_path / "m.tgz"
    archive.write_bytes(gzip.compress(long_header(tarfile.XHDTYPE, bytes(16 * 2**20))))
    tracemalloc.start()
    assert is_archive(archive)
    with pytest.raises(ConfigError, match=TOO_LARGE):
        unpack(archive, None, tmp_path / "room")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_a_zip_archive_of_too_many_files_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "_MAX_MEMBERS", 100)
    archive = tmp_path / "m.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(101):
            file.writestr(f"{number}", b"")
    with pytest.raises(ConfigError, match="or 100 files"):
        unpack(archive, None, tmp_path / "room")


def test_a_dictionary_cannot_fill_the_memory(tmp_path):
    archive = tmp_path / "m.tar.xz"
    content = lzma.compress(bytes(10_240), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 300 * 2**20}])
    archive.write_bytes(content)
    assert not is_archive(archive)


@pytest.mark.parametrize(
    ("members", "member", "message"),
    [
        ({"a.onnx": MODEL, "b.onnx": MODEL}, None, r"contains 2 ONNX files \(a.onnx, b.onnx\): append #"),
        ({"a.txt": b""}, None, "contains no ONNX file"),
        ({"a.onnx": MODEL}, "b.onnx", r"does not contain 'b.onnx': it has a.onnx"),
        ({"a.onnx": with_weights_beside("w.data")}, None, "lacks w.data, a file of weights of a.onnx"),
    ],
)
def test_an_archive_holds_one_model(tmp_path, members, member, message):
    archive = tar(tmp_path / "m.tar.xz", members)
    with pytest.raises(ConfigError, match=message):
        unpack(archive, member, tmp_path / "room")


def test_a_broken_archive_is_one_sentence(tmp_path):
    archive = tar(tmp_path / "m.tar.xz", {"m.onnx": bytes(range(256)) * 1000})
    archive.write_bytes(archive.read_bytes()[:-40])
    with pytest.raises(ConfigError, match="is not a complete tar or zip archive"):
        unpack(archive, None, tmp_path / "room")


def test_the_beginning_of_a_zip_archive_is_one_that_is_broken(tmp_path):
    archive = tmp_path / "m.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("m.onnx", bytes(range(256)) * 1000)
    archive.write_bytes(archive.read_bytes()[:1000])
    assert is_archive(archive)
    with pytest.raises(ConfigError, match="is not a complete tar or zip archive"):
        unpack(archive, None, tmp_path / "room")


def test_an_archive_is_fetched_and_unpacked(site, folder, know, tmp_path):
    site.content = tar(tmp_path / "m.tar.xz", {"a/model.onnx": MODEL, "b.onnx": INT8}).read_bytes()
    address = site.url.replace("model.onnx", "model.tar.xz")
    know(address, f"{address}#a/model.onnx", sha256=SHA)
    fetch("tiny-fp32")
    assert names(folder) == ["tiny-fp32.json", "tiny-fp32.onnx"]
    assert json.loads((folder / "tiny-fp32.json").read_text())["source"].endswith("#a/model.onnx")


@pytest.mark.parametrize("during", ["unpack", "benchmark_class"])
def test_an_interruption_after_the_download_costs_no_second_one(site, folder, know, tmp_path, monkeypatch, during):
    site.content = tar(tmp_path / "m.tar.xz", {"model.onnx": MODEL}).read_bytes()
    know(site.url.replace("model.onnx", "model.tar.xz"), sha256=SHA)
    with monkeypatch.context() as patched:
        patched.setattr(sources, during, interrupt)
        with pytest.raises(KeyboardInterrupt):
            fetch("tiny-fp32")
    assert len(site.log) == 1
    fetch("tiny-fp32")
    assert len(site.log) == 1
    assert names(folder) == ["tiny-fp32.json", "tiny-fp32.onnx"]


def test_an_archive_of_another_model_does_not_stand_for_its_mirror(site, folder, know, tmp_path):
    """Both have the same name."""
    with serving() as mirror:
        site.content = tar(tmp_path / "m.tar.xz", {"model.onnx": INT8}).read_bytes()
        mirror.content = tar(tmp_path / "n.tar.xz", {"model.onnx": MODEL}).read_bytes()
        know(*(place.url.replace("model.onnx", "model.tar.xz") for place in (site, mirror)), sha256=SHA)
        fetch("tiny-fp32")
    assert names(folder) == ["tiny-fp32.json", "tiny-fp32.onnx"]


def test_a_file_with_any_name_may_be_the_model(site, folder, know):
    know(site.url.replace("model.onnx", "download"), sha256=SHA)
    fetch("tiny-fp32")
    assert (folder / "tiny-fp32.onnx").read_bytes() == MODEL
    assert names(folder) == ["tiny-fp32.json", "tiny-fp32.onnx"]


@pytest.mark.parametrize("path", ["..%2F..%2Fevil.tar.xz", "%2e%2e%2fevil.tar.xz", "..", "a%2F", "..%5Cevil.tar.xz"])
def test_a_url_cannot_name_a_file_elsewhere(site, folder, know, tmp_path, path):
    site.content = tar(tmp_path / "m.tar.xz", {"model.onnx": MODEL}).read_bytes()
    (tmp_path / "m.tar.xz").unlink()
    know(site.url.replace("model.onnx", path), sha256=SHA)
    fetch("tiny-fp32")
    assert names(folder) == ["tiny-fp32.json", "tiny-fp32.onnx"]
    assert names(tmp_path) == ["models"]


@pytest.mark.parametrize("command", ["fetch", "import", "compress"])
def test_what_killed_commands_left_is_removed_by_the_next_one(site, folder, know, tmp_path, command):
    know(site.url, sha256=SHA)
    rooms = [room_for(folder / "other.onnx") for _ in range(2)]
    locks = [claim(room) for room in rooms]
    (rooms[0] / "unpacked").mkdir()
    os.close(locks[0])  # as the kernel does
    (tmp_path / "m.onnx").write_bytes(MODEL)
    if command == "fetch":
        fetch("tiny-fp32")
    elif command == "import":
        (folder / ".tiny-fp32.fetch").mkdir()
        fetch("tiny-fp32", str(tmp_path / "m.onnx"))
    else:
        with pytest.raises(ConfigError):
            compress_file("none", tmp_path / "x.onnx", CompressSettings(), None, 1)
    assert [name for name in names(folder) if name.startswith(".")] == [rooms[1].name]
    os.close(locks[1])


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_interruption_while_a_copy_is_taken_in_leaves_nothing(folder, know, tmp_path, monkeypatch):
    know()
    (tmp_path / "w.data").write_bytes(b"12345678")
    (tmp_path / "m.onnx").write_bytes(with_weights_beside("w.data"))
    copy = shutil.copyfile

    def half(source: Path, target: Path) -> None:
        copy(source, target)
        if source.name == "w.data":
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "copyfile", half)
    with pytest.raises(KeyboardInterrupt):
        fetch("tiny-fp32", str(tmp_path / "m.onnx"))
    assert names(folder) == []


@pytest.fixture
def hub(site, monkeypatch) -> Site:
    """A web server in the place of Hugging Face's, as HF_ENDPOINT names one, and a user with a token."""
    endpoint = site.url.rpartition("/")[0]
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return site


def test_hugging_face_is_asked_for_the_file_at_its_revision(hub, folder, know):
    know("hf:owner/name/onnx/model.onnx@abc", sha256=SHA)
    fetch("tiny-fp32")
    assert hub.paths == ["/owner/name/resolve/abc/onnx/model.onnx"]
    assert names(folder) == ["tiny-fp32.json", "tiny-fp32.onnx"]


def test_hugging_face_also_gives_the_files_of_weights(hub, folder, know):
    hub.versions = [(with_weights_beside("w.data"), '"m"'), (b"12345678", '"w"')]
    know("hf:owner/name/onnx/model.onnx")
    fetch("tiny-fp32")
    assert hub.paths == [f"/owner/name/resolve/main/onnx/{file}" for file in ("model.onnx", "w.data")]
    assert (folder / "w.data").read_bytes() == b"12345678"


def test_only_hugging_face_sees_the_token(hub, folder, know):
    know("hf:owner/name/model.onnx", sha256=SHA)
    with serving() as store:
        store.content = MODEL
        hub.statuses, hub.extra = [307], {"Location": "/moved"}
        fetch("tiny-fp32")
        (folder / "tiny-fp32.onnx").unlink()
        hub.statuses, hub.extra = [302], {"Location": store.url}
        fetch("tiny-fp32")
        assert [headers["Authorization"] for headers in hub.log] == ["Bearer hf_secret"] * 3
        assert [headers["Authorization"] for headers in store.log] == [None]


def test_a_file_from_hugging_face_that_is_too_long_is_refused_before_it_is_stored(hub, folder, know):
    hub.endless = True
    know("hf:owner/name/model.onnx", size=len(MODEL) - 1)
    with pytest.raises(RunFailed, match=rf"has {len(MODEL):,} bytes instead of {len(MODEL) - 1:,}"):
        fetch("tiny-fp32")
    assert names(folder) == []


def test_a_download_from_hugging_face_resumes(hub, folder, know):
    hub.cuts = [50]
    know("hf:owner/name/model.onnx", sha256=SHA)
    fetch("tiny-fp32")
    assert [headers["Range"] for headers in hub.log[:2]] == [None, "bytes=50-"]


def test_another_model_from_hugging_face_is_not_kept_for_the_next_attempt(hub, folder, know):
    with serving() as other:
        other.cuts, other.content = [50, *[0] * 9], INT8
        know("hf:owner/name/model.onnx", other.url, precision="int8")
        with pytest.raises(RunFailed, match=r"its weights are not int8; .*IncompleteRead"):
            fetch("tiny-fp32")
    hub.content = INT8
    fetch("tiny-fp32")
    assert len(hub.paths) == 2


@pytest.mark.parametrize(
    ("source", "status", "said"),
    [
        ("hf:owner/name/model.onnx", 404, r"http://.*/resolve/main/model\.onnx: HTTP 404 Not Found"),
        ("hf:owner/name/model.onnx", 401, r"hf:.*: the repository does not exist, or requires .*\(HF_TOKEN\)"),
        ("hf:owner/name/model.onnx", 403, r"hf:.*: the repository does not exist, or requires .*\(HF_TOKEN\)"),
        ("hf:owner", 200, "hf:owner: write hf:OWNER"),
        ("hf:owner/--/model.onnx", 200, "hf:owner/--/model.onnx: .*owner/--"),
    ],
)
def test_hugging_face_that_does_not_give_it_is_one_sentence(hub, folder, know, source, status, said):
    hub.statuses = [status]
    know(source, builder="a:b")
    with pytest.raises(RunFailed, match=rf"\({said}.*\): import .*, or build it"):
        fetch("tiny-fp32")
    assert names(folder) == []


def test_hugging_face_is_not_asked_offline(hub, folder, know, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    know("hf:owner/name/model.onnx")
    with pytest.raises(RunFailed, match="HF_HUB_OFFLINE is set"):
        fetch("tiny-fp32")
    assert hub.paths == []


def test_sparsezoo_gives_a_path(folder, know, monkeypatch):
    def run(command: list[str], **_: object) -> SimpleNamespace:
        path = Path(command[-1]) / "model.onnx"
        path.parent.mkdir(parents=True)
        path.write_bytes(INT8)
        return SimpleNamespace(returncode=0, stdout=f"welcome\n{path}\n", stderr="")

    monkeypatch.setattr(sources.util, "find_spec", lambda _: True)
    monkeypatch.setattr(subprocess, "run", run)
    know("zoo:a/stub", precision="int8")
    assert fetch("tiny-fp32").remark == "not verified: no checksum is published"


def test_the_script_for_sparsezoo_prints_where_the_model_is(monkeypatch, tmp_path, capsys):
    package = ModuleType("sparsezoo")
    package.Model = lambda stub, download_path: SimpleNamespace(
        onnx_model=SimpleNamespace(path=f"{download_path}/{stub}")
    )
    monkeypatch.setitem(sys.modules, "sparsezoo", package)
    monkeypatch.setattr(sys, "argv", ["-c", "stub", "folder"])
    exec(sources._ZOO, {})
    assert capsys.readouterr().out == "folder/stub\n"


@pytest.mark.parametrize("way", ["no package", "no network", "no answer"])
def test_for_sparsezoo_which_was_shut_down_the_error_says_what_to_do(folder, know, monkeypatch, way):
    def run(command: list[str], **_: object) -> SimpleNamespace:
        if way == "no answer":
            raise subprocess.TimeoutExpired(command, 1)
        return SimpleNamespace(returncode=1, stdout="", stderr="Traceback\nrequests.ConnectionError: Max retries")

    monkeypatch.setattr(sources.util, "find_spec", lambda _: None if way == "no package" else True)
    monkeypatch.setattr(subprocess, "run", run)
    know("zoo:a/stub", builder="a:b")
    why = {"no package": "not installed", "no network": "server cannot be reached", "no answer": "no answer within"}
    with pytest.raises(RunFailed) as raised:
        fetch("tiny-fp32")
    message = str(raised.value)
    assert why[way] in message
    assert "SparseZoo has been shut down, so import your own copy with" in message
    assert "or build it with random weights or from a checkpoint" in message
    assert names(folder) == []


def test_what_cannot_be_fetched_says_so(folder, know):
    know()
    with pytest.raises(ConfigError, match=r"no source for tiny-fp32 is known: import your own copy .*Somewhere\."):
        fetch("tiny-fp32")
    with pytest.raises(ConfigError, match="no model 'tini-fp32' to fetch: did you mean 'tiny-fp32'"):
        fetch("tini-fp32")
    know(file="x.onnx")
    with pytest.raises(ConfigError, match="is shipped"):
        fetch("tiny-fp32")


def test_a_folder_that_cannot_be_written_is_one_sentence(folder, know, site):
    know(site.url)
    folder.write_bytes(b"")
    with pytest.raises(
        RunFailed, match=r"tiny-fp32 cannot be stored in .*models: File exists; free disk space or fix the folder"
    ):
        fetch("tiny-fp32")


def sparse_model() -> ModelProto:
    """A float matrix with 3 of 4 zeros behind a Transpose, an int8 one whose zero point is 5 in 2 of 4."""
    weights = [
        numpy_helper.from_array(np.array([[0, 0], [0, 1]], np.float32), "f"),
        numpy_helper.from_array(np.array([[5, 0], [1, 5]], np.int8), "q"),
        numpy_helper.from_array(np.array(5, np.int8), "z"),
        numpy_helper.from_array(np.array(0.5, np.float32), "s"),
        numpy_helper.from_array(np.array([3, 4], np.int64), "shape"),
    ]
    nodes = [
        helper.make_node("Transpose", ["f"], ["ft"]),
        helper.make_node("MatMul", ["x", "ft"], ["a"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["qd"]),
        helper.make_node("MatMul", ["a", "qd"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 224, 224]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    facts = {"weights": "a checkpoint", "precision": "int8", "sparsity": "0.5", "block": "4", "calibration": "20 songs"}
    helper.set_model_props(model, facts)
    return model


def test_show_describes_a_file(folder, tmp_path):
    path = tmp_path / "sparse.onnx"
    path.write_bytes(sparse_model().SerializeToString())
    facts = asdict(describe(str(path)))
    assert facts["weight_matrices"] == {"count": 2, "elements": 8, "zeros": 5, "least": 0.5, "most": 0.75}
    assert facts["parameters"] == {"float": 5, "integer": 4}
    assert facts["operators"] == {"MatMul": 2, "Transpose": 1, "DequantizeLinear": 1}
    assert facts["metadata"]["calibration"] == "20 songs"
    shown = CliRunner().invoke(cli.app, ["models", "show", str(path)])
    assert shown.exit_code == 0
    said = " ".join(shown.output.split())
    assert "name sparse (int8, 50 % sparse in blocks of 4, calibrated with 20 songs)" in said
    assert "sparsity 62.5% zeros in 2 weight matrices (from 50.0% to 75.0%)" in said
    assert "metadata block: 4" in said
    as_json = CliRunner().invoke(cli.app, ["models", "show", str(path), "--json"])
    assert json.loads(as_json.output) == facts


@pytest.mark.parametrize(
    ("random", "metadata", "title"),
    [
        (False, {}, "m"),
        (False, {"precision": "fp32", "architecture": "a Relu", "weights": "a checkpoint", "sparsity": "0"}, "m"),
        (False, {"weights": "random.safetensors, sha256 0"}, "m"),
        (True, {"weights": "random weights, seed 0", "precision": "fp32"}, "m (random weights, seed 0)"),
        (True, {"sparsity": "95 %", "block": "1", "weights": "seed 1"}, "m (seed 1, fp32, 95 % sparse)"),
        (True, {}, "m (random weights)"),
        (False, {"sparsity": "about half"}, "m (fp32, about half sparse)"),
    ],
)
def test_the_title_says_what_was_done_to_the_model(random, metadata, title):
    facts = {"name": "m", "path": Path("m.onnx"), "benchmark": "bert", "official_name": "bert-99", "sha256": None}
    assert manifests.Model(**facts, precision="fp32", metadata=metadata, random=random).title == title
