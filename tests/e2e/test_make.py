"""The front door. It needs the .venv that make itself has set up."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
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


def test_one_scenario_of_a_submission_is_refused_with_the_right_variable(ready):
    for target in ("submission", "package"):
        made = make(target, "SCENARIO=Server")
        assert made.returncode == 2
        assert "write SCENARIOS= instead of SCENARIO=" in made.stderr


def test_a_run_by_make(ready, tmp_path):
    run = make(
        "run-offline", "ENGINE=null", "DATASET=sample", "SAMPLES=40", "DURATION=1", f"ARGS=--runs-dir '{tmp_path}'"
    )
    assert run.returncode == 0, run.stderr
    assert "not for submission" in run.stdout
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def given(tmp_path):
    """The arguments and IMAGENET_DIR that reach the command from `make`."""
    program = tmp_path / "bin" / "harness"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\nprintf "%s\\n" "$IMAGENET_DIR" "$@"\n')
    program.chmod(0o755)
    (tmp_path / "ready").touch()

    def run(*args: str) -> list[str]:
        done = make("-s", f"BIN={program.parent}", f"READY={tmp_path / 'ready'}", *args)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


ODD = [
    "a folder/x",
    "two  spaces",
    "it's",
    'a "quote"',
    "$HOME",
    "$(x)",
    "a$",
    "a#b",
    "#",
    "a\\",
    "a,b(c)",
    "ä;b&c|d`e`*?<>!~",
]


def test_no_variable_is_expanded_again():
    given = re.search(r"(?s)\nGIVEN = (.*?[^\\])\n", MAKEFILE)[1].replace("\\\n", " ").split()
    assert {*given, "ARGS"} == set(re.findall(r"(?m)^([A-Z_]+) \?=", MAKEFILE))


@pytest.mark.parametrize("value", ODD)
def test_every_variable_is_one_value_as_it_was_typed(given, value):
    assert given("run-offline", f"IMAGENET_DIR={value}")[0] == value
    names = {"model": "MODEL", "engine": "ENGINE", "dataset": "DATASET", "system": "SYSTEM", "duration": "DURATION"}
    for target, command in (("run-offline", "run"), ("submission", "campaign"), ("compliance", "compliance")):
        args = given(target, f"VOCAB={value}", *(f"{name}={value}" for name in names.values()))
        assert args[1] == command
        assert [args[args.index(f"--{option}") + 1] for option in names] == [value] * len(names)
        assert args[args.index("--set") + 1] == f"vocab={value}"
    assert given("compare", f"A={value}", f"B={value}")[1:] == ["compare", value, value]
    assert given("check", f"INFERENCE_REPO={value}")[1:] == ["check", "--inference-repo", value]
    args = given("package", f"SUBMITTER={value}", f"DIVISION={value}", f"ROUND={value}")
    assert args[1:] == ["package", "--division", value, "--submitter", value, "--round", value]
    chosen = given("package", "SUBMITTER=x", "SYSTEM=s t", "SCENARIOS=Offline Server", "MODELS=a b@c", "MODEL=d")[6:]
    assert chosen == ["--system", "s", "--system", "t", "--scenario", "Offline", "--scenario", "Server",
                      "--model", "a", "--model", "b@c"]  # fmt: skip


@pytest.mark.parametrize(
    ("typed", "pairs"),
    [
        ("a=1 b=2", ["a=1", "b=2"]),
        ("vocab=a folder/vocab.txt", ["vocab=a folder/vocab.txt"]),
        ("threads=2 vocab=a  folder/x=y.txt max-batch=4", ["threads=2", "vocab=a  folder/x=y.txt", "max-batch=4"]),
        ("vocab=my\\ a=b.txt b=2", ["vocab=my a=b.txt", "b=2"]),
        ("vocab=it's $x #1 b=2", ["vocab=it's $x #1", "b=2"]),
    ],
)
def test_a_pair_of_set_begins_at_a_name(given, typed, pairs):
    args = given("run-offline", f"SET={typed}")
    assert [args[number + 1] for number, arg in enumerate(args) if arg == "--set"] == pairs


def test_lists_are_divided_at_spaces(given):
    args = given("submission", "MODEL=none", r"MODELS=a\ folder/x.onnx@null it's.onnx", "SCENARIOS=Offline Server")
    values = [("--model", "a folder/x.onnx@null"), ("--model", "it's.onnx"), ("--scenario", "Offline")]
    assert list(pairwise(args))[4:10:2] == values
    assert given("report", r"RUNS=a b\ c")[1:] == ["report", "a", "b c"]


def test_an_unusable_python_is_one_sentence(tmp_path):
    old = tmp_path / "python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    run = setting_up(tmp_path, old)
    assert f"PYTHON={old} is not a working Python" in run.communicate(timeout=60)[1]
    assert run.returncode == 2
    assert not (tmp_path / "venv").exists()


def setting_up(folder: Path, python: Path) -> subprocess.Popen:
    venv = folder / "venv"
    return subprocess.Popen(
        ["sh", "tools/setup.sh", venv, python, "0", venv / ".ready", "pyproject.toml"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture
def python(tmp_path):
    """A Python whose venv is a folder, and whose pip waits until the file "go" exists; it logs both."""
    path = tmp_path / "a python"
    path.write_text(f"""#!/bin/sh
