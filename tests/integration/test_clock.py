"""Tests during which the realtime clock, by which LoadGen measures, is set."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory) -> Path:
    """A library with a realtime clock that the engine of clocked.py can change."""
    if not shutil.which("gcc"):
        pytest.skip("needs gcc")
    path = tmp_path_factory.mktemp("clock") / "clock.so"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", path, HERE / "clock.c"], check=True)
    return path


@pytest.fixture
def run(harness, preloaded, monkeypatch, tmp_path):
    conf = tmp_path / "slow.conf"
    conf.write_text("*.Server.target_qps = 100\n*.Offline.target_qps = 500\n")

    def run(scenario, faults, seconds=1):
        monkeypatch.setenv("LD_PRELOAD", str(preloaded))
        monkeypatch.setenv("CLOCK_FAULT", json.dumps(faults))
        few = ("--set", "max_batch=1", "--duration", str(seconds), "--user-conf", conf)
        return harness.run("--engine", "clocked:Clocked", "--scenario", scenario, *few)

    return run


@pytest.mark.parametrize(
    ("scenario", "faults", "moved"),
    [
        ("Offline", [[0.4, -0.2]], "0.2"),
        ("Server", [[0.3, 0.3], [0.7, -0.3]], "0.6"),
    ],
)
def test_a_test_whose_realtime_clock_was_changed_has_no_result(run, scenario, faults, moved):
    found = run(scenario, faults)
    assert found.code == 1
    assert f"the realtime clock was changed during the test (it moved by {moved}" in found.err
    assert " s by the monotonic clock, but " in found.err
    assert found.err.count("error:") == 1
    assert found.kept == []


def test_queries_that_came_at_once_because_the_clock_was_changed_are_not_an_overload(run):
    found = run("Server", [[5.5, 3.0]], seconds=10)
    assert found.code == 1
    assert "the realtime clock was changed during the test (it moved by 3.0" in found.err
    assert found.kept == []
