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
from harness.errors import CheckFailed, ConfigError, Interrupted
from harness.registry import ENGINES, LIBRARIES
from harness.running import tuned
from harness.running.request import RunRequest, resolve
from harness.tuning import tune as module
from harness.tuning.engines import best_engine
from harness.tuning.journal import Measured


class Fake:
    """A contender whose scores are known: for its defaults, and for what its search finds."""

    def __init__(self, engine: str, defaults: float, best: float, log: list) -> None:
        self.engine, self.defaults, self.best, self.log = engine, defaults, best, log

    def compare(self, options, number):
        self.log.append((self.engine, number))
        return self.best if options else self.defaults

    def search(self):
        self.log.append((self.engine, "search"))
        return {"streams": "2"}


def test_engines_are_compared_alternately_and_those_far_behind_are_not_searched(capsys):
    log = []
    slow, fast, near = Fake("slow", 69, 500, log), Fake("fast", 100, 110, log), Fake("near", 71, 120, log)
    winner, found, scores = best_engine([slow, fast, near])
    assert (winner, found) == (near, {"streams": "2"})
    assert scores == {"slow": 69, "fast": 110, "near": 120}
    defaults = [("slow", 0), ("fast", 0), ("near", 0), ("near", 1), ("fast", 1), ("slow", 1)]
    searches = [("fast", "search"), ("near", "search")]
    assert log == [*defaults, *searches, ("fast", 2), ("near", 2), ("near", 3), ("fast", 3)]
    assert "slow is not tuned: 0.69 of the best" in capsys.readouterr().err


def test_an_engine_that_does_not_work_is_tried_once(capsys):
    log = []
    broken, good = Fake("broken", 0, 0, log), Fake("good", 10, 11, log)
    winner, _, scores = best_engine([broken, good])
    assert winner is good
    assert scores == {"broken": 0, "good": 10}
    assert log == [("broken", 0), ("good", 0), ("good", 1), ("good", "search")]
    assert "broken is not tuned: it does not work" in capsys.readouterr().err


def test_a_single_engine_is_only_tuned_and_none_that_works_is_an_error():
    log = []
    assert best_engine([Fake("only", 1, 2, log)])[1:] == ({"streams": "2"}, {})
    assert log == [("only", "search")]
    with pytest.raises(CheckFailed, match="no engine works with its default settings"):
        best_engine([Fake("one", 0, 0, log), Fake("two", 0, 0, log)])


class OneSettings(EngineSettings):
    extra: int = Field(1, description="an option that the other engine lacks")


class One(NullEngine):
    name = "one"
    Settings = OneSettings

    @classmethod
    def choices(cls, max_cost, one_stream):
        return [[{"streams": "1"}, {"streams": "2"}]]


class Two(One):
    name = "two"
    Settings = EngineSettings


RATES = {"one": {"1": 10.0, "2": 12.0}, "two": {"1": 9.0, "2": 20.0}}


class Tune:
    def __init__(self, folder: Path) -> None:
        self.folder, self.measured, self.stop_after = folder, [], None

    def __call__(self, **changes) -> tuned.Tuned:
        given = {"engine": None, "system": "here", "options": {}, **changes}
        return module.tune(
            RunRequest(**given),
            seconds=1.0,
            confirm=1.0,
            measurements=self.folder / "measurements",
            state_dir=self.folder / "state",
            fresh=False,
            force=False,
        )

    def measure(self, tuning, options) -> Measured:
        if self.stop_after == len(self.measured):
            raise KeyboardInterrupt
        self.measured.append((tuning.engine, dict(options)))
        score = RATES[tuning.engine][options.get("streams", "1")]
        return Measured(score=score, value=score)


@pytest.fixture
def tune(tmp_path, monkeypatch):
    found = Tune(tmp_path)
    monkeypatch.setattr(module._Tuning, "_measure", lambda tuning, options: found.measure(tuning, options))
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
    used = resolve(RunRequest(measurements=tune.folder / "measurements", system="here"))
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
