"""Server, SingleStream and MultiStream through the real LoadGen."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest

from harness.loadgen.logs import ACCURACY
from harness.registry import installed

SCENARIOS = ["Server", "SingleStream", "MultiStream"]
METRIC = {"Server": "throughput", "SingleStream": "90th percentile latency", "MultiStream": "99th percentile latency"}


@pytest.fixture(params=["onnxruntime", "openvino", "deepsparse", "null"])
def engine(request):
    if request.param == "deepsparse" and "deepsparse" not in installed():
        pytest.skip("DeepSparse is not installed")
    return request.param


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_performance_run_is_valid_and_shows_the_scenarios_metric(harness, scenario):
    run = harness.run("--engine", "null", "--scenario", scenario, "--duration", "2", "-v")
    assert run.code == 0, run.out + run.err
    assert METRIC[scenario] in run.out
    result = run.record["result"]
    assert result["metric"]["name"] == METRIC[scenario]
    assert result["metric"]["value"] > 0
    assert result["duration_s"] > 1.5
    assert result["loadgen_s"] == pytest.approx(result["monotonic_s"], abs=0.01)
    assert {"50.00", "90.00", "99.00"} <= result["latency_ms"].keys()
    assert ("bound 130 ms" in run.out) == (scenario == "Server")
    key = "target_qps" if scenario == "Server" else "target_latency"
    assert f"no {key} in user.conf, so it is set to" in run.err
    assert f"bert.{scenario}.{key} = " in (run.folder / "user.conf").read_text()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_accuracy_run_gives_the_answers_of_offline(harness, scenario, engine, tmp_path):
    logs = {}
    conf = tmp_path / "fast.conf"
    conf.write_text("*.Server.target_qps = 50\n")  # a busy machine may measure only one in ten seconds
    for name in (scenario, "Offline"):
        few = ("--set", "shapes=2") if engine == "deepsparse" else ()
        few += ("--set", "max_batch=4", "--user-conf", conf)
        run = harness.run("--engine", engine, "--scenario", name, "--mode", "accuracy", *few)
        assert run.code == 0, run.err
        newest = max(run.kept, key=lambda path: path.stat().st_mtime)
        entries = json.loads((newest / ACCURACY).read_text())
        logs[name] = {entry["qsl_idx"]: len(entry["data"]) for entry in entries}
        count = json.loads((newest / "run.json").read_text())["dataset"]["samples_used"]
        assert sorted(logs[name]) == list(range(count))
        assert count == 14
        assert len(entries) == (16 if name == "MultiStream" else 14)  # LoadGen fills up the last query of 8
        scores = json.loads((newest / "accuracy.txt").read_text().splitlines()[0])
        assert scores["f1"] == pytest.approx(logs.setdefault("f1", scores["f1"]), abs=1e-6)
    assert logs[scenario] == logs["Offline"]


def test_an_overloaded_server_is_ended_within_seconds_and_its_advice_is_valid(harness, tmp_path):
    conf = tmp_path / "high.conf"
    conf.write_text("# too high\n*.Server.target_qps = 4000\n")
    slow = ("--engine", "null", "--scenario", "Server", "--set", "delay_us=5000", "--set", "max_batch=1")
    run = harness.run(*slow, "--duration", "60", "--user-conf", conf)
    assert run.code == 1
    result = run.record["result"]
    assert 5 < result["duration_s"] < 15
    assert result["metric"]["value"] == pytest.approx(result["samples"] / result["duration_s"], rel=0.2)
    assert "the latency bound was missed at 4000 queries/s, and the test was ended after" in run.out
    assert f"target_qps is 4000 in line 2 of {conf}; set it to " in run.out
    kept = {path.name for path in run.folder.iterdir()}
    assert kept == {
        "run.json",
        "run.toml",
        "timeline.npz",
        "user.conf",
        "NOT-FOR-SUBMISSION.txt",
        "mlperf_log_detail.partial.txt",
    }
    reason = run.record["reasons"][0]
    conf.write_text(f"*.Server.target_qps = {re.search(r'set it to ([0-9.e+]+)', reason)[1]}\n")
    longer = re.search(r"run for ([0-9,]+) s or more", reason)
    again = harness.run(*slow, "--duration", longer[1].replace(",", "") if longer else "8", "--user-conf", conf)
    assert again.code == 0, again.out


def test_an_engine_that_stalls_and_then_fails_is_not_an_overload(harness, tmp_path):
    conf = tmp_path / "high.conf"
    conf.write_text("*.Server.target_qps = 400\n")
    run = harness.run(
        "--engine", "faulty:StallsThenRaises", "--scenario", "Server", "--duration", "30", "--user-conf", conf
    )
    assert run.code == 1
    assert "device lost" in run.err
    assert run.kept == []


def test_a_short_overloaded_server_gets_loadgens_verdict(harness, tmp_path):
    conf = tmp_path / "high.conf"
    conf.write_text("*.Server.target_qps = 150\n")
    arguments = ("--scenario", "Server", "--duration", "2", "--user-conf", conf)
    run = harness.run("--engine", "null", *arguments, "--set", "delay_us=20000", "--set", "max_batch=2")
    assert run.code == 1
    assert "the latency bound was missed at 150 queries/s: lower target_qps, or let `make tune" in run.out
    assert run.record["result"]["samples"] >= 250  # all samples that LoadGen issued; none was dropped


def test_an_idle_server_is_not_taken_for_a_hanging_one(harness, tmp_path):
    conf = tmp_path / "low.conf"
    conf.write_text("*.Server.target_qps = 0.3\n*.Server.min_duration = 6000\n")
    run = harness.run("--engine", "null", "--scenario", "Server", "--stall-timeout", "1", "--user-conf", conf)
    assert "no progress" not in run.err
    assert run.record["result"]["duration_s"] >= 6
    assert run.record["result"]["samples"] < 6


def test_a_development_run_obeys_or_names_the_lines_of_user_conf(harness, tmp_path):
    conf = tmp_path / "user.conf"
    conf.write_text("*.*.min_duration = 1000\n*.*.min_query_count = 800\n*.*.performance_sample_count_override = 3\n")
    run = harness.run("--engine", "null", "--scenario", "SingleStream", "--user-conf", conf)
    assert 1 <= run.record["result"]["duration_s"] < 15
    assert run.record["result"]["samples"] >= 800
    assert f"performance_sample_count_override = 3 in line 3 of {conf} is not used" in run.err
    again = harness.run("--engine", "null", "--scenario", "SingleStream", "--user-conf", conf, "--duration", "0.5")
    assert f"min_duration = 1000 in line 1 of {conf} is not used: --duration 0.5 replaces it" in again.err


def test_what_loadgen_cannot_hold_is_refused_before_the_model_is_loaded(harness, tmp_path):
    conf = tmp_path / "user.conf"
    conf.write_text("*.Server.target_qps = 1e12\n")
    run = harness.run("--engine", "null", "--scenario", "Server", "--user-conf", conf)
    assert run.code == 2
    assert f"target_qps is 1e12 in line 1 of {conf}" in run.err
    assert "warming up" not in run.err
    assert run.kept == []


def test_batches_grow_with_the_load(harness, tmp_path):
    """One by one, 50 queries/s at 20 ms per batch would already keep a stream fully busy."""
    conf = tmp_path / "qps.conf"
    conf.write_text("*.Server.target_qps = 150\n")
    arguments = ("--scenario", "Server", "--duration", "5", "--user-conf", conf, "--set", "delay_us=20000")
    run = harness.run("--engine", "null", *arguments)
    assert run.code == 0, run.out
    assert run.record["result"]["samples"] > 2 * run.record["result"]["batches"]


def test_too_few_queries_for_early_stopping_say_how_long_a_test_would_have_to_be(harness):
    arguments = ("--engine", "null", "--scenario", "MultiStream", "--duration", "1", "--set", "delay_us=2000")
    run = harness.run(*arguments)
    assert run.code == 1
    assert "queries were processed, but the percentile needs at least 662 to be certain" in run.out
    assert "let the test run for" in run.out
    metric = run.record["result"]["metric"]
    assert metric["name"] == "99th percentile latency, observed"
    assert metric["value"] == run.record["result"]["latency_ms"]["99.00"] > 2


def test_a_server_run_is_as_long_as_early_stopping_needs_and_says_so(harness, tmp_path):
    conf = tmp_path / "slow.conf"
    conf.write_text("*.Server.target_qps = 150\n")
    slow = ("--engine", "null", "--scenario", "Server", "--set", "delay_us=4000", "--set", "max_batch=1")
    run = harness.run(*slow, "--user-conf", conf, limit=180)
    assert "the test takes about 23 s instead of 20 s: LoadGen needs 3,304 queries to be sure of the 99th" in run.err
    assert "bert.Server.min_query_count = 3304" in (run.folder / "user.conf").read_text()
    result = run.record["result"]
    assert result["samples"] >= 3304 or "no longer be VALID" in run.out  # unless a busy machine ended it
    assert {"own", "others", "stolen", "of", "disturbed"} <= result["cores"].keys()


def test_a_server_run_that_misses_the_bound_at_a_rate_of_its_own_is_run_once_more(harness):
    run = harness.run(
        "--engine", "faulty:SlowInItsFirstTest", "--scenario", "Server", "--set", "delay_us=20000", limit=180
    )
    assert len(run.kept) == 2
    first, second = (json.loads((folder / "run.json").read_text()) for folder in sorted(run.kept))
    assert not first["valid"]
    assert "no longer be VALID" in first["reasons"][0]
    assert "The harness chose this rate, and now tries a lower one" in run.err
    assert second["missed_target_qps"] == first["estimated_target_qps"]
    assert second["estimated_target_qps"] <= 0.6 * first["estimated_target_qps"]
    assert run.code == (0 if second["valid"] else 1)
    assert run.out.count("result  ") == 1


def test_a_server_run_that_the_user_shortens_says_that_it_will_be_invalid(harness, tmp_path):
    conf = tmp_path / "slow.conf"
    conf.write_text("*.Server.target_qps = 60\n")
    run = harness.run("--engine", "null", "--scenario", "Server", "--duration", "1", "--user-conf", conf)
    assert run.code == 1
    assert "LoadGen needs at least 459 queries to be sure of the 99th percentile, about 8 s at 60 queries/s" in run.err
    assert run.record["result"]["samples"] < 200


def test_streams_run_on_all_cores_by_default(harness):
    run = harness.run("--engine", "onnxruntime", "--scenario", "SingleStream", "--duration", "1")
    assert run.record["engine"]["streams"] == 1
    more = harness.run("--engine", "onnxruntime", "--scenario", "SingleStream", "--duration", "1", "--set", "streams=2")
    records = [json.loads((folder / "run.json").read_text()) for folder in more.kept]
    assert {record["engine"]["streams"] for record in records} == {1, 2}


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize(
    ("engine", "message"),
    [("Raises", "raises failed to run a batch: vnni unit on fire"), ("Crashes", "process crashed (SIGSEGV)")],
)
def test_an_engine_that_breaks_in_the_middle_ends_the_run(harness, tmp_path, scenario, engine, message):
    name = f"late_{engine.lower()}"
    (tmp_path / f"{name}.py").write_text(f"from faulty import {engine} as Base\nclass Late(Base):\n    after = 400\n")
    run = harness.run("--engine", f"{name}:Late", "--scenario", scenario, "--duration", "20")
    assert run.code == 1
    assert message in run.err
    assert "LoadGen" not in run.out
    assert run.kept == []
    assert run.err.count("error:") == 1


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_hanging_engine_ends_by_the_stall_timeout(harness, tmp_path, scenario):
    (tmp_path / "late.py").write_text("from faulty import Hangs as Base\nclass Late(Base):\n    after = 400\n")
    run = harness.run("--engine", "late:Late", "--scenario", scenario, "--stall-timeout", "3", limit=60)
    assert run.code == 1
    assert "no progress for 3 s" in run.err
    assert run.kept == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_ctrl_c_in_the_middle_ends_the_run_and_leaves_nothing(harness, scenario):
    process = harness.start("--engine", "null", "--scenario", scenario, "--set", "delay_us=2000", "--duration", "60")
    time.sleep(5)
    assert process.poll() is None
    start = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    run = harness.finish(process, start, 20)
    assert run.code == 130
    assert run.seconds < 5
    assert "interrupted" in run.err
    assert run.kept == []


def test_a_slow_engine_is_not_taken_for_a_hanging_one(harness):
    """Each batch takes a fifth of the stall timeout; measuring before the test takes far longer than the timeout."""
    arguments = ("--scenario", "MultiStream", "--duration", "1", "--stall-timeout", "0.8", "--set", "max_batch=1")
    run = harness.run("--engine", "null", *arguments, "--set", "delay_us=150000", "--samples", "4", limit=180)
    assert "no progress" not in run.err
    assert run.kept
