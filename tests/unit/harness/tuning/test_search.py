from __future__ import annotations

import itertools
import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import registry
from harness.catalog.datasets import find_dataset
from harness.engines.deepsparse import DeepSparseEngine, DeepSparseSettings
from harness.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSettings
from harness.engines.openvino import OpenVinoEngine, OpenVinoSettings
from harness.errors import ConfigError
from harness.host.machine import core_count
from harness.preparing.local import prepare
from harness.preparing.prepared import Preparation
from harness.rules.early_stopping import needed_queries
from harness.scheduling.compiling import DEVELOPMENT_COMPILE_SECONDS
from harness.scheduling.peak import highest_passing
from harness.settings import tuned
from harness.settings.request import RunRequest, default_conf, resolve
from harness.settings.tuned import Rate
from harness.tuning import child, tune
from harness.tuning.journal import SavedTrial, TuningJournal
from harness.tuning.one_engine import EngineTuning, MeasuredOptions, measure_trial
from harness.tuning.rate import RateRequest, find_rate
from harness.tuning.search import Measurement, coordinate_search, size

STREAMS = [{"streams": str(n)} for n in (1, 2, 4)]
BATCH = [{"max_batch": str(n)} for n in (8, 16, 32)]
PINS = [{"pin": "true"}, {"pin": "false"}]


def search(dimensions, measure, *more):
    """The search with a measurement that gives plain numbers, and what it measured in turn."""
    measured = []

    def scored(options, number):
        measured.append((dict(options), number))
        score = measure(options, number)
        return score if isinstance(score, Measurement) else Measurement(float(score))

    return (*coordinate_search(dimensions, scored, *more), measured)


def test_the_best_of_independent_settings_is_found():
    worth = {"2": 2.0, "4": 1.5, "16": 1.4, "true": 1.1}

    def measure(options, number):
        return np.prod([worth.get(value, 0.9) for value in options.values()])

    best, score, measured = search([STREAMS, BATCH, PINS], measure)
    assert best == {"streams": "2", "max_batch": "16", "pin": "true"}
    assert score == pytest.approx(2.0 * 1.4 * 1.1)
    names = [(tuple(sorted(options.items())), number) for options, number in measured]
    assert len(names) == len(set(names))


def test_a_setting_that_only_pays_with_another_is_found_in_the_second_round():
    def measure(options, number):
        return 2.0 if options == {"streams": "2", "pin": "true"} else 1.2 if options.get("pin") == "true" else 1.0

    assert search([STREAMS, PINS], measure)[0] == {"streams": "2", "pin": "true"}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6))
def test_noise_alone_changes_no_setting(seed):
    rng = np.random.default_rng(seed)
    assert search([STREAMS, BATCH, PINS], lambda options, number: rng.normal(100, 0.25))[0] == {}


def test_failing_options_are_never_chosen_and_a_lucky_measurement_is_not_enough():
    def measure(options, number):
        if options.get("streams") == "4":
            return 0.0
        return (1.5 if number == 0 else 0.4) if options.get("streams") == "2" else 1.0

    assert search([STREAMS], measure)[:2] == ({}, 1.0)


def test_an_explicit_default_is_measured_once():
    _, _, measured = search([STREAMS], lambda options, number: 1.0, lambda options: options.get("streams", "1"))
    assert [options for options, _ in measured] == [{}, {"streams": "2"}, {"streams": "4"}, {}]


def test_each_candidate_is_measured_beside_what_it_would_replace():
    best, _, measured = search([STREAMS, BATCH, PINS], lambda options, number: 1.0)
    order = [options for options, _ in measured]
    assert best == {}
    assert all({} in order[max(0, place - 1) : place + 2] for place in range(len(order)))
    assert len(order) == 1 + 8 + 4


@pytest.mark.parametrize("drift", [0.97, 1.03])
def test_a_machine_that_drifts_changes_no_setting_and_hides_none(drift):
    """Each measurement is 3 % slower or faster than the last: after ten of them the first says nothing."""
    speed = [100.0]

    def measure(options, number):
        speed[0] *= drift
        return speed[0] * (1.1 if options.get("max_batch") == "16" else 0.9 if options else 1.0)

    assert search([STREAMS, BATCH], measure)[0] == {"max_batch": "16"}


