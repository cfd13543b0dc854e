"""A child process that reports its own outcome and dies in every way, without engine and LoadGen."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.host.supervise import ChildOutcome, Heartbeat, supervised

pytestmark = pytest.mark.slow


def exits(code: int, heartbeat: Heartbeat) -> int:
    os._exit(code)


def panics(heartbeat: Heartbeat) -> int:
    raise type("Panic", (BaseException,), {})("rust code panicked")


def compiles(heartbeat: Heartbeat) -> int:
    heartbeat.beat(60, "deepsparse compiled ü.onnx: try another")
    os.kill(os.getpid(), signal.SIGSEGV)
    return 0


def refuses(heartbeat: Heartbeat) -> int:
    raise ConfigError("no such setting.")


def reports(record: Path, heartbeat: Heartbeat) -> int:
    heartbeat.report(1, record)
    return 1


def publishes(folder: Path, then: str, heartbeat: Heartbeat) -> int:
    """Publishes an INVALID result, and dies as ``then`` says."""
    place = folder / "place"
    (folder / "staging").mkdir()
    heartbeat.publish(1, folder / "staging", place)
    if then == "before the rename":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "staging").rename(place)
    if then == "after the rename":
        os.kill(os.getpid(), signal.SIGKILL)
    heartbeat.report(1)
    heartbeat.beat(0.3)
    if then == "exits":
        os._exit(0)
    if then == "removes":
        place.rmdir()
    if then == "hangs":
        time.sleep(60)
    return 1


def outcome(work, *args) -> int:
    return supervised(work, *args, cleanup=lambda: None).code


@pytest.mark.parametrize("code", [0, 1, 2])
def test_an_exit_code_that_the_child_did_not_report_is_a_failure(code, capfd):
    assert outcome(exits, code) == 1
    assert f"exited with code {code}, most likely inside the engine. Nothing was kept." in capfd.readouterr().err


def test_what_the_child_did_when_it_died_is_named(capfd):
    assert outcome(compiles) == 1
    error = "crashed (SIGSEGV) while deepsparse compiled ü.onnx: try another. Nothing was kept."
    assert error in capfd.readouterr().err


def test_what_the_child_reports_is_the_outcome(capfd):
    assert outcome(refuses) == 2
    assert outcome(panics) == 1
    said = capfd.readouterr().err
    assert "error: no such setting." in said
    assert "error: Panic (rust code panicked) ended the test, most likely raised by the engine." in said
    assert "kept" not in said


@pytest.mark.parametrize(
    ("then", "message"),
    [
        ("after the rename", "the test's process was killed"),
        ("exits", "the test's process exited with code 0"),
        ("hangs", "no progress for 0 s"),
    ],
)
def test_a_published_result_is_the_outcome_whatever_becomes_of_the_child(tmp_path, capfd, then, message):
    assert outcome(publishes, tmp_path, then) == 1
    said = capfd.readouterr().err
    assert f"warning: the test had ended, and its result is in {tmp_path / 'place'}; afterwards: {message}" in said
    assert "othing was kept" not in said


def test_the_folder_that_the_child_reports_for_its_record_is_part_of_the_verdict(tmp_path):
    assert supervised(reports, tmp_path / "ü", cleanup=lambda: None) == ChildOutcome(1, record=tmp_path / "ü")


def test_a_child_that_dies_before_its_result_is_in_place_has_none(tmp_path, capfd):
    (tmp_path / "place").mkdir()  # of another run
    assert outcome(publishes, tmp_path, "before the rename") == 1
    assert "was killed; the machine has probably run out of memory. Nothing was kept." in capfd.readouterr().err


def test_a_result_that_was_removed_before_the_end_is_not_claimed_to_exist(tmp_path, capfd):
    assert outcome(publishes, tmp_path, "removes") == 1
    err = capfd.readouterr().err
    assert (
        f"error: the result was in {tmp_path / 'place'}, but that folder was removed before the run had ended." in err
    )
