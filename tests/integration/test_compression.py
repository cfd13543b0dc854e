"""Models that are built and compressed, through the command line and the real LoadGen."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from harness import cli
from harness.files.digest import sha256_of
from harness.graph import read_graph
from harness.registry import installed

DRAWINGS = "imagenet-synthetic"


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """The pruned ResNet50 with random weights."""
    path = tmp_path_factory.mktemp("built") / "resnet.onnx"
    arguments = ["models", "build", "resnet50-pruned85-int8", "--weights", "random", "--output", str(path)]
    done = CliRunner().invoke(cli.app, [*arguments, "--samples", "2", "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"name": "resnet50-pruned85-int8", "weights": "random", "path": str(path)}
    return path


def test_a_built_model_describes_itself_and_its_compression(resnet):
    graph = read_graph(resnet)
    assert [str(tensor) for tensor in graph.inputs] == ["input uint8 (?, 3, 224, 224)"]
    metadata = graph.metadata
    assert metadata["weights"].startswith("random")
    assert metadata["model"] == "resnet50-pruned85-int8"
    assert (metadata["sparsity"], metadata["block"], metadata["precision"]) == ("0.85", "4", "int8")
    assert metadata["engine_form"] == "deepsparse"
    assert metadata["calibration"] == f"2 samples of {DRAWINGS}"
    report = json.loads(resnet.with_suffix(".compression.json").read_text())
    assert len(report["layers"]) == 54
    inner = [layer for layer in report["layers"] if layer["name"] not in ("conv1", "fc")]
    assert all(layer["sparsity"] == pytest.approx(0.85, abs=0.01) for layer in inner)
    assert report["bytes"]["gzip"] < report["bytes"]["compressed"] < report["bytes"]["dense"] / 3


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "deepsparse"])
def test_results_made_with_random_weights_say_so(harness, resnet, engine):
    """DeepSparse also runs the entire graph itself: one unsupported operator would make it fall back silently."""
    if engine == "deepsparse" and "deepsparse" not in installed():
        pytest.skip("DeepSparse is not installed")
    options = ("--set", "max_batch=8") if engine == "deepsparse" else ()
    done = harness.run(
        "--model", resnet, "--engine", engine, "--dataset", DRAWINGS, "--samples", 8, "--duration", 1, *options
    )
    assert done.code in (0, 1), done.err
    assert "random weights, seed 0" in done.out
    assert "85 % sparse in blocks of 4" in " ".join(done.out.split())
    record = done.record
    assert record["model"]["caveat"] == "random weights, seed 0"
    assert record["engine"].get("fraction_of_supported_ops", 1.0) > 0.95
    assert "itself" not in done.err


@pytest.fixture(scope="module")
def small(efficientnet_fp32, tmp_path_factory):
    """A real model compressed as QDQ, and what the command printed."""
    path = tmp_path_factory.mktemp("compressed") / "small.onnx"
    arguments = ["models", "compress", str(efficientnet_fp32), str(path), "--precision", "int8", "--samples", "24"]
    arguments += ["--keep", "_conv_stem", "--keep", "_blocks.0/_depthwise_conv", "--json"]
    done = CliRunner().invoke(cli.app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return path, json.loads(done.stdout)


def test_a_real_model_compressed_keeps_its_answers(harness, efficientnet_fp32, small):
    path, printed = small
    assert [str(tensor) for tensor in read_graph(path).inputs] == ["input uint8 (?, 3, 224, 224)"]
    assert printed["path"] == str(path)
    assert printed["bytes"]["compressed"] == path.stat().st_size
    assert "_fc" in [layer["name"] for layer in printed["layers"]]
    assert (printed["metadata"]["engine_form"], printed["products"]) == ("openvino", [])
    run = harness.run("--model", path, "--engine", "onnxruntime", "--dataset", DRAWINGS, "--mode", "accuracy")
    assert run.code == 0, run.err
    assert next(iter(run.record["result"]["accuracy"].values())) > 90
    assert run.record["model"]["official_name"] == "efficientnet-lite0"
    assert path.stat().st_size < efficientnet_fp32.stat().st_size / 3


def test_a_qdq_model_is_converted_for_deepsparse_and_keeps_its_answers(harness, small):
    if "deepsparse" not in installed():
        pytest.skip("DeepSparse is not installed")
    path, _ = small
    options = ("--mode", "accuracy", "--set", "max_batch=8")
    run = harness.run("--model", path, "--engine", "deepsparse", "--dataset", DRAWINGS, *options)
    assert run.code == 0, run.err
    assert "converted to the operators that deepsparse runs fast" in " ".join(run.err.split())
    record = run.record
    assert next(iter(record["result"]["accuracy"].values())) > 90
    assert record["model"]["sha256"] == sha256_of(path) != record["converted"]["sha256"]
    assert record["converted"]["form"] == "integer"
    assert record["engine"]["fraction_of_supported_ops"] > 0.95
    assert max(difference for *_, difference in record["agreement"]["differences"]) < 0.25


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["efficientnet-lite0-int8", "out.onnx"], "nothing to do"),
        (["efficientnet-lite0-int8", "out.txt", "--precision", "int8"], "out.txt must end in .onnx"),
        (["efficientnet-lite0-int8", "out.onnx", "--precision", "int4"], "precision = int4"),
        (["efficientnet-lite0-int8", "out.onnx", "--sparsity", "1"], "sparsity = 1"),
        (["efficientnet-lite0-int8", "out.onnx", "--precision", "int8", "--for", "tensorrt"], "--for tensorrt"),
        (["efficientnet-lite0-int8", "out.onnx", "--precision", "int8", "--input", "int8"], "--input int8"),
        (["efficientnet-lite0-int8", "out.onnx", "--sparsity", "0.5", "--input", "uint8"], "needs --precision int8"),
        (["efficientnet-lite0-int8", "out.onnx", "--precision", "int8"], "already quantised"),
        (["no-model", "out.onnx", "--sparsity", "0.5"], "unknown model"),
        (["efficientnet-lite0-int8", "out.onnx", "--precision", "int8", "--set", "label_offset=x"], "label_offset = x"),
        (["efficientnet-lite0-int8", "out.onnx", "--precision", "int8", "--set", "colour=red"], "colour = red"),
    ],
)
def test_a_rejected_compression_is_one_sentence(arguments, said, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["harness", "models", "compress", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--samples", "0"], "at least one sample"), (["--calibration", "none"], "no data set")]
)
def test_wrong_calibration_is_one_sentence(arguments, said, efficientnet_fp32, monkeypatch, tmp_path, capsys):
    output = tmp_path / "out.onnx"
    command = ["models", "compress", str(efficientnet_fp32), str(output), "--precision", "int8", *arguments]
    monkeypatch.setattr("sys.argv", ["harness", *command])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 2
    assert said in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.iterdir())


def test_a_file_of_another_tool_is_not_replaced(monkeypatch, tmp_path, capsys):
    (tmp_path / "out.onnx").write_bytes(b"mine")
    arguments = ["efficientnet-lite0-int8", str(tmp_path / "out.onnx"), "--precision", "int8"]
    monkeypatch.setattr("sys.argv", ["harness", "models", "compress", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    assert "was not made by this tool" in " ".join(capsys.readouterr().err.split())
    assert (tmp_path / "out.onnx").read_bytes() == b"mine"
