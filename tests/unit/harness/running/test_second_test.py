"""The second test after one that missed the bound at a rate that the harness chose."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from finished import run_folder

from harness.host.supervise import ChildOutcome
from harness.running import run, sizing
from harness.scenarios.base import Estimate, find_scenario
from harness.settings.request import RunRequest, resolve


@pytest.fixture
def settings(tmp_path):
    return resolve(RunRequest(engine="null", scenario="Server", runs_dir=tmp_path))


@pytest.fixture
def supervised(monkeypatch):
    """Tests that return these codes, one after the other; with the rates that were missed before each."""

    def returning(*codes, rate=50.0):
        missed, left = [], list(codes)

        def test(work, settings, places, cleanup):
            missed.append(settings.missed)
            if left[0] == 75:
                made = run_folder(places.run.parent, name=f"{places.run.name}-2")  # another run has its name
                record = json.loads((made / "run.json").read_text()) | {"estimated_target_qps": rate}
                (made / "run.json").write_text(json.dumps(record))
                run_folder(places.run.parent, name=places.run.name)
                return ChildOutcome(left.pop(0), made, record=made)
            return ChildOutcome(left.pop(0))

        monkeypatch.setattr(run, "supervised", test)
        return missed

    return returning


@pytest.mark.parametrize(
    ("codes", "missed"), [([0], [None]), ([1], [None]), ([75, 0], [None, 50.0]), ([75, 1], [None, 50.0])]
)
def test_a_test_is_run_at_most_twice_and_the_second_knows_the_rate_that_was_missed(settings, supervised, codes, missed):
    made = supervised(*codes)
    assert run.run_test(settings) == run.Ended(codes[-1], None)
    assert made == missed


def planned(settings, *, estimated=50.0, scenario="Server", limited=False, seconds=60.0, lower=20.0):
    return SimpleNamespace(
        settings=settings,
        estimated=estimated,
        load=SimpleNamespace(scenario=find_scenario(scenario), limited=limited, planned_seconds=seconds),
        ready=SimpleNamespace(indices=None, scenario=SimpleNamespace(lower=lambda indices, reached: lower)),
    )


INVALID = SimpleNamespace(valid=False)


def test_a_rate_of_the_harness_that_missed_the_bound_is_worth_another(settings):
    assert run._should_retest(planned(settings), INVALID)


@pytest.mark.parametrize(
    "more",
    [
        {"estimated": None},  # the user's rate
        {"scenario": "Offline"},
        {"limited": True},  # the user's length
        {"seconds": 600.0},
        {"lower": None},  # no rate meets the bound
    ],
)
def test_what_the_user_chose_or_cannot_succeed_is_not_repeated(settings, more):
    assert not run._should_retest(planned(settings, **more), INVALID)


@pytest.mark.parametrize("changes", [{"missed": 20.0}, {"official": True}, {"mode": "accuracy"}])
def test_one_more_development_run_is_all(settings, changes):
    assert not run._should_retest(planned(settings.model_copy(update=changes)), INVALID)
    assert not run._should_retest(planned(settings), SimpleNamespace(valid=True))


def test_the_second_test_has_a_lower_rate_and_says_why(settings, monkeypatch):
    scenario = find_scenario("Server")
    estimate = SimpleNamespace(
        paced=True, key="target_qps", expected=scenario.expected, estimate=lambda *_: Estimate(50.0, "measured", 50.0)
    )
    ready = SimpleNamespace(scenario=estimate, indices=None, listener=None)
    load = SimpleNamespace(rate_line=None, seconds=20.0)
    assert sizing._estimate(settings, load, ready).value == 50.0
    for missed, value in ((40.0, 24.0), (80.0, 30.0)):
        found = sizing._estimate(settings.model_copy(update={"missed": missed}), load, ready)
        assert (found.value, found.per_second) == (value, value)
        assert found.how == f"measured; since a first test missed the bound at {missed:g}, 0.6 times the lower of both"
