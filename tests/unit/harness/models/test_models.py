from __future__ import annotations

import errno
import hashlib
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper
from typer.testing import CliRunner

from harness import __version__, cli, paths
from harness.catalog import manifests
from harness.catalog.models import find_model
from harness.errors import ConfigError
from harness.graph import read_graph
from harness.models.build import BuildRequest, build
from harness.models.compression import facts_of
from harness.models.weights import RandomWeights, Weights
from harness.settings.request import RunRequest, resolve


def classifier(weights: Weights, metadata: dict[str, str] | None = None) -> ModelProto:
    """Only the part of a graph that identifies the benchmark of a model."""
    weights.tensor("x.weight", (2,), lambda generator, shape: generator.standard_normal(shape))
    weights.finish(("num_batches_tracked",))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3, 224, 224]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    helper.set_model_props(model, metadata or {"weights": weights.source, "architecture": "a Relu"})
    return model


@pytest.fixture(autouse=True)
def manifest(monkeypatch, tmp_path):
    """A model tiny-fp32 whose graph can be built, beside one whose graph cannot."""
    module = ModuleType("tiny_graph")
    module.build = classifier
    monkeypatch.setitem(sys.modules, "tiny_graph", module)
    facts = {"description": "", "source": "", "official_name": "resnet50", "precision": "fp32"}
    facts |= {"input_data_types": "fp32", "weight_transformations": "no"}
    entries = {
        "tiny-fp32": manifests.ModelEntry(
            **facts, builder="tiny_graph:build", settings={"preprocessing": "mlperf", "label_offset": 1}
        ),
        "other-fp32": manifests.ModelEntry(**facts),
    }
    known = {name: ("resnet50", entry) for name, entry in entries.items()}
    monkeypatch.setattr(manifests, "models", lambda: known)
    monkeypatch.setattr(paths, "MODELS_DIR", tmp_path / "build" / "models")


def test_a_built_model_brings_its_settings_and_the_caveat_of_all_its_results(tmp_path):
    path = build(BuildRequest("tiny-fp32", "random", seed=5))
    assert path == tmp_path / "build" / "models" / "tiny-fp32-random.onnx"
    assert read_graph(path).metadata == {
        "weights": "random weights, seed 5",
        "random_weights": "yes",
        "architecture": "a Relu",
        "model": "tiny-fp32",
        "precision": "fp32",
        "preprocessing": "mlperf",
        "label_offset": "1",
        "tool": f"mlperf-cpu-harness {__version__}",
    }
    found = find_model(str(path))
    assert (found.caveat, found.random) == ("random weights, seed 5", True)
    assert found.title == "tiny-fp32-random (random weights, seed 5)"
    assert (found.benchmark, found.official_name, found.precision) == ("resnet50", "resnet50", "fp32")
    given = {"model": str(path), "engine": "onnxruntime", "scenario": "Offline", "mode": "performance", "options": {}}
    settings = resolve(RunRequest(**given))
    assert settings.benchmark_settings.model_dump(exclude_none=True) == {"preprocessing": "mlperf", "label_offset": 1}
    assert any("random weights, seed 5" in notice for notice in settings.notices)
    with pytest.raises(ConfigError, match="random weights, seed 5, so it cannot give an official result"):
        resolve(RunRequest(**given, official=True))


def test_a_model_that_was_compressed_here_says_so_in_every_result(tmp_path):
    metadata = {"weights": "mine", "model": "tiny-fp32", "compression": "second-order, one shot"}
    model = classifier(RandomWeights(0), metadata)
    (tmp_path / "small.onnx").write_bytes(model.SerializeToString())
    found = find_model(str(tmp_path / "small.onnx"))
    assert found.remark == "compressed here (second-order, one shot), not a published model"


def test_a_trained_model_stays_one_when_it_is_compressed(tmp_path):
    training = {"training": "a recipe, 9 steps", "recipe": "a recipe", "recipe_sha256": "12", "training_data": "x"}
    model = classifier(RandomWeights(0), {"weights": "mine", "compression": "gradual", "torch": "2", **training})
    (tmp_path / "small.onnx").write_bytes(model.SerializeToString())
    facts = facts_of(find_model(str(tmp_path / "small.onnx")))
    assert facts == {"weights": "mine", **training}
    (tmp_path / "again.onnx").write_bytes(
        classifier(RandomWeights(0), facts | {"compression": "b"}).SerializeToString()
    )
    assert find_model(str(tmp_path / "again.onnx")).retraining == "Yes: a recipe, 9 steps"


def test_a_setting_cannot_hide_that_the_weights_are_random(monkeypatch):
    benchmark, entry = manifests.models()["tiny-fp32"]
    trained = entry.model_copy(update={"settings": {"weights": "trained"}})
    monkeypatch.setattr(manifests, "models", lambda: {"tiny-fp32": (benchmark, trained)})
    path = build(BuildRequest("tiny-fp32", "random", seed=5))
    assert read_graph(path).metadata["weights"] == "random weights, seed 5"