def test_a_disturbed_pair_is_repeated_and_only_the_repetition_counts():
    def measure(options, number):
        if options.get("max_batch") == "16" and number == 0:
            return Measurement(0.5, disturbed=True)
        return 1.2 if options.get("max_batch") == "16" else 1.0

    best, score, _ = search([BATCH], measure)
    assert (best, score) == ({"max_batch": "16"}, pytest.approx(1.2))
    # Nor does a disturbance of the other side make a winner.
    slow = search([BATCH], lambda options, number: 1.0 if options or number else Measurement(0.5, disturbed=True))
    assert slow[0] == {}


def test_on_a_machine_that_is_never_quiet_the_repetitions_are_few():
    dimensions = [STREAMS, BATCH, PINS]
    best, _, measured = search(dimensions, lambda options, number: Measurement(1.0, disturbed=True))
    assert best == {}
    assert len(measured) <= 2 * size(dimensions)


@settings(deadline=None)
@given(st.floats(0.5, 5000), st.floats(0.2, 5))
def test_the_highest_rate_is_found_from_any_guess(limit, wrong):
    found = highest_passing(lambda rate: rate <= limit, limit * wrong, precision=0.02, max_tests=20)
    assert limit / 1.02 <= found <= limit


@settings(deadline=None)
@given(st.floats(0.5, 5000), st.floats(0.2, 5), st.integers(1, 10))
def test_a_hiccup_does_not_lower_the_highest_rate(limit, wrong, hiccup):
    tests = itertools.count(1)
    found = highest_passing(lambda rate: next(tests) != hiccup and rate <= limit, limit * wrong, 0.02, 24, retest=True)
    assert limit / 1.02 <= found <= limit


def test_the_failed_rate_that_ends_a_search_is_tested_once_more():
    tested = []

    def passes(rate):
        tested.append(rate)
        return rate <= 95

    highest_passing(passes, 100, 0.05, 24, retest=True)
    *rest, last = tested
    assert last > 95
    assert [rest.count(rate) for rate in rest] == [1] * len(rest)
    assert last in rest


@pytest.fixture
def confirmed(tmp_path, monkeypatch):
    """Search for a rate of at most ``limit``, then confirm it in tests whose outcome ``verdict`` makes up.

    The test of the search with the number ``hiccup`` fails. Returns the exit code, and the rate and seconds of each
    confirmation.
    """

    def search(limit, verdict, seconds=1.0, confirm=10.0, hiccup=0, guess=None):
        tests, searched = [], itertools.count(1)

        def short_test(test):
            if test.seconds < confirm:
                held, valid = next(searched) != hiccup and test.rate <= limit, False
            else:
                tests.append((test.rate, test.seconds))
                held, valid = verdict(*tests[-1])
            return SimpleNamespace(valid=valid, held=held, latencies={"99.00": 1.0}, values={"result_query_count": 1})

        scenario = SimpleNamespace(
            meets_bound=lambda detail: detail.held,
            metric=lambda _: SimpleNamespace(value=50.0),
            bound=0.1,
            percentile=99,
        )
        ready = SimpleNamespace(short_test=short_test, scenario=scenario, close=lambda *_: None)
        monkeypatch.setattr(child, "get_ready", lambda *_, **__: ready)
        monkeypatch.setattr(child.tempfile, "tempdir", None)
        journal, result = TuningJournal(tmp_path / "journal.json", {}, fresh=True), tmp_path / "result.json"
        heartbeat = SimpleNamespace(beat=None, report=lambda code: None)
        request = RateRequest(guess=guess or limit, seconds=seconds, confirm=confirm)
        return find_rate(SimpleNamespace(stall_timeout=1.0), request, journal, result, heartbeat), tests

    return search


@pytest.mark.parametrize("held", [True, False])
def test_only_an_overloaded_system_shows_how_much_too_high_a_rate_was(confirmed, held):
    """A ten-second test confirms at most 60 queries/s; the system answers 50 of any load."""
    ended, tests = confirmed(100.0, lambda rate, seconds: (held, rate < 60))
    first, *steps = rates = [rate for rate, _ in tests]
    assert first == pytest.approx(100, rel=0.03)
    if held:
        assert (ended, len(rates)) == (1, 8)
        assert np.allclose(np.divide(steps, rates[:-1]), 0.94, atol=1e-3)
    else:
        assert (ended, steps) == (0, [47.0])


