"""Sweeps: each test once, what has ended is kept, and one table and one report at the end."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from finished import run_folder
from typer.testing import CliRunner

from harness import paths
from harness.cli import app
from harness.errors import Busy, ConfigError, Interrupted
from harness.running.run import Ended
from harness.sweep import sweep as module

FILE = 'engine = "null"\nscenario = ["Offline", "Server"]\nsamples = 8\n[set]\nstreams = [1, 2]\n'


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A project folder with a run file."""
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "s.toml").write_text(FILE + f"[[run]]\nruns-dir = '{tmp_path}/runs'\n")
    return tmp_path


@pytest.fixture
def tests(place, monkeypatch):
    """The tests that were run, each a code, an exception, or by default a VALID result."""
    made, codes = [], {}

    def run_alone(settings):
        number = len(made)
        made.append((settings.scenario, settings.engine_settings.streams))
        code = codes.get(number, 0)
        if isinstance(code, BaseException):
            raise code
        if code > 1:
            return Ended(code, None)
        name = f"20261125T1200{10 + number}-development-x-null-{settings.scenario}-performance"
        scenario, valid = settings.scenario, code == 0
        folder = run_folder(settings.runs_dir, name=name, scenario=scenario, valid=valid, timeline=False)
        return Ended(code, folder)

    monkeypatch.setattr(module, "run_alone", run_alone)
    monkeypatch.setattr(module, "page", lambda runs: f"a page of {len(runs)} runs")
    return made, codes


ALL = [("Offline", 1), ("Offline", 2), ("Server", 1), ("Server", 2)]


