"""`harness models train` from a small model and a few questions to a file that LoadGen measures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from types import ModuleType

import onnx
import pytest
from safetensors.numpy import save_file
from typer.testing import CliRunner

from bert.architecture import BertConfig, build_bert
from harness import cli
from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.errors import Interrupted
from harness.files.digest import sha256_of
from harness.graph import read_graph
from harness.models.show import sparsity
from harness.models.weights import RandomWeights

torch = pytest.importorskip("torch", reason="training is not installed: make setup TRAIN=1")

FP32 = """
description = "magnitude, without 8 bits"
source = "a test"
steps = 4
batch = 4
max_cost = 48
learning_rate = { peak = 1e-3 }
hold_out = 0.3
[pruning]
method = "magnitude"
sparsity = 0.6
end = 2
every = 1
block = 4
[distillation]
logits = 1.0
[sources]
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """On a busy machine, threads of tiny operations mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """Two layers with random weights, for BERT's vocabulary."""
    config = BertConfig(layers=2, hidden=32, heads=2, feed_forward=64, vocabulary=30522, positions=128)
    path = tmp_path_factory.mktemp("dense") / "tiny.onnx"
    onnx.save(build_bert(RandomWeights(1), config), str(path))
    return path


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """The first three questions of four articles, each of which is one group."""
    data = json.loads(find_dataset("bert", "sample").path.read_text("utf-8"))["data"]
    articles = []
    for number, article in enumerate(data[:4]):
        paragraph = article["paragraphs"][0]
        articles.append({"title": str(number), "paragraphs": [{**paragraph, "qas": paragraph["qas"][:3]}]})
    path = tmp_path_factory.mktemp("data") / "train.json"
    path.write_text(json.dumps({"version": "1.1", "data": articles}))
    return path


@pytest.fixture(scope="module")
def command(dense, questions):
    def arguments(recipe, output, *more: str) -> list[str]:
        given = ["--weights", str(dense), "--data", str(questions), "--output", str(output)]
        return ["models", "train", str(recipe), *given, *more]

    return arguments


def train(arguments: list[str]):
    return CliRunner().invoke(cli.app, arguments, catch_exceptions=False)


def share_of_zeros(path) -> float:
    found = sparsity(onnx.load(str(path)))
    return found.zeros / found.elements


