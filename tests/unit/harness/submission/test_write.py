"""The tarball of a submission."""

from __future__ import annotations

import gzip
import os
import random
import tarfile
import tracemalloc
from hashlib import sha256
from pathlib import Path

import pytest

from harness.submission import write as module
from harness.submission.write import write_tarball

LARGE = 6 * 2**20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A package with a small file and one that does not compress."""
    folder = tmp_path / "package" / "closed" / "Acme" / "results"
    folder.mkdir(parents=True)
    (folder / "small.txt").write_text("VALID\n")
    (folder / "large.bin").write_bytes(random.Random(1).randbytes(LARGE))
    return tmp_path / "package"


def test_the_tarball_is_streamed(root: Path, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        digest = write_tarball(root, "Acme", tmp_path / "a.tar.gz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < LARGE / 4
    assert digest == sha256((tmp_path / "a.tar.gz").read_bytes()).hexdigest()
    with tarfile.open(tmp_path / "a.tar.gz") as tar:
        large = tar.extractfile("closed/Acme/results/large.bin")
        assert large is not None
        assert large.read() == (root / "closed" / "Acme" / "results" / "large.bin").read_bytes()
        assert tar.getnames() == ["closed/Acme/results/large.bin", "closed/Acme/results/small.txt"]


def test_neither_names_nor_times_change_the_bytes(root: Path, tmp_path: Path) -> None:
    one = write_tarball(root, "Acme", tmp_path / "one.tar.gz")
    for path in root.rglob("*"):
        os.utime(path, (1, 1))
    assert write_tarball(root, "Acme", tmp_path / "other.tar.gz") == one
    head = (tmp_path / "one.tar.gz").read_bytes()[:10]
    assert head[:8] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00"  # gzip without a name, and with no time
    assert len(gzip.decompress((tmp_path / "one.tar.gz").read_bytes())) % tarfile.RECORDSIZE == 0


def test_a_tarball_that_cannot_be_completed_leaves_the_old_one(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tar.gz").write_bytes(b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_add", full)
    with pytest.raises(OSError, match="No space left"):
        write_tarball(root, "Acme", tmp_path / "a.tar.gz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar.gz", "package"]
    assert (tmp_path / "a.tar.gz").read_bytes() == b"old"
