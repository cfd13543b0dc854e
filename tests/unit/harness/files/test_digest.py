"""The digests of files."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from harness.files import digest as module
from harness.files.digest import digest_of, sha256_of
from harness.terminal import progress

CONTENT = bytes(range(256)) * 2800


def test_digests_are_those_of_the_content(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(CONTENT)
    assert sha256_of(path) == hashlib.sha256(CONTENT).hexdigest()
    assert digest_of(path, "md5") == hashlib.md5(CONTENT).hexdigest()


def test_a_large_file_is_hashed_with_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(CONTENT)
    monkeypatch.setattr(module, "_LONG_BYTES", 1000)
    monkeypatch.setattr(progress, "_QUIET_FOR_S", 0.0)
    assert sha256_of(path) == hashlib.sha256(CONTENT).hexdigest()
    assert "sha256 of model.onnx: 700.0 KiB in " in capsys.readouterr().err


def test_hashing_loads_no_network_library() -> None:
    code = (
        "import sys, harness.files.digest, harness.files.fingerprint\n"
        "print([name for name in ('requests', 'urllib3') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
