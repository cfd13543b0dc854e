"""Locks, folders that replace others, and temporary folders for results in progress, also after a kill."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from harness.errors import Busy, ConfigError
from harness.files import disk as files
from harness.files.disk import (
    claim,
    locked,
    remove_left_over,
    replace_folder,
    restore,
    room_for,
    staging,
    write_bytes,
    write_text,
)


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
    here = files.kernel()
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
    (tmp_path / f".x.{files.kernel()}.1.partial").symlink_to(precious)
    remove_left_over(tmp_path)
    assert precious.is_dir()


def test_what_has_no_utf8_is_written_with_jsons_escape(tmp_path):
    path = tmp_path / "report.json"
    write_text(path, json.dumps({"model": "M\udcfcller", "half": "\ud800"}, ensure_ascii=False))
    assert json.loads(path.read_bytes()) == {"model": "M\udcfcller", "half": "\ud800"}


WHAT = "another sweep is running"


def hold_lock(path: Path, taken) -> None:
    with locked(path, WHAT):
        taken.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock tmp_path/lock, until it is killed."""
    context = multiprocessing.get_context("fork")
    taken = context.Event()
    process = context.Process(target=hold_lock, args=(tmp_path / "lock", taken))
    process.start()
    assert taken.wait(10)
    yield process
    process.kill()
    process.join()


def test_a_second_is_refused_with_the_first_ones_process_until_that_is_killed(tmp_path, holder):
    path = tmp_path / "lock"
    said = rf"^another sweep is running \(process {holder.pid}\): wait until it ends, or stop it\.$"
    for shared in (False, True):
        with pytest.raises(Busy, match=said), locked(path, WHAT, shared=shared):
            pytest.fail("both hold it")
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    assert path.exists()
    with locked(path, WHAT):
        assert path.read_text().startswith(f"{os.getpid()} ")
    assert names(tmp_path) == []


def test_a_process_that_was_killed_or_is_in_another_container_is_not_named(tmp_path, holder):
    path = tmp_path / "lock"
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    nameless = r"^another sweep is running: wait"
    with locked(path, WHAT, shared=True), pytest.raises(Busy, match=nameless), locked(path, WHAT):
        pass
    with locked(path, WHAT):
        path.write_text("17 00000000 pid:[4026531836]")
        with pytest.raises(Busy, match=nameless), locked(path, WHAT):
            pass


def test_a_lock_on_a_file_that_its_holder_removed_excludes_others_all_the_same(tmp_path, capsys):
    path, entered, leave = tmp_path / "lock", threading.Event(), threading.Event()

    def second() -> None:
        with locked(path, WHAT, wait=True):  # opens the file that the first one removes
            entered.set()
            leave.wait(10)

    thread = threading.Thread(target=second)
    with locked(path, WHAT):
        thread.start()
        assert not entered.wait(0.2)
    assert entered.wait(10)
    with pytest.raises(Busy), locked(path, WHAT):
        pass
    leave.set()
    thread.join()
    said = " ".join(capsys.readouterr().err.split())
    assert said == f"another sweep is running (process {os.getpid()}): waiting until it ends"
    assert names(tmp_path) == []


def test_a_holder_whose_file_a_user_removed_leaves_that_of_the_next_alone(tmp_path):
    path = tmp_path / "lock"
    with contextlib.ExitStack() as first:
        first.enter_context(locked(path, WHAT))
        path.unlink()
        with locked(path, WHAT):
            first.close()
            with pytest.raises(Busy), locked(path, WHAT):
                pass
    assert names(tmp_path) == []


def test_shared_locks_coexist_and_the_last_one_still_excludes(tmp_path):
    path = tmp_path / "lock"
    with locked(path, WHAT, shared=True):
        with locked(path, WHAT, shared=True):
            pass
        with pytest.raises(Busy), locked(path, WHAT):
            pass
    assert names(tmp_path) == []


def test_a_folder_that_is_removed_before_its_lock_is_made_is_made_again(tmp_path, monkeypatch):
    real, done = os.open, []

    def open_(path, *args):
        if not done and Path(path).name == "lock":
            done.append(path)
            Path(path).parent.rmdir()
        return real(path, *args)

    monkeypatch.setattr(files.os, "open", open_)
    with locked(tmp_path / "folder" / "lock", WHAT):
        assert names(tmp_path / "folder") == ["lock"]
    assert done


def test_a_lock_that_cannot_be_taken_is_one_sentence_and_names_no_other_process(tmp_path, monkeypatch):
    precious = tmp_path / "precious"
    (tmp_path / "link").symlink_to(precious)
    for path in (Path("/proc/none"), tmp_path / "link"):
        with pytest.raises(ConfigError, match=f"{path} cannot be written and locked") as caught, locked(path, WHAT):
            pass
        assert not isinstance(caught.value, Busy)
    assert not precious.exists()

    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.raises(ConfigError, match=r"\(Function not implemented\)"), locked(tmp_path / "lock", WHAT):
        pass


def replace_and_die(new: Path, target: Path, old: Path, renames: int) -> None:
    rename, done = Path.rename, []

    def killed(path: Path, to: Path) -> None:
        if len(done) == renames:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(path, to)
        done.append(to)
        if len(done) == renames:
            os.kill(os.getpid(), signal.SIGKILL)

    Path.rename = killed
    replace_folder(new, target, old)


@pytest.mark.parametrize(("renames", "content"), [(0, "old"), (1, "old"), (2, "new")])
def test_a_folder_is_whole_wherever_its_replacement_was_killed(tmp_path, renames, content):
    new, target, old = tmp_path / "new", tmp_path / "target", tmp_path / ".old"
    for folder, text in ((new, "new"), (target, "old")):
        folder.mkdir()
        (folder / "file").write_text(text)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=replace_and_die, args=(new, target, old, renames))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    restore(target, old)
    assert (target / "file").read_text() == content
    with contextlib.suppress(FileExistsError):
        new.mkdir()
    replace_folder(new, target, old)
    assert names(tmp_path) == ["target"]


def test_a_folder_that_cannot_be_replaced_is_unchanged(tmp_path):
    new, target, old = tmp_path / "new", tmp_path / "target", tmp_path / ".old"
    (target / "mine").mkdir(parents=True)
    with pytest.raises(FileNotFoundError):
        replace_folder(new, target, old)
    assert names(tmp_path) == ["target"]
    new.mkdir()
    with pytest.raises(OSError, match="not empty"):
        replace_folder(new, target, old, force=False)
    assert names(tmp_path) == ["new", "target"]
    assert names(target) == ["mine"]
