"""Packages of runs with made-up logs in LoadGen's format."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tarfile
from hashlib import sha256
from pathlib import Path

import pytest
from official_runs import SCENE, TOP, change, make_runs, packaged, record, wanted
from submission_tree import SCENARIOS, SYSTEM, SYSTEM_JSON, check, put

from harness.checking.check import examine
from harness.checking.official import run_checkers
from harness.checking.run_check import CheckRequest, run_check
from harness.descriptions.measurements import ModelNotes, measurements
from harness.errors import CheckFailed, ConfigError
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY
from harness.results.digests import with_digests
from harness.results.layout import LAYOUTS, Classic, Scene
from harness.results.record import Record, read_record
from harness.rules.limits import KEPT_BYTES
from harness.rules.rounds import RULES, find_round
from harness.submission.documents import calibration
from harness.submission.infer import infer
from harness.submission.package import make
from harness.submission.request import PackageRequest, resolve
from harness.submission.select import select_runs
from harness.submission.write import truncated


@pytest.fixture
def tree(tmp_path):
    """Official runs of both benchmarks in a repository's folders."""
    return make_runs(tmp_path / "repository")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5.1", "v6.0", "v6.1"])
@pytest.mark.parametrize("division", ["closed", "open"])
def test_a_package_of_good_runs_has_no_problem(tmp_path, name, division):
    made = packaged(make_runs(tmp_path / "repository", name), tmp_path / "out", division)
    assert made.round.name == name
    assert check(made.root) == []
    code = "code" if name == "v5.1" else "src"
    assert (made.folder / code / "bert-99" / "deepsparse" / "code" / "harness" / "cli.py").is_file()
    assert (made.folder / "calibration.md").exists() == (name == "v5.1" and division == "closed")
    text = (made.folder / "README.md").read_text()
    assert f"| {SYSTEM} | resnet50 | Offline | resnet50-reference | deepsparse 1.8.0 | 12.5 samples/s |" in text
    names = {path.name for path in made.folder.rglob("*")}
    assert not names & {"run.json", "__pycache__", "tests", ".gitignore", "tuned.json"}
    assert bool(list(made.folder.rglob("TEST01"))) == (division == "closed")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5.1", "v6.1"])
def test_the_readmes_of_the_top_folders_stay_out_of_a_package(tmp_path, name):
    tree = make_runs(tmp_path / "repository", name)
    assert all((tree.root / folder / "README.md").is_file() for folder in TOP)
    assert {scene.system for scene in tree.scenes()} == {SYSTEM}
    made = packaged(tree, tmp_path / "out")
    assert check(made.root) == []
    assert not any((made.folder / folder / "README.md").exists() for folder in TOP)


def test_both_official_checkers_accept_a_package(tmp_path, tree):
    repository = os.environ.get("INFERENCE_REPO")
    if not repository:
        pytest.skip("needs INFERENCE_REPO, a checkout of mlcommons/inference")
    packaged(tree, tmp_path / "out")
    made = packaged(tree, tmp_path / "out", "open")
    for verdict in run_checkers(Path(repository), made.root, made.round):
        assert verdict.accepted, verdict


def seal(folder: Path) -> None:
    """Add the digests to the record of a test."""
    found = read_record(folder)
    assert found
    put(folder / "run.json", json.dumps(with_digests(found, folder)))


EDITS = {
    "performance detail": ("performance", DETAIL),
    "performance summary": ("performance", SUMMARY),
    "performance user.conf": ("performance", "user.conf"),
    "accuracy scores": ("accuracy", "accuracy.txt"),
    "accuracy log": ("accuracy", ACCURACY),
    "accuracy detail": ("accuracy", DETAIL),
    "test's detail": ("TEST01", DETAIL),
    "test's accuracy verdict": ("TEST01", "../../verify_accuracy.txt"),
    "test's performance verdict": ("TEST04", "../../verify_performance.txt"),
    "test's answers": ("TEST01", f"../../accuracy/{ACCURACY}"),
    "a score that was not there": ("TEST01", "../../accuracy/baseline_accuracy.txt"),
}


@pytest.fixture(scope="module")
def runs_with_digests(tmp_path_factory):
    tree = make_runs(tmp_path_factory.mktemp("digests"))
    for path in tree.root.rglob("run.json"):
        seal(path.parent)
    return tree