def refused(arguments: list[str]) -> str:
    """The error of the command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    return " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    path = tmp_path_factory.mktemp("trained") / "small.onnx"
    done = train(command("test-tiny", path, "--json"))
    assert done.exit_code == 0, done.output
    return path, json.loads(done.stdout)


def test_a_trained_model_describes_its_training(trained, questions):
    path, printed = trained
    metadata = read_graph(path).metadata
    assert metadata == printed["metadata"]
    assert metadata["training"] == "test-tiny, 12 steps of 4, seed 0"
    assert (metadata["precision"], metadata["sparsity"], metadata["block"]) == ("int8", "0.5", "4")
    assert metadata["engine_form"] == "deepsparse"
    assert metadata["weights"].startswith("random")
    assert metadata["training_data"].startswith(f"{questions.name}, sha256 {sha256_of(questions)}, ")
    assert metadata["compression"] == (
        "gradual second-order pruning, distillation from the dense model, quantisation-aware training"
    )
    report = json.loads(path.with_suffix(".training.json").read_text())
    assert report["step"] == 12
    assert report["per_second"] > 0
    assert report["recipe"]["name"] == "test-tiny"
    assert report["scores"][-1]["sparsity"] == pytest.approx(0.5, abs=0.01)
    assert share_of_zeros(path) >= 0.48


def test_a_trained_model_runs_and_says_what_it_is(harness, trained):
    path, _ = trained
    done = harness.run("--model", path, "--engine", "onnxruntime", "--samples", 8, "--duration", 1)
    assert done.code in (0, 1), done.err
    model = done.record["model"]
    assert model["retraining"] == "Yes: test-tiny, 12 steps of 4, seed 0"
    assert "50 % sparse in blocks of 4" in " ".join(done.out.split())


def test_the_same_command_writes_another_engines_form_without_training(command, trained):
    path, _ = trained
    before = path.read_bytes()
    done = train(command("test-tiny", path, "--for", "openvino"))
    assert done.exit_code == 0, done.output
    assert read_graph(path).metadata["engine_form"] == "openvino"
    assert any(node.op_type == "QuantizeLinear" for node in onnx.load(str(path)).graph.node)
    assert train(command("test-tiny", path)).exit_code == 0
    assert path.read_bytes() == before


def test_a_killed_training_goes_on_to_the_same_file(command, tmp_path):
    whole, cut = tmp_path / "whole.onnx", tmp_path / "cut.onnx"
    options = ("--steps", "40", "--save-every", "0")
    assert train(command("test-tiny", whole, *options)).exit_code == 0
    checkpoint = cut.with_suffix(".training") / "checkpoint.pt"
    for _ in range(3):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.cli", *command("test-tiny", cut, *options)], stderr=subprocess.PIPE
        )
        while process.poll() is None and not (checkpoint.exists() and checkpoint.stat().st_mtime_ns > before):
            time.sleep(0.005)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert not cut.exists(), "it was never cut"
    assert train(command("test-tiny", cut, *options)).exit_code == 0
    assert cut.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("start", ["dense", "one-shot"])
def test_a_recipe_of_the_user_in_fp32(command, tmp_path, start):
    recipe, path = tmp_path / "mine.toml", tmp_path / "sparse.onnx"
    recipe.write_text(FP32)
    done = train(command(recipe, path, "--start", start, "--seed", "3"))
    assert done.exit_code == 0, done.output
    metadata = read_graph(path).metadata
    assert metadata["training"] == "mine, 4 steps of 4, seed 3"
    assert metadata["precision"] == "fp32"
    assert ("one shot" in metadata["compression"]) == (start == "one-shot")
    assert share_of_zeros(path) == pytest.approx(0.6, abs=0.03)


class Kept(RandomWeights):
    """Random weights that are remembered, as a checkpoint of the same model would hold them."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.tensors = {}

    def tensor(self, name, shape, draw):
        return self.tensors.setdefault(name, super().tensor(name, shape, draw))


def test_layers_of_a_checkpoint_become_another_model(questions, tmp_path, monkeypatch):
    config = BertConfig(layers=3, hidden=32, heads=2, feed_forward=64, vocabulary=30522, positions=128)
    builder = ModuleType("tiny_graph")
    builder.build = lambda weights: build_bert(weights, config)
    monkeypatch.setitem(sys.modules, "tiny_graph", builder)
    facts = {"description": "", "source": "", "official_name": "bert-99", "precision": "fp32"}
    facts |= {"input_data_types": "int64", "weight_transformations": "no"}
    known = dict(manifests.models())
    known["tiny-3l"] = ("bert", manifests.ModelEntry(**facts, builder="tiny_graph:build"))
    known["tiny-2l"] = ("bert", manifests.ModelEntry(**facts))
    monkeypatch.setattr(manifests, "models", lambda: known)
    weights = Kept(1)
    build_bert(weights, config)
    save_file(weights.tensors, tmp_path / "model.safetensors")
    recipe, path = tmp_path / "mine.toml", tmp_path / "out" / "small.onnx"
    path.parent.mkdir()
    recipe.write_text(
        f'model = "tiny-2l"\nstart = "tiny-3l"\nlayers = [0, 2]\n{FP32}'.replace("steps = 4", "steps = 2")
    )
    given = ["--weights", str(tmp_path / "model.safetensors"), "--data", str(questions), "--output", str(path)]
    done = train(["models", "train", str(recipe), *given])
    assert done.exit_code == 0, done.output
    metadata = read_graph(path).metadata
    assert (metadata["model"], metadata["layers"], metadata["sparsity"]) == ("tiny-2l", "0, 2", "0.6")
    assert metadata["weights"].startswith("model.safetensors, sha256 ")
    assert "2 layers kept" in metadata["compression"]
    names = {node.name.split("layer.")[1][0] for node in onnx.load(str(path)).graph.node if "layer." in node.name}
    assert names == {"0", "2"}
    assert (path.with_suffix(".training") / "dense.onnx").exists()
    before = path.read_bytes()
    assert train(["models", "train", str(recipe), *given]).exit_code == 0
    assert path.read_bytes() == before


