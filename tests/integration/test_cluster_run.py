"""Runs with nodes through the real LoadGen: in threads of one process, and as processes of Ray."""

from __future__ import annotations

import json
from importlib.util import find_spec

import pytest

from harness.loadgen.logs import ACCURACY

EXACT = ("--mode", "accuracy", "--samples", 8, "--set", "max_batch=1", "--set", "streams=1")
"""One sample in a batch: padding to a neighbour's length changes the last bits of BERT's logits."""
MODELS = {
    "bert": ("--dataset", "sample"),
    "images": ("--model", "efficientnet-lite0-int8", "--dataset", "imagenet-synthetic"),
}


def having_ray(cluster):
    if cluster.startswith("local") and find_spec("ray") is None:
        pytest.skip("Ray is not installed: make setup CLUSTER=1")


def started(run):
    """The run, unless Ray itself gave up: it allows its nodes 30 s to start, which a busy machine exceeds."""
    if run.code and "timed out during startup" in run.err:
        pytest.skip("Ray did not start on this busy machine")
    return run


def accuracy_log(run):
    """The lines of LoadGen's log, which have the order in which samples were completed."""
    assert run.code == 0, run.err
    return sorted(line.rstrip(b",") for line in (run.folder / ACCURACY).read_bytes().splitlines())


@pytest.fixture(scope="module")
def logs():
    """The accuracy log of one process, by benchmark, for all tests of this file."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("benchmark", "clusters"),
    [
        ("bert", [("threads:2", "data"), ("threads:3", "indices"), ("local:2", "data")]),
        ("images", [("threads:3", "data"), ("threads:2", "indices"), ("local:2", "indices")]),
    ],
)
@pytest.mark.parametrize("ray", [False, True])
def test_the_accuracy_log_of_nodes_is_that_of_one_process(harness, benchmark, clusters, ray, logs, tmp_path):
    for cluster, samples in [("", ""), *(each for each in clusters if each[0].startswith("local") == ray)]:
        if not cluster and benchmark in logs:
            continue
        having_ray(cluster)
        harness.runs = tmp_path / f"runs-{cluster}"
        nodes = ("--cluster", cluster, "--cluster-samples", samples) if cluster else ()
        run = started(harness.run("--engine", "onnxruntime", *EXACT, *MODELS[benchmark], *nodes, limit=300))
        log = accuracy_log(run)
        entries = json.loads((run.folder / ACCURACY).read_bytes())
        assert len({entry["qsl_idx"] for entry in entries}) == len(entries) == run.record["dataset"]["samples_used"]
        if cluster:
            assert all(node["samples"] > 0 for node in run.record["nodes"])
            assert all("measured roughly" in line for line in run.err.splitlines() if "samples/s measured" in line)
            assert run.record["cluster_samples"] == samples
        assert log == logs.setdefault(benchmark, log)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cluster", "scenario"), [("threads:2", "Offline"), ("threads:2", "Server"), ("local:2", "Offline")]
)
def test_a_performance_run_records_each_node_and_its_part(harness, cluster, scenario):
    having_ray(cluster)
    given = ("--engine", "null", "--scenario", scenario, "--cluster", cluster)
    run = started(harness.run(*given, "--set", "delay_us=2000", "--set", "max_batch=8", "--duration", "1", limit=300))
    assert run.code == 0 or "INVALID" in run.out, run.err  # a noisy machine may miss Server's bound
    record = run.record
    assert len(record["nodes"]) == 2
    assert record["machines"] == 1
    assert record["engine"]["streams"] == 2
    assert sum(node["samples"] for node in record["nodes"]) == record["result"]["samples"]
    assert sum(node["batches"] for node in record["nodes"]) >= record["result"]["batches"] > 0
    assert {node["code"] for node in record["nodes"]} == {record["code"]}
    assert {node["model_sha256"] for node in record["nodes"]} == {record["model"]["sha256"]}
    for node in record["nodes"]:
        assert f"node {node['name']} on {node['host']}: " in run.err
        assert ("samples/s measured, times " in run.err) == (scenario == "Offline")
        assert f"node {node['name']}" in run.out
        assert node["round_trip_ms"] > 0
        assert 0 <= node["idle_s"] <= record["result"]["monotonic_s"]
        assert 0 < node["ended_s"] <= record["result"]["monotonic_s"] + 0.1
    assert f"--cluster {cluster} --cluster-samples data" in record["command"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cluster", "engine"),
    [("threads:2", "Raises"), ("threads:2", "RaisesInTheTest"), ("local:2", "RaisesInTheTest")],
)
def test_an_engine_that_fails_on_a_node_ends_the_run_with_its_words(harness, cluster, engine):
    having_ray(cluster)
    run = started(harness.run("--engine", f"faulty:{engine}", "--cluster", cluster, "--duration", "1", limit=300))
    assert run.code == 1, run.out
    assert "failed to run a batch: vnni unit on fire" in run.err
    assert "Traceback" not in run.err
    assert run.kept == []


def test_one_query_at_a_time_is_refused_at_once(harness):
    run = harness.run("--scenario", "SingleStream", "--cluster", "threads:2")
    assert run.code == 2
    assert "one query at a time" in run.err
    assert run.kept == []
