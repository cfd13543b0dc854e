"""The front door. It needs the .venv that make itself has set up."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text("utf-8")


def make(*args: str) -> subprocess.CompletedProcess:
    return subprocess.run(["make", *args], cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.fixture
def ready():
    if not (ROOT / ".venv" / ".ready").is_file():
        pytest.skip("needs the .venv that `make setup` makes")
    if make("-q", "setup").returncode:  # make would empty the .venv that the tests run in
        pytest.fail("pyproject.toml or a lock is newer than .venv: run `make setup` first")


def test_help_lists_every_target_and_variable():
    listed = make("help").stdout
    targets = re.search(r"\.PHONY: (.*)", MAKEFILE)[1].split()
    for name in [*targets, *re.findall(r"(?m)^([A-Z]+) \?=", MAKEFILE)]:
        assert re.search(rf"(?m)^  {name} ", listed), name


def test_nothing_is_set_up_a_second_time(ready):
    assert make("-q", "setup").returncode == 0


def test_the_variables_reach_the_command_as_they_were_typed(ready, tmp_path):
    name = 'it\'s $HOME "quoted" model.onnx'
    run = make("run-offline", f"MODEL={name.replace('$', '$$')}", "ENGINE=null")
    assert run.returncode != 0
    assert f"there is no model file {name}" in run.stderr


def test_a_run_by_make(ready, tmp_path):
    run = make(
        "run-offline", "ENGINE=null", "DATASET=sample", "SAMPLES=40", "DURATION=1", f"ARGS=--runs-dir '{tmp_path}'"
    )
    assert run.returncode == 0, run.stderr
    assert "not for submission" in run.stdout
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unusable_python_is_one_sentence(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    run = subprocess.run(
        ["sh", "tools/setup.sh", str(tmp_path / "venv"), str(old), "1"], cwd=ROOT, capture_output=True, text=True
    )
    assert run.returncode == 2
    assert f"PYTHON={old} is not a working Python" in run.stderr
    assert not (tmp_path / "venv").exists()


def test_cleaning_keeps_the_folders_of_a_submission(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    kept = [f"{folder}/README.md" for folder in ("systems", "measurements", "results", "compliance")]
    made = ["build/runs/a/run.json", ".venv/bin/python", "code/__pycache__/a.pyc", "tests/a.py", "benchmarks/a.py"]
    for name in (*kept, *made):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    done = subprocess.run(["make", "distclean"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {*kept, "tests/a.py", "benchmarks/a.py", "Makefile"}