def test_another_training_does_not_go_on(command, trained):
    path, _ = trained
    assert "holds a training with another number of steps: repeat the command" in refused(
        command("test-tiny", path, "--steps", "9")
    )


def test_the_dense_model_is_not_replaced(command, dense, tmp_path):
    model = onnx.load(str(dense))
    onnx.helper.set_model_props(model, {"tool": "mlperf-cpu-harness 0"})
    path = tmp_path / "mine.onnx"
    onnx.save(model, str(path))
    before = path.read_bytes()
    assert "is the dense model" in refused(command("test-tiny", path, "--weights", str(path)))
    assert path.read_bytes() == before


def test_an_interruption_says_what_was_kept(command, tmp_path, monkeypatch):
    from harness.training import train as module

    def interrupted(training):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", interrupted)
    path = tmp_path / "x.onnx"
    with pytest.raises(Interrupted, match=r"^interrupted: nothing was kept\.$"):
        train(command("test-tiny", path))
    path.with_suffix(".training").mkdir()
    (path.with_suffix(".training") / "checkpoint.pt").touch()
    with pytest.raises(Interrupted, match="the newest checkpoint was kept; the same command continues from it"):
        train(command("test-tiny", path))


def test_a_one_shot_start_is_not_repeated(command, tmp_path, monkeypatch):
    from harness.training import train as module

    recipe, path = tmp_path / "mine.toml", tmp_path / "sparse.onnx"
    recipe.write_text(FP32)
    arguments = command(recipe, path, "--start", "one-shot")
    assert train(arguments).exit_code == 0
    before = path.read_bytes()
    monkeypatch.setattr(module, "pruned", None)
    assert train(arguments).exit_code == 0
    assert path.read_bytes() == before


def test_only_images_are_varied(command, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f"augment = true\n{FP32}")
    assert "the recipe mine: 'augment' is for images only; remove it." in refused(command(recipe, tmp_path / "x.onnx"))


@pytest.mark.parametrize(
    ("recipe", "more", "said"),
    [
        ("test-tyni", (), "did you mean 'test-tiny'?"),
        ("test-tiny", ("--start", "sparse"), "choose from dense, one-shot"),
        ("test-tiny", ("--weights", "minilm-l6-squad-int8"), "is already quantised"),
        ("test-tiny", ("--weights", "random"), "is for any model, so give an FP32 one"),
        ("minilm-80-fp32", ("--for", "openvino"), "trains in FP32, the same for every engine"),
        ("test-tiny", ("--data", __file__), "is not SQuAD v1.1: it is not JSON"),
        ("test-tiny", ("--data", "none.json"), "cannot read the training data"),
        ("test-tiny", ("--output", "small.bin"), "must end in .onnx"),
    ],
)
def test_mistakes_are_one_sentence(command, tmp_path, recipe, more, said):
    error = refused(command(recipe, tmp_path / "x.onnx", *more))
    assert said in error
    error = error[error.index("error: ") :]
    assert error[-1] in ".?"
    assert ". " not in error
    assert list(tmp_path.iterdir()) == []


def test_without_pytorch_the_fix_is_named(command, tmp_path):
    code = "import sys; sys.modules['torch'] = None; from harness.cli import main; main()"
    arguments = command("test-tiny", tmp_path / "x.onnx")
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "training needs PyTorch" in done.stderr
    assert "make setup TRAIN=1" in done.stderr


def test_the_recipes_are_listed_without_pytorch():
    code = "import sys; sys.modules['torch'] = None; from harness.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "models", "train", "--list"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "obert-large-int8" in done.stdout
