"""What a campaign says before its first test: which tests, how long they take, and what a package will lack."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
from finished import run_folder
from forecasts import ALLOWED, Forecast, coverage, error
from submission_tree import SYSTEM_JSON, put

from harness.campaign import foreseen
from harness.campaign import plan as module
from harness.campaign.plan import CampaignRequest, plan
from harness.catalog.models import find_model
from harness.errors import ConfigError
from harness.settings import request as running
from harness.settings import tuned
from harness.settings.identity import identity
from harness.settings.request import RunRequest, resolve

MODEL = "minilm-l6-squad-int8"


@pytest.fixture
def asked(tmp_path):
    """A closed rehearsal on an edge system, in folders of its own."""
    (tmp_path / "user.conf").write_text("")
    run = RunRequest(engine="null", rehearsal=True, system="toy", tree=tmp_path, runs_dir=tmp_path / "runs",
                     user_conf=tmp_path / "user.conf")  # fmt: skip
    return CampaignRequest(run=run, division="closed", system_type="edge", folder=tmp_path / "events")


@pytest.fixture
def official(asked):
    """The same as a measurement."""
    return replace(asked, run=replace(asked.run, engine="onnxruntime", rehearsal=False, official=True))


def filed(monkeypatch, *names):
    """The shipped model under several names, each filed under that name."""
    real = find_model(MODEL)
    for each in (module, running):
        monkeypatch.setattr(each, "find_model", lambda name: real.model_copy(update={"official_name": name}))
    return names


def measured(campaign):
    return [
        (step.settings.scene.benchmark, step.settings.scenario) for step in campaign.steps if step.test == "accuracy"
    ]


def inferred(campaign):
    return {each.name: each.source for each in campaign.inferred}


def test_all_required_scenarios_are_measured_unless_they_may_be_inferred(asked):
    assert measured(plan(asked)) == [("bert-99", "Offline"), ("bert-99", "SingleStream")]
    assert not plan(asked).inferred
    less = plan(replace(asked, infer=True))
    assert measured(less) == [("bert-99", "SingleStream")]
    assert inferred(less) == {"bert-99 Offline": "SingleStream"}
    assert less.facts()["inferred"] == [{"benchmark": "bert-99", "scenario": "Offline", "from": "SingleStream"}]
    assert not less.lacks


def test_what_the_rules_do_not_infer_is_measured(asked):
    both = replace(asked, infer=True, scenarios=("Server", "Offline", "MultiStream"))
    assert measured(plan(both)) == [("bert-99", "Server"), ("bert-99", "MultiStream")]  # which it does not require
    with pytest.raises(ConfigError, match="only for systems of type edge"):
        plan(replace(both, system_type="datacenter"))


def test_the_lower_accuracy_is_inferred_from_the_higher(asked, monkeypatch):
    asked = replace(asked, models=filed(monkeypatch, "bert-99", "bert-99.9"))
    assert measured(plan(asked))[::2] == [("bert-99", "Offline"), ("bert-99.9", "Offline")]
    less = plan(replace(asked, infer=True))
    assert measured(less) == [("bert-99.9", "SingleStream")]
    assert inferred(less) == {
        "bert-99.9 Offline": "SingleStream",
        "bert-99 SingleStream": "bert-99.9",
        "bert-99 Offline": "bert-99.9 SingleStream",
    }


def test_missing_and_unknown_scenarios_are_named_before_the_tests(asked, tmp_path):
    server, missing = plan(replace(asked, scenarios=("Server",))).lacks
    assert "the closed division does not have Server on systems of type edge" in server
    assert "also requires Offline and SingleStream" in missing
    assert "--infer" not in missing
    (missing,) = plan(replace(asked, scenarios=("SingleStream",))).lacks
    assert "requires Offline on" in missing
    assert "(--infer) infers Offline instead" in missing
    run_folder(tmp_path / "results/rehearsal-toy/bert-99/Offline/performance", name="run_1", scenario="Offline")
    assert not plan(replace(asked, scenarios=("SingleStream",))).lacks
    assert not plan(replace(asked, scenarios=("Server",), division="open")).lacks


def test_what_a_person_must_write_is_asked_for_before_the_tests(official, tmp_path):
    described = tmp_path / "systems" / "toy.json"
    described.parent.mkdir()
    system, model = plan(official).lacks
    assert "systems/toy.json is missing: create it with `harness system init --system toy" in system
    assert "accepts only the reference model" in model
    put(described, json.dumps(SYSTEM_JSON | {"cooling": "FILL IN: air", "system_type": "datacenter"}))
    assert [lack.partition("toy.json ")[2] for lack in plan(official).lacks[:2]] == [
        "lacks cooling: fill it in.",
        "has system_type datacenter, but these tests are for edge: correct one.",
    ]
    put(described, json.dumps(SYSTEM_JSON))
    notes = tmp_path / "measurements/toy/bert-99/model.json"
    put(notes, json.dumps({"sha256": find_model(MODEL).sha256, "equivalent": True}))
    assert not plan(official).lacks
    put(notes, json.dumps({"sha256": "0" * 64}))
    assert ["describes another model" in lack for lack in plan(official).lacks] == [True]


def test_a_description_of_another_engine_or_other_machines_is_named_before_the_tests(official, tmp_path, monkeypatch):
    monkeypatch.setattr(foreseen, "package_version", lambda name: "1.30.0")
    described = tmp_path / "systems" / "toy.json"
    put(described, json.dumps(SYSTEM_JSON | {"framework": "ONNX Runtime 1.22.0", "number_of_nodes": "2"}))
    opened = replace(official, division="open", scenarios=("Offline",))
    version, nodes = plan(opened).lacks
    assert "has framework ONNX Runtime 1.22.0, but the tests use ONNX Runtime 1.30.0" in version
    assert "has number_of_nodes 2, but these tests run on 1" in nodes
    hosts = tmp_path / "hosts.toml"
    hosts.write_text('[[nodes]]\naddress = "192.0.2.1"\n')
    put(described, json.dumps(SYSTEM_JSON | {"framework": "ONNX Runtime 1.30.0", "number_of_nodes": "2"}))
    (networking,) = plan(replace(opened, run=replace(opened.run, cluster=str(hosts)))).lacks
    assert "has host_networking_topology N/A, but 2 machines are networked" in networking


@pytest.mark.parametrize("division", ["open", "closed"])
def test_a_benchmark_that_no_division_has_is_named_before_the_tests(asked, division):
    (lack,) = plan(replace(asked, division=division, system_type="datacenter", scenarios=("Offline",))).lacks
    assert "bert-99: v6.1 does not have it on systems of type datacenter, so no division accepts a result" in lack


def test_missing_facts_about_a_model_are_listed_before_the_tests(asked, tmp_path, monkeypatch):
    real = find_model(MODEL)
    vague = real.model_copy(update={"weight_transformations": "unknown", "metadata": {}})
    monkeypatch.setattr(running, "find_model", lambda name: vague)
    (lack,) = plan(asked).lacks
    assert "does not state its weight_transformations: write" in lack
    put(tmp_path / "measurements/rehearsal-toy/bert-99/model.json",
        json.dumps({"sha256": real.sha256, "weight_transformations": "none"}))  # fmt: skip
    assert not plan(asked).lacks


def earlier(request, scenario, seconds, mode="performance", **changes):
    """An earlier run of the model: five samples in so many seconds."""
    settings = resolve(replace(request.run, scenario=scenario))
    folder = run_folder(request.run.runs_dir, scenario=scenario, mode=mode, timeline=False)
    path = folder / "run.json"
    found = json.loads(path.read_text())
    found["identity"] = identity(settings).model_dump() | changes
    found["result"] |= {"samples": 5, "duration_s": seconds}
    path.write_text(json.dumps(found))


def lengths(request):
    return {test["test"]: test for test in plan(request).facts()["tests"] if test["scenario"] == "Offline"}


@pytest.mark.parametrize("mode", ["performance", "accuracy"])
def test_a_rate_of_arrivals_is_not_that_of_an_accuracy_run(asked, mode):
    asked = replace(asked, scenarios=("Server",))
    earlier(asked, "Server", 10.0, mode)
    known = {test["test"]: test["rate_known"] for test in plan(asked).facts()["tests"]}
    assert known == {"performance": mode == "performance", "accuracy": mode == "accuracy"} | {
        test: mode == "performance" for test in known if test.startswith("TEST")
    }


def test_slow_models_take_as_long_as_their_samples(asked):
    unknown = lengths(asked)
    assert unknown["performance"]["expected_seconds"] == pytest.approx(600, abs=60)
    assert not any(test["rate_known"] for test in unknown.values())
    earlier(asked, "Offline", 10.0)  # 0.5 samples per second
    known = lengths(asked)
    for test in known.values():
        assert test["rate_known"]
        assert test["least_count"] == 10_833
        assert test["expected_seconds"] == pytest.approx(21_666, abs=60)


def test_a_tuned_rate_is_that_of_a_model_without_a_run(asked, tmp_path):
    found = resolve(replace(asked.run, scenario="Offline"))
    record = tuned.Tuned(
        model=found.model.name,
        model_sha256=found.model.sha256,
        dataset="sample",
        engine="null",
        scenario="Offline",
        options={},
        key="target_qps",
        value=0.6,
        score=0.5,
        unit="samples/s",
        default_score=0.4,
        machine=tuned.Machine.here(),
        harness="0",
        time="2026-01-01",
    )
    place = tuned.folder(tmp_path, found.system, found.model.official_name, "Offline")
    tuned.write(place, record, "bert.Offline.target_qps = 0.6\n")
    known = lengths(replace(asked, run=replace(asked.run, measurements_dir=tmp_path)))
    assert all(test["rate_known"] for test in known.values())
    assert known["performance"]["expected_seconds"] == pytest.approx(21_666, abs=60)


def test_a_fast_model_takes_the_ten_minutes(asked):
    earlier(asked, "Offline", 0.001)
    known = lengths(asked)
    assert 600 < known["performance"]["expected_seconds"] < 720
    assert known["accuracy"]["expected_seconds"] < 60


@pytest.mark.parametrize(
    "changes", [{"engine": "openvino"}, {"model_sha256": "0"}, {"engine_settings": {"threads": 1}}]
)
def test_runs_of_other_settings_are_ignored(asked, changes):
    earlier(asked, "Offline", 10.0, **changes)
    assert not any(test["rate_known"] for test in lengths(asked).values())


def test_runs_that_were_removed_or_cannot_be_read_are_ignored(asked):
    earlier(asked, "Offline", 10.0)
    next(asked.run.runs_dir.rglob("run.json")).write_text("{")
    assert not any(test["rate_known"] for test in lengths(asked).values())
    shutil.rmtree(asked.run.runs_dir)
    assert not any(test["rate_known"] for test in lengths(asked).values())


def test_the_plan_is_printed_with_minimum_and_advice(asked, capsys):
    plan(replace(asked, infer=True, scenarios=("SingleStream", "Offline", "Server"))).show()
    printed = capsys.readouterr()
    rows = [" ".join(line.split()) for line in printed.out.splitlines()]
    assert "bert-99 SingleStream performance to do 10 min 30 s or more 10 min 00 s, 100 queries" in rows
    assert "bert-99 SingleStream accuracy to do unknown 10,833 samples" in rows
    assert "bert-99 Offline inferred from SingleStream, by `make package REHEARSAL=1 INFER=1`" in rows
    assert rows[-1].endswith("or more.")
    assert "to do before `make package REHEARSAL=1`:" in printed.err
    assert "does not have Server" in " ".join(printed.err.split())


TESTS = {"performance": (673.0, 200.0), "accuracy": (0.0, 260.0)}
"""Seconds of LoadGen and beside it: compiling, scoring, comparing with ONNX Runtime."""


def test_the_time_left_of_a_campaign_is_right_after_its_first_tenth(asked):
    """For a model that compiles for minutes: the estimate was half a minute per test, whatever the first ones took."""
    for scenario in ("Offline", "SingleStream"):
        earlier(asked, scenario, 0.2)  # 25 samples per second
    campaign, forecasts, now = plan(asked), [], 0.0
    for step in campaign.steps:
        length, beside = TESTS.get(step.test, TESTS["performance"])
        length = length or 10_833 / 25
        forecasts.append(
            Forecast(now, sum(campaign._rates.length(each).seconds for each in campaign.steps if not each.record))
        )
        result = SimpleNamespace(samples=25 * length, duration_s=length)
        step.record = SimpleNamespace(mode=step.settings.mode, result=result)
        step.seconds = length + beside
        now += step.seconds
    assert len(forecasts) >= 4
    assert error(forecasts, now) <= ALLOWED
    assert coverage(forecasts, now) > 0.8
