"""The queries that LoadGen would generate are known before it starts, and refused if they do not fit."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np
import pytest

from harness.errors import ConfigError
from harness.host import memory
from harness.host.usage import CoreUse
from harness.loadgen.conf import OWN, TUNED, check_official, read_user_conf
from harness.loadgen.logs import Detail
from harness.running import advice, sizing, watch
from harness.running.load import Load, span
from harness.scenarios.base import Estimate, find_scenario
from harness.scenarios.server import Server
from harness.scheduling.base import Counters
from harness.scheduling.cost import CostTable
from harness.scheduling.overload import Overloaded
from harness.task.shape import Shape


@pytest.fixture(autouse=True)
def two_gigabytes(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 2 * 2**30)


@pytest.fixture
def load(tmp_path):
    def make(
        text,
        scenario="Offline",
        duration=None,
        estimated=None,
        official=False,
        audit=None,
        seconds=20.0,
        accuracy=False,
        rehearsal=False,
    ):
        path = tmp_path / "user.conf"
        path.write_text(text)
        settings = SimpleNamespace(
            model=SimpleNamespace(benchmark="bert"),
            duration=duration,
            seconds=duration or seconds,
            default_seconds=20.0,
            official=official,
            accuracy=accuracy,
            rehearsal=rehearsal,
            compliance=audit,
        )
        found = Estimate(estimated, "", estimated) if estimated else None
        return Load.of(settings, read_user_conf(path), find_scenario(scenario), found)

    return make


@pytest.mark.parametrize(
    ("scenario", "text", "queries"),
    [
        ("Offline", "*.Offline.target_qps = 100", 2200),  # 1.1 x 20 s x 100/s
        ("Offline", "*.Offline.target_qps = 100\n*.*.min_query_count = 5000", 5000),
        ("Server", "*.Server.target_qps = 200", 4000),
        ("SingleStream", "*.SingleStream.target_latency = 10", 4000),  # twice what fits
        ("MultiStream", "*.MultiStream.target_latency = 0.0000019", 4e10),  # whole nanoseconds
        ("SingleStream", "*.SingleStream.target_latency = 0.0000001", float("inf")),
        ("Server", "*.Server.target_qps = 1e12", float("inf")),
        ("Server", "resnet50.Server.target_qps = 1e12\n*.Server.target_qps = 5\n*.*.min_duration = 2000", 10),
    ],
)
def test_the_number_of_queries_is_loadgens(load, scenario, text, queries):
    assert load(text, scenario).queries == pytest.approx(queries, rel=1e-6)


REFUSED = [
    ("SingleStream", "*.SingleStream.target_latency = 0.0000001", None, "generate queries without end before the test"),
    ("Server", "*.Server.target_qps = 1e12", None, "before the test: target_qps is 1e12 in line 1 of"),
    (
        "Offline",
        "# a\n*.*.target_qps = 1e9",
        None,
        "22,000,000,000 samples .* 2.0 GiB are free: target_qps is 1e9 in line 2 of",
    ),
    ("Server", "*.Server.min_query_count = 99999999", None, "min_query_count is 99999999 in line 1 of"),
    ("MultiStream", "*.*.min_query_count = 9000000000000000000", None, "9e.18 queries"),
    (
        "Offline",
        "*.Offline.target_qps = 100",
        1e9,
        "110,000,000,000 samples .* lower --duration .DURATION=. to at most",
    ),
    ("Offline", "", 1e9, "target_qps was measured to be 100, for .* years; lower --duration"),
    ("Server", "*.Server.min_duration = 1000000000000", None, "lower min_duration in line 1 of .* to at most"),
    (
        "Offline",
        "*.Offline.min_duration = 9000000000000000000",
        None,
        "would be too long: lower min_duration in line 1",
    ),
    ("Server", "*.Server.target_qps = 1e-9", None, "a query would arrive every 31.7 years"),
]


@pytest.mark.parametrize(("scenario", "text", "duration", "message"), REFUSED)
def test_what_does_not_fit_is_refused_with_its_line_and_the_advice_helps(load, scenario, text, duration, message):
    with pytest.raises(ConfigError, match=message) as error:
        load(text, scenario, duration, estimated=100.0).check()
    advice = str(error.value)
    most = re.search(r"lower .* to at most (\d+)", advice)
    if "delete the line" in advice:
        number = int(re.search(r"in line (\d+) of", advice)[1])
        text = "\n".join(line for at, line in enumerate(text.split("\n"), 1) if at != number)
    elif most and "--duration" in advice:
        duration = float(most[1])
    elif most:
        text = re.sub(r"= .*", f"= {int(most[1]) * 1000}", text)
    else:
        return
    load(text, scenario, duration, estimated=100.0).check()


def test_min_query_count_may_also_be_lowered(load):
    text = "*.Server.min_query_count = {}"
    with pytest.raises(ConfigError) as error:
        load(text.format(10**9), "Server").check()
    load(text.format(re.search(r"at most (\d+)", str(error.value))[1]), "Server", estimated=5.0).check()


def test_usual_tests_are_accepted(load):
    for scenario, text in (("Offline", "*.Offline.target_qps = 5000"), ("Server", "*.Server.target_qps = 0.1")):
        load(text, scenario).check()
        load(text, scenario, duration=600.0).check()


def test_a_development_run_obeys_the_durations_of_user_conf(load):
    assert load("*.*.min_duration = 3000").seconds == 3
    assert load("*.*.min_duration = 3000", duration=5.0).seconds == 5


def asked(**values):
    facts = {"duration": None, "accuracy": False, "official": True}
    return SimpleNamespace(model=SimpleNamespace(benchmark="bert"), scenario="Offline", **facts | values)


@pytest.mark.parametrize(("comment", "named"), [("mine", True), (OWN, False), (f"{TUNED} for m on openvino", False)])
def test_a_line_that_a_later_one_replaces_is_warned_of_unless_the_harness_wrote_that(tmp_path, comment, named):
    path = tmp_path / "user.conf"
    path.write_text(f"*.Offline.target_qps = 5\n# {comment}\n*.Offline.target_qps = 6\n")
    found = list(sizing.overridden(asked(), read_user_conf(path)))
    assert [warning.startswith(f"{path}: *.Offline.target_qps = 5 in line 1 has no effect") for warning in found] == (
        [True] * named
    )


@pytest.mark.parametrize(("duration", "named"), [(5.0, False), (6.0, True), (None, False)])
def test_a_line_is_not_obeyed_only_if_it_says_something_else(tmp_path, duration, named):
    """A compliance test gets the user.conf that its performance run wrote."""
    path = tmp_path / "user.conf"
    path.write_text("*.Offline.min_duration = 5000\n")
    found = list(sizing.overridden(asked(duration=duration), read_user_conf(path)))
    assert found == [f"min_duration = 5000 in line 1 of {path} is not used: --duration 6 replaces it."] * named


def test_an_offline_test_of_days_is_refused_once_its_rate_is_known_but_not_what_the_user_counts(load):
    high = load("*.Offline.target_qps = 1e6")
    with pytest.raises(
        ConfigError, match=r"would take 127 days instead of 20.0 s: target_qps is 1e6 in line 1 .*delete"
    ):
        high.look(1.1e7, warned=False)
    counted = load("*.Offline.min_query_count = 1000000\n*.Offline.target_qps = 2")
    assert "min_query_count is 1000000 in line 1" in counted.look(5e5, warned=False)
    assert counted.look(5e5, warned=True) is None
    assert "set it" not in (high.look(100, warned=False) or "")
    assert "will take about 1 min 40 s instead of 20.0 s, since target_qps is 1e6" in high.look(100, warned=False)
    assert load("*.Offline.target_qps = 1e6").look(30, warned=False) is None
    assert load("", estimated=1e6).look(1.1e7, warned=False) is None


@pytest.mark.parametrize(
    ("scenario", "rate", "queries", "seconds"),
    [
        ("Server", 0.9, 662, 735.6),
        ("Server", 2.0, 1001, 500.5),
        ("Server", 25.0, 2925, 117.0),
        ("Server", 300.0, 3304, 20.0),
        ("SingleStream", 2.0, 64, 32.0),
        ("SingleStream", 40.0, 64, 20.0),
        ("MultiStream", 10.0, 662, 66.2),
        ("Offline", 10.0, 1, 22.0),
    ],
)
def test_a_development_run_is_as_long_as_early_stopping_needs_and_says_so(load, scenario, rate, queries, seconds):
    found = load("", scenario, estimated=rate)
    assert found.min_queries == queries
    assert found.planned_seconds == pytest.approx(seconds, rel=1e-3)
    if seconds < 23:
        assert found.length is None
    else:
        assert f"instead of 20 s: LoadGen needs {queries:,} queries" in found.length


def test_the_rate_of_user_conf_counts_as_well(load):
    found = load("*.Server.target_qps = 10\n", "Server")
    assert found.length.startswith("the test takes about 3 min 21 s instead of 20 s: LoadGen needs 2,010 queries")
    assert "with up to 10 of them late" in found.length
    assert load("*.MultiStream.target_latency = 100\n", "MultiStream").planned_seconds == pytest.approx(66.2)


@pytest.mark.parametrize(("scenario", "rate"), [("Server", 0.4), ("MultiStream", 0.7), ("SingleStream", 0.07)])
def test_a_development_run_is_not_prolonged_to_hours(load, scenario, rate):
    found = load("", scenario, estimated=rate)
    assert (found.min_queries, found.planned_seconds) == (1, 20)
    assert "a test of 20.0 s will be INVALID" in found.length


def test_a_stream_that_takes_long_is_not_blamed_on_its_expected_latency(load):
    assert load("*.MultiStream.target_latency = 10", "MultiStream").look(500.0, warned=False) is None
    counted = load("*.*.min_query_count = 5000\n*.MultiStream.target_latency = 0.1", "MultiStream")
    assert "since min_query_count is 5000 in line 1" in counted.look(500.0, warned=False)


@pytest.mark.parametrize("text", ["", "*.*.min_duration = 5000\n", "*.*.min_query_count = 40\n"])
def test_a_length_that_the_user_sets_is_obeyed_and_its_effect_is_stated(load, text):
    found = load(f"*.Server.target_qps = 10\n{text}", "Server", duration=None if text else 5.0)
    assert found.min_queries == (40 if "40" in text else 1)
    assert "LoadGen needs at least 459 queries to be sure of the 99th percentile, about 46 s at 10" in found.length
    assert "will be INVALID" in found.length
    assert load("*.Server.target_qps = 100\n", "Server", duration=5.0).length is None


def test_an_official_run_is_prolonged_only_if_ten_minutes_bring_too_few_queries(load):
    def official(text, scenario="Server", **more):
        return load(text, scenario, seconds=600.0, official=True, **more)

    assert official("*.Server.target_qps = 50").min_queries == 100
    slow = official("*.Server.target_qps = 1")
    assert (slow.min_queries, slow.planned_seconds) == (1001, 1001.0)
    assert "--duration" not in slow.length
    assert official("*.Server.target_qps = 1\n*.*.min_duration = 700000").min_queries == 1001


@pytest.mark.parametrize(
    ("scenario", "rate", "queries", "seconds", "words"),
    [
        ("MultiStream", 1.0, 662, 662.0, "LoadGen needs 662 queries to be sure of the 99th percentile, and 1 are"),
        ("SingleStream", 0.1, 100, 1000.0, "16 min 40 s instead of 600 s: LoadGen issues at least 100 queries, and"),
        ("MultiStream", 2.0, 662, 600.0, None),
        ("Offline", 2.0, 10833, 5416.5, None),
    ],
)
def test_the_rounds_own_number_prolongs_an_official_run(load, scenario, rate, queries, seconds, words):
    found = load("", scenario, estimated=rate, seconds=600.0, official=True)
    assert (found.min_queries, found.planned_seconds) == (queries, pytest.approx(seconds))
    assert words in found.length if words else found.length is None


def test_the_rounds_own_number_also_prolongs_a_rehearsal_with_a_duration(load):
    found = load("", "MultiStream", duration=5.0, estimated=10.0, official=True, rehearsal=True)
    assert found.planned_seconds == pytest.approx(66.2)
    assert found.length.startswith("the test takes about 1 min 07 s instead of 5 s: LoadGen needs 662 queries")
    assert "DURATION=" not in found.length


@pytest.mark.parametrize(
    ("rate", "official", "line"),
    [(1.0, True, "bert.Server.min_query_count = 1001"), (50.0, True, None), (50.0, False, "min_query_count = 3304")],
)
def test_a_prolonged_official_run_can_be_repeated_from_its_user_conf(load, tmp_path, rate, official, line):
    seconds = 600.0 if official else 20.0
    found = load("", "Server", estimated=rate, seconds=seconds, official=official)
    settings = SimpleNamespace(
        scenario="Server", official=official, duration=None, seconds=seconds, notices=[], accuracy=False
    )
    ready = SimpleNamespace(
        benchmark=SimpleNamespace(name="bert"), scenario=SimpleNamespace(key="target_qps"), indices=range(8)
    )
    written = tmp_path / "written.conf"
    written.write_text(sizing.effective_conf(settings, read_user_conf(None), found, ready, rate))
    assert line in written.read_text() if line else "min_query_count" not in written.read_text()
    if official:
        recorded = read_user_conf(written)
        check_official(recorded, "bert", "Server", 600_000)
        repeated = load(written.read_text(), "Server", seconds=seconds, official=True, audit="TEST01")
        assert (repeated.min_queries, repeated.length) == (found.min_queries, None)


def test_a_query_is_foreseen_by_the_rate_that_is_expected_not_by_the_one_with_a_margin(load, monkeypatch):
    seen = []
    monkeypatch.setattr(Load, "look", lambda self, total, warned: seen.append(total))
    ready = SimpleNamespace(
        indices=range(8),
        listener=None,
        scenario=SimpleNamespace(one_query=True, estimate=lambda *_: Estimate(300.0, "", 100.0)),
    )
    sizing._check_query_size(load("*.Offline.target_qps = 1e6"), ready)
    assert seen == [pytest.approx(220_000)]


def test_an_accuracy_run_has_no_number_of_queries(load):
    assert load("*.Server.target_qps = 1", "Server", accuracy=True).min_queries == 1


def test_spans():
    assert [span(seconds) for seconds in (20, 8000, 5e5)] == ["20.0 s", "2 h 13 min", "6 days"]


def test_an_accuracy_run_of_a_server_takes_the_highest_rate_that_answers(tmp_path, load):
    """user.conf's rate belongs to the result: at 9/s, the 50,000 images of ImageNet would take 93 minutes."""
    text = "*.Server.target_qps = 9\n*.Offline.target_qps = 9\n"
    assert load(text, "Server", accuracy=True).rate is None
    assert load(text, "Server").rate == 9
    assert load(text, "Offline", accuracy=True).rate == 9
    (tmp_path / "user.conf").write_text(text)
    conf = read_user_conf(tmp_path / "user.conf")
    settings = SimpleNamespace(
        accuracy=True, official=True, scenario="Server", duration=None, seconds=600.0, default_seconds=600.0,
        rehearsal=False, compliance=None, missed=None, notices=[], model=SimpleNamespace(benchmark="bert"),
    )  # fmt: skip
    scenario = Server.__new__(Server)
    # Alone, a sample takes 40 ms on each of two streams; in batches of eight, 133 ms for all of them.
    scenario.table = CostTable({Shape(1, 100): 0.04, Shape(8, 100): 8 / 60}, fixed=True)
    qsl, engine = SimpleNamespace(cost=lambda indices: np.array([90, 110])), SimpleNamespace(parallel=2)
    scenario.sut = SimpleNamespace(qsl=qsl, engine=engine)
    ready = SimpleNamespace(
        scenario=scenario, indices=None, listener=None, qsl=SimpleNamespace(count=50_000), benchmark=settings.model
    )
    found, value = sizing.sized(settings, conf, ready)
    assert (found.rate, value) == (pytest.approx(120), pytest.approx(120))
    ready.benchmark = SimpleNamespace(name="bert")
    assert sizing.effective_conf(settings, conf, found, ready, value).rstrip().endswith("bert.Server.target_qps = 120")
    words = sizing._accuracy_rate(settings, conf, scenario.fastest(None, None), 50_000)
    assert words.startswith("50,000 samples at 120 queries/s, about 6 min 57 s: ")
    assert "target_qps = 9 in line 1 of" in words


