"""Verbosity, log file, completion, help and JSON of the command line."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from harness import cli
from harness.cli import app
from harness.commands import completion, topics
from harness.errors import ConfigError, Interrupted, on_interrupt
from harness.registry import ENGINES, SCENARIOS
from harness.terminal import console, progress
from harness.terminal.log_file import messages
from harness.terminal.progress import Progress, working

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _quiet_again():
    yield
    console.configure(console.Output())


def harness(*args: object):
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="harness")


def offered(line: str, shell: str = "bash") -> list[str]:
    words = line.split(" ")
    variables = {
        completion.VARIABLE: f"complete_{shell}",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(words) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
        "PYTHONPATH": str(ROOT / "code"),
    }
    done = subprocess.run([sys.executable, "-m", "harness.cli"], env=variables, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split()


def test_details_are_shown_only_on_demand(capsys):
    console.detail("small")
    console.note("large")
    console.configure(console.Output(verbose=True))
    console.detail("small now")
    assert capsys.readouterr().err == "large\nsmall now\n"


def test_the_log_file_holds_everything_with_the_time(tmp_path, capsys):
    log = tmp_path / "all.log"
    console.configure(console.Output(log_file=log))
    console.detail("a detail")
    console.warn("a warning")
    console.out.print("a result\nof two lines")
    logging.getLogger("some.library").warning("from a library")
    with Progress("quick", unit="things"):
        pass
    console.configure(console.Output())
    console.note("after it")
    assert capsys.readouterr().err == "warning: a warning\nafter it\n"
    lines = log.read_text().splitlines()
    assert all(
        re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3} [A-Z]+ MainProcess( \(some\.library\))?: ", line)
        for line in lines
    )
    assert messages(log, "WARNING") == ["a warning"]
    said = [line.partition(": ")[2] for line in lines]
    expected = ["a detail", "a warning", "a result", "of two lines", "from a library", "quick: 0 things in 0.0 s"]
    assert said == expected


def test_a_log_file_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot be written \(No such .*: choose another place"):
        console.configure(console.Output(log_file=tmp_path / "not" / "there.log"))


def test_work_without_output_shows_its_duration(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_QUIET_FOR_S", 0.05)
    monkeypatch.setattr(progress, "_TICK_S", 0.05)
    with working("packing"):
        import time

        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"packing: 0 s elapsed", lines[0])
    assert re.fullmatch(r"packing: 0\.\d s", lines[-1])


@pytest.mark.parametrize("args", [("-v", "options"), ("options", "-v"), ("options", "--json", "--verbose")])
def test_verbosity_is_accepted_before_and_after_the_command(args):
    done = harness(*args)
    assert done.exit_code == 0
    assert console.output().verbose


def test_a_log_file_after_the_command(tmp_path):
    assert harness("data", "list", "--log-file", tmp_path / "x.log").exit_code == 0
    assert "squad-v1.1" in (tmp_path / "x.log").read_text()


def test_a_log_file_without_a_name_is_not_the_command():
    done = harness("data", "list", "--log-file")
    assert done.exit_code == 2
    assert "'--log-file' requires an argument" in done.stderr


RESULTS = ["options", "data list", "models", "models list", "models verify efficientnet-lite0-int8"]


@pytest.mark.parametrize("args", RESULTS)
def test_json_is_alone_on_stdout(args):
    done = harness(*args.split(), "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)


def test_every_command_that_prints_a_result_can_print_json():
    def leaves(command, *path):
        if hasattr(command, "commands"):
            for name, part in command.commands.items():
                yield from leaves(part, *path, name)
        else:
            yield " ".join(path), {option for parameter in command.params for option in parameter.opts}

    commands = dict(leaves(typer.main.get_command(app)))
    assert len(commands) > 15
    without = {name for name, options in commands.items() if "--json" not in options}
    assert without == {"report", "help", "completion", "cluster up", "cluster down"}
    assert "--format" in commands["report"]


def test_json_in_the_wrong_place_is_not_passed_over():
    done = harness("models", "--json", "list")
    assert "harness models list --json" in str(done.exception)


@pytest.mark.slow
def test_names_are_completed():
    assert offered("harness run --model bert") == ["bert-large-fp32"]
    assert "onnxruntime" in offered("harness tune --engine ")
    assert offered("harness run --scenario S") == ["Server", "SingleStream"]
    assert offered("harness help early") == ["early_stopping"]
    assert offered("harness run --set max_b") == ["max_batch="]
    assert offered("harness campaign --division o") == ["open"]
    assert "v6.1" in offered("harness package --round v6")


@pytest.mark.slow
def test_other_shells_are_also_completed():
    assert "onnxruntime" in offered("harness run --engine on", "fish")
    assert '"onnxruntime"' in " ".join(offered("harness run --engine on", "zsh"))


def test_help_on_a_command_names_its_own_help():
    done = CliRunner().invoke(app, ["help", "models", "build"], prog_name="harness")
    assert str(done.exception) == "models is a command, not a topic: type it with --help."


def test_each_completer_offers_all_names():
    names = lambda kind: {name for name, _ in completion.complete(kind, "")}  # noqa: E731
    assert names("engine") == set(ENGINES)
    assert names("scenario") == set(SCENARIOS)
    assert names("models build name") < names("models fetch name") < names("model")
    assert "efficientnet-lite0-fp32" not in names("models build name")
    assert names("data fetch name") == {"squad-v1.1", "vocab"}
    assert {"squad-v1.1", "imagenet"} < names("dataset")
    assert {"TEST01", "TEST04"} == names("test") == names("compliance")


def test_both_sides_of_a_comparison_are_runs(monkeypatch):
    completion.attach(cli.app)
    command = typer.main.get_command(cli.app).commands["compare"]
    monkeypatch.setattr("harness.results.finished.names", lambda folder: ["older", "newer"])
    for parameter in command.params[:2]:
        offers = parameter.shell_complete(typer.Context(command), "new")
        assert [offer.value for offer in offers] == ["newer"]


def test_an_unreadable_folder_completes_nothing(monkeypatch):
    def refused(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr("harness.results.finished.names", refused)
    assert completion.complete("runs", "") == []


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_the_script_of_a_shell(shell):
    done = harness("completion", shell)
    assert completion.VARIABLE in done.stdout


def test_an_unknown_shell_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'bash'"):
        completion.script("bsh")


@pytest.mark.parametrize("topic", topics.overview())
def test_a_topic_is_short_and_names_its_source(topic):
    text = topics.text(topic)
    assert text.startswith("# ")
    assert text.count("\n") <= 25
    assert max(map(len, text.splitlines())) <= 135
    assert "\nSource: " in text


def test_topics_are_found_however_they_are_written():
    assert harness("help", "early", "stopping").stdout == topics.text("early_stopping")
    assert topics.text("test01") == topics.text("TEST-01")
    with pytest.raises(ConfigError, match="did you mean 'early_stopping'"):
        topics.text("early_stoping")
    assert set(topics.overview()) <= {line.split()[0] for line in harness("help").stdout.splitlines() if line.split()}


def test_exit_codes_are_documented_everywhere():
    for place in (harness("--help").stdout, topics.text("exit_codes"), (ROOT / "README.md").read_text("utf-8")):
        for code in ("0", "1", "2", "130"):
            assert re.search(rf"\b{code}\b", place)


def test_ctrl_c_says_what_was_kept():
    with pytest.raises(Interrupted, match="interrupted: half of it is kept"), on_interrupt("half of it is kept."):
        raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["harness.catalog.datasets.overview", "harness.cli.app"])
def test_ctrl_c_in_a_command_that_keeps_nothing_is_reported(where, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupted)
    monkeypatch.setattr(sys, "argv", ["harness", "data", "list"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err in (
        "error: interrupted: no partial results were kept.\n",
        "error: interrupted: nothing was started.\n",
    )


FULL = [["-m", "harness.cli", "options"], ["-m", "harness.doctor"], ["-S", "-m", "harness.doctor"]]


@pytest.mark.slow
@pytest.mark.parametrize("command", FULL)
def test_a_full_disk_behind_stdout_is_one_sentence(command):
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "code")}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, *command], stdout=full, stderr=subprocess.PIPE, text=True, env=environment
        )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: No space left on device")
    assert "Traceback" not in done.stderr


def test_an_error_of_the_system_is_one_sentence(monkeypatch, capsys):
    def refused():
        raise PermissionError(13, "Permission denied", "/data")

    monkeypatch.setattr("harness.catalog.datasets.overview", refused)
    monkeypatch.setattr(sys, "argv", ["harness", "data", "list"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: Permission denied: /data.\n"


def bare(*args: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "harness.cli", *args]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "code")}
    return subprocess.run(command, env=env, stderr=subprocess.PIPE, text=True, timeout=60, **options)


@pytest.mark.slow
@pytest.mark.parametrize("args", [["help", "exit_codes"], ["run", "--help"]])
def test_a_closed_reader_of_stdout_does_not_change_the_exit_code(args):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as gone:
        done = bare(*args, stdout=gone)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_full_disk_behind_stdout_is_an_error():
    with Path("/dev/full").open("w") as full:
        done = bare("help", "exit_codes", stdout=full)
    assert (done.returncode, done.stderr) == (1, "error: No space left on device: stdout.\n")
