"""Finished runs in MLflow's store of files."""

from __future__ import annotations

import json
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest
from finished import rated, run_folder
from typer.testing import CliRunner

from harness import paths
from harness.cli import app
from harness.errors import ConfigError, MissingDependencyError
from harness.report.tracking import digest_of, export, metrics_of, params_of, tags_of
from harness.results.finished import find


def runs_in(folder: Path):
    return find([str(folder)], None, folder, folder.parent / "tree")


@pytest.fixture
def runs(tmp_path) -> Path:
    """A VALID run of Server, an INVALID one of Offline, and one of accuracy."""
    above = tmp_path / "runs"
    run_folder(above, second=10)
    run_folder(above, second=11, scenario="Offline", valid=False, reasons=["it was too short"], others=0.9)
    run_folder(above, second=12, mode="accuracy", accuracy={"F1": 88.5})
    return above


@pytest.fixture
def store(tmp_path, monkeypatch) -> str:
    pytest.importorskip("mlflow", reason="MLflow is not installed: make setup MLFLOW=1")
    monkeypatch.setattr(paths, "ROOT", tmp_path)  # with the locks
    return (tmp_path / "mlruns").as_uri()


def stored(store: str, experiment: str = "mlperf") -> dict:
    """The runs in a store by name."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=store)
    place = client.get_experiment_by_name(experiment).experiment_id
    return {run.info.run_name: run for run in client.search_runs([place])}


def mlflow_client():
    from mlflow.tracking import MlflowClient

    return MlflowClient


def test_what_was_run_is_a_param_what_came_out_a_metric(runs):
    server, offline, accuracy = runs_in(runs)
    params, metrics = params_of(server), metrics_of(server)
    assert params["scenario"] == "Server"
    assert params["engine"] == "null"
    assert params["engine.streams"] == "2"
    assert params["machine.cores"] == "2"
    assert params["samples_used"] == "250"
    assert params["metric.unit"] == "samples/s"
    assert metrics["metric.value"] == 300
    assert metrics["latency_ms.99.00"] == 30
    assert metrics["bound_ms"] == 130
    assert not params.keys() & metrics.keys()
    assert metrics_of(accuracy)["accuracy.F1"] == 88.5
    assert tags_of(server) == {
        "mlflow.runName": server.name,
        "mlflow.source.name": "harness",
        "harness.digest": digest_of(server),
        "harness.run": server.name,
        "result": "VALID",
        "official": "no",
        "machine": "some CPU, 2 cores",
        "notice": "Development run: not for submission.",
        "command": "harness run --scenario Server",
    }
    tags = tags_of(offline)
    assert (tags["result"], tags["reasons"]) == ("INVALID", "it was too short")
    assert "other processes" in tags["disturbed"]


def test_names_are_those_that_mlflow_takes_and_values_are_not_too_long(runs):
    folder = next(runs.iterdir())
    record = rated(folder)
    record["benchmark_settings"] = {"odd, name=1": "x" * 900}
    (folder / "run.json").write_text(json.dumps(record))
    params = params_of(runs_in(folder)[0])
    assert params["benchmark.odd_ name_1"] == "x" * 500


def test_a_copy_of_a_run_is_the_same_run_and_another_result_is_not(runs, tmp_path):
    first = sorted(runs.iterdir())[0]
    shutil.copytree(first, tmp_path / "elsewhere" / first.name)
    assert digest_of(runs_in(first)[0]) == digest_of(runs_in(tmp_path / "elsewhere" / first.name)[0])
    record = rated(first)
    record["result"]["samples"] += 1
    (first / "run.json").write_text(json.dumps(record))
    assert digest_of(runs_in(first)[0]) != digest_of(runs_in(tmp_path / "elsewhere" / first.name)[0])
    assert len({digest_of(run) for run in runs_in(runs)}) == 3


def test_a_folder_of_runs_becomes_runs_of_an_experiment_once(runs, store):
    found = runs_in(runs)
    done = export(found, store, "mlperf")
    assert (done.added, done.known) == ([run.name for run in found], 0)
    run_folder(runs, second=13, rate=310.0)
    done = export(runs_in(runs), store, "mlperf")
    assert (len(done.added), done.known) == (1, 3)
    kept = stored(store)
    assert len(kept) == 4
    server = kept[found[0].name]
    assert server.data.metrics == metrics_of(found[0])
    assert server.data.params == params_of(found[0])
    assert server.data.tags["result"] == "VALID"
    assert server.info.status == "FINISHED"
    assert server.info.end_time - server.info.start_time == round(1000 * found[0].duration_s)
    summary = Path(server.info.artifact_uri.removeprefix("file://")) / "mlperf_log_summary.txt"
    assert summary.read_text() == "No errors encountered during test.\n"
    assert export(found, store, "another").known == 0


def test_a_run_whose_export_was_interrupted_is_exported_again(runs, store, monkeypatch):
    found = runs_in(runs)[:1]

    def stopped(*_args, **_named):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("mlflow.tracking.MlflowClient.log_batch", stopped)
        with pytest.raises(KeyboardInterrupt):
            export(found, store, "mlperf")
    assert [run.info.status for run in stored(store).values()] == ["RUNNING"]
    assert export(found, store, "mlperf").added == [found[0].name]
    (run,) = stored(store).values()
    assert run.info.status == "FINISHED"
    assert run.data.metrics["metric.value"] == 300


def test_a_second_export_waits_and_deletes_nothing_that_the_first_one_writes(runs, store, monkeypatch, capsys):
    writing, go_on, send = threading.Event(), threading.Event(), mlflow_client().log_batch
    done = []

    def slow(self, run_id, metrics, params):
        writing.set()
        assert go_on.wait(30)
        send(self, run_id, metrics, params)

    monkeypatch.setattr("mlflow.tracking.MlflowClient.log_batch", slow)
    again = f"file:{store.removeprefix('file://')}/../mlruns"  # the same store
    first, second = (
        threading.Thread(target=lambda uri=uri: done.append(export(runs_in(runs), uri, "mlperf")))
        for uri in (store, again)
    )
    first.start()
    assert writing.wait(30)
    before = [run.info.run_id for run in stored(store).values()]
    second.start()
    second.join(0.5)
    assert second.is_alive()
    assert [run.info.run_id for run in stored(store).values()] == before
    go_on.set()
    for thread in (first, second):
        thread.join()
    assert [(len(each.added), each.known) for each in done] == [(3, 0), (0, 3)]
    assert {run.info.status for run in stored(store).values()} == {"FINISHED"}
    assert "another export to the experiment mlperf in file:" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(("age", "left"), [(0, 2), (3_500, 2), (3_700, 1), (None, 1)])
def test_what_another_machine_may_still_be_exporting_is_not_deleted(runs, store, age, left):
    found = runs_in(runs)[:1]
    client = mlflow_client()(tracking_uri=store)
    tag = {} if age is None else {"harness.export": f"0123456789abcdef {time.time() - age:.0f}"}
    place = client.create_experiment("mlperf")
    client.create_run(place, tags={**tags_of(found[0]), **tag})
    assert export(found, store, "mlperf").added == [found[0].name]
    assert len(client.search_runs([place])) == left


def test_the_command_takes_all_runs_of_the_folder_and_says_what_it_did(runs, store):
    words = ["export", "mlflow", "--runs-dir", str(runs), "--tracking-uri", store]
    done = CliRunner().invoke(app, words, prog_name="harness")
    assert done.exit_code == 0, done.output
    assert "3 runs added, 0 already exported: experiment mlperf in file:" in done.stdout
    one = next(runs.iterdir()).name
    done = CliRunner().invoke(app, [*words, one, "--experiment", "mine", "--json"], prog_name="harness")
    assert json.loads(done.stdout) == {"added": [one], "known": 0, "experiment": "mine", "tracking_uri": store}


def test_values_are_sent_in_few_requests(runs, store, monkeypatch):
    folder = runs / runs_in(runs)[0].name
    record = rated(folder)
    record["benchmark_settings"] = {f"setting {number}": number for number in range(150)}
    (folder / "run.json").write_text(json.dumps(record))
    found = runs_in(runs)[:1]
    counts = []
    send = mlflow_client().log_batch

    def log_batch(self, run_id, metrics, params):
        counts.append((len(metrics), len(params)))
        send(self, run_id, metrics, params)

    monkeypatch.setattr("mlflow.tracking.MlflowClient.log_batch", log_batch)
    export(found, store, "mlperf")
    assert counts == [(len(metrics_of(found[0])), 100), (0, len(params_of(found[0])) - 100)]
    assert stored(store)[found[0].name].data.params == params_of(found[0])


def test_the_reason_is_the_systems_own_word(runs, store):
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:9 cannot be used \(Connection refused\): give another"):
        export(runs_in(runs), "http://127.0.0.1:9", "mlperf")


@pytest.mark.parametrize("uri", ["nonsense://x", "file:///proc/none/mlruns", "http://127.0.0.1:9"])
def test_a_store_that_cannot_be_used_is_one_sentence(runs, store, uri):
    with pytest.raises(ConfigError, match=r"cannot be used .*: give another --tracking-uri or --experiment") as caught:
        export(runs_in(runs), uri, "mlperf")
    assert "\n" not in str(caught.value)


def test_without_mlflow_a_sentence_says_how_to_add_it(runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    with pytest.raises(MissingDependencyError, match="needs MLflow: add it with `make setup MLFLOW=1`"):
        export(runs_in(runs), "file:nowhere", "mlperf")