def harness(place, *args):
    done = CliRunner().invoke(app, ["run", str(place / "s.toml"), *args], prog_name="harness")
    if isinstance(done.exception, ConfigError | Interrupted):
        return done.exception.exit_code, done.stdout, str(done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def rows(out):
    return [line.split() for line in out.splitlines() if line.startswith(("Offline", "Server"))]


def test_every_test_runs_once_and_a_table_and_a_report_follow(place, tests):
    code, out, err = harness(place)
    assert code == 0
    assert tests[0] == ALL
    assert [row[:3] for row in rows(out)] == [[scenario, str(n), "VALID"] for scenario, n in ALL]
    assert "[4/4] scenario Server, streams 2: about" in err
    folder = place / "build" / "sweeps" / "s"
    assert f"report {folder}/report.html, table {folder}/runs.csv" in out.replace("\n", "")
    assert (folder / "report.html").read_text() == "a page of 4 runs"
    assert len((folder / "runs.csv").read_text().splitlines()) == 5
    code, out, err = harness(place)
    assert (code, len(tests[0])) == (0, 4)
    assert "4 of 4 tests of" in err
    assert len(rows(out)) == 4


def test_times_follow_what_the_tests_most_alike_took(place, tests, monkeypatch):
    clock, run_alone = [0.0], module.run_alone

    def slow(settings):
        clock[0] += {"Offline": 80, "Server": 20}[settings.scenario] + 20 * settings.engine_settings.streams
        return run_alone(settings)

    monkeypatch.setattr(module, "run_alone", slow)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    err = " ".join(harness(place)[2].split())
    assert "Offline, streams 2: about 1 min 40 s; 5 min 00 s for all that remain" in err  # Offline with 1 took 100 s
    assert "Server, streams 1: about 1 min 50 s; 3 min 40 s for all that remain" in err  # no Server yet: 100 and 120
    assert "Server, streams 2: about 40 s VALID" in err  # Server with 1 took 40 s, and nothing else remains


@pytest.mark.parametrize("signalled", [129, 130])  # SIGHUP, as when the terminal is closed, and Ctrl-C
def test_an_interrupted_sweep_continues_and_a_new_value_is_measured_alone(place, tests, signalled):
    made, codes = tests
    codes[2] = signalled
    code, out, err = harness(place)
    assert (code, out) == (130, "")
    assert "2 of 4 tests are kept; the same command continues there" in err
    codes.clear()
    assert harness(place)[0] == 0
    assert made == ALL[:3] + ALL[2:]
    file = place / "s.toml"
    file.write_text(file.read_text().replace("[1, 2]", "[1, 2, 3]"))
    assert harness(place)[0] == 0
    assert made[5:] == [("Offline", 3), ("Server", 3)]


def test_failures_do_not_stop_the_others_and_are_repeated_on_request(place, tests):
    made, codes = tests
    codes.update({0: 1, 1: ConfigError("the engine does not like it."), 2: 2})
    code, out, err = harness(place)
    assert code == 1
    assert made == ALL
    assert "the engine does not like it." in err
    assert [row[2] for row in rows(out)] == ["INVALID", "failed", "failed", "VALID"]
    assert "3 of 4 tests failed or are INVALID: --retry repeats them." in out
    assert harness(place)[0] == 1
    assert len(made) == 4
    codes.clear()
    assert harness(place, "--retry")[0] == 0
    assert made[4:] == ALL[:3]
    assert harness(place, "--fresh")[0] == 0
    assert made[7:] == ALL


@pytest.mark.parametrize("unreadable", [False, True])
def test_a_missing_or_unreadable_result_is_to_do_again(place, tests, unreadable):
    assert harness(place)[0] == 0
    record = min((place / "runs").glob("*-Offline-*")) / "run.json"
    record.unlink()
    if unreadable:
        record.write_text("{")
    assert [row[2] for row in rows(harness(place, "--dry-run")[1])] == ["to", "VALID", "VALID", "VALID"]


def test_another_user_conf_is_another_test(place, tests):
    conf = place / "my.conf"
    conf.write_text("*.Server.target_qps = 5\n")
    assert harness(place, "--user-conf", str(conf))[0] == 0
    conf.write_text("*.Server.target_qps = 6\n")
    assert "4 of 4 tests remain" in harness(place, "--user-conf", str(conf), "--dry-run")[1]


def test_a_dry_run_and_json_show_the_tests(place, tests):
    made, _ = tests
    code, out, _ = harness(place, "--dry-run", "--json")
    assert (code, made) == (0, [])
    assert json.loads(out)[3] == {"test": {"scenario": "Server", "streams": 2}, "state": "to do"}
    assert "4 of 4 tests remain, about" in harness(place, "--dry-run")[1]
    done = json.loads(harness(place, "--json")[1])
    assert done[0]["verdict"] == "VALID"
    assert done[0]["run"].endswith("-null-Offline-performance")
    assert done[0]["metrics"] == {"throughput": {"value": 300.0, "unit": "samples/s"}}


def test_a_test_that_cannot_be_is_named_before_anything_runs(place, tests):
    file = place / "s.toml"
    file.write_text(file.read_text().replace("streams = ", "stream = "))
    code, _, message = harness(place)
    assert (code, tests[0]) == (2, [])
    assert "s.toml, test with scenario Offline, stream 1: unknown option 'stream' for engine null" in message


def test_a_mistake_in_a_file_of_one_test_names_no_options(place, tests):
    (place / "s.toml").write_text('engine = "null"\nmode = "acuracy"\n')
    assert harness(place, "--dry-run")[2].startswith(f"{place / 's.toml'}: unknown mode 'acuracy'")


def test_a_damaged_journal_is_reported_and_replaced(place, tests):
    assert harness(place)[0] == 0
    journal = place / "build" / "sweeps" / "s" / "journal.json"
    journal.write_text("{")
    assert "is damaged, so the tests of this sweep are repeated" in harness(place, "--dry-run")[2]


def test_ctrl_c_between_tests_says_what_is_kept_by_then(place, tests):
    tests[1][3] = KeyboardInterrupt()
    code, _, err = harness(place)
    assert (code, err) == (130, "interrupted: 3 of 4 tests are kept; the same command continues there.")


def test_another_file_of_the_same_name_has_a_folder_of_its_own(place, tests):
    made, _ = tests
    assert harness(place)[0] == 0
    (place / "b").mkdir()
    (place / "b" / "s.toml").write_text((place / "s.toml").read_text())
    assert harness(place / "b")[0] == 0
    assert made == ALL + ALL
    for folder in (place, place / "b"):
        assert harness(folder)[0] == 0
    assert len(made) == 8
    folders = sorted(path.parent.name for path in (place / "build" / "sweeps").glob("*/report.html"))
    assert len(folders) == 2
    assert folders[0] == "s"
    assert folders[1].startswith("s-")


def test_a_file_that_was_moved_keeps_its_journal(place, tests):
    assert harness(place)[0] == 0
    (place / "b").mkdir()
    (place / "s.toml").rename(place / "b" / "s.toml")
    assert harness(place / "b")[0] == 0
    assert len(tests[0]) == 4


@pytest.mark.parametrize("option", ["--retry", "--fresh"])
def test_a_file_with_one_test_has_no_options_of_sweeps(place, tests, option):
    (place / "s.toml").write_text('engine = "null"\n')
    code, _, err = harness(place, option)
    assert (code, tests[0]) == (2, [])
    assert "s.toml has one test, which always runs again" in err


def test_options_of_sweeps_need_a_file():
    done = CliRunner().invoke(app, ["run", "--retry"], prog_name="harness")
    assert "--dry-run, --retry and --fresh need a run file" in str(done.exception)


@pytest.mark.slow
def test_the_report_is_a_page_of_all_runs(place, tests, monkeypatch):
    from harness.report.page import page

    monkeypatch.setattr(module, "page", page)
    assert harness(place)[0] == 0
    text = (place / "build" / "sweeps" / "s" / "report.html").read_text()
    made, _ = tests
    assert len(made) == 4
    for number, (scenario, _) in enumerate(made):
        assert f"20261125T1200{10 + number}-development-x-null-{scenario}-performance" in text


def test_a_test_whose_result_another_process_writes_stays_to_do(place, tests):
    made, codes = tests
    codes[1] = Busy("another test is running: wait until it ends, or stop it.")
    code, out, err = harness(place)
    assert code == 1
    assert made == ALL
    assert "error: another test is running: wait" in err
    assert "1 of 4 tests remain" in out
    assert harness(place)[0] == 0
    assert made[4:] == [("Offline", 2)]
