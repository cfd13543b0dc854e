"""The GitHub Action of docs/ci.md: its commands are commands, and its gate lets no slower change through."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml
from finished import run_folder

from harness.cli import app

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def steps() -> dict[str, str]:
    """The scripts of the action by name."""
    [block] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "ci.md").read_text("utf-8"), re.DOTALL)
    action = yaml.safe_load(block)
    return {step["name"]: step["run"] for step in action["jobs"]["compare"]["steps"] if "run" in step}


def test_its_commands_have_their_options(steps):
    commands = typer.main.get_command(app).commands
    found = re.findall(r"/bin/harness (.*)", "\n".join(steps.values()).replace("\\\n", " "))
    assert len(found) == 4
    for line in found:
        name, *words = shlex.split(line.partition("||")[0])
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert {word for word in words if word.startswith("-")} <= options, line


@pytest.mark.parametrize(("speed", "score", "code"), [(1.0, 88.0, 0), (0.8, 88.0, 1), (1.0, 87.0, 1)])
def test_its_gate(steps, tmp_path, speed, score, code):
    shim = tmp_path / "new/.venv/bin/harness"
    shim.parent.mkdir(parents=True)
    shim.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m harness.cli "$@"\n')
    shim.chmod(0o755)
    for side, factor, f1 in (("old", 1.0, 88.0), ("new", speed, score)):
        for repeat in (1, 2, 3):
            rate = factor * (300 + repeat)
            run_folder(tmp_path / "runs" / side / str(repeat), scenario="Offline", rate=rate, timeline=False)
        run_folder(tmp_path / "runs" / side / "accuracy", mode="accuracy", accuracy={"F1": f1}, timeline=False)
    done = subprocess.run(
        ["bash", "-e", "-c", steps["Compare"]], cwd=tmp_path, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    assert ("B is worse than A" in done.stderr) == bool(code)
