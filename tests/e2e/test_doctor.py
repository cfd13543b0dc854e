"""The doctor on installations that are really broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.registry import installed

ROOT = Path(__file__).parents[2]
PACKAGES = Path(np.__file__).parents[1]


def findings(done: subprocess.CompletedProcess) -> dict[str, list[dict]]:
    assert "Traceback" not in done.stderr
    found: dict[str, list[dict]] = {}
    for finding in json.loads(done.stdout)["findings"]:
        found.setdefault(finding["level"], []).append(finding)
    return found


def about(found: list[dict], *words: str) -> dict:
    return next(f for f in found if all(word in " ".join(f.values()) for word in words))


@pytest.fixture(autouse=True)
def _no_imagenet(monkeypatch):
    monkeypatch.delenv("IMAGENET_DIR", raising=False)


def test_what_is_not_here_and_what_is_damaged(clone, monkeypatch, tmp_path):
    """A data set that is missing, a model with another checksum, a results folder that is a file, a wrong path."""
    with (clone.top / "code/bert/data/minilm-l6-squad-int8.onnx").open("ab") as model:
        model.write(b"x")
    shutil.rmtree(clone.top / "results")
    (clone.top / "results").touch()
    (clone.top / "user.conf").write_text("*.Offline.target_qps=3\n")
    monkeypatch.setenv("IMAGENET_DIR", str(tmp_path / "nowhere"))
    done = clone.harness("doctor", "--json")
    assert done.returncode == 1
    found = findings(done)
    assert about(found["bad"], "minilm-l6-squad-int8", "sha256 differs")["cure"]
    assert about(found["bad"], "results/", "not a folder")["cure"]
    assert about(found["bad"], "user.conf", "line 1")["cure"]
    assert about(found["bad"], "IMAGENET_DIR")["cure"]
    assert "make data" in about(found["warning"], "squad-v1.1 is not on this machine")["cure"]


def test_an_official_run_needs_the_full_data_sets(clone):
    done = clone.harness("doctor", "--official", "--json")
    assert done.returncode == 1
    assert "make data" in about(findings(done)["bad"], "squad-v1.1 is not on this machine")["cure"]


def test_each_line_has_its_level(clone):
    done = clone.harness("doctor")
    *lines, last = done.stdout.splitlines()
    assert all(line.startswith(("good     ", "warning  ", "bad      ")) for line in lines)
    assert done.returncode == (1 if " bad, " in last else 0)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="only root can mount")
def test_a_results_folder_that_is_mounted_read_only(clone):
    mount = "mount --bind results results && mount -o remount,bind,ro results"
    command = f"{mount} && exec {sys.executable} -m harness.doctor --json"
    environment = {**os.environ, "PYTHONPATH": str(clone.top / "code")}
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", command], cwd=clone.top, env=environment, capture_output=True, text=True
    )
    if "mount" in done.stderr:
        pytest.skip("mounting is not allowed here")
    assert done.returncode == 1
    assert about(findings(done)["bad"], "results/", "Read-only file system")["cure"]


def test_deepsparse_is_missing(clone, tmp_path):
    if "deepsparse" in installed():
        shadow = tmp_path / "packages"
        shadow.mkdir()
        for path in PACKAGES.iterdir():
            if "deepsparse" not in path.name and path.suffix != ".pth":
                (shadow / path.name).symlink_to(path)
    else:
        shadow = PACKAGES
    environment = {**os.environ, "PYTHONPATH": f"{clone.top / 'code'}:{shadow}"}
    done = subprocess.run(
        [sys.executable, "-S", "-m", "harness.doctor", "--json"],
        cwd=clone.top, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    finding = about(findings(done)["warning"], "DeepSparse", "not installed")
    assert "make setup" in finding["cure"]


def test_nothing_is_installed_at_all(clone):
    for name in ("pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, clone.top)
    environment = {**os.environ, "PYTHONPATH": str(clone.top / "code")}
    done = subprocess.run(
        [sys.executable, "-S", "-m", "harness.doctor"],
        cwd=clone.top, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert "bad      packages" in done.stdout
    assert "bad      LoadGen" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_wrong_python_still_gets_a_sentence(clone):
    """Its version is made up; that 3.10 can import the doctor at all, a real one shows where there is one."""
    environment = {**os.environ, "PYTHONPATH": str(clone.top / "code")}
    lie = "import sys; sys.version_info = (3, 10, 4, 'final', 0)\n"
    lie += "from harness.doctor.examine import main; sys.exit(main())"
    commands = [[sys.executable, "-c", lie]]
    others = [shutil.which(f"python{version}") for version in ("3.9", "3.10", "3.14")]
    commands += [[python, "-m", "harness.doctor"] for python in others if python]
    for command in commands:
        done = subprocess.run(command, cwd=clone.top, env=environment, capture_output=True, text=True)
        if done.returncode == 127 or "not found" in done.stderr or "No version is set" in done.stderr:
            continue  # a name of a version manager that has no such Python
        assert done.returncode == 1, done.stderr
        assert done.stdout.startswith("bad      Python")
        assert "but 3.11, 3.12 or 3.13 is needed" in done.stdout


def test_make_doctor_goes_on_where_set_up_fails(clone):
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-deepsparse.lock"):
        shutil.copy(ROOT / name, clone.top)
    shutil.copytree(ROOT / "tools", clone.top / "tools")
    unusable = clone.top / "python"
    unusable.write_text("#!/bin/sh\nexit 1\n")
    unusable.chmod(0o755)
    done = subprocess.run(
        ["make", "doctor", f"PYTHON={unusable}"], cwd=clone.top, capture_output=True, text=True,
        env={key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MAKEFLAGS")},
    )  # fmt: skip
    assert done.returncode != 0
    assert "is not a working Python 3.11, 3.12 or 3.13" in done.stderr
    assert "packages" in done.stdout
    assert not (clone.top / ".venv").exists()