@pytest.mark.parametrize("name", EDITS)
def test_a_file_that_was_edited_after_the_run_is_refused_by_name(tmp_path, runs_with_digests, name):
    test, file = EDITS[name]
    source = runs_with_digests
    folders = {"performance": source.performance(SCENE), "accuracy": source.accuracy(SCENE)}
    folder = folders.get(test) or source.compliance(SCENE, test) / "performance" / "run_1"
    path = (folder / file).resolve()
    before = path.read_bytes() if path.exists() else None
    try:
        path.write_bytes((before or b"accuracy=76.0%\n") + b" ")
        with pytest.raises(CheckFailed, match=f"{re.escape(str(path))}: it was edited after the run"):
            packaged(source, tmp_path / "out")
        report = examine(source.root)
        assert [problem.path for problem in report.problems] == [path.relative_to(source.root).as_posix()]
    finally:
        path.unlink() if before is None else path.write_bytes(before)


def test_the_advice_of_an_edited_file_helps(tmp_path, runs_with_digests):
    log = runs_with_digests.performance(SCENE) / DETAIL
    original = log.read_bytes()
    log.unlink()
    try:
        with pytest.raises(
            CheckFailed, match=r"it was removed after the run.*Restore the original file, or run the test"
        ):
            packaged(runs_with_digests, tmp_path / "out")
    finally:
        log.write_bytes(original)
    assert not select_runs(resolve(PackageRequest(**wanted(runs_with_digests, tmp_path / "out")))).problems


def test_our_own_results_are_checked_for_edits(tree, runs_with_digests, capsys):
    assert run_check(CheckRequest(root=runs_with_digests.root)) == 0
    assert "no file was edited since its test: 18 recorded tests. Make" in capsys.readouterr().out
    assert run_check(CheckRequest(root=tree.root)) == 0
    printed = capsys.readouterr().out
    assert "not checked: 18 tests have no digests. Make and check a submission with" in printed
    assert "edited" not in printed
    seal(tree.performance(SCENE))
    assert run_check(CheckRequest(root=tree.root)) == 0
    printed = capsys.readouterr().out
    assert "no file was edited since its test: 1 recorded test; not checked: 17 tests have no digests." in printed
    assert run_check(CheckRequest(root=tree.root), as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["without_digests"] == 17
    change(tree.performance(SCENE), valid=False)
    put(tree.accuracy(SCENE) / "run.json", "{")
    assert run_check(CheckRequest(root=tree.root)) == 1
    printed = capsys.readouterr().out
    assert "it is not a valid run" in printed
    assert "run.json cannot be read" in printed.replace("\n", " ")


@pytest.mark.parametrize("options", [{"checkout": Path("nowhere")}, {"clone": True}])
def test_the_official_checkers_are_not_run_on_our_own_results(runs_with_digests, capsys, options):
    assert run_check(CheckRequest(root=runs_with_digests.root, **options)) == 0
    assert "the official checkers were not run:" in capsys.readouterr().err


def test_the_results_of_a_rehearsal_are_packaged_as_such(tree, capsys):
    for path in tree.root.rglob("run.json"):
        change(path.parent, rehearsal=True, for_submission=False)
    assert run_check(CheckRequest(root=tree.root)) == 0
    assert "--submitter <you> --rehearsal`" in capsys.readouterr().out


def test_old_results_without_digests_are_packaged_with_a_note(tmp_path, tree, capsys):
    assert packaged(tree, tmp_path / "out", "open").results
    assert "10 tests recorded by an older version, without digests" in " ".join(capsys.readouterr().err.split())


def only_measured(tree: Classic, *kept: str, high: bool = False) -> None:
    """Leave only these scenarios; with ``high``, file bert-99 as bert-99.9."""
    for top in ("results", "compliance"):
        for folder in (tree.root / top).glob("*/*/*"):
            if folder.name not in kept:
                shutil.rmtree(folder)
        if high:
            (tree.root / top / SYSTEM / "bert-99").rename(tree.root / top / SYSTEM / "bert-99.9")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kept", "source", "metrics"),
    [
        ("v6.1", ["SingleStream"], "SingleStream", ["431.5 samples/s", "19.2 ms"]),
        ("v5.1", ["SingleStream", "MultiStream"], "MultiStream", ["888.889 samples/s", "12.5 samples/s"]),
    ],
)
def test_results_are_inferred_on_request(tmp_path, name, kept, source, metrics):
    tree = make_runs(tmp_path / "repository", name)
    only_measured(tree, *kept, high=True)
    made = packaged(tree, tmp_path / "out", infer=True)
    found = {(result.scene.benchmark, result.scene.scenario): result for result in made.results}
    assert set(found) == {
        *((benchmark, scenario) for benchmark in ("bert-99", "bert-99.9") for scenario in ("SingleStream", "Offline")),
        *(("resnet50", scenario) for scenario in ("SingleStream", "Offline", "MultiStream")),
    }
    assert [found["resnet50", scenario].metric for scenario in ("Offline", "MultiStream")] == metrics
    layout = LAYOUTS[made.round.layout](made.folder)
    offline = Scene(SYSTEM, "resnet50", "Offline")
    text = (layout.measurements(offline) / "README.md").read_text()
    assert f"**Inferred from resnet50, {source}**" in text
    assert f"(inferred from resnet50, {source})" in (made.folder / "README.md").read_text()
    low = layout.measurements(Scene(SYSTEM, "bert-99", "Offline")) / "README.md"
    assert "**Inferred from bert-99.9, SingleStream**" in low.read_text()
    assert not check(made.root)
    if repository := os.environ.get("INFERENCE_REPO"):
        for verdict in run_checkers(Path(repository), made.root, made.round):
            assert verdict.accepted, verdict


