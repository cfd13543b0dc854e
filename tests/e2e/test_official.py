from __future__ import annotations

import pytest


@pytest.fixture
def official(clone, small_squad):
    """A clone with a small full data set, so that an accuracy run over all of it is short."""
    content = small_squad.read_bytes()
    clone.stand_in("squad-v1.1", content, "http://127.0.0.1:9/dev.json")
    path = clone.top / "build/data/dev-v1.1.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    return clone


def test_an_official_accuracy_run_goes_into_the_results_tree_and_is_never_overwritten(official):
    def run(*more):
        return official.harness(
            "run", "--official", "--engine", "onnxruntime", "--mode", "accuracy", "--system", "here", *more
        )

    first = run()
    assert first.returncode == 0, first.stderr
    assert "not for submission" not in (first.stdout + first.stderr).lower()
    folder = official.top / "results/here/bert-99/Offline/accuracy"
    files = {"mlperf_log_summary.txt", "mlperf_log_detail.txt", "mlperf_log_accuracy.json", "accuracy.txt"}
    files |= {"run.json", "user.conf"}
    assert {path.name for path in folder.iterdir()} == files
    text = (folder / "accuracy.txt").read_text()
    assert "not for submission" not in text.lower()
    log = (folder / "mlperf_log_accuracy.json").stat()

    second = run()
    assert second.returncode == 2
    assert "already holds a result" in second.stderr
    assert "--force" in second.stderr
    assert (folder / "mlperf_log_accuracy.json").stat() == log

    third = run("--force")
    assert third.returncode == 0, third.stderr
    assert {path.name for path in folder.iterdir()} == files
    assert (folder / "mlperf_log_accuracy.json").stat().st_ino != log.st_ino
    assert {path.name for path in folder.parent.iterdir()} == {"accuracy"}


@pytest.mark.parametrize("line", ["*.Offline.min_duration = 60000", "bert.*.max_query_count = 5"])
def test_an_official_run_rejects_a_user_conf_that_shortens_the_test(official, line):
    conf = official.top / "user.conf"
    conf.write_text(f"# mine\n{line}\n")
    run = official.harness("run", "--official", "--engine", "onnxruntime")
    assert run.returncode == 2
    assert "user.conf, line 2" in run.stderr
    assert [path.name for path in (official.top / "results").iterdir()] == ["README.md"]
