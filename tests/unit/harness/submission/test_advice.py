"""Messages that advise a command or an edit: following the advice succeeds."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from breakages import BREAKAGES, SYSTEM_FILE, TREES, measurements, moved, system, written
from official_runs import SCENE, change, make_runs, packaged, record, wanted
from submission_tree import SUBMITTER, SYSTEM, SYSTEM_JSON, check, make_tree, put
from typer.testing import CliRunner

from harness.cli import app
from harness.descriptions.description import unfilled
from harness.errors import CheckFailed, ConfigError
from harness.results.layout import Layout
from harness.rules.rounds import find_round
from harness.submission.request import PackageRequest, resolve
from harness.submission.select import select_runs
from harness.submission.systems import describe_systems
from harness.terminal import console


@pytest.fixture(autouse=True)
def _quiet_again():
    yield
    console.configure(console.Output())


def harness(command: str):
    """Run a command as it was advised."""
    words = shlex.split(command)
    assert words[0] == "harness"
    return CliRunner().invoke(app, words[1:], prog_name="harness")


R, B = f"results/{SYSTEM}/resnet50", f"results/{SYSTEM}/bert-99"
TAKEN: dict[str, tuple[str, str, Callable[[Layout], object]]] = {
    "scenario upper case": (f"{B}/OFFLINE", "rename it to Offline", moved(f"{B}/OFFLINE", f"{B}/Offline")),
    "classic measurements lower case": (
        f"measurements/{SYSTEM}/bert-99/offline",
        "rename it to Offline, as in results",
        moved(f"measurements/{SYSTEM}/bert-99/offline", f"measurements/{SYSTEM}/bert-99/Offline"),
    ),
    "accelerators 0": (SYSTEM_FILE, 'write "0" in quotation marks', system(accelerators_per_node="0")),
    "sockets in words": (SYSTEM_FILE, "details in hw_notes", system(host_processors_per_node="2", hw_notes="dual")),
    "cores with a comma": (SYSTEM_FILE, "semicolon", system(host_processor_core_count="8; 16")),
    "system name shifts the table": (SYSTEM_FILE, 'remove the character "', system(system_name="Acme, x")),
    "memory 0": (SYSTEM_FILE, 'with "N/A" if nothing applies', system(host_memory_capacity="N/A")),
    "system field emptied": (SYSTEM_FILE, 'with "N/A"', system(cooling="N/A")),
    "status unknown": (SYSTEM_FILE, "write available or preview or rdi", system(status="rdi")),
    "measurements field false": (
        f"{R}/Offline/measurements.json",
        "write it in quotation marks",
        measurements(retraining="No"),
    ),
    "mapping of another benchmark's name": (
        "model_mapping.json",
        "map it to resnet",
        written("model_mapping.json", '{"efficientnet-lite": "resnet"}'),
    ),
    "mapping no JSON": (
        "model_mapping.json",
        'write an object such as {"mynet": "resnet"}',
        written("model_mapping.json", '{"mynet": "resnet"}'),
    ),
}


@pytest.mark.parametrize("name", TAKEN)
def test_an_edit_that_the_check_advises_removes_the_problem(tmp_path, name):
    breakage = next(breakage for breakage in BREAKAGES if breakage.name == name)
    path, advice, take = TAKEN[name]
    round_name, division = TREES[breakage.tree]
    layout = make_tree(tmp_path, round_name, division)
    breakage.apply(layout)
    found = [p for p in check(tmp_path) if p.path == f"{division}/{SUBMITTER}/{path}"]
    assert any(advice in problem.cure for problem in found), found
    take(layout)
    assert not check(tmp_path)


def test_the_advised_round_is_that_of_the_logs(tmp_path):
    layout = make_tree(tmp_path, "v6.0")
    with pytest.raises(ConfigError, match=r"belongs to v6.0, not to v6.1: check with") as caught:
        check(tmp_path, find_round("v6.1"))
    command = re.search(r"`(harness check [^`]+)`", str(caught.value))[1]
    assert harness(command).exit_code == 0
    newer = make_tree(tmp_path / "newer", "v6.1")
    for folder in ("SingleStream", "Offline"):
        log = f"results/{SYSTEM}/bert-99/{folder}/performance/run_1/mlperf_log_detail.txt"
        (layout.root / log).write_text((newer.root / log).read_text())
    shutil.rmtree(tmp_path / "newer")
    cures = {problem.cure for problem in check(tmp_path, find_round("v6.1"))}
    assert {match[1] for cure in cures if (match := re.search(r"check with --round (\S+)", cure))} == {"v6.0"}


@pytest.fixture
def tree(tmp_path):
    return make_runs(tmp_path / "repository")


def problems(tree, division="closed") -> list[str]:
    selection = select_runs(resolve(PackageRequest(**wanted(tree, tree.root / "out", division))))
    return selection.problems + selection.left_out


@pytest.mark.parametrize("facts", [{"equivalent": False}, {"weight_transformations": "unknown"}])
def test_the_advised_notes_on_a_model_suffice(tree, facts):
    model = record("resnet50", "performance")["model"] | facts
    for path in tree.root.glob(f"results/{SYSTEM}/resnet50/*/performance/run_1"):
        change(path, model=model)
    ((notes, path),) = {re.search(r"write (\{.*\}) to (\S+?\.json)", each).groups() for each in problems(tree)}
    put(Path(path), notes.replace('"..."', '"INT8"'))
    assert not problems(tree)


def test_the_open_division_takes_what_the_closed_refuses(tree):
    change(tree.performance(SCENE), model=record("resnet50", "performance")["model"] | {"equivalent": False})
    assert any("use DIVISION=open" in problem for problem in problems(tree))
    assert not problems(tree, "open")


@pytest.mark.parametrize("spoil", ["", "{", "[]", json.dumps(SYSTEM_JSON | {"cooling": "FILL IN: x"})])
def test_the_advised_command_writes_the_system_description(tree, spoil):
    path = tree.system_file(SYSTEM)
    path.unlink()
    if spoil:
        put(path, spoil)
    submission = resolve(PackageRequest(**wanted(tree, tree.root / "out")))
    try:
        message = " ".join(describe_systems(submission, select_runs(submission).runs)[1])
    except ConfigError as error:
        message = str(error)
    if "remove it" in message:
        path.unlink()
    command = re.search(r"`(harness system init [^`]+)`", message)[1]
    assert harness(command).exit_code == 0
    missing = unfilled(json.loads(path.read_text()))
    given = " ".join(shlex.quote(f"--set={field}={SYSTEM_JSON[field]}") for field in missing)
    assert harness(f"{command} {given}").exit_code == 0
    assert not describe_systems(submission, select_runs(submission).runs)[1]


def test_the_advised_command_does_the_missing_run(tree):
    for path in tree.accuracy(SCENE).iterdir():
        path.unlink()
    tree.accuracy(SCENE).rmdir()
    (advice,) = [problem for problem in problems(tree) if "is missing" in problem]
    variables = dict(re.findall(r"([A-Z]+)=(\S+?)[ `]", advice))
    assert variables == {"SYSTEM": SYSTEM, "SCENARIOS": "Offline", "MODELS": "<model>"}
    model = "--model efficientnet-lite0-int8 --engine onnxruntime --rehearsal --dry-run"
    done = harness(f"harness campaign --system {variables['SYSTEM']} --scenario {variables['SCENARIOS']} {model}")
    assert (done.exit_code, "Offline accuracy" in " ".join(done.output.split())) == (0, True), done.output


def test_a_command_advises_only_options_that_it_has():
    division = harness("harness campaign --division closed --model efficientnet-lite0-int8 --dry-run")
    assert "use --division open" in str(division.exception)
    alone = harness("harness compliance run --model efficientnet-lite0-int8 --dry-run")
    assert "--division" not in str(alone.exception)
    assert "run no compliance test: the open division needs none" in str(alone.exception)


def test_the_advised_package_command_makes_a_submission(tmp_path, tree):
    with pytest.raises(ConfigError, match="create it with") as caught:
        check(tmp_path / "nothing")
    command = re.search(r"`(harness package [^`]+)`", str(caught.value))[1]
    command = command.replace("<open or closed>", "open").replace("<you>", "Acme")
    done = harness(f"{command} --system {SYSTEM} --tree {tree.root} --output {tmp_path / 'out'}")
    assert done.exit_code == 0, done.output
    assert not check(tmp_path / "out")


def test_a_package_of_fewer_systems_is_made_as_advised(tmp_path, tree):
    packaged(tree, tmp_path / "out", "open")
    for part in ("results", "compliance", "systems"):
        for path in (tree.root / part).glob(f"{SYSTEM}*"):
            path.rename(path.with_name(path.name.replace(SYSTEM, "other")))
    with pytest.raises(ConfigError, match=r"package them too .*, or remove (\S+)") as caught:
        packaged(tree, tmp_path / "out", "open", systems=["other"])
    old = Path(re.search(r"or remove (\S+) first", str(caught.value))[1])
    old.rename(tmp_path / "old")
    assert packaged(tree, tmp_path / "out", "open", systems=["other"]).results


def test_unfit_runs_are_refused_with_advice(tmp_path, tree):
    change(tree.performance(SCENE), for_submission=False)
    with pytest.raises(CheckFailed, match="repeat it with `harness run --official`"):
        packaged(tree, tmp_path / "out")
    assert harness("harness run --official --help").exit_code == 0