def test_nothing_is_inferred_where_the_rules_do_not_allow_it(tmp_path, tree, capsys):
    def inferred(kinds: str = "edge") -> set[str]:
        request = PackageRequest(division="open", submitter="Acme", systems=[SYSTEM], tree=tree.root, infer=True)
        submission = resolve(request)
        results = infer(submission, find_round("v6.1"), select_runs(submission).runs, {SYSTEM: {"system_type": kinds}})
        return {f"{r.scene.benchmark} {r.scene.scenario}" for r in results if r.inferred_from}

    assert not inferred()
    assert "nothing was inferred" in capsys.readouterr().err
    only_measured(tree, "SingleStream")
    assert not inferred("datacenter")
    warned = " ".join(capsys.readouterr().err.split())
    for benchmark in ("resnet50", "bert-99"):
        assert f"no scenario of {benchmark} is inferred for {SYSTEM}: its system_type is datacenter, and the" in warned
    log = tree.performance(Scene(SYSTEM, "resnet50", "SingleStream")) / DETAIL
    log.write_text(re.sub('(early_stopping_latency_ms", "value": )2400000', r"\g<1>0", log.read_text()))
    assert inferred("datacenter,edge") == {"resnet50 Offline", "bert-99 Offline"}
    assert "MultiStream cannot be inferred" in capsys.readouterr().err


def test_a_system_that_has_all_scenarios_or_only_lacks_a_benchmark_is_not_warned_of(tmp_path, tree, capsys):
    only_measured(tree, "SingleStream", "MultiStream", "Offline", high=True)
    request = PackageRequest(division="open", submitter="Acme", systems=[SYSTEM], tree=tree.root, infer=True)
    submission = resolve(request)
    systems = {SYSTEM: {"system_type": "datacenter"}}
    results = infer(submission, find_round("v6.1"), select_runs(submission).runs, systems)
    assert {r.scene.benchmark for r in results if r.inferred_from} == {"bert-99"}
    assert "inferred" not in capsys.readouterr().err


@pytest.mark.slow
def test_the_same_runs_give_the_same_bytes_and_stay_as_they_are(tmp_path, tree):
    before = {path: path.read_bytes() for path in tree.root.rglob("*") if path.is_file()}
    first = packaged(tree, tmp_path / "one")
    second = packaged(tree, tmp_path / "two")
    again = packaged(tree, tmp_path / "one")
    assert first.sha256 == second.sha256 == again.sha256
    assert first.sha256 == hashlib.sha256(first.tarball.read_bytes()).hexdigest()
    assert {path: path.read_bytes() for path in tree.root.rglob("*") if path.is_file()} == before
    assert {path.name for path in (tmp_path / "one").iterdir()} == {"closed"}
    with tarfile.open(first.tarball) as tar:
        assert {member.name for member in tar} == {
            path.relative_to(tmp_path / "one").as_posix() for path in (tmp_path / "one").rglob("*") if path.is_file()
        }
        assert {(member.mtime, member.uid, member.mode) for member in tar} == {(0, 0, 0o644)}


