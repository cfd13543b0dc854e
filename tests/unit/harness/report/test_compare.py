"""Comparisons of made-up records and timelines with known differences."""

from __future__ import annotations

import copy
import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.errors import CheckFailed, ConfigError
from harness.report.compare import compare, find
from harness.report.noise import interval_of_repeats
from harness.results.timeline import TIMELINE
from harness.running.recorder import Recorder
from harness.scenarios.base import find_scenario
from harness.scheduling.base import Work
from harness.task.shape import Shape
from harness.terminal import console

RECORD = {
    "harness": "0.1.0",
    "time": "2026-01-01T00:00:00+0000",
    "command": "harness run",
    "for_submission": False,
    "rehearsal": False,
    "notice": None,
    "audit": None,
    "scenario": "Offline",
    "mode": "performance",
    "identity": {"model_sha256": "aa", "engine": "null", "engine_settings": {}, "benchmark_settings": {}},
    "model": {
        "name": "tiny",
        "path": "/here/tiny.onnx",
        "sha256": "aa",
        "benchmark": "bert",
        "official_name": "bert-99",
        "source": "unknown",
        "precision": "int8",
        "input_data_types": "int64",
        "weight_transformations": "no",
        "retraining": "No",
        "equivalent": False,
        "caveat": "",
        "metadata": {},
    },
    "dataset": {"name": "sample", "path": "/here/sample.json", "sha256": "dd", "samples_used": 60},
    "engine": {"name": "null", "threads": 2, "deep": {"er": [1, 2]}},
    "measured_seconds": [[1, 2, 0.5]],
    "estimated_target_qps": 100.0,
    "result": {
        "metric": {"name": "throughput", "value": 100.0, "unit": "samples/s"},
        "latency_ms": {"50.00": 1.0, "90.00": 2.0, "99.00": 3.0},
        "padded_to_real": 1.5,
        "accuracy": None,
        "samples": 1000,
        "duration_s": 10.0,
    },
    "loadgen": {"loadgen_version": "6", "effective_target_qps": 100},
    "machine": {"cpu": "X", "cores": 2, "os": "Linux", "python": "3.11", "packages": {}},
    "valid": True,
    "reasons": [],
}


class Runs:
    def __init__(self, folder):
        self.folder = folder

    def add(self, name: str, value: float = 100.0, changes: dict | None = None, recorder: Recorder | None = None):
        record = copy.deepcopy(RECORD)
        record["result"]["metric"]["value"] = value
        for path, new in (changes or {}).items():
            *above, last = path.split("/")
            inner = record
            for key in above:
                inner = inner[key]
            inner[last] = new
        folder = self.folder / name
        folder.mkdir(parents=True)
        (folder / "run.json").write_text(json.dumps(record))
        if recorder:
            recorder.save(folder / TIMELINE, find_scenario(record["scenario"]).samples_per_query)
        return folder

    def verdict(self, a: str, b: str):
        return compare(find(a, self.folder), find(b, self.folder)).verdict


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "runs")


def offline(rate: float, seed: int, noise: float = 0.05, batches: int = 4000) -> Recorder:
    """Batches one after another; the first ones take longer, as with long samples."""
    rng, recorder = np.random.default_rng(seed), Recorder()
    seconds = np.linspace(1.5, 0.5, batches) / rate * rng.lognormal(0, noise, batches)
    ends = np.cumsum(seconds)
    for start, end in zip((ends - seconds).tolist(), ends.tolist(), strict=True):
        recorder.answered(start, end, Work([1, 2], np.arange(2), Shape(2, 1)), 2)
    return recorder


def stream(milliseconds: float, seed: int, queries: int = 3000) -> tuple[Recorder, dict]:
    rng, recorder = np.random.default_rng(seed), Recorder()
    took = milliseconds / 1000 * rng.lognormal(0, 0.1, queries)
    ends = np.cumsum(took)
    for start, end in zip((ends - took).tolist(), ends.tolist(), strict=True):
        recorder.answered(start, end, Work([1], np.arange(1), Shape(1, 1), (start,)), 1)
    found = {f"{p}.00": float(np.percentile(took, p) * 1000) for p in (50, 90, 99)}
    return recorder, {"scenario": "SingleStream", "result/latency_ms": found, "result/metric/unit": "ms"}