def test_every_builder_of_the_manifests_is_there(monkeypatch):
    monkeypatch.undo()
    builders = [entry.builder for _, entry in manifests.models().values() if entry.builder]
    assert builders
    for builder in builders:
        module, _, function = builder.partition(":")
        assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize(
    ("name", "weights", "output", "seed", "message"),
    [
        ("tiny-pf32", "random", None, 0, "no model 'tiny-pf32' to build: did you mean 'tiny-fp32'?"),
        ("other-fp32", "random", None, 0, "other-fp32 cannot be built: choose from tiny-fp32"),
        ("tiny-fp32", "trained", None, 0, "--weights trained: give random, or the path of a checkpoint"),
        ("tiny-fp32", "nowhere/model.safetensors", None, 0, "there is no checkpoint nowhere/model.safetensors: give a"),
        ("tiny-fp32", "random", None, -1, "--seed -1: the seed must be 0 or greater"),
        ("tiny-fp32", "random", "other-fp32.onnx", 0, "other-fp32 is reserved for a published model: choose another"),
        ("tiny-fp32", "random", "folder", 0, "folder must end in .onnx"),
    ],
)
def test_an_impossible_build_is_refused_before_anything_is_written(tmp_path, name, weights, output, seed, message):
    with pytest.raises(ConfigError) as raised:
        build(BuildRequest(name, weights, tmp_path / output if output else None, seed))
    assert message in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_a_model_with_random_weights_is_replaced(tmp_path):
    for output in (None, tmp_path / "mine.onnx"):
        first = build(BuildRequest("tiny-fp32", "random", output, 1))
        assert build(BuildRequest("tiny-fp32", "random", output, 2)) == first
        assert read_graph(first).metadata["weights"] == "random weights, seed 2"


@pytest.mark.parametrize(
    "content",
    [b"not a model", classifier(RandomWeights(0), {"weights": "fine-tuned"}).SerializeToString(), None],
    ids=["no model", "trained", "folder"],
)
def test_nothing_else_is_replaced(tmp_path, content):
    path = tmp_path / "mine.onnx"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    message = r"mine\.onnx already exists and is not a model with random weights: choose another"
    with pytest.raises(ConfigError, match=message):
        build(BuildRequest("tiny-fp32", "random", path, 0))
    assert path.is_dir() if content is None else path.read_bytes() == content


@pytest.fixture
def checkpoint(tmp_path) -> str:
    numpy_io = pytest.importorskip("safetensors.numpy", reason="safetensors is not installed")
    path = tmp_path / "trained" / "model.safetensors"
    path.parent.mkdir()
    numpy_io.save_file({"x.weight": np.ones(2, np.float32)}, path)
    return str(path.parent)


def test_a_model_with_the_weights_of_a_checkpoint_has_no_caveat(tmp_path, checkpoint):
    path = build(BuildRequest("tiny-fp32", checkpoint))
    assert path == tmp_path / "build" / "models" / "tiny-fp32-built.onnx"
    found = find_model(str(path))
    digest = hashlib.sha256((Path(checkpoint) / "model.safetensors").read_bytes()).hexdigest()
    assert (found.source, found.caveat, found.random) == (f"trained, sha256 {digest[:16]}", "", False)
    assert read_graph(path).metadata["random_weights"] == "no"
    assert build(BuildRequest("tiny-fp32", checkpoint)) == path  # again


def test_a_checkpoint_whose_name_begins_with_random_has_no_random_weights(tmp_path, checkpoint):
    named = Path(checkpoint).rename(tmp_path / "random weights, seed 3")
    path = build(BuildRequest("tiny-fp32", str(named)))
    found = find_model(str(path))
    assert found.source.startswith("random weights, seed 3, sha256 ")
    assert (found.random, found.caveat, found.title) == (False, "", "tiny-fp32-built")
    assert facts_of(found)["random_weights"] == "no"
    assert build(BuildRequest("tiny-fp32", str(named))) == path  # again
    with pytest.raises(ConfigError, match="is not a model with random weights"):
        build(BuildRequest("tiny-fp32", "random", path))


@pytest.mark.parametrize(
    ("metadata", "caveat"),
    [
        ({"weights": "random weights, seed 5"}, "random weights, seed 5"),  # as versions up to 0.2 wrote it
        ({"weights": "seed 5", "random_weights": "yes"}, "seed 5"),
        ({"random_weights": "yes"}, "random weights"),
        ({"weights": "random forest, distilled", "random_weights": "no"}, ""),
        ({"weights": "fine-tuned"}, ""),
        ({"architecture": "a Relu"}, ""),
    ],
)
def test_a_file_says_whether_its_weights_are_random(tmp_path, metadata, caveat):
    path = tmp_path / "mine.onnx"
    path.write_bytes(classifier(RandomWeights(0), metadata).SerializeToString())
    found = find_model(str(path))
    assert (found.caveat, found.random) == (caveat, bool(caveat))