@pytest.mark.parametrize("hiccup", [1, 2, 3])
def test_a_rate_that_a_hiccup_failed_is_measured_again(confirmed, hiccup):
    _, [(rate, _)] = confirmed(100.0, lambda rate, seconds: (True, True), hiccup=hiccup, guess=50.0)
    assert rate == pytest.approx(100, rel=0.03)


@pytest.mark.parametrize("limit", [4.0, 30.0, 300.0])
def test_a_rate_is_confirmed_with_as_many_queries_as_early_stopping_needs(confirmed, limit):
    """However low the rate is, LoadGen calls no test VALID that has fewer."""
    ended, [(rate, seconds)] = confirmed(limit, lambda rate, seconds: (True, rate * seconds >= needed_queries(99, 1)))
    assert ended == 0
    assert rate == pytest.approx(limit, rel=0.03)
    assert seconds == 10 if limit == 300 else 728 <= rate * seconds < 728 + 2 * rate


@pytest.fixture
def tuning(tmp_path):
    """A tuning of an engine, whose measurements a test makes up: it gives them to `EngineTuning.trials`."""

    def made(scenario, *measured):
        request = RunRequest(engine="null", scenario=scenario, dataset="sample", system="here")
        found = EngineTuning(request, resolve(request), 1.0, TuningJournal(tmp_path / "journal.json", {}, fresh=True))
        for number, each in enumerate(measured):
            found.journal.trials[json.dumps([[], number])] = each
            found.trial({}, number)
        return found

    return made


@pytest.mark.parametrize(("scenario", "value"), [("Offline", 30), ("Server", 30), ("SingleStream", 20)])
def test_the_value_is_that_of_the_fastest_undisturbed_measurement(tuning, scenario, value, capsys):
    """A target_qps of the fastest is the highest, a target_latency the lowest."""
    values = [(20, 0.0), (30, 0.04), (25, 0.0), (90, 0.3), (5, 0.3)]
    found = tuning(scenario, *(SavedTrial(score=1, value=value, lost=lost) for value, lost in values))
    assert found.value({}) == value
    assert "INVALID" not in capsys.readouterr().err


def test_a_failed_repetition_does_not_give_the_value(tuning):
    found = tuning("SingleStream", SavedTrial(score=1, value=20), SavedTrial(score=0, value=0, failed=True))
    assert found.value({}) == 20


@pytest.mark.parametrize("scenario", ["Offline", "Server"])
def test_where_all_measurements_were_disturbed_the_fastest_counts_and_a_warning_says_so(tuning, scenario, capsys):
    found = tuning(scenario, *(SavedTrial(score=1, value=value, lost=0.3) for value in (20, 30)))
    assert found.value({}) == 30
    # The rate of Server is confirmed afterwards.
    assert ("this target_qps may make runs too short, and so INVALID" in capsys.readouterr().err) == (
        scenario == "Offline"
    )


@pytest.mark.parametrize(
    ("work", "more"),
    [(measure_trial, (1.0,)), (find_rate, (RateRequest(guess=10.0, seconds=1.0, confirm=2.0), None))],
    ids=["trial", "rate"],
)
def test_tuning_compiles_all_shapes_like_an_official_run(tmp_path, monkeypatch, work, more):
    class Prepared(Exception):
        pass

    def prepared(*given, **named):
        scenarios.append(prepare(*given, **named).scenario)
        raise Prepared

    scenarios = []
    monkeypatch.setattr(child, "get_ready", prepared)
    monkeypatch.setattr(child.tempfile, "tempdir", None)
    heartbeat = SimpleNamespace(beat=lambda *_: None)
    mine = resolve(RunRequest(engine="null", scenario="Server", dataset="sample", cache_dir=tmp_path))
    with pytest.raises(Prepared):
        work(mine, *more, tmp_path / "result.json", heartbeat)
    assert [scenario.warm_up.compile_seconds for scenario in scenarios] == [math.inf]
    assert prepare(mine, Preparation(quiet=True)).scenario.warm_up.compile_seconds == DEVELOPMENT_COMPILE_SECONDS


def test_no_rate_is_zero():
    assert highest_passing(lambda rate: False, 100) == 0