def overloaded(load):
    return advice.overloaded(load, Overloaded(500, 5000, 300, 10.0), lower=1.25)


def test_the_advice_of_an_overload_is_one_that_the_run_accepts(load):
    text = "*.Server.target_qps = 50"
    assert "set it to 1.25, or let `make tune" in overloaded(load(text, "Server"))
    longer = "set it to 1.25, let the test run for 801 s or more "
    assert f"{longer}(--duration)" in overloaded(load(text, "Server", duration=30.0))
    assert f"{longer}(min_duration in line 2)" in overloaded(load(f"{text}\n*.*.min_duration = 30000", "Server"))
    assert "let the test run" not in overloaded(load(text, "Server", duration=900.0))


def test_the_machine_is_not_blamed_for_what_others_took(load):
    test, ended = load("*.Server.target_qps = 5", "Server"), Overloaded(500, 5000, 300, 10.0)
    assert "no target_qps seems to meet the bound with this model, engine and machine" in advice.overloaded(
        test, ended, None, CoreUse(1.9, 0.05, 0.0, 2)
    )
    beside = advice.overloaded(test, ended, None, CoreUse(0.3, 1.6, 0.0, 2))
    assert (
        "other processes used 1.60 of 2 cores meanwhile, and with them no target_qps seems to meet the bound" in beside
    )


