"""Compliance tests of a result that `--force` replaced."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from official_runs import SCENE, make_runs
from submission_tree import SYSTEM

from harness.files.digest import sha256_of
from harness.results.layout import RUN
from harness.rules.audits import AUDITS
from harness.running.outdated import set_aside
from harness.running.places import reserved
from harness.settings.request import RunRequest, resolve


def settings(tree, tmp_path, **changes) -> SimpleNamespace:
    made = {"official": True, "force": True, "audit": None, "tree": tree.root, "scene": SCENE}
    made["make_variables"] = f"SYSTEM={SYSTEM} and more"
    return SimpleNamespace(**made | {"runs_dir": tmp_path / "build" / "runs"} | changes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return make_runs(tmp_path_factory.mktemp("runs"))


def test_the_compliance_tests_of_a_replaced_result_are_kept_elsewhere(tmp_path, capsys):
    tree = make_runs(tmp_path / "repository")
    log = tree.performance(SCENE) / "mlperf_log_detail.txt"
    log.write_text(log.read_text() + "\n")
    folders = {test: tree.compliance(SCENE, test) for test in AUDITS}
    digests = {test: sha256_of(folder / "performance" / "run_1" / RUN)[:8] for test, folder in folders.items()}
    set_aside(settings(tree, tmp_path))
    assert not any(folder.exists() for folder in folders.values())
    for test, digest in digests.items():
        name = f"{SYSTEM}-resnet50-Offline-{test}-{digest}"
        assert (tmp_path / "build/campaign/replaced" / name / "performance/run_1" / RUN).is_file()
    said = " ".join(capsys.readouterr().err.split())
    assert f"repeat it with `make compliance SYSTEM={SYSTEM} and more`, with the same settings" in said


def test_the_variables_of_make_name_a_rehearsal_and_a_model_by_its_path_unless_it_is_known(tmp_path):
    rehearsed = resolve(RunRequest(engine="null", rehearsal=True, system="toy", scenario="Offline"))
    known = f"REHEARSAL=1 SYSTEM=toy SCENARIOS=Offline MODELS={rehearsed.model.name}"
    assert rehearsed.make_variables == known
    mine = rehearsed.model.model_copy(update={"name": "mine", "path": tmp_path / "my net.onnx"})
    official = rehearsed.model_copy(update={"model": mine, "rehearsal": False})
    assert official.make_variables == rf"SYSTEM=toy SCENARIOS=Offline MODELS='{tmp_path}/my\ net.onnx'"


@pytest.mark.parametrize("changes", [{}, {"official": False}, {"force": False}, {"audit": "TEST01"}])
def test_tests_that_still_count_stay(tmp_path, runs, changes):
    if changes:
        log = runs.performance(SCENE) / "mlperf_log_detail.txt"
        log.write_text(log.read_text() + "\n")
    set_aside(settings(runs, tmp_path, **changes))
    assert all(runs.compliance(SCENE, test).is_dir() for test in AUDITS)


def test_tests_that_cannot_be_read_or_moved_are_warned_of(tmp_path, capsys):
    tree = make_runs(tmp_path / "repository")
    log = tree.performance(SCENE) / "mlperf_log_detail.txt"
    log.write_text(log.read_text() + "\n")
    (tmp_path / "build").touch()  # where the folder for them should be
    broken, *others = (tree.compliance(SCENE, test) for test in AUDITS)
    (broken / "performance" / "run_1" / RUN).write_text("{")
    set_aside(settings(tree, tmp_path))
    said = " ".join(capsys.readouterr().err.split())
    assert "cannot be read" in said
    assert others
    for folder in others:
        assert f"{folder} belongs to the replaced result, but cannot be moved to" in said
        assert folder.is_dir()


def test_a_compliance_test_of_the_replaced_result_that_is_running_is_left_alone(tmp_path, capsys):
    tree = make_runs(tmp_path / "repository")
    log = tree.performance(SCENE) / "mlperf_log_detail.txt"
    log.write_text(log.read_text() + "\n")
    running, *others = (tree.compliance(SCENE, test) for test in AUDITS)
    with reserved(running, tree.root):
        set_aside(settings(tree, tmp_path))
    assert running.is_dir()
    assert not any(folder.exists() for folder in others)
    said = " ".join(capsys.readouterr().err.split())
    assert f"{running.name} of the replaced result is running: when it has ended, repeat it with `make comp" in said