cd "{tmp_path}"
case "$1 $2" in
    -c*) exec "{sys.executable}" "$@" ;;
    "-m venv") rm -rf "$4"; mkdir -p "$4/bin"; cp "a python" "$4/bin/python"; echo venv >>log ;;
    *) echo pip >>log; until [ -e go ]; do sleep 0.02; done ;;
esac
""")
    path.chmod(0o755)
    return path


def logged(folder: Path, entry: str) -> int:
    """How often the log has an entry, once it has it."""
    end = time.monotonic() + 30
    while entry not in (text := (folder / "log").read_text() if (folder / "log").exists() else ""):
        assert time.monotonic() < end
        time.sleep(0.02)
    return text.split().count(entry)


def test_two_set_ups_at_once_make_one_environment(tmp_path, python):
    first = setting_up(tmp_path, python)
    logged(tmp_path, "pip")
    second = setting_up(tmp_path, python)
    assert "another make is setting up" in second.stderr.readline()
    (tmp_path / "go").touch()
    said = [run.communicate(timeout=60)[1] for run in (first, second)]
    assert (first.returncode, second.returncode) == (0, 0), said
    assert said[1].endswith("venv is ready\n")
    assert logged(tmp_path, "venv") == 1


def test_a_killed_set_up_does_not_block_the_next(tmp_path, python):
    first = setting_up(tmp_path, python)
    logged(tmp_path, "pip")
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    (tmp_path / "go").touch()
    second = setting_up(tmp_path, python)
    assert "waiting" not in second.communicate(timeout=60)[1]
    assert second.returncode == 0
    assert logged(tmp_path, "venv") == 2
    assert (tmp_path / "venv" / ".ready").exists()


@pytest.mark.parametrize(
    ("machine", "advice"), [("x86_64", "see the message of pip"), ("aarch64", "apt install g++ python3.11-dev")]
)
def test_packages_that_cannot_be_installed_are_one_sentence(tmp_path, python, monkeypatch, machine, advice):
    python.write_text(python.read_text().replace("echo pip >>log;", "exit 1;"))
    (tmp_path / "uname").write_text(f"#!/bin/sh\necho {machine}\n")
    (tmp_path / "uname").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("CXX", "no-such-compiler")
    run = setting_up(tmp_path, python)
    (line,) = [line for line in run.communicate(timeout=60)[1].splitlines() if line.startswith("error")]
    assert advice.replace("3.11", "{}.{}".format(*sys.version_info[:2])) in line
    assert run.returncode == 2
    assert not (tmp_path / "venv" / ".ready").exists()


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
