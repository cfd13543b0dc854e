"""Temporary folders for results in progress: held by a lock, and removed after their process was killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from harness.files import disk as files
from harness.files.disk import claim, remove_left_over, room_for, staging, write_bytes, write_text


def hold(target: Path, claimed) -> None:
    room = room_for(target)
    claim(room)
    (room / "large").write_bytes(b"0" * 100)
    claimed.set()
    time.sleep(60)


@pytest.fixture
def killed_later(tmp_path):
    """A process that holds a room for tmp_path/model.onnx, until it is killed."""
    context = multiprocessing.get_context("fork")
    claimed = context.Event()
    process = context.Process(target=hold, args=(tmp_path / "model.onnx", claimed))
    process.start()
    assert claimed.wait(10)
    yield process
    process.kill()
    process.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_room_is_left_alone_while_its_process_lives_and_removed_once_it_was_killed(tmp_path, killed_later):
    (room,) = tmp_path.iterdir()
    remove_left_over(tmp_path)
    write_bytes(tmp_path / "model.onnx", b"new")
    assert names(tmp_path) == [room.name, "model.onnx"]
    os.kill(killed_later.pid, signal.SIGKILL)
    killed_later.join()
    write_bytes(tmp_path / "other.onnx", b"new")
    assert room.exists()  # it is another's
    write_bytes(tmp_path / "model.onnx", b"new")
    assert names(tmp_path) == ["model.onnx", "other.onnx"]


def test_a_room_of_another_kernel_is_removed_after_a_day_without_a_change(tmp_path):
    here = files._kernel()
    recent, old = (tmp_path / f".run.{kernel}.1.partial" for kernel in ("ffffffff", "eeeeeeee"))
    file = tmp_path / ".imagenet-1.4711.partial"  # as an earlier version named it
    for room in (recent, old):
        room.mkdir()
        (room / "log").touch()
    file.touch()
    assert here not in (recent.name, old.name)
    remove_left_over(tmp_path)
    assert len(names(tmp_path)) == 3
    past = time.time() - 2 * 86_400
    for path in (old / "log", old, recent, file):
        os.utime(path, (past, past))
    remove_left_over(tmp_path)
    assert names(tmp_path) == [recent.name]


def test_where_folders_cannot_be_locked_a_recent_room_is_left_alone(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with staging(tmp_path / "a") as room:
        remove_left_over(tmp_path)
        assert room.exists()
    assert names(tmp_path) == []


def test_a_room_that_is_removed_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    real, done = os.open, []

    def open_(path, *args):
        if not done and Path(path).suffix == ".partial":
            done.append(path)
            Path(path).rmdir()
        return real(path, *args)

    monkeypatch.setattr(files.os, "open", open_)
    with staging(tmp_path / "a") as room:
        assert room.is_dir()
    assert done


def test_a_room_may_become_the_target_and_any_name_has_one(tmp_path):
    target = tmp_path / ("ä" * 120)
    with staging(target) as room:
        (room / "file").touch()
        room.rename(target)
    write_bytes(tmp_path / os.fsdecode(b"M\xfcller [1].json"), b"{}")
    assert len(names(tmp_path)) == 2
    assert (target / "file").exists()


def test_a_link_in_place_of_a_room_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / f".x.{files._kernel()}.1.partial").symlink_to(precious)
    remove_left_over(tmp_path)
    assert precious.is_dir()


def test_what_has_no_utf8_is_written_with_jsons_escape(tmp_path):
    path = tmp_path / "report.json"
    write_text(path, json.dumps({"model": "M\udcfcller", "half": "\ud800"}, ensure_ascii=False))
    assert json.loads(path.read_bytes()) == {"model": "M\udcfcller", "half": "\ud800"}
