from __future__ import annotations

import json
import re

import pytest

from harness.loadgen.logs import ACCURACY
from harness.registry import installed

ENGINES = ["onnxruntime", "openvino", "deepsparse", "null"]


@pytest.fixture(params=ENGINES)
def engine(request):
    if request.param == "deepsparse" and "deepsparse" not in installed():
        pytest.skip("DeepSparse is not installed")
    return request.param


def test_a_performance_run_is_valid_and_says_that_it_is_not_for_submission(harness, engine):
    few = ("--set", "shapes=2") if engine == "deepsparse" else ()
    run = harness.run("--engine", engine, "--duration", "1", "-v", *few)
    assert run.code == 0, run.err
    assert "VALID" in run.out
    assert "INVALID" not in run.out
    assert "not for submission" in run.out
    assert "not for submission" in run.err
    assert "no target_qps in user.conf" in run.err
    record = run.record
    assert record["valid"] is True
    assert record["for_submission"] is False
    assert record["result"]["duration_s"] >= 1
    assert record["result"]["metric"]["value"] > 0
    # Relative to the folder in which the command was run.
    assert re.search(rf"(?m)^logs +runs/{re.escape(run.folder.name)}$", run.out)
    assert "not for submission" in (run.folder / "user.conf").read_text()
    assert "not for submission" in (run.folder / "NOT-FOR-SUBMISSION.txt").read_text()
    files = {path.name for path in run.folder.iterdir()}
    assert files == {
        "run.json",
        "run.toml",
        "timeline.npz",
        "user.conf",
        "NOT-FOR-SUBMISSION.txt",
        "mlperf_log_summary.txt",
        "mlperf_log_detail.txt",
    }


