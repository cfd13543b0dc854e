"""Our check finds everything that the official ones find; needs INFERENCE_REPO, a checkout of mlcommons/inference."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from breakages import BREAKAGES, TREES, Breakage
from submission_tree import SUBMITTER, SYSTEM, check, make_tree
from variants import VARIANTS

from harness.checking import official
from harness.checking.final_report import read_rows
from harness.checking.official import COMMIT, CheckerVerdict, errors_and_warnings, find_checkout, run_checkers
from harness.checking.run_check import CheckRequest, run_check
from harness.errors import ConfigError, MissingDependencyError
from harness.rules.rounds import find_round


@pytest.fixture(scope="session")
def checkout() -> Path:
    found = find_checkout(None, clone=False)
    if found is None:
        pytest.skip("needs INFERENCE_REPO, a checkout of mlcommons/inference")
    return found


def test_a_summary_with_a_short_line_has_only_what_the_line_holds(tmp_path):
    columns = "Division,MlperfModel,Scenario,SystemType,Organization,SystemName,host_processors_per_node"
    columns += ",host_processor_model_name,framework,Model,Result,Units,Accuracy"
    (tmp_path / "summary.csv").write_text(f"{columns}\nopen,resnet\n")
    (row,) = read_rows(tmp_path / "summary.csv", find_round("v6.1"))
    assert (row.model, row.scenario, row.result) == ("resnet ()", "", "")


@pytest.mark.parametrize(
    ("name", "division", "system_type"),
    [
        ("v6.1", "closed", "edge"),
        ("v6.1", "open", "edge"),
        ("v6.1", "closed", "datacenter,edge"),
        ("v6.0", "closed", "edge"),
        ("v5.1", "closed", "edge"),
        ("v5.0", "open", "edge"),
    ],
)
def test_good_trees_are_accepted(checkout, tmp_path, name, division, system_type):
    make_tree(tmp_path, name, division, system_type=system_type)
    verdicts = run_checkers(checkout, tmp_path, find_round(name))
    known = name != "v5.0"  # the older one no longer supports it
    assert [verdict.accepted for verdict in verdicts] == [True, True if known else None], verdicts
    assert not check(tmp_path)


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.name)
def test_what_they_reject_we_report(checkout, tmp_path, breakage: Breakage):
    round_name, division = TREES[breakage.tree]
    breakage.apply(make_tree(tmp_path, round_name, division))
    verdicts = run_checkers(checkout, tmp_path, find_round(round_name))
    if any(verdict.accepted is False for verdict in verdicts):
        assert check(tmp_path, find_round(round_name)), verdicts
    for verdict in verdicts:
        assert verdict.accepted or verdict.reasons, "a rejection without a reason"


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_what_we_accept_they_accept(checkout, tmp_path, variant: Breakage):
    round_name, division = TREES[variant.tree]
    variant.apply(make_tree(tmp_path, round_name, division))
    verdicts = run_checkers(checkout, tmp_path, find_round(round_name))
    assert all(verdict.accepted for verdict in verdicts), verdicts


@pytest.mark.parametrize("measured", ["SingleStream only", "all"])
def test_what_their_tool_infers_we_accept(checkout, tmp_path, measured):
    layout = make_tree(tmp_path / "in")
    for top in (layout.root / "src", layout.root / "results" / SYSTEM):
        (top / "bert-99").rename(top / "bert-99.9")
    for folder in layout.root.glob("results/*/*/*"):
        if measured != "all" and folder.name != "SingleStream":
            shutil.rmtree(folder)
    tool = checkout / "tools" / "submission" / "preprocess_submission.py"
    output = tmp_path / "out"
    command = [sys.executable, str(tool), "--input", str(tmp_path / "in"), "--output", str(output), "--version", "v6.1"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path, env=environment)
    inferred = {path.relative_to(output).as_posix() for path in output.glob("closed/*/results/*/*/*")}
    results = f"closed/{SUBMITTER}/results/{SYSTEM}"
    assert inferred >= {f"{results}/resnet50/multistream", f"{results}/bert-99.9/offline", f"{results}/bert-99/offline"}
    assert not check(output)
    assert all(verdict.accepted for verdict in run_checkers(checkout, output, find_round("v6.1")))


OUTPUT = """\
[2026-11-25 10:50:17,176 main.py:1 INFO] Loading
[2026-11-25 10:50:17,177 submission_checker_old.py:3427 ERROR] closed/A/results/s is missing user.conf
[2026-11-25 10:50:17,178 submission_checker_old.py:3427 ERROR] closed/A/results/s is missing user.conf
[2026-11-25 10:50:17,179 x.py:7 WARNING] /root/closed/A/accuracy accuracy not met: expected=75.7, found=70
[2026-11-25 10:50:17,179 x.py:7 WARNING] /root/open/A/accuracy accuracy not met: expected=75.7, found=60
[2026-11-25 10:50:17,180 x.py:7 WARNING] There are multiple messages with key generic_message in the log.
[2026-11-25 10:50:17,181 x.py:7 ERROR] NoResults closed/A/results/s
"""


def test_output_is_made_readable():
    assert errors_and_warnings(OUTPUT, Path("/root")) == (
        ("closed/A/results/s: is missing user.conf", "closed/A/accuracy: accuracy not met: expected=75.7, found=70"),
        ("open/A/accuracy: accuracy not met: expected=75.7, found=60",),
    )


def stand_in(folder: Path, new: str, old: str = "print('fine')") -> Path:
    """A checkout whose checkers are the given programs."""
    tools = folder / "tools" / "submission"
    (tools / "submission_checker").mkdir(parents=True)
    (tools / "submission_checker" / "__init__.py").write_text("")
    (tools / "submission_checker" / "main.py").write_text(new)
    (tools / "submission_checker_old.py").write_text(old)
    return folder


def test_a_crash_is_not_acceptance(tmp_path):
    repository = stand_in(tmp_path, "raise ValueError('model not known')", "import sys; print('odd'); sys.exit(3)")
    new, old = run_checkers(repository, tmp_path, find_round("v6.1"))
    assert new == CheckerVerdict(
        "submission_checker", False, ("the checker crashed, so the tree is not accepted: ValueError: model not known",)
    )
    assert old == CheckerVerdict("submission_checker_old.py", False, ("exit code 3: odd",))


def test_checkers_leave_nothing_behind(tmp_path):
    write = "import sys; open('summary.csv', 'w').write(''); import submission_checker"
    repository = stand_in(tmp_path, write)
    before = sorted(tmp_path.rglob("*"))
    assert all(verdict.accepted for verdict in run_checkers(repository, tmp_path, find_round("v6.0")))
    assert sorted(tmp_path.rglob("*")) == before


SAYS = """
import sys
at = "[2026-11-25 10:50:17,176 x.py:1 "
print(at + "WARNING] open/A/results is odd")
if "--csv" in sys.argv:
    head = ("Organization,Division,SystemType,SystemName,Model,MlperfModel,Scenario,Result,Accuracy,"
            "host_processor_model_name,host_processors_per_node,framework,Units")
    row = '"Acme","open","edge","Acme server","efficientnet-x","resnet","{}","{}","acc: 70","CPU","2","F 1","{}"'
    with open(sys.argv[sys.argv.index("--csv") + 1], "w") as file:
        rows = row.format("Offline", 123.5, "Samples/s"), row.format("Server", 9.5, "Queries/s")
        file.write("\\n".join([head, *rows]))