@pytest.mark.parametrize(
    "metadata",
    [
        {"weights": "trained", "model": "tiny-fp32"},
        {"weights": "trained", "model": "tiny-fp32", "tool": "another 1.0"},
        {"weights": "trained", "model": "other-fp32", "tool": "mlperf-cpu-harness 0.1.0"},
    ],
    ids=["no tool", "another tool", "another model"],
)
def test_a_checkpoint_replaces_only_what_was_built_here_under_its_name(tmp_path, checkpoint, metadata):
    path = tmp_path / "mine.onnx"
    path.write_bytes(classifier(RandomWeights(0), metadata).SerializeToString())
    with pytest.raises(
        ConfigError, match=r"mine\.onnx already exists and is not a tiny-fp32 that was built here: choose another"
    ):
        build(BuildRequest("tiny-fp32", checkpoint, path, 0))
    assert read_graph(path).metadata == metadata


def test_a_compressed_model_says_fp32_until_it_is_compressed(monkeypatch):
    benchmark, entry = manifests.models()["tiny-fp32"]
    recipe = manifests.CompressionRecipe(sparsity=0.5, block=4, precision="int8")
    entry = entry.model_copy(update={"precision": "int8", "recipe": recipe})
    monkeypatch.setattr(manifests, "models", lambda: {"tiny-int8": (benchmark, entry)})
    path = build(BuildRequest("tiny-int8", "random", dense=True))
    assert path.name == "tiny-int8-dense-random.onnx"
    assert read_graph(path).metadata["precision"] == "fp32"


def test_an_engine_and_an_input_are_chosen_only_for_8_bits(monkeypatch, tmp_path):
    benchmark, entry = manifests.models()["tiny-fp32"]
    entry = entry.model_copy(update={"recipe": manifests.CompressionRecipe(sparsity=0.5)})
    monkeypatch.setattr(manifests, "models", lambda: {"tiny-fp32": (benchmark, entry)})
    with pytest.raises(ConfigError, match=r"--for openvino: tiny-fp32 is built in FP32, .* leave it out"):
        build(BuildRequest("tiny-fp32", "random", tmp_path / "m.onnx", 0, engine="openvino"))
    with pytest.raises(ConfigError, match=r"--input uint8: tiny-fp32 is built in FP32, .* leave it out"):
        build(BuildRequest("tiny-fp32", "random", tmp_path / "m.onnx", 0, images="uint8"))
    with pytest.raises(ConfigError, match=r"built without compression: leave out .* and --input"):
        build(BuildRequest("tiny-fp32", "random", tmp_path / "m.onnx", 0, dense=True, images="float32"))
    arguments = ["models", "compress", "tiny-fp32", str(tmp_path / "m.onnx"), "--sparsity", "0.5", "--for", "openvino"]
    error = CliRunner().invoke(cli.app, arguments).exception
    assert isinstance(error, ConfigError)
    assert str(error) == "--for openvino needs --precision int8: FP32 is the same for every engine."
    assert error.exit_code == 2
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path, monkeypatch):
    path = build(BuildRequest("tiny-fp32", "random", tmp_path / "mine.onnx", 1))
    write = Path.write_bytes

    def write_half(self: Path, data: bytes) -> None:
        write(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(ConfigError, match=r"cannot write .*mine\.onnx: No space left on device; choose another place"):
        build(BuildRequest("tiny-fp32", "random", path, 2))
    assert list(tmp_path.iterdir()) == [path]
    assert read_graph(path).metadata["weights"] == "random weights, seed 1"


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file" / "mine.onnx", tmp_path / "file" / "folder" / "mine.onnx"):
        with pytest.raises(ConfigError, match=r"cannot write .*mine\.onnx: .*; choose another place"):
            build(BuildRequest("tiny-fp32", "random", output, 0))


def test_a_place_that_may_not_even_be_looked_at_is_named(tmp_path, monkeypatch):
    def refuse(self: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refuse)
    with pytest.raises(ConfigError, match=r"cannot write .*mine\.onnx: Permission denied; choose another place"):
        build(BuildRequest("tiny-fp32", "random", tmp_path / "mine.onnx", 0))


def test_the_command_builds_and_says_where_the_model_is(tmp_path):
    path = tmp_path / "mine.onnx"
    arguments = ["models", "build", "tiny-fp32", "--weights", "random", "--output", str(path), "--seed", "3"]
    found = CliRunner().invoke(cli.app, arguments)
    assert found.exit_code == 0
    assert read_graph(path).metadata["weights"] == "random weights, seed 3"
    assert "".join(found.output.split()).endswith(str(path))