@pytest.mark.slow
def test_accuracy_logs_are_truncated_and_their_hash_is_that_of_the_whole(tmp_path, tree):
    made = packaged(tree, tmp_path / "out")
    scene = Scene(SYSTEM, "bert-99", "Offline")
    full = (tree.accuracy(scene) / ACCURACY).read_bytes()
    folder = made.folder / "results" / SYSTEM / "bert-99" / "Offline" / "accuracy"
    cut = (folder / ACCURACY).read_bytes()
    assert cut == full[:KEPT_BYTES] + b"\n\n...\n\n" + full[-KEPT_BYTES:]
    assert f"hash={hashlib.sha256(full).hexdigest()}" in (folder / "accuracy.txt").read_text()
    assert truncated(b"[]") == b"[]"


@pytest.mark.slow
def test_measurements_say_what_was_run(tmp_path, tree):
    made = packaged(tree, tmp_path / "out", "open")
    folder = made.folder / "results" / SYSTEM / "bert-99" / "Offline"
    assert json.loads((folder / "measurements.json").read_text()) == {
        "input_data_types": "int64",
        "retraining": "No",
        "starting_weights_filename": "model.onnx",
        "weight_data_types": "fp32",
        "weight_transformations": "no",
    }
    text = (folder / "README.md").read_text()
    for words in ("harness run --official --mode performance", "--mode accuracy", "8 x 128", "6.0.17", "numpy 1.26"):
        assert words in text
    assert (folder / "user.conf").read_text() == "*.Offline.target_qps = 12\n"


@pytest.mark.parametrize(
    ("precision", "engine", "expected"),
    [("fp32", "bf16", "bf16"), ("fp32", "f32", "fp32"), ("fp32", None, "fp32"), ("int8", "bf16", "int8")],
)
def test_weights_have_the_type_that_the_engine_computes_in(precision, engine, expected):
    ran = record("bert-99", "performance")
    ran["model"]["precision"] = precision
    ran["engine"] = {"name": "openvino", "version": "1", **({"precision": engine} if engine else {})}
    read = Record.model_validate_json(json.dumps(ran))
    assert measurements(read, ModelNotes())["weight_data_types"] == expected
    text = calibration([read])
    assert (f"Weights and activations are {expected}; nothing was calibrated." in text) == (precision == "fp32")


WRONG = {
    "development": (lambda t: change(t.performance(SCENE), for_submission=False), "is a development run"),
    "invalid": (lambda t: change(t.accuracy(SCENE), valid=False), "is not a valid run"),
    "rehearsal": (lambda t: change(t.accuracy(SCENE), rehearsal=True), "is a rehearsal"),
    "no record": (lambda t: (t.performance(SCENE) / "run.json").unlink(), "has no record"),
    "random": (
        lambda t: change(
            t.performance(SCENE), model=record("resnet50", "performance")["model"] | {"caveat": "random weights"}
        ),
        "was made with random weights",
    ),
    "other engine": (
        lambda t: change(t.accuracy(SCENE), identity=record("bert-99", "accuracy")["identity"] | {"engine": "x"}),
        "was run with another engine than the performance run",
    ),
    "other model": (
        lambda t: change(
            t.compliance(SCENE, "TEST04") / "performance" / "run_1",
            identity=record("bert-99", "accuracy")["identity"] | {"model_sha256": "x"},
        ),
        "was run with another model",
    ),
    "silent model": (
        lambda t: change(
            t.performance(SCENE),
            model=record("resnet50", "performance")["model"] | {"weight_transformations": "unknown"},
        ),
        "does not state its weight_transformations",
    ),
    "mark": (
        lambda t: put(t.system_file(SYSTEM), json.dumps(SYSTEM_JSON | {"cooling": "FILL IN: such as air"})),
        "lacks cooling",
    ),
    "other data": (
        lambda t: change(
            t.accuracy(SCENE), dataset={"name": "full", "sha256": "2" * 64, "samples_used": RULES["resnet50"].samples}
        ),
        "another data set",
    ),
    "other version": (
        lambda t: change(
            t.accuracy(SCENE), machine=record("resnet50", "accuracy")["machine"] | {"packages": {"numpy": "2"}}
        ),
        "another version of a package",
    ),
    "forced performance": (
        lambda t: put(
            t.performance(SCENE) / "mlperf_log_detail.txt",
            (t.performance(SCENE) / "mlperf_log_detail.txt").read_text() + "\n",
        ),
        "was compared with results that were replaced later",
    ),
    "changed log": (
        lambda t: put(t.accuracy(SCENE) / ACCURACY, "[\n]\n"),
        "is not the log that was scored",
    ),
}


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "7",
        "[" * 100_000,
        '{"identity": 5}',
        '{"identity": {}}',
        '{"valid": true, "identity": {"engine": "x"}}',
    ],
)
def test_a_record_of_another_kind_is_one_sentence(tmp_path, tree, content):
    put(tree.accuracy(SCENE) / "run.json", content)
    with pytest.raises(ConfigError, match=r"run\.json (is not a record of this harness|cannot be read)"):
        packaged(tree, tmp_path / "out")