"""


def test_the_checkers_own_output_is_kept_and_their_table_shown(tmp_path, capsys):
    make_tree(tmp_path / "tree", "v6.1", "open")
    repository = stand_in(tmp_path / "inference", SAYS, SAYS + "print(at + 'ERROR] open/A/x is bad'); sys.exit(1)")
    keep = tmp_path / "kept"
    request = CheckRequest(root=tmp_path / "tree", checkout=repository, keep=keep)
    assert run_check(request) == 1
    printed = capsys.readouterr().out
    assert "official submission_checker accepts the tree" in printed
    refused = printed[printed.index("official submission_checker_old.py does not accept") :].splitlines()
    assert refused[1] == "  open/A/x: is bad"
    assert refused[3] == "  open/A/results: is odd"
    assert "also warns, without refusing" in refused[2]
    rows = [line.split() for line in printed.splitlines() if "efficientnet-x" in line]
    assert [row[:3] for row in rows] == [["edge", "-", "open"], ["none", "Acme", "Acme"]]
    assert "No sheet has scenarios" in printed
    assert f"logs and tables are in {keep}" in printed.replace("\n", " ")
    for checker in ("submission_checker", "submission_checker_old"):
        assert "is odd" in (keep / checker / "checker.log").read_text()
        assert "123.5" in (keep / checker / "summary.csv").read_text()
    assert run_check(request, as_json=True) == 1
    facts = json.loads(capsys.readouterr().out)
    assert [row["result"] for row in facts["final_report"]] == ["123.5", "9.5"]
    assert facts["official"][0]["warnings"] == ["open/A/results: is odd"]
    assert facts["official"][1]["reasons"] == ["open/A/x: is bad"]


def test_a_missing_package_is_one_sentence(tmp_path):
    repository = stand_in(tmp_path, "import yaml_that_is_not_there")
    with pytest.raises(MissingDependencyError, match=r"needs the package yaml_that_is_not_there.*--python\."):
        run_checkers(repository, tmp_path, find_round("v6.1"))
    with pytest.raises(ConfigError, match="cannot be run"):
        run_checkers(repository, tmp_path, find_round("v6.1"), python="/no/python")


def test_a_folder_that_is_not_a_checkout(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=COMMIT[:8]):
        find_checkout(tmp_path, clone=False)
    monkeypatch.setenv("INFERENCE_REPO", str(tmp_path))
    with pytest.raises(ConfigError, match="does not contain"):
        find_checkout(None, clone=False)
    monkeypatch.delenv("INFERENCE_REPO")
    assert find_checkout(None, clone=False) is None


def test_the_report_groups_problems_by_file(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("INFERENCE_REPO", raising=False)
    layout = make_tree(tmp_path / "tree")
    request = CheckRequest(root=tmp_path / "tree")
    assert run_check(request) == 0
    assert capsys.readouterr().out == f"no problem found: 5 results of closed/{SUBMITTER} for v6.1.\n"
    (layout.root / "notes.txt").write_text("x")
    next(b for b in BREAKAGES if b.name == "INVALID").apply(layout)
    assert run_check(request) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [
        f"closed/{SUBMITTER}/notes.txt",
        "  it does not belong here – remove it, or move it to the right folder",  # noqa: RUF001
    ]
    assert "  the result is INVALID – rerun the test until LoadGen reports VALID" in lines  # noqa: RUF001
    assert lines[-1] == "3 problems in 3 files (v6.1)."


@pytest.mark.slow
def test_the_command(tmp_path):
    make_tree(tmp_path / "tree", "v6.1", "open", sw_notes="REHEARSAL: not for submission")
    environment = {key: value for key, value in os.environ.items() if key != "INFERENCE_REPO"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "harness.cli", "check", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment, check=False)

    good = run(str(tmp_path / "tree"), "--rehearsal")
    assert good.returncode == 0
    assert good.stdout.endswith("for v6.1. This is a rehearsal, not a submission.\n")
    bad = run(str(tmp_path / "tree"), "--json")
    assert bad.returncode == 1
    assert '"mark": true' in bad.stdout
    wrong = run(str(tmp_path / "tree"), "--round", "v6.2")
    assert (wrong.returncode, wrong.stderr) == (2, "error: unknown round 'v6.2': did you mean 'v6.1' or 'v6.0'?\n")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "uploadpack.allowFilter=true")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_the_pinned_commit_is_cloned_once(tmp_path, monkeypatch):
    repository = stand_in(tmp_path / "inference", "print('fine')")
    (repository / "large.bin").write_text("not for us")
    (repository / "models").mkdir()
    (repository / "models" / "large.bin").write_text("not for us")
    git(repository, "init", "--quiet")
    git(repository, "config", "uploadpack.allowFilter", "true")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "pinned")
    pinned = git(repository, "rev-parse", "HEAD")
    git(repository, "commit", "--quiet", "--allow-empty", "-m", "newer")
    monkeypatch.setattr(official, "COMMIT", pinned)
    monkeypatch.setattr(official, "SOURCE", repository.as_uri())
    monkeypatch.setattr(official.paths, "ROOT", tmp_path)
    clone = find_checkout(None, clone=True)
    assert clone == tmp_path / "build" / "inference"
    assert git(clone, "rev-parse", "HEAD") == pinned
    assert not (clone / "models").exists()
    assert all(verdict.accepted for verdict in run_checkers(clone, tmp_path, find_round("v6.1")))
    shutil.rmtree(repository)
    assert find_checkout(None, clone=True) == clone
    shutil.rmtree(clone)
    with pytest.raises(ConfigError, match=r"could not be cloned into .*--inference-repo\."):
        find_checkout(None, clone=True)
