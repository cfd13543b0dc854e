"""Rehearsal campaigns: every test of a submission with the real LoadGen, short and on stand-ins."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

SIZE = 40
COMMAND = ("campaign", "--rehearsal", "--system", "toy", "--engine", "null", "--set", "delay_us=1000")


@pytest.fixture
def small(clone):
    clone.official_size(SIZE)
    return clone


def events_of(clone, system="rehearsal-toy"):
    path = clone.top / "build" / "campaign" / f"{system}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def set_rates(clone, target_qps, target_latency=0.5):
    """Set rates in user.conf: those measured on a busy machine may make a test of one second too short."""
    conf = f"*.Offline.target_qps = {target_qps}\n*.SingleStream.target_latency = {target_latency}\n"
    (clone.top / "user.conf").write_text(conf)


def files(clone):
    tree = clone.top / "build" / "rehearsal"
    return sorted(
        str(path.relative_to(tree)) for part in ("results", "compliance") for path in (tree / part).rglob("*")
    )


def test_a_closed_campaign_runs_all_tests_once_and_marks_a_rehearsal(small):
    closed = (*COMMAND, "--duration", "1", "--division", "closed", "--set", "delay_us=20000")
    set_rates(small, 40_000, 10)
    first = small.harness(*closed)
    for _ in range(4):  # on a busy machine the scores of two short tests may differ by more than 10 %
        if first.returncode == 0:
            break
        assert "up to 10% is allowed" in first.stdout
        first = small.harness(*closed, "--retry")
    assert first.returncode == 0, first.stderr
    assert "6 of 6 tests are done" in first.stdout
    assert "REHEARSAL" in first.stderr
    done = [event["test"] for event in events_of(small) if event["event"] == "done"]
    assert sorted(done) == sorted(  # a repeated test comes after the others
        f"bert-99 {scenario} {test}"
        for scenario in ("Offline", "SingleStream")
        for test in ("performance", "accuracy", "TEST01")
    )
    tree = small.top / "build" / "rehearsal"
    test = tree / "compliance" / "rehearsal-toy" / "bert-99" / "Offline" / "TEST01"
    assert "TEST PASS" in (test / "verify_accuracy.txt").read_text().splitlines()
    assert "TEST PASS" in (test / "verify_performance.txt").read_text().splitlines()
    record = json.loads((tree / "results/rehearsal-toy/bert-99/Offline/performance/run_1/run.json").read_text())
    assert record["rehearsal"]
    assert not record["for_submission"]
    assert "harness run --rehearsal" in record["command"]

    before, events = files(small), len(events_of(small))
    again = small.harness(*closed)
    assert again.returncode == 0
    assert "LoadGen" not in again.stderr
    assert (files(small), len(events_of(small))) == (before, events)

    packed = small.harness("package", "--rehearsal", "--division", "closed", "--submitter", "acme", "--system", "toy")
    assert packed.returncode == 1, packed.stderr
    assert "This is a rehearsal, not a submission." in packed.stdout
    found = json.loads(small.harness("check", "--rehearsal", "--json").stdout)
    assert found["packages"] == ["closed/rehearsal-acme"]
    assert found["results"] == 2
    words = ("duration", "took", "sample", "data set", "entries", "f1", "F1", "below")
    for problem in found["problems"]:  # caused by one second, 40 samples and zeros as answers
        assert any(word in problem["what"] for word in words), problem
    strict = json.loads(small.harness("check", "build/rehearsal-submission", "--json").stdout)
    marks = [problem for problem in strict["problems"] if problem not in found["problems"]]
    assert {"REHEARSAL" in problem["what"] or "rehearsal" in problem["path"] for problem in marks} == {True}
    assert len(marks) >= 4

    own = small.harness("check", tree)  # nothing was edited since the tests
    assert (own.returncode, "6 recorded tests. Make" in own.stdout) == (0, True), own.stdout
    verdict = test / "verify_accuracy.txt"
    verdict.write_text(verdict.read_text() + "\n")
    own = small.harness("check", tree)
    assert own.returncode == 1
    assert "TEST01/verify_accuracy.txt" in own.stdout
    refused = small.harness("package", "--rehearsal", "--division", "closed", "--submitter", "acme", "--system", "toy")
    assert refused.returncode == 1
    assert "verify_accuracy.txt: it was edited after the run" in " ".join(refused.stderr.split())


def test_one_image_again_and_again_is_compliance_test_04(small):
    given = ("run", "--rehearsal", "--model", "efficientnet-lite0-int8", "--engine", "null", "--system", "toy",
             "--duration", "1", "--set", "delay_us=1000")  # fmt: skip
    set_rates(small, 60_000)
    early = small.harness(*given, "--compliance", "test04")
    assert early.returncode == 2
    assert "does not hold one" in early.stderr
    assert small.harness(*given).returncode == 0
    tested = small.harness(*given, "--compliance", "TEST04")
    folder = small.top / "build/rehearsal/compliance/rehearsal-toy/efficientnet-lite0/Offline/TEST04"
    if tested.returncode:  # only a machine that was busier before may fail it
        assert "it must be below +10%" in tested.stdout
        assert not folder.exists()
    else:
        assert "TEST PASS" in (folder / "verify_performance.txt").read_text().splitlines()
        log = (folder / "performance" / "run_1" / "mlperf_log_detail.txt").read_text()
        assert '"effective_performance_issue_same", "value": true' in log
        assert "Multiple conf files" not in log


def test_a_campaign_that_is_killed_again_and_again_ends_with_the_same_results(small):
    command = [sys.executable, "-m", "harness.cli", *COMMAND, "--duration", "1", "--scenario", "Offline",
               "--scenario", "SingleStream"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(small.top / "code")}
    set_rates(small, 400_000)
    chance = random.Random(7)
    log = small.top / "build" / "campaign" / "rehearsal-toy.jsonl"
    for number in range(6):
        size = log.stat().st_size if log.exists() else 0
        process = subprocess.Popen(command, cwd=small.top, env=environment, stdout=-3, stderr=-3)
        if number < 2:  # within a test, however slowly a busy machine starts it
            deadline = time.monotonic() + 60
            while (log.stat().st_size if log.exists() else 0) == size and time.monotonic() < deadline:
                time.sleep(0.05)
        else:
            time.sleep(chance.uniform(0.8, 4.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)  # the test's own process notices that its parent is gone
    last = small.harness(*COMMAND, "--duration", "1", "--scenario", "Offline", "--scenario", "SingleStream")
    assert last.returncode == 0, last.stdout + last.stderr
    assert "4 of 4 tests are done" in last.stdout
    tests = [
        f"bert-99 {scenario} {test}" for scenario in ("Offline", "SingleStream") for test in ("performance", "accuracy")
    ]
    events = events_of(small)
    assert any(
        e["event"] == "started" and events[i + 1 : i + 2] and events[i + 1]["event"] == "started"
        for i, e in enumerate(events)
    )
    for test in tests:
        ended = [event for event in events if event["test"] == test and event["event"] == "done"]
        assert len(ended) <= 1, test
    folder = small.top / "build" / "rehearsal" / "results" / "rehearsal-toy" / "bert-99"
    for scenario in ("Offline", "SingleStream"):
        for part in ("performance/run_1", "accuracy"):
            record = json.loads((folder / scenario / part / "run.json").read_text())
            assert record["valid"]
    assert not list((small.top / "build").rglob(".*.partial"))


def test_failed_tests_are_repeated_only_on_demand(small):
    conf = small.top / "user.conf"
    conf.write_text("*.Offline.target_qps = 1\n")
    offline = (*COMMAND, "--duration", "1", "--scenario", "Offline")
    first = small.harness(*offline, "--json")
    assert first.returncode == 1
    printed = json.loads(first.stdout)
    assert (printed["system"], printed["rehearsal"], printed["done"]) == ("rehearsal-toy", True, 1)
    failed, good = printed["tests"]
    assert (failed["test"], failed["state"], failed["result"]) == ("performance", "failed", None)
    assert (good["test"], good["state"], good["result"]["samples"]) == ("accuracy", "done", SIZE)
    assert "LoadGen issued too few samples for such a fast system" in failed["reason"]
    events = len(events_of(small))
    again = small.harness(*offline)
    assert again.returncode == 1
    assert "1 failed" in again.stdout
    assert len(events_of(small)) == events
    set_rates(small, 400_000)
    retried = small.harness(*offline, "--retry")
    assert retried.returncode == 0, retried.stderr


def test_rejected_settings_end_a_campaign_and_are_not_a_failure(small):
    official = ("campaign", "--system", "toy", "--engine", "onnxruntime", "--scenario", "Offline")
    for _ in range(2):  # the second time it is not shown as failed
        done = small.harness(*official)
        assert done.returncode == 2
        assert "run `make data`" in done.stderr
        assert "2 remain" in done.stdout
        assert "failed" not in done.stdout
    printed = small.harness(*official, "--json")
    assert printed.returncode == 2
    assert [test["state"] for test in json.loads(printed.stdout)["tests"]] == ["to do", "to do"]
    assert json.loads(printed.stdout)["tests"][0]["reason"] == "settings rejected; see its output"
    assert [event["event"] for event in events_of(small, "toy")] == ["started", "refused"] * 3


def test_a_result_of_other_settings_is_not_touched(small):
    offline = ("--duration", "1", "--scenario", "Offline")
    set_rates(small, 400_000)
    assert small.harness(*COMMAND, *offline).returncode == 0
    before = files(small)
    other = small.harness(*COMMAND, *offline, "--set", "max_batch=3")
    assert other.returncode == 2
    assert "another setting of the engine" in other.stderr
    assert files(small) == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--model", "efficientnet-lite0-int8", "--division", "closed"), "use --division open"),
        (("--scenario", "ofline"), "did you mean 'Offline'?"),
        (("--system-type", "datacenter"), "use --system-type edge"),
        (("--division", "shut"), "closed"),
    ],
)
def test_an_impossible_plan_is_one_sentence(small, more, message):
    done = small.harness(*COMMAND, *more)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("error:") == 1