def test_differences_are_flat_and_without_what_differs_in_every_run(runs):
    runs.add("a")
    changes = {"engine/threads": 4, "engine/deep/er": [1, 3], "model/path": "/there.onnx", "time": "now"}
    changes |= {"measured_seconds": [], "estimated_target_qps": 7.0, "loadgen/effective_target_qps": 7}
    changes |= {"agreement": {"with": "onnxruntime", "differences": [[64, 1, 0.04]]}}
    changes |= {"digests": {"mlperf_log_detail.txt": "ab"}, "reference": {"performance": "cd"}}
    changes |= {"limits": {"max_batch": 4, "max_tokens": 384, "measured": [[4, 384, 9.5]], "why": "as fast"}}
    changes |= {"streams": {"streams": 2, "why": "it takes 9 ms"}, "missed_target_qps": 8.5}
    runs.add("b", changes=changes | {"machine/numa": 1, "model/random": False})
    found = compare(find("a", runs.folder), find("b", runs.folder)).differences
    assert found == {"engine.threads": ("2", "4"), "engine.deep.er": ("[1, 2]", "[1, 3]"), "machine.numa": ("-", "1")}


def test_what_a_node_did_is_no_setting_but_what_it_is_differs_by_its_name(runs):
    machine = {"cpu": "X", "cores": 2, "os": "Linux", "python": "3.11", "packages": {}}
    node = {"name": "one", "host": "h", "machine": machine, "model_sha256": "aa", "code": "cc", "engine": {"name": "n"}}
    runs.add("a", changes={"nodes": [node | {"streams": 1, "rate": 5.0, "samples": 7, "round_trip_ms": 0.5}]})
    runs.add("b", changes={"nodes": [node | {"streams": 2, "rate": 4.0, "samples": 8, "round_trip_ms": 0.7}]})
    found = compare(find("a", runs.folder), find("b", runs.folder)).differences
    assert found == {"nodes.one.streams": ("1", "2")}


def test_the_same_file_in_another_place_is_not_a_difference(runs):
    for name, path, content in (("a", "/here/v.txt", "aa"), ("same", "/there/v.txt", "aa"), ("b", "/b.txt", "bb")):
        changes = {"benchmark_settings": {"vocab": path}, "identity/benchmark_settings": {"vocab": content}}
        runs.add(name, changes=changes)
    assert compare(find("a", runs.folder), find("same", runs.folder)).differences == {}
    other = compare(find("a", runs.folder), find("b", runs.folder)).differences
    assert other == {"benchmark_settings.vocab": ("/here/v.txt", "/b.txt")}


def test_runs_of_different_kinds_are_reported_first(runs):
    runs.add("a")
    runs.add("b", changes={"model/name": "large", "dataset/name": "full", "scenario": "Server"})
    assert compare(find("a", runs.folder), find("b", runs.folder)).remarks == (
        "A and B have different scenarios: Offline and Server.",
        "A and B have different models: tiny and large.",
        "A and B have different data sets: sample and full.",
    )


def test_a_disturbed_run_is_remarked_and_makes_the_verdict_doubtful(runs):
    cores = {"own": 1.3, "others": 0.64, "stolen": 0.0, "of": 2.0, "disturbed": True}
    for number in range(3):
        runs.add(f"a{number}", 100 + number)
        runs.add(f"b{number}", 63 + number, changes={"result/cores": cores if number == 1 else None})
    found = compare(find("a0,a1,a2", runs.folder), find("b0,b1,b2", runs.folder))
    assert found.remarks == (
        "B's b1 was disturbed: other processes used 0.64 of 2 cores during the test; the result is worse than this "
        "machine can do.",
    )
    assert found.differences == {}
    assert found.verdict.text.endswith("disturbed at least one of the runs: repeat it without them to be sure.")
    undisturbed = compare(find("a0,a1", runs.folder), find("b0,b2", runs.folder))
    assert undisturbed.remarks == ()
    assert "disturbed" not in undisturbed.verdict.text


def test_repeats_that_differ_clearly(runs):
    for number, (a, b) in enumerate(zip((99, 100, 101, 100.5, 99.5), (109, 110, 111, 110.2, 109.7), strict=True)):
        runs.add(f"a{number}", a)
        runs.add(f"b{number}", b)
    names = [",".join(f"{side}{n}" for n in range(5)) for side in "ab"]
    found = runs.verdict(*names)
    assert found.faster is True
    assert found.ratio == pytest.approx(1.1)
    assert found.interval[0] > 1.07
    assert re.match(r"B is faster by 10\.0 % \(95 %: \d+\.\d to \d+\.\d %; throughput, from 5 and 5 runs\)", found.text)
    back = runs.verdict(*reversed(names))
    assert back.faster is False
    assert back.text.startswith("B is slower by 9.1 % (95 %: ")
    assert runs.verdict(*names) == found  # the same every time