@pytest.mark.parametrize("name", WRONG)
def test_unfit_runs_are_not_packaged(tmp_path, tree, name):
    spoil, message = WRONG[name]
    spoil(tree)
    with pytest.raises(CheckFailed, match=message):
        packaged(tree, tmp_path / "out", "open" if name == "changed log" else "closed")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"round_name": "v5.1"}, r"seeds of v6.1, but a submission to v5.1 needs its own: install LoadGen 5.0.22"),
        ({"round_name": "v7"}, "unknown round"),
        ({"division": "shut"}, "choose closed or open"),
        ({"submitter": "A/B"}, "is not a valid submitter name"),
        ({"submitter": "A" * 100}, "the name .* is too long"),
        ({"systems": ["other"]}, "there are no official results of system other"),
    ],
)
def test_a_wrong_name_is_one_sentence(tmp_path, tree, changes, message):
    with pytest.raises(ConfigError, match=message):
        packaged(tree, tmp_path / "out", **changes)


@pytest.mark.slow
def test_a_person_adds_the_facts_that_a_model_lacks(tmp_path, tree):
    silent = record("resnet50", "performance")["model"] | {"weight_transformations": "unknown"}
    for scenario in SCENARIOS["resnet50"]:
        change(tree.performance(Scene(SYSTEM, "resnet50", scenario)), model=silent)
    notes = tree.root / "measurements" / SYSTEM / "resnet50" / "model.json"
    put(notes, json.dumps({"sha256": "0" * 64, "weight_transformations": "INT8 quantisation"}))
    made = packaged(tree, tmp_path / "out")
    text = (made.folder / "results" / SYSTEM / "resnet50" / "Offline" / "measurements.json").read_text()
    assert json.loads(text)["weight_transformations"] == "INT8 quantisation"
    put(notes, json.dumps({"weight_transformation": "INT8"}))
    with pytest.raises(ConfigError, match="did you mean 'weight_transformations'"):
        packaged(tree, tmp_path / "out")
    put(notes, json.dumps({"weight_transformations": "INT8"}))
    with pytest.raises(ConfigError, match="must name the model that it describes"):
        packaged(tree, tmp_path / "out")


@pytest.mark.parametrize(
    ("notes", "words"),
    [
        ({"sha256": "f" * 64, "equivalent": True}, "it describes the model ffff"),
        (
            {"sha256": "0" * 64, "weight_data_types": "int8"},
            "weight_data_types is 'fp32' in the model, but 'int8' there",
        ),
    ],
)
def test_notes_cannot_contradict_the_model(tmp_path, tree, notes, words):
    put(tree.root / "measurements" / SYSTEM / "resnet50" / "model.json", json.dumps(notes))
    with pytest.raises(CheckFailed, match=words):
        packaged(tree, tmp_path / "out")


