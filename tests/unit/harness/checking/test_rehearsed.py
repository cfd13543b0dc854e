"""A rehearsal's problems that only real data and full tests can solve are notes; everything else stays a problem."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import submission_tree
from submission_tree import make_tree

from harness.checking.check import examine
from harness.checking.official import CheckerVerdict, run_checkers
from harness.checking.rehearsed import excuse
from harness.checking.run_check import CheckRequest, run_check, show
from harness.rules.rounds import find_round

SCENE = "closed/Acme/results/rehearsal-toy/bert-99/Offline"
CAUSES = (
    f"{SCENE}/accuracy: accuracy not met: expected=89.965260, found=1.996",
    f"{SCENE}/performance/run_1/mlperf_log_detail.txt: Test duration less than 600s in user config. expected=600000, "
    "found=5000",
)
EFFECTS = (
    f"{SCENE}/accuracy: accuracy not valid",
    f"{SCENE}: is OK but accuracy has issues",
    f"{SCENE}/performance/run_1: has issues",
    f"compliance dir {SCENE} has issues",
    "closed/Acme/results/rehearsal-toy/bert-99: does not have all required scenarios, missing {'Offline'}",
)
OTHER = f"{SCENE}/accuracy/mlperf_log_accuracy.json: is not truncated"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A good closed tree of a rehearsal, but for a low accuracy and a short test."""
    monkeypatch.setattr(submission_tree, "SYSTEM", "rehearsal-toy")
    make_tree(tmp_path)
    for path in tmp_path.rglob("bert-99/Offline/accuracy/accuracy.txt"):
        path.write_text(path.read_text().replace("90.88", "1.99"))
    for path in tmp_path.rglob("bert-99/SingleStream/performance/run_1/mlperf_log_*.txt"):
        path.write_text(path.read_text().replace("600000", "5000"))
    return tmp_path


def verdicts(*reasons):
    return [CheckerVerdict("submission_checker", False, reasons)]


def test_what_stand_ins_cause_is_a_note_and_what_follows_from_it(tree, capsys):
    report, (verdict,) = excuse(examine(tree, rehearsal=True), verdicts(*CAUSES, *EFFECTS))
    show(report, [verdict], rehearsal=True)
    assert "official submission_checker would accept the tree with real data" in capsys.readouterr().out
    assert (verdict.accepted, verdict.reasons) == (True, ())
    assert report.notes[-7:] == tuple(f"submission_checker: {reason}" for reason in (*CAUSES, *EFFECTS))


@pytest.mark.parametrize(
    "reasons",
    [
        (OTHER,),
        (*CAUSES, OTHER),
        EFFECTS[:1],  # without a cause
        (CAUSES[0], EFFECTS[0].replace("bert-99", "resnet50")),  # of another result
        tuple(reason.replace("rehearsal-toy", "toy") for reason in (*CAUSES, *EFFECTS)),
    ],
)
def test_everything_else_stays_a_reason(tree, reasons):
    _, (verdict,) = excuse(examine(tree, rehearsal=True), verdicts(*reasons))
    assert verdict.accepted is False
    assert verdict.reasons == tuple(reason for reason in reasons if "toy" not in reason or reason not in CAUSES)


def test_our_own_check_notes_the_same(tree, capsys, monkeypatch):
    monkeypatch.delenv("INFERENCE_REPO", raising=False)
    assert run_check(CheckRequest(root=tree, rehearsal=True)) == 0
    printed = capsys.readouterr().out
    assert "F1 is 1.99, below the closed division's target of 89.9653" in printed
    assert "effective_min_duration_ms" in printed
    assert "no problem found" in printed
    assert run_check(CheckRequest(root=tree)) == 1
    assert "below the closed division's target" in capsys.readouterr().out


def test_the_results_of_a_real_system_are_not_excused(tmp_path):
    make_tree(tmp_path)
    for path in tmp_path.rglob("bert-99/Offline/accuracy/accuracy.txt"):
        path.write_text(path.read_text().replace("90.88", "1.99"))
    report = examine(tmp_path, rehearsal=True)
    assert ["below the closed" in problem.what for problem in report.problems] == [True]
    assert not report.notes


def test_the_official_checkers_accept_such_a_rehearsal(tree):
    if not (repository := os.environ.get("INFERENCE_REPO")):
        pytest.skip("needs INFERENCE_REPO, a checkout of mlcommons/inference")
    found = run_checkers(Path(repository), tree, find_round("v6.1"))
    assert [verdict.accepted for verdict in found] == [False, False]
    _, judged = excuse(examine(tree, rehearsal=True), found)
    assert all(verdict.accepted for verdict in judged), judged