def test_repeats_that_do_not_differ(runs):
    for number, value in enumerate((95, 100, 106, 98, 103)):
        runs.add(f"a{number}", value)
        runs.add(f"b{number}", value + (1, -2, 2)[number % 3])
    found = runs.verdict(*(",".join(f"{side}{n}" for n in range(5)) for side in "ab"))
    assert found.faster is None
    assert found.text.startswith("No difference beyond the noise (B ÷ A 0.990, 95 %: 0.")


@pytest.mark.parametrize("sizes", [(2, 1), (2, 2), (3, 3), (8, 8)])
def test_repeats_of_the_same_run_are_rarely_called_different(sizes):
    rng = np.random.default_rng(3)
    sides = [[np.exp(rng.normal(0, 0.05, size)) for size in sizes] for _ in range(1500)]
    wrong = np.mean([not low <= 1 <= high for low, high in (interval_of_repeats(*pair) for pair in sides)])
    assert wrong < 0.09


def test_repeats_with_different_settings_are_reported(runs):
    runs.add("a0")
    runs.add("a1", changes={"engine/threads": 4, "shapes": [[1, 2]], "measured_seconds": [[1, 2, 0.7]]})
    runs.add("a2", changes={"time": "later", "shapes": [[2, 2]]})
    found = compare(find("a0,a1,a2", runs.folder), find("a0,a2", runs.folder))
    assert found.remarks == ("A's runs are not repeats of the same setting: they differ in engine.threads.",)


def test_a_single_run_is_assumed_to_vary_as_the_repeats_do(runs):
    for number, value in enumerate((90, 100, 110)):
        runs.add(f"a{number}", value)
    runs.add("near", 104)
    runs.add("far", 200)
    near, far = runs.verdict("a0,a1,a2", "near"), runs.verdict("a0,a1,a2", "far")
    assert (near.faster, far.faster) == (None, True)
    assert near.interval[1] - near.interval[0] > 0.15
    assert "from 3 and 1 runs, assuming that the single one varies as the others do" in far.text
    assert runs.verdict("far", "a0,a1,a2").faster is False


def test_one_run_without_a_timeline_gives_no_noise_estimate(runs):
    runs.add("a")
    runs.add("b", 104.1)
    found = runs.verdict("a", "b")
    assert (found.faster, found.interval) == (None, None)
    assert found.text.startswith("B ÷ A is 1.041 (throughput), but a single run gives no noise estimate")


def test_the_noise_within_two_offline_runs(runs):
    runs.add("a", 100, recorder=offline(100, 1))
    runs.add("same", 100.1, recorder=offline(100.1, 2))
    runs.add("fast", 105, recorder=offline(105, 3))
    runs.add("rough", 105, recorder=offline(105, 4, noise=2.0))
    assert runs.verdict("a", "same").faster is None
    fast = runs.verdict("a", "fast")
    assert fast.faster is True
    # 4,000 batches that vary by 5 % leave an uncertainty of 0.08 % in each mean, and the plan's order adds none.
    assert 0.002 < fast.interval[1] - fast.interval[0] < 0.015
    assert "within each run; only repeats show the variation between runs" in fast.text
    assert fast.text.endswith("No recorded setting differs, so this is run-to-run variation.")
    assert runs.verdict("a", "rough").faster is None


def test_few_batches_give_no_noise_estimate(runs):
    for name, seed in (("a", 1), ("b", 2)):
        runs.add(name, recorder=offline(100, seed, batches=40))
    assert "a single run gives no noise estimate" in runs.verdict("a", "b").text


@pytest.mark.slow
def test_lower_is_better_for_streams(runs):
    for name, milliseconds, seed in (("a", 10, 1), ("same", 10, 2), ("fast", 9, 3)):
        recorder, changes = stream(milliseconds, seed)
        runs.add(name, 12.0, changes, recorder)
    assert runs.verdict("a", "same").faster is None
    fast = runs.verdict("a", "fast")
    assert fast.faster is True
    assert fast.metric == "latency observed, 90th percentile"
    assert fast.ratio == pytest.approx(0.9, abs=0.02)
    assert fast.interval[0] < fast.ratio < fast.interval[1]
    assert runs.verdict("fast", "a").faster is False


