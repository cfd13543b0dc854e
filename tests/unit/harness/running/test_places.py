"""Publishing a run: nothing of two runs with one name is lost, and the outcome is known before the rename."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.errors import RunFailed
from harness.files.disk import room_for, staging
from harness.results.parts import record_text
from harness.running import places
from harness.running.places import Places, write_json


@pytest.fixture
def finished(tmp_path):
    """Makes a finished run that is not published yet, always with the same name."""

    def make(content: str, official: bool = False) -> Places:
        run = tmp_path / "runs" / "20260101T000000-x"
        target = tmp_path / "results" / "performance" if official else None
        made = Places(room_for(run), room_for(run), run, target)
        made.create()
        (made.staging / "run.json").write_text(content)
        (made.staging / "user.conf").touch()
        return made

    return make


def ignore(folder: Path, place: Path) -> None:
    pass


def contents(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in sorted(folder.rglob("run.json"))}


def test_a_run_that_takes_the_name_between_the_look_and_the_rename_is_kept_beside(tmp_path, finished):
    first, second = finished("first"), finished("second")

    def other_run_publishes(folder: Path, place: Path) -> None:
        if first.staging.exists():
            first.publish(None, ignore)

    logs, record = second.publish(None, other_run_publishes)
    assert logs == record == first.run.with_name("20260101T000000-x-2")
    assert contents(tmp_path) == {"20260101T000000-x": "first", "20260101T000000-x-2": "second"}


def test_the_record_of_an_official_result_is_beside_that_of_another_run_with_its_name(finished):
    finished("first").publish(None, ignore)
    second = finished("second", official=True)
    logs, record = second.publish(second.collect(None), ignore)
    assert (logs, record.name) == (second.official, "20260101T000000-x-2")
    assert (record / "run.json").read_text() == "second"


def test_a_result_that_appears_before_the_rename_is_kept_and_so_is_the_new_run(tmp_path, finished):
    first, second = finished("first", official=True), finished("second", official=True)
    result = second.collect(None)

    def other_run_publishes(folder: Path, place: Path) -> None:
        if first.staging.exists():
            first.publish(first.collect(None), ignore)

    with pytest.raises(RunFailed, match=r"could not be moved to .*The logs are kept in") as raised:
        second.publish(result, other_run_publishes)
    kept = Path(str(raised.value).partition("kept in ")[2].rstrip("."))
    assert (kept / "run.json").read_text() == "second"
    assert (tmp_path / "results" / "performance" / "run.json").read_text() == "first"


def test_each_rename_is_announced_with_the_folder_that_then_is_in_place(finished):
    announced = []

    def note(folder: Path, place: Path) -> None:
        announced.append((folder.stat().st_ino, place))

    for run in (finished("run"), finished("official", official=True)):
        where, _ = run.publish(run.collect(None) if run.official else None, note)
        assert announced.pop() == (where.stat().st_ino, where)
        assert announced == []


def test_a_record_that_cannot_be_written_is_not_named(finished, monkeypatch):
    run = finished("run", official=True)
    result = run.collect(None)
    rename = Path.rename

    def refuse(path: Path, target: Path) -> Path:
        if path == run.staging:
            raise OSError(28, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    assert run.publish(result, ignore) == (run.official, None)


def test_a_copy_to_another_file_system_leaves_nothing_beside_the_result(tmp_path, finished, monkeypatch):
    monkeypatch.setattr(places, "_same_filesystem", lambda a, b: False)
    run = finished("run", official=True)
    assert run.publish(run.collect(None), ignore) == (run.official, run.run)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["performance"]
    again = replace(finished("again", official=True), force=True)
    monkeypatch.setattr(places.shutil, "copytree", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(RunFailed, match="could not be copied"):
        again.publish(again.collect(None), ignore)
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["performance"]
    assert contents(tmp_path / "results") == {"performance": "run"}


def test_a_new_run_removes_the_rooms_of_killed_runs_only(tmp_path, finished):
    with staging(tmp_path / "runs" / "20250101T000000-alive") as alive:
        left = room_for(tmp_path / "runs" / "20250101T000000-killed")
        left.mkdir()
        finished("run")
        assert (alive.exists(), left.exists()) == (True, False)


def test_records_hold_names_that_are_not_utf_8(tmp_path):
    name = os.fsdecode(b"m\xfcller.onnx")
    write_json(tmp_path / "run.json", {"path": name})
    assert json.loads((tmp_path / "run.json").read_text("utf-8")) == {"path": name}
    assert json.loads(record_text({"path": Path(name)})) == {"path": r"m\xfcller.onnx"}
