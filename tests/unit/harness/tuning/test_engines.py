"""Tuning without an engine: which engines are tried, which are searched, and which wins."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import Field

from harness import registry
from harness.engines.base import EngineSettings
from harness.engines.null import NullEngine
from harness.errors import Busy, CheckFailed, ConfigError, Interrupted
from harness.registry import ENGINES, LIBRARIES
from harness.settings import tuned
from harness.settings.request import RunRequest, resolve
from harness.settings.tuned import Rate
from harness.tuning.engines import best_engine
from harness.tuning.journal import SavedTrial
from harness.tuning.one_engine import EngineTuning
from harness.tuning.search import Measurement
from harness.tuning.tune import TuneRequest
from harness.tuning.tune import tune as tune_settings


class Fake:
    """A contender whose scores are known: for its defaults, and for what its search finds; None if that fails.

    In the ``disturbed`` rounds a score is a tenth, and says so.
    """

    def __init__(
        self, engine: str, defaults: float | None, best: float | None, log: list, disturbed=(), *, usable: bool = True
    ) -> None:
        self.engine, self.defaults, self.best, self.log = engine, defaults, best, log
        self.disturbed, self.usable = disturbed, usable

    def compare(self, options, number):
        self.log.append((self.engine, number))
        score = self.best if options else self.defaults
        if score is None:
            return None
        return Measurement(score / 10, True) if number in self.disturbed else Measurement(score)

    def search(self):
        self.log.append((self.engine, "search"))
        if not self.usable:
            raise CheckFailed("none of the tested settings is usable.")
        return {"streams": "2"}

    def score(self, options):
        return self.best


def test_engines_are_compared_alternately_and_those_far_behind_are_not_searched(capsys):
    log = []
    slow, fast, near = Fake("slow", 69, 500, log), Fake("fast", 100, 110, log), Fake("near", 71, 120, log)
    winner, found, scores = best_engine([slow, fast, near])
    assert (winner, found) == (near, {"streams": "2"})
    assert scores == {"slow": 69, "fast": 110, "near": 120}
    defaults = [("slow", 0), ("fast", 0), ("near", 0), ("near", 1), ("fast", 1), ("slow", 1)]
    searches = [("fast", "search"), ("near", "search")]
    assert log == [*defaults, *searches, ("fast", 4), ("near", 4), ("near", 5), ("fast", 5)]
    assert "slow is not tuned: 0.69 of the best" in capsys.readouterr().err


def test_an_engine_that_does_not_work_is_tried_once(capsys):
    log = []
    broken, good = Fake("broken", None, 0, log), Fake("good", 10, 11, log)
    winner, _, scores = best_engine([broken, good])
    assert winner is good
    assert scores == {"broken": 0, "good": 11}
    assert log == [("broken", 0), ("good", 0), ("good", 1), ("good", "search")]
    assert "broken is not tuned: it does not work" in capsys.readouterr().err


def test_a_single_engine_is_only_tuned_and_none_that_works_is_an_error():
    log = []
    assert best_engine([Fake("only", 1, 2, log)])[1:] == ({"streams": "2"}, {})
    assert log == [("only", "search")]
    with pytest.raises(CheckFailed, match="no engine works with its default settings"):
        best_engine([Fake("one", None, 0, log), Fake("two", None, 0, log)])


def test_where_no_defaults_meet_the_bound_all_engines_that_work_are_tuned(capsys):
    log = []
    one, broken, two = Fake("one", 0, 5, log), Fake("broken", None, 0, log), Fake("two", 0, 7, log)
    winner, _, scores = best_engine([one, broken, two])
    assert winner is two
    assert scores == {"one": 5, "broken": 0, "two": 7}
    assert [name for name, what in log if what == "search"] == ["one", "two"]
    assert "broken is not tuned: it does not work" in capsys.readouterr().err


def test_an_engine_whose_search_finds_nothing_is_dropped(capsys):
    log = []
    none, some = Fake("none", 10, 20, log, usable=False), Fake("some", 9, 9, log)
    winner, _, scores = best_engine([none, some])
    assert winner is some
    assert scores == {"none": 0, "some": 9}
    assert "none is dropped: none of the tested settings is usable." in capsys.readouterr().err
    assert log[-1] == ("some", "search")  # there is nothing left to compare it with


@pytest.mark.parametrize("more", [{"best": 5, "usable": False}, {"best": None}])
def test_where_no_engine_is_left_after_the_searches_that_is_an_error(more):
    with pytest.raises(CheckFailed, match="no engine has usable settings"):
        best_engine([Fake("one", 0, log=[], **more), Fake("two", 0, log=[], **more)])


def test_a_disturbed_round_is_repeated_and_only_the_repetition_counts():
    log = []
    fast, slow = Fake("fast", 100, 110, log, disturbed=(0, 5)), Fake("slow", 80, 90, log)
    winner, _, scores = best_engine([fast, slow])
    assert winner is fast
    assert scores == {"fast": 110, "slow": 90}
    assert [number for name, number in log if name == "slow"] == [0, 1, 2, "search", 4, 5, 6]


def test_on_a_machine_that_is_never_quiet_the_rounds_are_few():
    log, always = [], range(99)
    fast, slow = Fake("fast", 100, 110, log, always), Fake("slow", 80, 90, log, always)
    assert best_engine([fast, slow])[0] is fast
    assert [number for name, number in log if name == "slow"] == [0, 1, 2, 3, "search", 4, 5, 6, 7]


class OneSettings(EngineSettings):
    extra: int = Field(1, description="an option that the other engine lacks")


class One(NullEngine):
    name = "one"
    Settings = OneSettings

    @classmethod
    def search_space(cls, max_cost, one_stream):
        return [[{"streams": "1"}, {"streams": "2"}]]


class Two(One):
    name = "two"
    Settings = EngineSettings


RATES = {"one": {"1": 10.0, "2": 12.0}, "two": {"1": 9.0, "2": 20.0}}


class Tune:
    def __init__(self, folder: Path) -> None:
        self.folder, self.measured, self.stop_after, self.rates = folder, [], None, RATES

    def __call__(self, **changes) -> tuned.Tuned:
        given = {"engine": None, "system": "here", "options": {}, **changes}
        request = TuneRequest(
            run=RunRequest(**given),
            seconds=1.0,
            confirm=1.0,
            measurements=self.folder / "measurements",
            state_dir=self.folder / "state",
        )
        return tune_settings(request)

    def measure(self, tuning, options) -> SavedTrial:
        if self.stop_after == len(self.measured):
            raise KeyboardInterrupt
        self.measured.append((tuning.engine, dict(options)))
        score = self.rates[tuning.engine][options.get("streams", "1")]
        return SavedTrial(score=score, value=score) if score is not None else SavedTrial(score=0, value=0, failed=True)


@pytest.fixture
def tune(tmp_path, monkeypatch):
    found = Tune(tmp_path)
    monkeypatch.setattr(EngineTuning, "_measure", lambda tuning, options: found.measure(tuning, options))
    monkeypatch.setattr(registry.util, "find_spec", lambda name: name if name in ("onelib", "twolib") else None)
    for number, name in enumerate(("one", "two")):
        monkeypatch.setitem(ENGINES, name, f"{__name__}:{(One, Two)[number].__name__}")
        monkeypatch.setitem(LIBRARIES, name, f"{name}lib")
    real = registry.import_module
    here = SimpleNamespace(One=One, Two=Two)
    monkeypatch.setattr(registry, "import_module", lambda name: here if name == __name__ else real(name))
    return found


def test_without_an_engine_all_are_tried_and_the_best_is_written_and_used(tune, capsys):
    result = tune()
    assert (result.engine, result.options, result.value) == ("two", {"streams": "2"}, 20.0)
    assert result.engines == {"one": 12.0, "two": 20.0}
    said = capsys.readouterr()
    assert "engines, samples/s: two 20, one 12" in said.out
    assert "chosen: two, streams=2; target_qps = 20" in said.out
    assert [name for name, _ in tune.measured[:4]] == ["one", "two", "two", "one"]
    assert tune.measured[4] == ("one", {})  # a search begins with its own measurement: machines drift
    assert not list((tune.folder / "state").glob("*.json"))
    used = resolve(RunRequest(measurements_dir=tune.folder / "measurements", system="here"))
    assert (used.engine, used.engine_settings.streams) == ("two", 2)
    assert used.engine_choice == "tuned for minilm-l6-squad-int8 in Offline"


def test_an_interrupted_tuning_continues_with_every_engine(tune):
    tune.stop_after = 6
    with pytest.raises(Interrupted, match=r"saved in .*state, and the same command continues"):
        tune()
    assert len(list((tune.folder / "state").glob("*.json"))) == 2
    before, tune.stop_after = list(tune.measured), None
    assert tune().engine == "two"
    assert len(before) == 6
    interrupted = sorted(map(repr, tune.measured))
    tune.folder, tune.measured = tune.folder / "again", []
    tune()
    assert interrupted == sorted(map(repr, tune.measured))


@pytest.mark.parametrize("other", [None, 0.0])
def test_a_rate_that_only_other_settings_than_the_defaults_meet_is_found_without_an_engine(
    tune, monkeypatch, capsys, other
):
    tune.rates = {"one": {"1": other, "2": other}, "two": {"1": 0.0, "2": 20.0}}
    confirmed = Rate(rate=18, seconds=1, held=True, valid=True, p99_ms=1, samples_per_second=18, queries=18)
    monkeypatch.setattr(EngineTuning, "find_rate", lambda *_: confirmed)
    result = tune(scenario="Server")
    assert (result.engine, result.options, result.value) == ("two", {"streams": "2"}, 18)
    assert result.engines == {"one": 0, "two": 20}
    said = capsys.readouterr().err
    assert ("one is not tuned: it does not work" in said) == (other is None)
    assert ("one is dropped: none of the tested settings is usable" in said) == (other == 0)


def test_an_engine_without_the_users_option_is_not_tried(tune, capsys):
    assert tune(options={"extra": "3"}).engine == "one"
    assert {name for name, _ in tune.measured} == {"one"}
    assert "two is not tried: " in capsys.readouterr().err


def test_an_option_that_no_engine_has_is_the_users_mistake(tune):
    with pytest.raises(ConfigError, match="exta"):
        tune(options={"exta": "3"})
    assert tune.measured == []


def test_a_named_engine_alone_is_tuned(tune):
    result = tune(engine="one")
    assert (result.engine, result.engines) == ("one", {})
    assert {name for name, _ in tune.measured} == {"one"}
    with pytest.raises(ConfigError, match="holds the settings of minilm-l6-squad-int8 on one: pass another"):
        tune(engine="two")
    assert tune().engine == "two"  # all engines were tried: the result may replace one engine's


def test_the_written_file_holds_every_trial_of_the_winner(tune):
    tune()
    path = tuned.folder(tune.folder / "measurements", "here", "bert-99", "Offline") / tuned.FILE
    kept = json.loads(path.read_text())
    assert [trial["options"] for trial in kept["trials"]].count({"streams": "2"}) >= 3


def test_a_second_tuning_of_a_model_and_scenario_is_refused_and_leaves_the_first_ones_journals(tune, monkeypatch):
    measure, others = tune.measure, []

    def beside(tuning, options):
        for engine in (None, "one"):
            with pytest.raises(Busy, match=r"is tuning minilm-l6-squad-int8 for Offline \(process \d+\): wait"):
                tune(engine=engine)
        others.append(len(tuning.journal))
        return measure(tuning, options)

    monkeypatch.setattr(tune, "measure", beside)
    assert tune().engine == "two"
    assert len(others) == len(tune.measured)
    assert not list((tune.folder / "state").iterdir())


def test_another_scenario_may_be_tuned_meanwhile(tune, monkeypatch):
    measure, stream = tune.measure, []

    def beside(tuning, options):
        if not stream:
            stream.append(tuning)
            stream.append(tune(scenario="SingleStream", engine="one"))
        return measure(tuning, options)

    monkeypatch.setattr(tune, "measure", beside)
    tune()
    assert stream[1].scenario == "SingleStream"