def test_servers_at_the_same_rate_are_compared_by_latency(runs):
    for name, last, rate in (("a", 30.0, 100), ("b", 20.0, 100), ("c", 30.0, 150)):
        changes = {"scenario": "Server", "result/latency_ms/99.00": last, "loadgen/effective_target_qps": rate}
        runs.add(name, float(rate), changes)
    same, other = runs.verdict("a", "b"), runs.verdict("a", "c")
    assert (same.metric, same.ratio) == ("latency observed, 99th percentile", pytest.approx(2 / 3))
    assert "had the same target rate" in same.text
    assert (other.metric, other.ratio) == ("throughput", pytest.approx(1.5))
    assert "throughput is its target rate" in other.text


def test_throughput_and_latency_have_no_verdict(runs):
    runs.add("a")
    runs.add("b", 12.0, stream(10, 1)[1])
    runs.add("c", changes={"mode": "accuracy", "result/accuracy": {"F1": 80.0}})
    assert "are not comparable" in runs.verdict("a", "b").text
    assert "accuracy runs are not timed" in runs.verdict("a", "c").text
    found = compare(find("c", runs.folder), find("c", runs.folder))
    assert [(row.name, row.a, row.ratio) for row in found.rows] == [("F1", 80.0, 1.0)]


def test_runs_that_are_not_comparable_have_no_verdict_and_no_common_metric(runs):
    runs.add("single", 2.0, stream(2, 1)[1] | {"result/metric/name": "90th percentile latency"})
    multi = stream(9, 2)[1] | {"scenario": "MultiStream", "result/metric/name": "99th percentile latency"}
    runs.add("multi", 9.0, multi)
    runs.add("offline")
    runs.add("images", 900.0, {"model/benchmark": "resnet50"})
    found = compare(find("single", runs.folder), find("multi", runs.folder))
    assert found.verdict.text == "No verdict: SingleStream and MultiStream are not comparable."
    assert "90th percentile latency" not in [row.name for row in found.rows]
    assert runs.verdict("offline", "images").text == "No verdict: bert and resnet50 are not comparable."


def test_a_server_that_missed_its_bound_is_not_called_faster(runs):
    for name, rate, valid in (("a", 100, True), ("over", 900, False)):
        changes = {"scenario": "Server", "loadgen/effective_target_qps": rate, "valid": valid, "reasons": ["late"]}
        runs.add(name, float(rate), changes)
    assert runs.verdict("a", "over").text.startswith(
        "No verdict: an INVALID Server run did not sustain its target rate"
    )


def test_a_large_difference_is_given_as_a_factor(runs):
    for number in range(3):
        runs.add(f"a{number}", 100 + number / 10)
        runs.add(f"b{number}", 0.05 + number / 10000)
    names = [",".join(f"{side}{n}" for n in range(3)) for side in "ab"]
    assert runs.verdict(*names).text.startswith("A is 1,998.00 times as fast as B (95 %: 1,99")
    assert runs.verdict(*reversed(names)).text.startswith("B is 1,998.00 times as fast as A (95 %: 1,99")


def test_an_official_result_uses_the_timeline_of_its_record(runs, tmp_path):
    runs.add("record", recorder=offline(100, 1))
    results = Runs(tmp_path / "results")
    folder = results.add("run_1")
    runs.add("b", 110, recorder=offline(110, 2))
    assert runs.verdict(str(folder), "b").faster is True


def test_a_run_is_found_below_results_and_a_broken_one_is_ignored(runs, monkeypatch, tmp_path):
    Runs(tmp_path / "results").add("run_1")
    monkeypatch.setattr("harness.results.finished.TREES", (tmp_path,))
    runs.add("a")
    (runs.folder / "folder" / "run.json").mkdir(parents=True)
    (runs.folder / "folder" / TIMELINE).touch()
    assert runs.verdict("results/run_1", "a").ratio == 1


def test_the_record_of_a_run_names_its_folder(runs):
    runs.add("a")
    assert find(str(runs.folder / "a" / "run.json"), runs.folder).names == find("a", runs.folder).names


