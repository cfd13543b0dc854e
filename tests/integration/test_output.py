"""The output of a run: details, the log file of both processes, JSON, and the message of Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time

import pytest


def test_a_quiet_run_shows_only_its_description_and_progress(harness):
    run = harness.run("--engine", "null", "--duration", "1")
    assert run.code == 0, run.err
    assert "so it is set to" not in run.err
    assert "settings in force" not in run.err
    assert "data set small (" in run.err


def test_the_folder_of_the_logs_is_one_line_however_narrow_the_terminal(harness, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    run = harness.run("--engine", "null", "--duration", "1")
    assert run.code == 0, run.err
    assert re.search(rf"^logs +\S*/{run.folder.name}$", run.out, re.MULTILINE)


def test_details_and_the_log_file_include_the_process_of_the_test(harness, tmp_path):
    log = tmp_path / "run.log"
    run = harness.run("--engine", "null", "--duration", "1", "-v", "--log-file", log)
    assert run.code == 0, run.err
    text = log.read_text()
    for detail in ("settings in force: name null", "no target_qps in user.conf, so it is set to", "batches: "):
        assert detail in run.err
        assert re.search(rf"DEBUG test: {re.escape(detail)}", text)
    assert re.search(r"DEBUG MainProcess: harness run ", text)
    assert re.search(r"INFO test: result +VALID", text)


def test_stdout_holds_only_json(harness):
    run = harness.run("--engine", "null", "--mode", "accuracy", "--json")
    assert run.code == 0, run.err
    printed = json.loads(run.out)
    assert printed["valid"] is True
    assert printed["result"] == run.record["result"]
    assert printed["logs"] == str(run.folder)
    assert "not for submission" in printed["notice"]


def test_a_run_without_a_result_prints_no_json(harness):
    run = harness.run("--engine", "null", "--model", "no-such-model", "--json")
    assert run.code == 2
    assert run.out == ""
    assert "error: unknown model" in run.err


def test_ctrl_c_says_what_was_kept(harness):
    process = harness.start("--engine", "null", "--set", "delay_us=1000", "--duration", "60")
    start = time.monotonic()
    while "LoadGen" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    run = harness.finish(process, start)
    assert run.code == 130
    assert "interrupted: the test was stopped, and nothing was kept." in run.err


@pytest.mark.parametrize("stdout", ["closed", "without a reader"])
def test_a_result_that_nobody_reads_is_a_result(harness, stdout):
    def close():
        os.close(0)
        os.close(1)

    reading, writing = os.pipe()
    os.close(reading)
    preexec_fn = close if stdout == "closed" else None
    run = harness.run("--engine", "null", "--mode", "accuracy", stdout=writing, preexec_fn=preexec_fn)
    os.close(writing)
    assert run.code == 0, run.err
    assert run.record["valid"]
    assert "warning:" not in run.err
    assert "Traceback" not in run.err


def test_paths_of_another_locale_or_encoding_are_read_and_recorded(
    harness, tmp_path, monkeypatch, fp32_model, small_squad
):
    for name, value in (("LC_ALL", "C"), ("PYTHONUTF8", "0"), ("PYTHONCOERCECLOCALE", "0")):
        monkeypatch.setenv(name, value)
    model, data = (tmp_path / os.fsdecode(name) for name in (b"m\xfcll.onnx", b"d\xfcten.json"))
    shutil.copyfile(fp32_model, model)
    shutil.copyfile(small_squad, data)
    harness.runs = tmp_path / "läufe"
    run = harness.run("--model", model, "--dataset", data, "--engine", "onnxruntime", "--mode", "accuracy", "--json")
    assert run.code == 0, run.err
    assert json.loads(run.out)["valid"]
    assert run.record["model"]["path"] == f"{tmp_path}/m\\xfcll.onnx"
    assert run.record["dataset"]["name"] == r"d\xfcten"