@pytest.mark.slow
def test_no_system_is_dropped_from_a_package_silently(tmp_path, tree):
    made = packaged(tree, tmp_path / "out")
    other = make_runs(tmp_path / "other")
    for part in ("results", "compliance"):
        (other.root / part / SYSTEM).rename(other.root / part / "second")
    (other.root / "systems" / f"{SYSTEM}.json").rename(other.root / "systems" / "second.json")
    with pytest.raises(ConfigError, match=f"the existing package also has results of {SYSTEM} bert-99 Offline, "):
        packaged(other, tmp_path / "out", systems=["second"])
    assert (made.folder / "systems" / f"{SYSTEM}.json").is_file()


@pytest.mark.slow
def test_a_package_that_is_there_survives_one_that_fails(tmp_path, tree):
    made = packaged(tree, tmp_path / "out")
    before = {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()}
    put(tree.accuracy(SCENE) / ACCURACY, "[\n]\n")
    with pytest.raises(CheckFailed):
        packaged(tree, tmp_path / "out")
    assert {path: path.read_bytes() for path in made.folder.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_what_a_person_added_to_a_package_stays_and_left_overs_go(tmp_path, tree, capsys):
    made = packaged(tree, tmp_path / "out")
    added = ("LICENSE", "documentation/power/notes.md", f"systems/{SYSTEM}_power.yaml")
    for place in added:
        put(made.folder / place, place)
    put(made.folder / "results" / "gone.txt", "")
    put(tmp_path / "out" / ".open-Other.partial" / "x", "")
    assert "a leftover of packaging that was killed" in str(check(made.root))
    again = packaged(tree, tmp_path / "out")
    assert "kept from the package that this one replaces: LICENSE, documentation/power/notes.md, systems/" in (
        capsys.readouterr().err.replace("\n", " ")
    )
    assert [(again.folder / place).read_text() for place in added] == list(added)
    assert not (again.folder / "results" / "gone.txt").exists()
    assert check(again.root) == []


@pytest.mark.parametrize("name", ["a file", "a folder with others"])
def test_a_package_is_not_written_where_something_else_is(tmp_path, tree, name):
    output = tmp_path / name
    put(output if name == "a file" else output / "code" / "x.py", "mine")
    with pytest.raises(ConfigError, match=r"is a file|holds code, which is not part of a submission"):
        packaged(tree, output)
    assert {path.read_text() for path in tmp_path.rglob("*") if path.is_file() and "repository" not in str(path)} == {
        "mine"
    }


def test_a_run_in_the_folder_of_another_is_refused(tmp_path, tree):
    other = Scene(SYSTEM, "resnet50", "SingleStream")
    shutil.copytree(tree.performance(other), tree.performance(SCENE), dirs_exist_ok=True)
    with pytest.raises(CheckFailed, match=r"Offline/performance/run_1 holds the performance run of SingleStream: move"):
        packaged(tree, tmp_path / "out")
    shutil.copytree(tree.accuracy(SCENE), tree.performance(SCENE), dirs_exist_ok=True)
    with pytest.raises(CheckFailed, match=r"performance/run_1 holds the accuracy run of Offline: move"):
        packaged(tree, tmp_path / "out")


@pytest.mark.slow
def test_the_same_result_of_two_submitters_is_no_test_to_repeat(tmp_path, tree):
    packaged(tree, tmp_path / "out")
    made = packaged(tree, tmp_path / "out", submitter="Akme")
    assert {problem.cure for problem in check(made.root)} == {"remove one of the two packages"}


@pytest.mark.slow
def test_what_was_made_is_printed_and_checked(tmp_path, tree, capsys):
    request = PackageRequest(
        division="open", submitter="Acme", systems=[SYSTEM], tree=tree.root, output=tmp_path / "out"
    )
    assert make(request) == 0
    printed = capsys.readouterr().out
    assert "5 results for v6.1, open division" in printed
    assert "no problem found" in printed
    assert make(request, as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert Path(printed["folder"]) == tmp_path / "out" / "open" / "Acme"
    assert printed["sha256"] == sha256(Path(printed["tarball"]).read_bytes()).hexdigest()
    assert len(printed["results"]) == printed["check"]["results"] == 5
    assert printed["results"][0].keys() == {"system", "benchmark", "scenario", "result", "accuracy"}
    assert printed["check"]["problems"] == []