def test_an_invalid_run_is_reported(runs):
    runs.add("a")
    runs.add("b", changes={"valid": False, "reasons": ["it was too short: set 7"]})
    for number in range(2):
        runs.add(f"c{number}", changes={"valid": number == 0})
    found = compare(find("a", runs.folder), find("b", runs.folder))
    assert found.remarks == ("B is INVALID: it was too short: set 7.",)
    found = compare(find("c0,c1", runs.folder), find("a", runs.folder))
    assert found.remarks == ("A's c1 is INVALID: the record states no reason.",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("20260101-ofline", "did you mean '20260101-Offline'"),
        ("20260101-Offline,nothing", "there is no run 'nothing', neither as a folder nor in"),
        ("", "a run has no name"),
        (",", "a run has no name"),
        ("20260101-Offline,20260101-Offline", "has 20260101-Offline twice"),
        ("20260101-Offline,other", "runs of different scenarios (Offline, Server), not repeats"),
        ("broken", "cannot be read"),
        ("list", "is not a record of this harness"),
        ("text", "is not a record of this harness, or one of an older version (result.metric.value)"),
    ],
)
def test_a_wrong_name_is_one_sentence(runs, words, message):
    runs.add("20260101-Offline")
    runs.add("other", changes={"scenario": "Server"})
    runs.add("text", "much")
    for name, text in (("broken", "{"), ("list", "[1]")):
        runs.add(name)
        (runs.folder / name / "run.json").write_text(text)
    with pytest.raises(ConfigError) as caught:
        find(words, runs.folder)
    assert message in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_folder_that_is_not_a_run(runs, tmp_path):
    with pytest.raises(ConfigError, match=r"contains no run\.json"):
        find(str(tmp_path), runs.folder)


def test_the_command_prints_all_of_it(runs):
    runs.add("a", recorder=offline(100, 1))
    runs.add("b", 110, {"engine/threads": 4, "valid": False, "reasons": ["short"]}, offline(110, 2))
    arguments = ["compare", "a", str(runs.folder / "b"), "--runs-dir", str(runs.folder)]
    try:
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        shown = done.stdout
        assert "B is INVALID: short." in shown
        assert re.search(r"engine\.threads +2 +4", shown)
        assert re.search(r"throughput +100\.00 samples/s +110\.00 samples/s +1\.100", shown)
        assert "B was faster by 10.0 % (95 %: " in shown
        assert "No recorded setting differs" not in shown
        found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    finally:
        console.configure(console.Output())
    assert found["differences"] == {"engine.threads": ["2", "4"]}
    assert found["verdict"]["faster"] is True
    assert found["metrics"][0] == {"name": "throughput", "unit": "samples/s", "a": 100, "b": 110, "ratio": 1.1}


def gate(runs, a, b):
    done = CliRunner().invoke(app, ["compare", a, b, "--gate", "--runs-dir", str(runs.folder)])
    console.configure(console.Output())
    return str(done.exception) if isinstance(done.exception, CheckFailed) else done.exit_code


def test_a_gate_lets_only_what_is_not_worse_through(runs):
    runs.add("a", recorder=offline(100, 1))
    runs.add("same", recorder=offline(100, 2))
    runs.add("slow", 90, recorder=offline(90, 2))
    runs.add("invalid", changes={"valid": False, "reasons": ["short"]}, recorder=offline(100, 2))
    assert gate(runs, "a", "same") == 0
    assert gate(runs, "slow", "a") == 0
    assert gate(runs, "a", "slow") == "B is worse than A: throughput is 0.900 of A's."
    assert gate(runs, "a", "invalid") == "B is worse than A: invalid is INVALID."
    assert gate(runs, "invalid", "same") == 0
    assert gate(runs, "invalid", "invalid") == "B is worse than A: invalid is INVALID."
    late = {"scenario": "Server", "valid": False, "reasons": ["late"]}
    runs.add("late", changes=late)
    runs.add("later", changes=late)
    assert gate(runs, "late", "later") == "B is worse than A: later is INVALID."
    score = {"mode": "accuracy", "result/accuracy": {"F1": 89.0}}
    runs.add("right", changes=score)
    runs.add("rounds otherwise", changes={**score, "result/accuracy": {"F1": 88.97}})
    runs.add("wrong", changes={**score, "result/accuracy": {"F1": 88.9}})
    assert gate(runs, "right", "rounds otherwise") == 0
    assert gate(runs, "right", "wrong") == "B is worse than A: F1 fell from 89.000 to 88.900 %."


def test_a_gate_refuses_runs_that_are_not_comparable(runs):
    runs.add("a")
    runs.add("server", changes={"scenario": "Server"})
    runs.add("images", changes={"model/benchmark": "resnet50"})
    runs.add("score", changes={"mode": "accuracy", "result/accuracy": {"F1": 89.0}})
    for other, kinds in (
        ("server", "Offline and Server"),
        ("images", "bert and resnet50"),
        ("score", "performance and accuracy"),
    ):
        done = CliRunner().invoke(app, ["compare", "a", other, "--gate", "--runs-dir", str(runs.folder)])
        console.configure(console.Output())
        assert isinstance(done.exception, ConfigError)
        said = f"--gate has nothing to decide: {kinds} are not comparable. Name runs of the same kind."
        assert str(done.exception) == said
