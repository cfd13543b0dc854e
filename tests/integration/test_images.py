"""Image classification through the real LoadGen."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.loadgen.logs import ACCURACY
from harness.registry import installed
from resnet50.preprocess import PROFILES, SIDE, normaliser, pixels

onnx = pytest.importorskip("onnx")
ENGINES = ["onnxruntime", "openvino", "deepsparse"]
COUNT = 60


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param == "deepsparse" and "deepsparse" not in installed():
        pytest.skip("DeepSparse is not installed")
    return request.param


def classifier(path: Path, classes: int, metadata: dict[str, str] | None = None, rotate: int = 0) -> Path:
    """A graph whose answer depends on an image's mean colour alone; ``rotate`` moves every class up."""
    rng = np.random.default_rng(1)
    weights = np.roll(rng.normal(size=(3, 1000)), rotate, axis=1).astype(np.float32)
    bias = -((weights / 2) ** 2).sum(axis=0)
    if classes == 1001:
        weights = np.concatenate((np.zeros((3, 1), np.float32), weights), axis=1)
        bias = np.concatenate(([np.float32(-1e4)], bias)).astype(np.float32)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
            helper.make_node("Flatten", ["mean"], ["flat"]),
            helper.make_node("Gemm", ["flat", "weights", "bias"], ["logits"]),
        ],
        "mean-colour",
        [helper.make_tensor_value_info("input", kind, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", kind, ["N", classes])],
        [onnx.numpy_helper.from_array(weights, "weights"), onnx.numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    helper.set_model_props(model, {"preprocessing": "efficientnet-lite", **(metadata or {})})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="module")
def coloured(tmp_path_factory) -> Path:
    """Images of one colour and some noise, labelled with the expected answer of `classifier`."""
    folder = tmp_path_factory.mktemp("coloured")
    (folder / "val").mkdir()
    model = onnx.load(str(classifier(folder / "model.onnx", 1000)))
    weights, bias = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    rng = np.random.default_rng(2)
    profile = PROFILES["efficientnet-lite"]
    lines = []
    for number in range(COUNT):
        name = f"val/ILSVRC2012_val_{number + 1:08}.JPEG"
        size = (int(rng.integers(180, 500)), int(rng.integers(180, 500)), 3)
        noise = rng.integers(-20, 20, size) + rng.integers(20, 235, 3)
        Image.fromarray(noise.astype(np.uint8)).save(folder / name, "JPEG", quality=90)
        tensor = np.empty((SIDE, SIDE, 3), np.float32)
        normaliser(profile)(pixels((folder / name).read_bytes(), profile), tensor)
        label = int((tensor.mean(axis=(0, 1), dtype=np.float64) @ weights + bias).argmax())
        lines.append(f"{name} {label}\n")
    (folder / "val_map.txt").write_text("".join(lines))
    assert len({line.split()[1] for line in lines}) > 20
    return folder


@pytest.mark.parametrize("classes", [1000, 1001])
def test_every_image_is_answered_once_with_its_label(harness, coloured, tmp_path, engine, classes):
    model = classifier(tmp_path / "model.onnx", classes)
    run = harness.run("--engine", engine, "--model", model, "--dataset", coloured, "--mode", "accuracy")
    assert run.code == 0, run.err
    log = json.loads((run.folder / ACCURACY).read_text())
    assert sorted(entry["qsl_idx"] for entry in log) == list(range(COUNT))
    assert {len(entry["data"]) for entry in log} == {8}
    text = (run.folder / "accuracy.txt").read_text().splitlines()
    assert text[0] == f"accuracy=100.000%, good={COUNT}, total={COUNT}"
    assert text[1].startswith("hash=")
    assert "not for submission" in text[2]
    assert run.record["model"]["settings"] == {"preprocessing": "efficientnet-lite"}
    assert run.record["result"]["accuracy"] == {"top-1": 100.0}
    assert re.search(r"top-1 +100\.000 %", run.out)
    preprocessing = {"name": "preprocessing", "value": "efficientnet-lite", "source": "from the model's file"}
    assert preprocessing in run.record["choices"]
    assert run.record["doubts"] == []
    assert "preprocessing efficientnet-lite (from the model's file)" in " ".join(run.out.split())


@pytest.mark.parametrize("scenario", ["Server", "SingleStream", "MultiStream"])
def test_every_scenario_answers_every_image_with_its_label(harness, coloured, scenario):
    arguments = ("--model", coloured / "model.onnx", "--dataset", coloured, "--mode", "accuracy")
    run = harness.run("--engine", "onnxruntime", "--scenario", scenario, *arguments)
    assert run.code == 0, run.err
    assert (run.folder / "accuracy.txt").read_text().startswith(f"accuracy=100.000%, good={COUNT}, total={COUNT}")


def test_a_performance_run_of_images_is_valid(harness, coloured, engine):
    arguments = ("--model", coloured / "model.onnx", "--dataset", coloured, "--duration", "1")
    run = harness.run("--engine", engine, *arguments)
    assert run.code == 0, run.err
    assert run.record["valid"] is True
    assert run.record["result"]["cost_unit"] == "images"
    assert run.record["result"]["duration_s"] >= 1


def test_a_model_whose_labels_are_off_by_one_is_reported(harness, coloured, tmp_path):
    model = classifier(tmp_path / "model.onnx", 1000, rotate=1)
    arguments = ("--model", model, "--dataset", coloured, "--mode", "accuracy", "--engine", "onnxruntime")
    run = harness.run(*arguments)
    assert run.code == 1
    assert "label_offset" in run.err
    assert "100.0" in run.err  # the score with the neighbouring labels
    assert run.kept == []


def test_a_limit_takes_the_first_images(harness, coloured):
    arguments = ("--model", coloured / "model.onnx", "--dataset", coloured, "--mode", "accuracy", "--samples", "7")
    run = harness.run("--engine", "onnxruntime", *arguments)
    assert run.code == 0, run.err
    assert (run.folder / "accuracy.txt").read_text().startswith("accuracy=100.000%, good=7, total=7")
    assert f"7 of {COUNT} images" in run.out


def test_random_weights_are_reported_everywhere_and_rejected_for_official_runs(harness, coloured, tmp_path):
    model = classifier(tmp_path / "tiny.onnx", 1000, {"weights": "random weights, seed 3"})
    arguments = ("--engine", "onnxruntime", "--model", model, "--dataset", coloured)
    run = harness.run(*arguments, "--mode", "accuracy")
    assert run.code == 0, run.err
    for file in ("accuracy.txt", "run.json", "NOT-FOR-SUBMISSION.txt", "user.conf"):
        assert "random weights" in (run.folder / file).read_text(), file
    assert "random weights" in run.out
    assert "random weights" in run.err
    official = harness.run(*arguments, "--official")
    assert official.code == 2
    assert "random weights" in official.err


@pytest.mark.parametrize("damage", ["missing", "broken"])
def test_an_image_that_cannot_be_used_is_named_and_nothing_is_kept(harness, small_imagenet, coloured, damage):
    image = small_imagenet / "val" / "ILSVRC2012_val_00000006.JPEG"
    if damage == "missing":
        image.unlink()
    else:
        image.write_bytes(image.read_bytes()[:1500])
    run = harness.run("--engine", "onnxruntime", "--model", coloured / "model.onnx", "--dataset", small_imagenet)
    assert run.code == 2
    assert run.err.count("error:") == 1
    assert image.name in run.err
    assert run.kept == []


def test_a_model_that_matches_no_benchmark_is_refused_with_its_inputs(harness, tmp_path):
    model = onnx.load(str(classifier(tmp_path / "model.onnx", 1000)))
    model.graph.input[0].type.tensor_type.shape.dim.pop()
    onnx.save(model, str(tmp_path / "model.onnx"))
    run = harness.run("--engine", "null", "--model", tmp_path / "model.onnx")
    assert run.code == 2
    assert "matches no known benchmark (bert, resnet50): its inputs are input float32 (?, 3, 224)" in run.err


def test_a_score_on_the_shipped_images_is_called_agreement(harness):
    arguments = ("--model", "efficientnet-lite0-int8", "--dataset", "imagenet-synthetic", "--mode", "accuracy")
    run = harness.run("--engine", "onnxruntime", *arguments)
    assert run.code == 0, run.err
    assert "agreement with the FP32 baseline" in run.out
    assert "top-1" not in run.out
    assert "accuracy=" not in (run.folder / "accuracy.txt").read_text()
    assert run.record["result"]["accuracy"].keys() == {"agreement with the FP32 baseline"}


def test_real_images_are_classified_alike_by_all_engines(harness, imagenet_sample, efficientnet_fp32):
    """An independent script classified 446 of these 500 correctly with the FP32 model (top-1 89.2 %)."""
    good = {}
    for model in (efficientnet_fp32, "efficientnet-lite0-int8"):
        for engine in installed():
            arguments = ("--model", model, "--dataset", imagenet_sample, "--mode", "accuracy")
            run = harness.run("--engine", engine, *arguments)
            assert run.code == 0, run.err
            newest = max(run.kept, key=lambda path: path.stat().st_mtime)
            line = (newest / "accuracy.txt").read_text().splitlines()[0]
            good[str(model), engine] = int(line.split("good=")[1].split(",")[0])
            assert json.loads((newest / "run.json").read_text())["model"]["settings"] == {
                "preprocessing": "efficientnet-lite",
                "label_offset": 0,
            }
    fp32, int8 = (
        [good[str(model), engine] for engine in installed()] for model in (efficientnet_fp32, "efficientnet-lite0-int8")
    )
    assert all(abs(number - 446) <= 2 for number in fp32)
    assert max(fp32) - min(fp32) <= 2
    assert all(number >= min(fp32) - 10 for number in int8)


def test_an_assumed_profile_and_labels_at_chance_stand_in_the_result_and_the_record(harness, coloured, tmp_path):
    model = classifier(tmp_path / "model.onnx", 1000, metadata={"preprocessing": "mlperf"}, rotate=500)
    stripped = onnx.load(str(model))
    del stripped.metadata_props[:]
    onnx.save(stripped, str(model))
    run = harness.run("--model", model, "--dataset", coloured, "--mode", "accuracy", "--engine", "onnxruntime")
    assert run.code == 0, run.err
    shown = " ".join(run.out.split())
    assert "assumed preprocessing mlperf" in shown
    assert "label offset 0 (from the graph)" in shown
    (doubt,) = run.record["doubts"]
    assert "right is no better than guessing: labels, output or preprocessing" in doubt
    assert doubt in shown
    assert doubt in " ".join(run.err.split())
    assert {"name": "preprocessing", "value": "mlperf", "source": "assumed"} in run.record["choices"]
