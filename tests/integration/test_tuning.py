"""`harness tune`, with an engine whose best settings are known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest


class Tune:
    def __init__(self, tmp_path: Path, dataset: Path) -> None:
        self.top, self.dataset = tmp_path, dataset
        self.state = tmp_path / "state"
        self.module = "harness.cli"

    def start(self, command: str, *args: object) -> subprocess.Popen:
        (self.top / "empty.conf").touch()
        given = [*map(str, args), "--dataset", str(self.dataset)]
        given += ["--measurements-dir", str(self.top / "measurements"), "--system", "here"]
        if command == "tune":
            given += ["--state-dir", str(self.state), "--user-conf", str(self.top / "empty.conf")]
        else:
            given += ["--runs-dir", str(self.top / "runs")]
        return subprocess.Popen(
            [sys.executable, "-m", self.module, command, *given],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.top,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            start_new_session=True,
        )

    def __call__(self, command: str, *args: object) -> tuple[int, str, str]:
        process = self.start(command, *args)
        out, err = process.communicate(timeout=170)
        return process.returncode, out, err

    def written(self, scenario: str) -> dict:
        return json.loads((self.top / "measurements/here/bert-99" / scenario / "tuned.json").read_text())


@pytest.fixture
def tune(tmp_path: Path, small_squad: Path) -> Tune:
    return Tune(tmp_path, small_squad)


CHOOSY = ("--engine", "choosy:Choosy", "--seconds", "0.5")


def test_the_best_settings_are_found_written_and_used(tune):
    code, out, err = tune("tune", *CHOOSY, "--scenario", "Offline", "--set", "max_batch=1")
    assert code == 0, err
    found = tune.written("Offline")
    assert found["options"] == {"max_batch": "1", "streams": "2"}
    assert 1.5 < found["score"] / found["default_score"] < 2.5
    assert found["value"] > found["score"]
    assert "three is too many" in err
    assert "streams=3: unusable" in err
    assert "chosen: max_batch=1 streams=2" in out
    conf = (tune.top / "measurements/here/bert-99/Offline/user.conf").read_text()
    assert f"bert.Offline.target_qps = {found['value']:.6g}" in conf
    assert not list(tune.state.glob("*.json"))

    run = tune.start("run", "--duration", "1", "-v")
    _, err = run.communicate(timeout=60)
    assert "using the settings in" in err
    record = json.loads(next((tune.top / "runs").glob("*/run.json")).read_text())
    assert (record["engine"]["name"], record["engine"]["streams"]) == ("choosy", 2)
    assert record["tuned"].endswith("tuned.json")
    assert "so it is set to" not in err


def test_stdout_holds_only_json(tune):
    code, out, err = tune("tune", *CHOOSY, "--scenario", "Offline", "--set", "max_batch=1", "--json")
    assert code == 0, err
    printed = json.loads(out)
    assert printed.pop("folder").endswith("bert-99/Offline")
    assert printed == tune.written("Offline")


def test_servers_rate_is_searched_for_and_confirmed_by_loadgen(tune):
    arguments = ("--scenario", "Server", "--set", "max_batch=1", "--set", "streams=2", "--confirm-seconds", "6")
    code, _, err = tune("tune", *CHOOSY, *arguments)
    assert code == 0, err
    found = tune.written("Server")
    assert found["confirmed"]["valid"]
    assert found["confirmed"]["seconds"] >= 6  # more where a busy machine answers so few queries that LoadGen needs it
    assert found["confirmed"]["p99_ms"] <= 130
    assert 100 < found["value"] <= 2 / 0.008
    assert f"for {found['confirmed']['seconds']:g} s: 99th percentile" in err
    assert found["confirmed"] in found["rates"]
    assert len(found["rates"]) == err.count(": 99th percentile") > 1
    assert not list(tune.state.iterdir())


@pytest.mark.parametrize("scenario", ["SingleStream", "MultiStream"])
def test_streams_are_tuned_by_their_percentile(tune, scenario):
    code, _, err = tune("tune", *CHOOSY, "--scenario", scenario, "--set", "max_batch=1")
    assert code == 0, err
    found = tune.written(scenario)
    samples = 1 if scenario == "SingleStream" else 8
    streams = int(found["options"].get("streams", 1))
    assert streams == (2 if scenario == "MultiStream" else streams)
    assert found["score"] == pytest.approx(samples / (0.008 * -(-samples // streams)), rel=0.4)


def test_a_crash_of_one_setting_does_not_end_the_tuning(tune):
    code, _, err = tune("tune", *CHOOSY, "--scenario", "Offline", "--set", "streams=2")
    assert code == 0, err
    assert "max_batch=2: unusable" in err
    assert "the test's process exited with code 9" in err
    assert tune.written("Offline")["options"]["streams"] == "2"


def test_ctrl_c_saves_the_measurements_and_the_same_command_continues(tune):
    arguments = (*CHOOSY, "--scenario", "Offline", "--set", "max_batch=1")
    process = tune.start("tune", *arguments)
    deadline = time.monotonic() + 60
    while not list(tune.state.glob("*.json")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "stopped; the measurements are saved in" in err
    assert "Traceback" not in err
    assert not (tune.top / "measurements").exists()
    code, _, err = tune("tune", *arguments)
    assert code == 0, err
    assert "continuing with" in err
    assert "the defaults, saved earlier:" in err
    assert tune.written("Offline")["options"]["streams"] == "2"


def test_settings_of_another_engine_are_not_replaced_by_accident(tune):
    arguments = ("--scenario", "Offline", "--seconds", "0.5")
    assert tune("tune", "--engine", "null", *arguments)[0] == 0
    code, _, err = tune("tune", *CHOOSY, "--scenario", "Offline")
    assert code == 2
    assert "holds the settings of minilm-l6-squad-int8 on null: pass another --system, or --force" in err
    assert tune.written("Offline")["engine"] == "null"


def test_where_nothing_works_nothing_is_written(tune):
    code, _, err = tune("tune", *CHOOSY, "--scenario", "Offline", "--set", "streams=3")
    assert code == 1
    assert "three is too many" in err
    assert "the default settings do not work; see the message above" in err
    assert not (tune.top / "measurements").exists()


def test_without_an_engine_a_killed_tuning_continues_and_the_best_engine_is_used(tune):
    tune.module = "several"
    arguments = ("--scenario", "Offline", "--seconds", "0.5", "--set", "max_batch=1")
    process = tune.start("tune", *arguments)
    deadline = time.monotonic() + 120
    while len(list(tune.state.glob("*.json"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    code, out, err = tune("tune", *arguments)
    assert code == 0, err
    assert err.count("continuing with") == 2
    assert "slow is not tuned: 0." in err
    found = tune.written("Offline")
    assert found["engines"].keys() == {"choosy", "slow"}
    assert (found["engine"], found["options"]["streams"]) == ("choosy", "2")
    assert "chosen: choosy, max_batch=1 streams=2" in out
    assert not list(tune.state.glob("*.json"))

    run = tune.start("run", "--duration", "1")
    _, err = run.communicate(timeout=60)
    record = json.loads(next((tune.top / "runs").glob("*/run.json")).read_text())
    assert record["engine"]["name"] == "choosy"
    assert record["engine_choice"] == "tuned for minilm-l6-squad-int8 in Offline"
