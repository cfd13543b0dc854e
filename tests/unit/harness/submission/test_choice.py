"""Which results a package takes, what it leaves out, and the code and descriptions that come with them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from official_runs import SCENE, change, make_runs, packaged, record, wanted
from submission_tree import SYSTEM, SYSTEM_JSON, put

from harness.descriptions.measurements import ModelNotes, measurements
from harness.errors import CheckFailed, ConfigError
from harness.results.layout import Scene
from harness.results.record import Record
from harness.submission import eligible, sources
from harness.submission import package as packaging
from harness.submission.documents import readme
from harness.submission.package import make
from harness.submission.request import PackageRequest, Submission, resolve
from harness.submission.select import ScenarioRuns, Selection, select_runs
from harness.submission.sources import Source, engine_sources, project_sources, untracked
from harness.submission.systems import describe_systems, framework

OTHER = "second"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """Official runs of both benchmarks; a package of them holds one file of code."""
    monkeypatch.setattr(packaging, "project_sources", lambda _: [Source(sources.ROOT / "LICENSE", Path("LICENSE"))])
    return make_runs(tmp_path / "repository")


def selected(tree, division: str = "open", **changes) -> Selection:
    return select_runs(resolve(PackageRequest(**wanted(tree, tree.root / "out", division) | changes)))


def names(results) -> set[str]:
    return {f"{each.scene.system} {each.scene.benchmark} {each.scene.scenario}" for each in results}


def second_system(tree) -> None:
    for part in ("results", "compliance"):
        shutil.copytree(tree.root / part / SYSTEM, tree.root / part / OTHER)
    put(tree.system_file(OTHER), json.dumps(SYSTEM_JSON))


def without_accuracy(tree, scene: Scene) -> None:
    shutil.rmtree(tree.accuracy(scene))


def test_all_systems_with_results_are_packaged_by_default(tree):
    second_system(tree)
    assert {each.scene.system for each in selected(tree, systems=()).runs} == {SYSTEM, OTHER}
    assert {each.scene.system for each in selected(tree).runs} == {SYSTEM}
    shutil.rmtree(tree.root / "results")
    with pytest.raises(ConfigError, match=r"there are no official results in .*: make them with `make submission`"):
        selected(tree, systems=())


def test_scenarios_and_models_choose(tree, tmp_path):
    everything = names(selected(tree).runs)
    assert names(selected(tree, scenarios=["offline"]).runs) == {e for e in everything if e.endswith("Offline")}
    bert = {e for e in everything if "bert" in e}
    for model in ("bert-99-reference", "bert-99-reference@deepsparse", "bert-99-reference@DeepSparse"):
        assert names(selected(tree, models=[model]).runs) == bert
    assert names(selected(tree, models=["bert-99-reference", "resnet50-reference"]).runs) == everything
    for wrong, near in (("bert-99-refrence", "bert-99-reference"), ("bert-99-reference@openvino", "bert-99-reference")):
        with pytest.raises(ConfigError, match=f"no official results of {wrong} on {SYSTEM}: did you mean '{near}'"):
            selected(tree, models=[wrong])
    with pytest.raises(ConfigError, match="no official results of Server on"):
        selected(tree, scenarios=["Server"])


def test_a_model_without_a_named_scenario_is_named(tree):
    shutil.rmtree(tree.results(SCENE))
    words = f"no official results of resnet50-reference in Offline on {SYSTEM}"
    with pytest.raises(ConfigError, match=words):
        selected(tree, scenarios=["Offline"], models=["resnet50-reference"])


def only(tree, *scenarios: str) -> None:
    for scene in tree.scenes():
        if scene.scenario not in scenarios:
            shutil.rmtree(tree.results(scene))
            shutil.rmtree(tree.compliance(scene, "TEST01").parent)


def inferred(tree, tmp_path, **changes) -> set[str]:
    return {f"{result.scene.benchmark} {result.scene.scenario}"
            for result in packaged(tree, tmp_path / "out", "open", infer=True, **changes).results}  # fmt: skip


def test_the_scenarios_of_a_campaign_that_infers_some_can_be_named(tree, tmp_path):
    only(tree, "SingleStream")
    with pytest.raises(ConfigError, match="no official results of Offline"):
        selected(tree, scenarios=["SingleStream", "Offline"])
    with pytest.raises(ConfigError, match="no official results of Server"):
        selected(tree, scenarios=["SingleStream", "Server"], infer=True)
    both = {"bert-99 SingleStream", "bert-99 Offline", "resnet50 SingleStream", "resnet50 Offline"}
    assert inferred(tree, tmp_path, scenarios=["SingleStream", "Offline"]) == both
    shutil.rmtree(tmp_path / "out")
    alone = inferred(tree, tmp_path, scenarios=["Offline"])
    assert alone == {"bert-99 Offline", "resnet50 Offline"}  # and not what they follow from
    put(tree.system_file(SYSTEM), json.dumps(SYSTEM_JSON | {"system_type": "datacenter"}))
    with pytest.raises(ConfigError, match=f"Offline was not measured on {SYSTEM}, and cannot be inferred"):
        inferred(tree, tmp_path, scenarios=["Offline"])


def test_a_measured_scenario_needs_no_other(tree):
    (scene,) = {each.scene for each in selected(tree, scenarios=["Offline"], infer=True, models=[RESNET]).runs}
    assert scene.scenario == "Offline"


RESNET = "resnet50-reference"


def test_the_models_of_a_campaign_that_infers_one_can_be_named(tree, tmp_path, monkeypatch):
    for top in ("results", "compliance"):
        (tree.root / top / SYSTEM / "bert-99").rename(tree.root / top / SYSTEM / "bert-99.9")
    monkeypatch.setattr(eligible, "find_model", lambda name: SimpleNamespace(official_name=name[:7]))
    models = ["bert-99-small", "bert-99-reference"]
    low = {"bert-99 SingleStream", "bert-99 Offline"}
    assert inferred(tree, tmp_path, models=models) == low | {"bert-99.9 SingleStream", "bert-99.9 Offline"}
    for refused in ({"models": models, "infer": False}, {"models": ["bert-99-small"], "infer": True}):
        with pytest.raises(ConfigError, match="no official results of bert-99-small"):
            selected(tree, **refused)


def test_a_package_with_fewer_results_does_not_replace_another(tree, tmp_path):
    first = packaged(tree, tmp_path / "out", "open")
    without_accuracy(tree, SCENE)
    with pytest.raises(ConfigError, match=f"also has results of {SYSTEM} resnet50 Offline: package them too"):
        packaged(tree, tmp_path / "out", "open")
    assert (first.folder / "results" / SYSTEM / "resnet50" / "Offline").is_dir()


def test_a_round_without_a_benchmark_for_datacenters_is_named(tree):
    put(tree.system_file(SYSTEM), json.dumps(SYSTEM_JSON | {"system_type": "datacenter"}))
    closed = selected(tree, "closed")
    assert not closed.runs
    assert all("the closed division of v6.1 has no " in sentence for sentence in closed.left_out)


def test_an_incomplete_result_is_left_out_and_named(tmp_path, tree, capsys):
    without_accuracy(tree, SCENE)
    request = PackageRequest(**wanted(tree, tmp_path / "out", "open"))
    assert make(request) == 0
    printed = capsys.readouterr()
    assert "4 results for v6.1, open division" in printed.out
    assert re.search(
        r"left out: \S+accuracy is missing: do the accuracy run with .* SCENARIOS=Offline", flat(printed.err)
    )
    assert make(request, as_json=True) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["results"]) == 4
    assert [words for words in facts["left_out"] if "is missing: do the accuracy run" in words]
    with pytest.raises(CheckFailed, match="is missing: do the accuracy run"):
        packaged(tree, tmp_path / "out", "open", scenarios=["Offline"], models=["resnet50-reference"])


def flat(text: str) -> str:
    return " ".join(text.split())


def test_a_missing_compliance_test_matters_only_in_closed(tree):
    shutil.rmtree(tree.compliance(SCENE, "TEST04"))
    (sentence,) = selected(tree, "closed").left_out
    assert re.search("is missing: run TEST04 with `make submission DIVISION=closed .*SCENARIOS=Offline", sentence)
    assert not selected(tree).left_out


def test_what_only_open_has_does_not_block_closed(tree):
    server = Scene(SYSTEM, "bert-99", "Server")
    for part in (tree.root / "results", tree.root / "compliance"):
        shutil.copytree(part / SYSTEM / "bert-99" / "Offline", part / SYSTEM / "bert-99" / "Server")
    for path in (tree.performance(server), tree.accuracy(server)):
        change(path, scenario="Server")
    model = record("resnet50", "performance")["model"] | {"equivalent": False}
    for path in (tree.performance(SCENE), tree.accuracy(SCENE)):
        change(path, model=model)
    closed = selected(tree, "closed")
    assert not closed.problems
    assert names(closed.runs) == names(selected(tree).runs) - {f"{SYSTEM} bert-99 Server", f"{SYSTEM} resnet50 Offline"}
    assert any("has only Offline, SingleStream of bert-99" in words for words in closed.left_out)
    assert any("accepts only the reference model" in words for words in closed.left_out)


def runs_of(*engines: dict) -> list[ScenarioRuns]:
    made = []
    for engine in engines:
        read = Record.model_validate_json(json.dumps(record("bert-99", "performance") | {"engine": engine}))
        made.append(ScenarioRuns(SCENE, read, read, {}, ModelNotes()))
    return made


ORT = {"name": "onnxruntime", "version": "1.22.0"}


@pytest.mark.parametrize(
    ("written", "engines", "expected"),
    [
        ("FILL IN: such as ONNX Runtime 1.22.0", [ORT], "ONNX Runtime 1.22.0"),
        ("DeepSparse 1.8.0, ONNX Runtime 1.22.0, OpenVINO 2025.1.0", [ORT], "ONNX Runtime 1.22.0"),
        ("ONNX Runtime 1.22.0 with OpenVINO 2025.1.0", [ORT], "ONNX Runtime 1.22.0 with OpenVINO 2025.1.0"),
        ("Python 3.11", [ORT], "Python 3.11, ONNX Runtime 1.22.0"),
        ("", [ORT, ORT | {"version": "1.23.0"}], "ONNX Runtime 1.22.0 and 1.23.0"),
        ("DeepSparse 1.8.0", [{"name": "mine"}], "mine"),
    ],
)
def test_the_framework_is_that_of_the_runs(written, engines, expected):
    assert framework(written, runs_of(*engines)) == expected


def test_a_rehearsed_system_has_only_the_engines_that_ran_too(tree):
    asked = Submission("open", "you", (SYSTEM,), tree, Path("out"), None, rehearsal=True)
    described, problems = describe_systems(asked, runs_of(ORT))
    assert described[SYSTEM]["framework"].startswith("ONNX Runtime ")
    assert "OpenVINO" not in described[SYSTEM]["framework"]
    assert problems == []


def test_a_framework_of_another_version_is_refused_with_the_command_that_corrects_it(tmp_path, tree):
    put(tree.system_file(SYSTEM), json.dumps(SYSTEM_JSON | {"framework": "deepsparse v1.7.0, Python 3.11"}))
    with pytest.raises(CheckFailed, match=r"but the tests use DeepSparse 1.8.0: correct it with") as caught:
        packaged(tree, tmp_path / "out", "open")
    assert "--set 'framework=Python 3.11, DeepSparse 1.8.0'" in str(caught.value)
    put(tree.system_file(SYSTEM), json.dumps(SYSTEM_JSON | {"framework": "DeepSparse v1.8.0, OpenVINO 2025.1.0"}))
    made = packaged(tree, tmp_path / "out", "open")
    assert json.loads((made.folder / "systems" / f"{SYSTEM}.json").read_text())["framework"] == "DeepSparse v1.8.0"


def outside(engine: str) -> list[ScenarioRuns]:
    identity = record("bert-99", "performance")["identity"] | {"engine": engine}
    ran = record("bert-99", "performance") | {"identity": identity, "engine": {"name": "mine"}}
    read = Record.model_validate_json(json.dumps(ran))
    return [ScenarioRuns(SCENE, read, read, {}, ModelNotes())]


def test_the_code_of_an_engine_from_outside_is_packaged(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    put(tmp_path / "single_engine_j.py", "raise RuntimeError('is not imported')")
    put(tmp_path / "whole_engine_j" / "__init__.py", "")
    put(tmp_path / "whole_engine_j" / "inner" / "engine.py", "")
    put(tmp_path / "whole_engine_j" / "__pycache__" / "x.pyc", "")
    for engine, places in {
        "single_engine_j:Mine": {"code/single_engine_j.py"},
        "whole_engine_j.inner.engine:Mine": {"code/whole_engine_j/__init__.py", "code/whole_engine_j/inner/engine.py"},
        "harness.engines.null:NullEngine": set(),
        "deepsparse": set(),
    }.items():
        found, missing = engine_sources(outside(engine))
        assert ({source.place.as_posix() for source in found}, missing) == (places, [])
    found, missing = engine_sources(outside("not_here_j:Mine"))
    assert not found
    assert missing == [
        "the code of engine not_here_j:Mine belongs in the package, but module not_here_j is not found: set "
        "PYTHONPATH to the folder that contains it."
    ]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_files_that_git_does_not_track_are_named(tmp_path, monkeypatch, tree, capsys):
    project = tmp_path / "project"
    put(project / "code" / "a.py", "")
    put(project / "Makefile", "")
    subprocess.run(["git", "init", "--quiet", project], check=True)
    subprocess.run(["git", "-C", project, "add", "."], check=True)
    put(project / "code" / "notes.txt", "mine")
    monkeypatch.setattr(sources, "ROOT", project)
    found = project_sources([])
    assert untracked(found) == [Path("code/notes.txt")]
    monkeypatch.setattr(packaging, "project_sources", lambda _: found)
    packaged(tree, tmp_path / "out", "open")
    assert "the package holds 1 file that git does not track: code/notes.txt." in flat(capsys.readouterr().err)
    shutil.rmtree(project / ".git")
    assert not untracked(found)


def test_a_model_with_weights_in_other_files_is_packaged_whole_or_not_at_all(tmp_path, monkeypatch):
    weight = onnx.numpy_helper.from_array(np.ones(300, np.float32), "w")
    value = [onnx.helper.make_tensor_value_info(name, 1, [300]) for name in "xy"]
    node = onnx.helper.make_node("Add", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:], [weight])
    folder = tmp_path / "code"
    folder.mkdir()
    options = {"save_as_external_data": True, "location": "m.data", "size_threshold": 0}
    onnx.save_model(onnx.helper.make_model(graph), str(folder / "m.onnx"), **options)
    put(folder / "a.py", "")
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    whole = sources.IdentifiedModel.of(folder / "m.onnx").identity
    for used, expected in ((whole, {"a.py", "m.onnx", "m.data"}), ("0" * 64, {"a.py"})):
        model = record("bert-99", "performance")["model"] | {"sha256": used}
        read = Record.model_validate_json(json.dumps(record("bert-99", "performance") | {"model": model}))
        runs = [ScenarioRuns(SCENE, read, read, {}, ModelNotes())]
        assert {source.path.name for source in project_sources(runs)} == expected


@pytest.mark.parametrize(
    ("benchmark", "dataset", "model", "needs"),
    [
        (
            "resnet50",
            "imagenet",
            "resnet50-fp32",
            ["export IMAGENET_DIR=<folder>", "harness models fetch resnet50-fp32"],
        ),
        ("bert-99", "squad-v1.1", "bert-large-fp32", ["make data", "harness models fetch bert-large-fp32"]),
        ("bert-99", "mine", "mine", ["the model `model.onnx` (sha256 000", "the data set `mine` (sha256 111"]),
    ],
)
def test_the_readme_of_a_result_names_what_its_commands_need(benchmark, dataset, model, needs):
    made = record(benchmark, "performance")
    made["dataset"]["name"], made["model"]["name"] = dataset, model
    read = Record.model_validate_json(json.dumps(made))
    text = readme(SCENE, [read], measurements(read, ModelNotes()))
    before, command = text.split(".venv/bin/harness run")[:2]
    for words in (*needs, "make setup", "`user.conf`"):
        assert words in before
    assert ("IMAGENET_DIR" in text) == (dataset == "imagenet")
    assert command


def test_the_readme_of_a_result_names_the_files_of_options_and_of_a_cluster():
    made = record("bert-99", "performance")
    settings = {"vocab": "a" * 64, "max_length": 384}
    made["identity"] = made["identity"] | {"benchmark_settings": settings}
    made["command"] = "harness run --set 'vocab=my words' --set max_length=384 --cluster 'two hosts.toml'"
    text = readme(SCENE, [Record.model_validate_json(json.dumps(made))], {})
    assert "the hosts file `two hosts.toml`" in text
    assert "the file of `--set vocab=my words`" in text
    assert "the file of `--set max" not in text
    assert "make setup CLUSTER=1" in text
    made["command"] = "harness run --cluster local:2"
    text = readme(SCENE, [Record.model_validate_json(json.dumps(made))], {})
    assert "hosts file" not in text
    assert "make setup CLUSTER=1" in text


def test_a_package_holds_what_its_makefile_installs_from(monkeypatch):
    held = {source.place.as_posix() for source in project_sources([])}
    named = set(re.findall(r"requirements[-a-z]*[.]lock", (sources.ROOT / "Makefile").read_text()))
    assert len(named) > 3
    assert {*named, "Containerfile"} <= held
