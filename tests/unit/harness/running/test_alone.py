"""Official tests of one result exclude each other before anything is measured; others do not."""

from __future__ import annotations

import pytest

from harness.errors import Busy
from harness.host.supervise import ChildOutcome
from harness.running import run
from harness.running.alone import run_alone
from harness.running.places import reserved
from harness.running.run import Ended
from harness.settings.request import RunRequest, resolve


@pytest.fixture
def settings_of(tmp_path):
    def make(**changes):
        asked = {"engine": "null", "rehearsal": True, "system": "sys", "scenario": "Offline", **changes}
        return resolve(RunRequest(tree=tmp_path, runs_dir=tmp_path / "runs", **asked))

    return make


@pytest.fixture
def measured(monkeypatch):
    """The places of the tests that were run; instead of measuring, ``during`` is called."""
    made = []

    def supervised(work, settings, places, cleanup):
        made.append(places)
        made.during()
        return ChildOutcome(0)

    class Measured(list):
        during = staticmethod(lambda: None)

    made = Measured()
    monkeypatch.setattr(run, "supervised", supervised)
    return made


def refused(settings, measured) -> None:
    with pytest.raises(Busy, match=r"another test or campaign is writing .* \(process \d+\): wait"):
        run_alone(settings)
    assert measured == []


def test_a_second_test_of_a_result_is_refused_before_it_measures_or_touches_the_result(settings_of, measured):
    settings = settings_of(force=True)
    old = settings.target.with_name(f".{settings.target.name}.old")
    with reserved(settings.target, settings.tree):
        old.mkdir(parents=True)  # the first one is between its two renames
        refused(settings, measured)
        assert old.is_dir()
        assert not settings.target.exists()
    assert run_alone(settings) == Ended(0, None)
    assert settings.target.is_dir()


def test_a_result_is_reserved_while_its_test_runs_and_free_afterwards(settings_of, measured):
    settings = settings_of()

    def during() -> None:
        with pytest.raises(Busy), reserved(settings.target, settings.tree):
            pass
        for other in ({"mode": "accuracy"}, {"scenario": "Server"}, {"system": "other"}):
            each = settings_of(**other)
            with reserved(each.target, each.tree):
                pass

    measured.during = during
    for _ in range(2):
        assert run_alone(settings) == Ended(0, None)
    assert len(measured) == 2
    assert not (settings.tree / "results").exists()


def test_development_runs_side_by_side_reserve_nothing(settings_of, measured):
    settings = settings_of(rehearsal=False)
    measured.during = lambda: None if len(measured) > 1 else run_alone(settings)
    assert run_alone(settings) == Ended(0, None)
    assert len(measured) == 2
    assert not (settings.tree / "build" / "locks").exists()