@pytest.mark.parametrize(
    ("engine", "kind"),
    [
        (OnnxRuntimeEngine, OnnxRuntimeSettings),
        (DeepSparseEngine, DeepSparseSettings),
        (OpenVinoEngine, OpenVinoSettings),
    ],
)
@pytest.mark.parametrize("max_cost", [1, 384])
@pytest.mark.parametrize("one_stream", [True, False])
def test_the_engine_accepts_every_choice(engine, kind, max_cost, one_stream):
    dimensions = engine.search_space(max_cost, one_stream)
    assert len(dimensions) >= 2
    for choice in (choice for dimension in dimensions for choice in dimension):
        in_force = kind.model_validate(choice).in_force()
        assert in_force["threads"] >= 1
        assert not one_stream or choice.get("streams", "1") == "1"
        assert in_force["streams"] <= 2 * core_count()


class TestJournal:
    TRIAL = SavedTrial(score=1.5, value=2)
    RATE = Rate(rate=10, seconds=1, held=True, valid=False, p99_ms=3, samples_per_second=None, queries=7)

    @pytest.fixture
    def saved(self, tmp_path):
        journal = TuningJournal(tmp_path / "a" / "j.json", {"model": "x", "samples": [None, 1.5]}, False)
        journal.trials["one"] = self.TRIAL
        journal.rates["two"] = self.RATE
        journal.save()
        return journal.path

    def open(self, path, model="x", *, fresh=False):
        return TuningJournal(path, {"model": model, "samples": [None, 1.5]}, fresh)

    def test_measurements_are_read_back(self, saved):
        again = self.open(saved)
        assert (again.trials, again.rates, again.unused) == ({"one": self.TRIAL}, {"two": self.RATE}, None)
        again.discard()
        assert not saved.exists()

    @pytest.mark.parametrize("text", ["", "[]", "{", '{"circumstances": {"model": "x"}}', "\xff", "[" * 9999, "null"])
    def test_a_damaged_file_starts_over(self, saved, text):
        saved.write_text(text, "latin-1")
        journal = self.open(saved)
        assert journal.unused == "is damaged"
        assert len(journal) == 0

    @pytest.mark.parametrize(
        "change",
        [
            {"trials": []},
            {"trials": {"one": 5}},
            {"trials": {"one": {"score": "much", "value": 2}}},
            {"trials": {"one": {"score": float("nan"), "value": 2}}},
            {"trials": {"one": {"score": -1, "value": 2}}},
            {"trials": {"one": {"score": 1, "value": 2, "lost": 1.5}}},
            {"trials": {"one": RATE.model_dump()}},
            {"rates": {"two": TRIAL.model_dump()}},
            {"rates": {"two": RATE.model_dump() | {"valid": "yes"}}},
            {"rates": None},
            {"circumstances": "x"},
            {"entries": {}},
        ],
    )
    def test_values_of_another_type_start_over(self, saved, change):
        saved.write_text(json.dumps(json.loads(saved.read_text()) | change))
        assert self.open(saved).unused == "is damaged"

    def test_what_others_took_is_kept_and_may_be_missing(self, saved):
        journal = self.open(saved)
        journal.trials["two"] = SavedTrial(score=1, value=2, lost=0.3)
        journal.save()
        assert [trial.disturbed for trial in self.open(saved).trials.values()] == [False, True]
        content = json.loads(saved.read_text())
        del content["trials"]["two"]["lost"]
        saved.write_text(json.dumps(content))
        assert not self.open(saved).trials["two"].disturbed

    def test_other_circumstances_and_fresh_start_over(self, saved):
        assert self.open(saved, "y").unused == "was measured under other conditions"
        assert len(self.open(saved, fresh=True)) == 0


def test_the_table_leaves_disturbed_measurements_out_like_the_search(capsys, tmp_path):
    measured = [({}, 80, 0.0), ({"streams": "2"}, 100, 0.0), ({"streams": "2"}, 60, 0.4), ({"streams": "4"}, 90, 0.0)]
    trials = [
        MeasuredOptions(options, SavedTrial(score=score, value=score, lost=lost)) for options, score, lost in measured
    ]
    result = SimpleNamespace(
        unit="samples/s",
        default_score=80.0,
        engines={},
        engine="null",
        words=lambda: "streams=2",
        key="target_qps",
        value=115.0,
        model="small",
        scenario="Offline",
    )
    tune._show(result, trials, tmp_path / "tuned.json")
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:4]]
    assert rows == [["streams=2", "100", "1.250"], ["streams=4", "90", "1.125"], ["the", "defaults", "80", "1.000"]]


