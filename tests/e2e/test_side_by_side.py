"""Commands at the same time: one official test of a result at once, whatever is killed; others run side by side."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

SLOW = ("--engine", "null", "--set", "delay_us=20000", "--duration", "4")
REHEARSAL = ("run", "--rehearsal", "--system", "toy", *SLOW)
RESULT = "build/rehearsal/results/rehearsal-toy/bert-99/Offline/performance/run_1"


@pytest.fixture
def start(clone):
    """Starts a command in a clone with a small data set."""
    clone.official_size(40)
    (clone.top / "user.conf").write_text("*.Offline.target_qps = 40000\n*.SingleStream.target_latency = 10\n")
    started = []

    def start(*args: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "harness.cli", *args]
        environment = {**os.environ, "PYTHONPATH": str(clone.top / "code")}
        process = subprocess.Popen(
            command, cwd=clone.top, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def begun(clone, process) -> None:
    deadline = time.monotonic() + 60
    while not list((clone.top / "build" / "runs").glob(".*.partial")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def refused(process, first) -> None:
    out, err = process.communicate(timeout=60)
    assert first.poll() is None
    assert (process.returncode, out) == (2, "")
    said = " ".join(err.split())
    result = f"error: another test or campaign is writing {RESULT}"
    assert said == f"{result} (process {first.pid}): wait until it ends, or stop it."


def test_a_second_test_or_campaign_for_a_result_is_refused_and_the_first_one_completes(clone, start):
    first = start(*REHEARSAL)
    begun(clone, first)
    refused(start(*REHEARSAL, "--force"), first)
    refused(start("campaign", *REHEARSAL[1:], "--scenario", "Offline"), first)
    _, err = first.communicate(timeout=60)
    assert first.returncode == 0, err
    assert (clone.top / RESULT / "run.json").is_file()
    assert list((clone.top / "build/rehearsal/build/locks").iterdir()) == []


def test_a_test_is_refused_beside_a_campaign_for_its_result(clone, start):
    campaign = start("campaign", *REHEARSAL[1:], "--scenario", "Offline")
    begun(clone, campaign)
    refused(start(*REHEARSAL), campaign)
    out, err = campaign.communicate(timeout=120)
    assert campaign.returncode == 0, err
    assert "2 of 2 tests are done" in out


def test_a_test_that_was_killed_does_not_block_the_next(clone, start):
    first = start(*REHEARSAL)
    begun(clone, first)
    time.sleep(1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    again = start(*REHEARSAL)
    _, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert list((clone.top / "build/rehearsal/build/locks").iterdir()) == []


def test_other_results_and_development_runs_are_measured_side_by_side(clone, start):
    first = start(*REHEARSAL)
    begun(clone, first)
    beside = [start(*REHEARSAL, "--scenario", "SingleStream"), start("run", *SLOW), start("run", *SLOW)]
    for process in (first, *beside):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