def test_the_user_conf_of_a_recorded_result_is_not_to_be_edited(load):
    test = load("*.Server.target_qps = 50", "Server", official=True, audit="TEST04")
    for said in (overloaded(test), advice.longer(test, Detail({"effective_target_qps": 50.0}, ()))):
        assert "set it to" not in said
    assert "repeat the performance run with target_qps = 1.25 in user.conf, then this test" in overloaded(test)


@pytest.mark.parametrize("audit", [None, "TEST04"])
def test_no_duration_is_advised_to_an_official_run_which_takes_none(load, audit):
    text = "*.Server.target_qps = 50\n*.Server.min_query_count = 1001\n"
    test = load(text, "Server", official=True, audit=audit, seconds=600.0)
    assert test.limited
    assert "--duration" not in overloaded(test)


def test_the_time_that_planning_takes_is_not_taken_for_the_systems(load, monkeypatch, capsys):
    clock = [100.0]
    monkeypatch.setattr(watch.time, "perf_counter", lambda: clock[0])
    counters = Counters(issued=1_100_000, real=1_100_000)
    ready = SimpleNamespace(
        engine=SimpleNamespace(streams=2),
        slowest=0.01,
        links=(),
        qsl=SimpleNamespace(count=1000),
        scenario=SimpleNamespace(paced=False, sut=SimpleNamespace(unit="tokens")),
    )
    settings = SimpleNamespace(accuracy=False, stall_timeout=60.0)
    progress = SimpleNamespace(show=lambda *_, **__: None)
    beats = SimpleNamespace(beat=lambda _: None)
    right = load("*.Offline.target_qps = 50000")
    scheduler = SimpleNamespace(counters=counters)
    test = watch.WatchedTest(settings=settings, ready=ready, load=right, scheduler=scheduler)
    looking = watch.Watch(test, beats, progress)
    looking.look(over=False)
    for clock[0] in np.arange(106.0, 110.0, 0.2):  # six seconds of planning
        counters.batches += 40
        counters.completed = counters.done_cost = counters.batches * 250
        looking.look(over=False)
    assert capsys.readouterr().err == ""