class TestTunedSettings:
    @pytest.fixture
    def place(self, tmp_path):
        found = resolve(RunRequest(model=None, engine="null", scenario="Server", mode="performance", options={}))
        record = tuned.Tuned(
            model=found.model.name,
            model_sha256=found.model.sha256,
            dataset="sample",
            dataset_sha256=find_dataset("bert", "sample").sha256,
            base_conf=tuned.digest(default_conf()),
            engine="onnxruntime",
            scenario="Server",
            options={"streams": "2", "max_batch": "8"},
            key="target_qps",
            value=12.5,
            score=12.5,
            unit="queries/s",
            default_score=10,
            machine=tuned.Machine.here(),
            harness="0",
            time="2026-01-01",
        )
        place = tuned.folder(tmp_path, "here", found.model.official_name, "Server")
        tuned.write(place, record, "bert.Server.target_qps = 12.5\n")
        return place

    def settings(self, place, engine=None, scenario="Server", use=None, model=None, rest=None, **options):
        return resolve(
            RunRequest(
                model=model,
                engine=engine,
                scenario=scenario,
                mode="performance",
                options=options,
                measurements_dir=place.parents[2],
                tuned=use,
                system="here",
                dataset="sample",
                **(rest or {}),
            )
        )

    def edit(self, place, **values):
        path = place / tuned.FILE
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    def test_a_run_uses_them_and_says_so(self, place):
        found = self.settings(place)
        assert (found.engine, found.engine_settings.streams, found.engine_settings.max_batch) == ("onnxruntime", 2, 8)
        assert found.user_conf == place / "user.conf"
        assert found.tuned == place / "tuned.json"
        assert found.remarks[0].endswith("tuned here: onnxruntime, streams=2 max_batch=8")

    def test_user_options_win(self, place):
        found = self.settings(place, max_batch="4")
        assert (found.engine_settings.streams, found.engine_settings.max_batch) == (2, 4)
        assert found.user_conf != place / "user.conf"
        assert "its target_qps is not used, since it was found with other options" in found.remarks[0]

    def test_of_settings_that_belong_together_only_the_users_count(self, place):
        self.edit(place, options={"streams": "4", "instances": "4", "max_batch": "8"})
        found = self.settings(place, streams="3")
        assert (found.engine_settings.streams, found.engine_settings.instances) == (3, None)
        assert found.engine_settings.max_batch == 8

    @pytest.mark.parametrize(
        ("changed", "rest", "why"),
        [
            ({}, {"samples": 20}, "it was found with data set sample"),
            ({"samples": 9}, {}, "it was found with the first samples of data set sample"),
            ({"dataset_sha256": "0"}, {}, "it was found with data set sample"),
            ({"base_conf": "0"}, {}, "user.conf has changed since"),
        ],
    )
    def test_a_rate_found_under_other_circumstances_is_not_used(self, place, changed, rest, why):
        self.edit(place, **changed)
        found = self.settings(place, rest=rest)
        assert found.engine_settings.streams == 2
        assert found.user_conf != place / "user.conf"
        assert why in found.remarks[0]

    @pytest.mark.parametrize(
        ("scenario", "line", "kind", "used"),
        [
            ("Offline", "12.5", {"official": True}, False),
            ("Offline", "12.5", {"rehearsal": True}, False),
            ("Offline", "14", {"official": True}, True),  # edited by the user
            ("Offline", "12.5", {}, True),
            ("Server", "12.5", {"official": True}, True),
        ],
    )
    def test_an_official_offline_run_measures_its_own_rate(self, place, scenario, line, kind, used):
        self.edit(place, scenario=scenario)
        place = place.rename(place.with_name(scenario))
        (place / tuned.CONF).write_text(f"bert.{scenario}.target_qps = {line}\n")
        found = self.settings(place, scenario=scenario, rest=kind)
        assert found.engine_settings.streams == 2
        assert (found.user_conf == place / "user.conf") == used
        assert ("an official run measures its own" in found.remarks[0]) != used

    @pytest.mark.parametrize(("engine", "scenario", "use"), [("null", "Server", None), (None, "Server", False)])
    def test_they_are_not_used(self, place, engine, scenario, use):
        found = self.settings(place, engine, scenario, use)
        assert found.tuned is None
        assert found.user_conf != place / "user.conf"
        assert found.engine_choice == (None if engine else "fastest installed for minilm-l6-squad-int8 (models.toml)")
        assert any("they are not used" in remark for remark in found.remarks) == (use is None)

    def test_the_tuned_engine_is_used_unless_another_is_named(self, place):
        assert self.settings(place).engine_choice == "tuned for minilm-l6-squad-int8 in Server"
        assert self.settings(place, engine="onnxruntime").engine_choice is None
        assert self.settings(place, engine="null").engine == "null"

    def test_those_for_an_engine_that_was_removed_are_not_used(self, place, monkeypatch):
        self.edit(place, engine="deepsparse", options={})
        monkeypatch.setattr(registry.util, "find_spec", lambda name: None if name == "deepsparse" else "found")
        found = self.settings(place)
        assert found.tuned is None
        assert "were tuned for deepsparse, which is not installed; they are not used" in found.remarks[0]
        assert found.engine != "deepsparse"

    def test_those_for_nodes_are_used_with_these_nodes_only(self, place):
        assert self.settings(place, rest={"cluster": "local:2"}).tuned is None
        self.edit(place, cluster="hosts.toml")
        assert "were tuned for hosts.toml, and this run has one machine" in self.settings(place).remarks[0]
        assert self.settings(place, rest={"cluster": "/elsewhere/hosts.toml"}).tuned == place / "tuned.json"
        sha256, engine = resolve(RunRequest(engine="null")).model.sha256, "onnxruntime"
        tuned.check_replaceable(place, sha256, engine, "hosts.toml")
        with pytest.raises(ConfigError, match=r"on onnxruntime of hosts.toml: pass another --system"):
            tuned.check_replaceable(place, sha256, engine)

    def test_those_of_another_machine_are_named_and_used_only_when_asked_for(self, place):
        self.edit(place, machine={"cpu": "Another CPU", "cores": 96, "numa_nodes": 2})
        found = self.settings(place)
        assert found.tuned is None
        assert "another machine (Another CPU, 96 cores in 2 NUMA nodes)" in found.remarks[0]
        forced = self.settings(place, use=True)
        assert forced.tuned
        assert "Another CPU" in forced.remarks[0]

    def test_those_of_another_model_are_never_used(self, place):
        self.edit(place, model_sha256="0" * 64, model="another")
        assert "tuned for another model, another" in self.settings(place).remarks[0]
        with pytest.raises(ConfigError, match="tuned for another model"):
            self.settings(place, use=True)

    def test_requesting_missing_settings_is_an_error(self, place):
        assert self.settings(place, engine="onnxruntime", scenario="Offline").remarks == ()
        with pytest.raises(ConfigError, match="create them with `harness tune`"):
            self.settings(place, scenario="Offline", use=True)

    @pytest.mark.parametrize(
        "change",
        [
            {"options": []},
            {"options": {"streams": 2}},
            {"machine": "this one"},
            {"machine": {"cpu": "x", "cores": "many", "numa_nodes": 1}},
            {"value": float("nan")},
            {"trials": {"one": 1}},
            {"confirmed": "yes"},
            {"engine": "another"},
            {"scenario": ["Server"]},
        ],
        ids=str,
    )
    def test_values_of_another_type_are_one_sentence(self, place, change):
        self.edit(place, **change)
        with pytest.raises(ConfigError, match=rf"is not a settings file of this harness \({next(iter(change))}"):
            self.settings(place)

    @pytest.mark.parametrize("text", ["", "{", "[]", "\xff", "[" * 9999])
    def test_a_damaged_file_is_one_sentence(self, place, text):
        (place / tuned.FILE).write_text(text, "latin-1")
        with pytest.raises(ConfigError, match=r"is not a settings file of this harness.*: tune again, or delete it"):
            self.settings(place)
        (place / tuned.FILE).unlink()
        assert self.settings(place).tuned is None

    @pytest.mark.parametrize("options", [{"streems": "2"}, {"streams": "two"}])
    def test_an_option_that_the_engine_does_not_have_is_not_taken_for_the_users(self, place, options):
        self.edit(place, options=options)
        with pytest.raises(ConfigError, match=r"tuned\.json cannot be used \(.*\): tune again, or delete it"):
            self.settings(place)
        with pytest.raises(ConfigError, match=r"^max_batch = none"):
            self.settings(place, max_batch="none")
        (place / tuned.FILE).unlink()
        assert self.settings(place).tuned is None