def test_an_accuracy_run_answers_every_sample_once_with_its_own_length(harness, engine):
    few = ("--set", "shapes=3") if engine == "deepsparse" else ()
    run = harness.run("--engine", engine, "--mode", "accuracy", *few)
    assert run.code == 0, run.err
    log = json.loads((run.folder / ACCURACY).read_text())
    count = run.record["dataset"]["samples_used"]
    assert sorted(entry["qsl_idx"] for entry in log) == list(range(count))
    sizes = {entry["qsl_idx"]: len(entry["data"]) // 2 for entry in log}
    assert all(size % 8 == 0 and 0 < size // 8 <= 384 for size in sizes.values())
    assert sum(sizes.values()) // 8 == run.record["result"]["cost"]
    text = (run.folder / "accuracy.txt").read_text().splitlines()
    assert set(json.loads(text[0])) == {"exact_match", "f1"}
    assert text[1].startswith("hash=")
    assert "not for submission" in text[2]
    assert f"{json.loads(text[0])['f1']:.3f} %" in run.out


def test_user_conf_is_read_by_loadgen(harness, tmp_path):
    conf = tmp_path / "my.conf"
    conf.write_text("*.Offline.target_qps = 777\n")
    run = harness.run("--engine", "null", "--duration", "1", "--user-conf", conf)
    assert run.record["loadgen"]["effective_target_qps"] == 777
    assert run.record["estimated_target_qps"] is None
    assert (run.folder / "user.conf").read_text().startswith("*.Offline.target_qps = 777\n")


def test_a_run_that_is_too_short_is_invalid_with_the_reason_and_the_fix(harness, tmp_path):
    conf = tmp_path / "my.conf"
    conf.write_text("# slow\n*.Offline.target_qps = 3\n")
    run = harness.run("--engine", "null", "--duration", "2", "--user-conf", conf)
    assert run.code == 1
    assert "INVALID" in run.out
    assert "instead of at least 2 s" in run.out
    assert f"target_qps is 3 in line 2 of {conf}; set it to " in run.out
    assert run.record["valid"] is False


def test_samples_are_rounded_up_to_whole_questions(harness):
    run = harness.run("--engine", "null", "--mode", "accuracy", "--samples", "9")
    assert run.code == 0, run.err
    used = run.record["dataset"]["samples_used"]
    assert used >= 9
    assert "on the first" in run.out
    assert len(json.loads((run.folder / ACCURACY).read_text())) == used


@pytest.fixture
def static_model(fp32_model, tmp_path):
    """The model with the sizes of its inputs and outputs fixed."""
    onnx = pytest.importorskip("onnx", reason="onnx comes with DeepSparse")

    def fixed(*dims):
        model = onnx.load(fp32_model)
        for value in (*model.graph.input, *model.graph.output):
            for place, size in enumerate(dims):
                value.type.tensor_type.shape.dim[place].dim_value = size
        path = tmp_path / "static.onnx"
        onnx.save(model, path)
        return path

    return fixed


def test_static_graphs_run_padded_to_their_own_size(harness, static_model):
    run = harness.run("--engine", "onnxruntime", "--model", static_model(3, 384), "--mode", "accuracy")
    assert run.code == 0, run.err
    assert run.record["shapes"] == [[3, 384]]


@pytest.mark.parametrize("scenario", ["Offline", "Server", "MultiStream"])
def test_a_sample_longer_than_a_fixed_graph_is_one_sentence(harness, static_model, scenario):
    run = harness.run("--engine", "onnxruntime", "--scenario", scenario, "--model", static_model(1, 64))
    assert run.code == 2
    assert "does not fit" in run.err
    assert "Traceback" not in run.err
    assert run.kept == []


def test_engines_agree_on_real_questions(harness, real_squad, fp32_model):
    if "deepsparse" not in installed():
        pytest.skip("DeepSparse is not installed")
    scores = []
    for engine in ("onnxruntime", "deepsparse"):
        arguments = ["--dataset", real_squad, "--samples", "80"]
        arguments += ["--set", "max_tokens=1536", "--set", "shapes=3"] if engine == "deepsparse" else []
        run = harness.run("--engine", engine, "--model", fp32_model, "--mode", "accuracy", *arguments)
        assert run.code == 0, run.err
        newest = max(run.kept, key=lambda path: path.stat().st_mtime)
        scores.append(json.loads((newest / "accuracy.txt").read_text().splitlines()[0])["f1"])
    assert abs(scores[0] - scores[1]) < 0.2
    assert scores[0] > 50


@pytest.mark.parametrize("most", [2, 4])
def test_an_engine_that_is_wrong_in_some_batches_is_distinguished_from_a_bad_model(harness, most):
    run = harness.run("--engine", "faulty:WrongInLargeBatches", "--mode", "accuracy", "--set", f"max_batch={most}",
                      "--set", "max_tokens=1000", "--json")  # fmt: skip
    assert run.code == 0, run.err
    found = run.record["agreement"]
    assert json.loads(run.out)["agreement"] == found
    assert found["with"] == "onnxruntime"
    wrong = [(batch, length) for batch, length, difference in found["differences"] if difference > 0.25]
    assert all(batch > 2 for batch, _ in wrong)
    assert all(difference < 0.01 for batch, _, difference in found["differences"] if batch <= 2)
    assert bool(wrong) == (most == 4)
    assert ("wrong differs from ONNX Runtime by" in run.err) == (most == 4)


def test_weights_beside_the_graph_are_found(harness, fp32_model, tmp_path):
    onnx = pytest.importorskip("onnx")
    path = tmp_path / "external" / "model.onnx"
    path.parent.mkdir()
    onnx.save(onnx.load(fp32_model), str(path), save_as_external_data=True, location="weights.bin")
    for engine in installed():
        few = ("--set", "shapes=1") if engine == "deepsparse" else ()
        run = harness.run("--engine", engine, "--model", path, "--mode", "accuracy", "--samples", "3", *few)
        assert run.code == 0, run.err
    assert sorted(file.name for file in path.parent.iterdir()) == ["model.onnx", "weights.bin"]


def test_a_full_stdout_does_not_lose_the_result(harness):
    with open("/dev/full", "w") as full:  # noqa: PTH123
        run = harness.run("--engine", "null", "--duration", "1", stdout=full)
    assert run.code == 0, run.err
    assert f"the result could not be printed (No space left on device); it is in {run.folder}" in run.err


def test_target_qps_is_high_enough_for_an_engine_that_gains_from_full_batches(harness):
    run = harness.run("--engine", "null", "--set", "delay_us=20000", "--duration", "2")
    assert run.code == 0, run.out
    assert run.record["result"]["duration_s"] >= 2
