"""Checkpoints: complete or absent, and of one training only."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError

torch = pytest.importorskip("torch", reason="training is not installed: make setup TRAIN=1")
from harness.training.state import Checkpoints  # noqa: E402

IDENTITY = {"seed": "0", "data": "abc"}
STATE = {"step": 3, "weights": {"a": torch.arange(4.0)}, "scores": [{"percent": 50.0}], "optimizer": None}


@pytest.fixture
def output(tmp_path):
    return tmp_path / "small.onnx"


def test_a_checkpoint_comes_back_as_it_was(output):
    checkpoints = Checkpoints(output, IDENTITY)
    with checkpoints.alone():
        assert checkpoints.load() is None
        checkpoints.save(STATE)
    assert checkpoints.folder == output.with_suffix(".training")
    found = Checkpoints(output, IDENTITY).load()
    assert found["weights"]["a"].tolist() == [0, 1, 2, 3]
    assert {**found, "weights": None} == {**STATE, "weights": None}
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["checkpoint.pt"]


def test_another_training_is_refused_with_what_differs(output):
    checkpoints = Checkpoints(output, IDENTITY)
    with checkpoints.alone():
        checkpoints.save(STATE)
    with pytest.raises(ConfigError, match=r"another seed, steps: .* choose another --output"):
        Checkpoints(output, {**IDENTITY, "seed": "1", "steps": "5"}).load()


def test_two_trainings_cannot_share_a_folder(output):
    with (
        Checkpoints(output, IDENTITY).alone(),
        pytest.raises(ConfigError, match=r"another process is training .*small.onnx"),
        Checkpoints(output, IDENTITY).alone(),
    ):
        pass


def test_a_training_that_failed_at_once_leaves_nothing(output):
    checkpoints = Checkpoints(output, IDENTITY)
    with checkpoints.alone():
        assert checkpoints.folder.is_dir()
    assert list(output.parent.iterdir()) == []


def test_a_training_that_begins_while_another_ends_there_is_alone(output, monkeypatch):
    remove, second = Path.rmdir, Checkpoints(output, IDENTITY)

    def begun(folder: Path) -> None:
        monkeypatch.undo()
        with second.alone():
            with pytest.raises(OSError, match="not empty"):
                remove(folder)
            with pytest.raises(ConfigError, match="another process is training"), second.alone():
                pass
        remove(folder)

    with Checkpoints(output, IDENTITY).alone():
        monkeypatch.setattr(Path, "rmdir", begun)
    assert list(output.parent.iterdir()) == []


def test_a_folder_of_the_user_is_refused_and_kept(output):
    folder = output.with_suffix(".training")
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds notes.txt but no checkpoint"), Checkpoints(output, IDENTITY).alone():
        pass
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def test_files_that_appear_in_the_folder_are_kept(output):
    checkpoints = Checkpoints(output, IDENTITY)
    with checkpoints.alone():
        (checkpoints.folder / "dense.onnx").touch()
        (checkpoints.folder / "notes.txt").write_text("mine")
    assert [path.name for path in checkpoints.folder.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut"])
def test_a_damaged_checkpoint_is_one_sentence(output, content):
    checkpoints = Checkpoints(output, IDENTITY)
    with checkpoints.alone():
        checkpoints.path.write_bytes(content)
        with pytest.raises(ConfigError, match="cannot be read as a checkpoint"):
            checkpoints.load()


def test_a_write_that_fails_keeps_the_old_checkpoint(output, monkeypatch):
    checkpoints = Checkpoints(output, IDENTITY)
    with checkpoints.alone():
        checkpoints.save(STATE)

        def full(state, path):
            path.write_bytes(b"half")
            raise RuntimeError("PytorchStreamWriter failed writing file")

        monkeypatch.setattr(torch, "save", full)
        with pytest.raises(ConfigError, match="cannot be written"):
            checkpoints.save({"step": 4})
        assert checkpoints.load()["step"] == 3


def test_code_in_a_checkpoint_does_not_run(output):
    class Evil:
        def __reduce__(self):
            return print, ("ran",)

    checkpoints = Checkpoints(output, IDENTITY)
    with checkpoints.alone():
        torch.save({"identity": IDENTITY, "evil": Evil()}, checkpoints.path)
        with pytest.raises(ConfigError, match="cannot be read as a checkpoint"):
            checkpoints.load()
