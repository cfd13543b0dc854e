from __future__ import annotations

import json

import pytest

from harness.results.profile import PROFILE


@pytest.mark.parametrize(("engine", "scenario"), [("onnxruntime", "Offline"), ("openvino", "SingleStream")])
def test_a_run_with_a_profile_has_the_same_files_and_one_more(harness, engine, scenario):
    run = harness.run("--engine", engine, "--scenario", scenario, "--duration", "1", "--profile", limit=240)
    assert run.code in (0, 1), run.err  # on a busy machine, a test of a second may be INVALID
    profile = json.loads((run.folder / PROFILE).read_text())
    assert profile["engine"].startswith(engine)
    assert 4 <= len(profile["batches"]) <= 16
    known = {"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "FullyConnected", "Subgraph"}
    assert profile["operators"][0]["operator"] in known
    assert len(profile["nodes"]) == 10
    assert sum(each["share"] for each in profile["operators"]) == pytest.approx(1, abs=0.01)
    assert all(each["calls"] % len(profile["batches"]) == 0 for each in profile["nodes"])
    # After the result, which it cannot change.
    assert run.out.index("logs ") < run.out.index(profile["operators"][0]["operator"])
    assert f"runs/{run.folder.name}/{PROFILE}" in run.err
    assert "profile = true" in (run.folder / "run.toml").read_text()
    assert PROFILE not in run.record["digests"]


def test_an_engine_without_a_profile_is_refused_before_anything_runs(harness):
    run = harness.run("--engine", "null", "--profile")
    assert run.code == 2
    assert run.err.count("\n") == 1
    assert "the engine null has no profile" in run.err
    assert run.kept == []


def test_a_profile_that_fails_costs_no_result(harness):
    run = harness.run("--engine", "faulty:Profiled", "--duration", "1", "--profile", "--json", limit=240)
    assert run.code == 0, run.err
    assert json.loads(run.out)["valid"] is True
    assert "warning: no profile was made" in run.err
    assert "out of tricks" in run.err
    assert not (run.folder / PROFILE).exists()
