"""`make journey`: its commands are those of the documents, and it stops at the first that fails."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "tools" / "journey.sh"
READ = ("README.md", "submission.md")
NAMES = {"$system": "<system>", "$you": "<you>", "$model": "<model>", "$inference": "<mlcommons-inference>"}
NOT_REHEARSED = {"data", "journey"}
"""Targets of submission.md that the script does without, as it says, and its own."""

MAKE = """#!/bin/sh
echo "make $*" | tee -a "$LOG"
case "$*" in
    "$FAILS"*) exit 3 ;;
    system*) [ -e systems ] || { mkdir systems && echo '{"cooling": "FILL IN: such as air"}' >systems/journey.json; } ;;
    package*) mkdir -p build && tar -czf build/rehearsal-submission-rehearsal-acme.tar.gz systems
              mkdir -p build/rehearsal-submission && cp -R systems build/rehearsal-submission ;;
esac
"""
GIT = """#!/bin/sh
case "$*" in clone*) mkdir clone ;; esac
"""


def typed() -> list[list[str]]:
    """The words of each step that is a command of the documents, with their placeholders."""
    text = SCRIPT.read_text("utf-8")
    for name, placeholder in NAMES.items():
        text = text.replace(name, placeholder)
    lines = re.findall(r"(?m)^ *step ((?:make|\.venv/bin/harness) .*)$", text)
    return [shlex.split(line) for line in lines]


def documented(name: str) -> list[list[str]]:
    """The words of each command in a document, in a block or between backticks."""
    text = (ROOT / name).read_text("utf-8")
    blocks = "\n".join(re.findall(r"```\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    spans = re.findall(r"`((?:make|\.venv/bin/harness) [^`]*)`", re.sub(r"(?s)```.*?```", "", text).replace("\n", " "))
    lines = [line for line in blocks.splitlines() if line.startswith(("make ", ".venv/bin/"))]
    return [shlex.split(line, comments=True) for line in (*lines, *spans)]


@pytest.mark.parametrize("words", typed(), ids=" ".join)
def test_each_command_is_one_of_a_document(words):
    assert words in [command for name in READ for command in documented(name)]


def test_each_target_of_the_submission_is_on_the_way():
    described = {words[1] for words in documented("submission.md") if words[0] == "make"}
    targets = {words[1] for words in typed()}
    ways = {target for target in described - targets - NOT_REHEARSED if not target.startswith(("run-", "compliance"))}
    assert ways == set()
    assert len(typed()) > 12


@pytest.fixture
def journey(tmp_path):
    """Run the script with a make and a git that only do what it needs of them."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in (("make", MAKE), ("git", GIT)):
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def run(folder: Path, fails: str = "nothing", **variables: str) -> subprocess.CompletedProcess:
        inherited = {name: value for name, value in os.environ.items() if name != "INFERENCE_REPO"}
        places = {"PATH": f"{tools}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "FAILS": fails}
        return subprocess.run(
            [SCRIPT, folder], env=inherited | places | variables, capture_output=True, text=True, timeout=60
        )

    return run


def rows(output: str) -> list[list[str]]:
    """Step, seconds, exit code and command of each line of the table."""
    lines = output.partition("command\n")[2].splitlines()
    return [line.split(maxsplit=3) for line in lines if re.match(r"\d", line)]


def test_it_shows_each_step_with_its_time(journey, tmp_path):
    (tmp_path / "inference/tools/submission").mkdir(parents=True)
    done = journey(tmp_path / "a folder", INFERENCE_REPO=os.path.relpath(tmp_path / "inference"))
    assert done.returncode == 0, done.stderr
    table = rows(done.stdout)
    assert [int(row[0]) for row in table] == list(range(1, len(table) + 1))
    assert {row[2] for row in table} == {"0"}
    commands = [row[3] for row in table]
    assert 'make system SYSTEM=journey ARGS="--set cooling=air"' in commands
    ran = (tmp_path / "log").read_text().splitlines()
    assert f"make check REHEARSAL=1 INFERENCE_REPO={tmp_path / 'inference'}" in ran
    assert len(ran) == sum(command.startswith("make") for command in commands)
    assert "official checkers" not in done.stdout
    logs = sorted((tmp_path / "a folder/logs").iterdir())
    assert len(logs) == len(table)
    assert logs[1].read_text() == "make setup\n"
    assert (tmp_path / "a folder/clone/unpacked/systems/journey.json").read_text() == '{"cooling": "air"}\n'
    with tarfile.open(tmp_path / "a folder/clone/build/rehearsal-submission-rehearsal-acme.tar.gz") as tar:
        assert "systems/journey.json" in tar.getnames()


def test_it_says_which_checks_are_left_out(journey, tmp_path):
    done = journey(tmp_path / "folder")
    assert done.returncode == 0, done.stderr
    assert "Not run, since INFERENCE_REPO= is not given: the two official checkers." in done.stdout
    assert "INFERENCE_REPO" not in (tmp_path / "log").read_text()


def test_it_stops_at_the_first_step_that_fails(journey, tmp_path):
    done = journey(tmp_path / "folder", fails="report")
    assert done.returncode == 1
    assert rows(done.stdout)[-1][2:] == ["3", "make report"]
    assert (tmp_path / "log").read_text().splitlines()[-1] == "make report"
    log = tmp_path / "folder/logs/06.log"
    assert f"error: step 6, `make report`, ended with exit code 3; its output is in {log}." in done.stderr
    assert log.read_text() == "make report\n"


def test_it_keeps_an_older_journey(journey, tmp_path):
    (tmp_path / "folder").mkdir()
    done = journey(tmp_path / "folder")
    assert done.returncode == 2
    assert "already exists" in done.stderr
    assert list((tmp_path / "folder").iterdir()) == []


def test_a_wrong_checkout_is_found_before_the_first_step(journey, tmp_path):
    done = journey(tmp_path / "folder", INFERENCE_REPO=str(tmp_path))
    assert done.returncode == 2
    assert f"INFERENCE_REPO={tmp_path} is not a checkout of mlcommons/inference" in done.stderr
    assert not (tmp_path / "folder").exists()
