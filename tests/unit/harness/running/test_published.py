from __future__ import annotations

import json

import pytest

from harness.errors import ConfigError, RunFailed
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY, read_detail
from harness.results.timeline import TIMELINE
from harness.running import places as results
from harness.running.places import Places, check_space
from harness.settings.request import RunRequest, resolve

FILES = {SUMMARY, DETAIL, "run.json", "user.conf"}


def places(tmp_path, mode="performance", **changes):
    settings = resolve(
        RunRequest(
            model=None,
            engine="onnxruntime",
            scenario="Offline",
            mode=mode,
            options={},
            runs_dir=tmp_path / "runs",
            tree=tmp_path,
            **{"official": True, "system": "sys", **changes},
        )
    )
    made = Places.choose(settings)
    made.create()
    for file in (SUMMARY, DETAIL, ACCURACY, "accuracy.txt", "run.json", "user.conf", TIMELINE):
        if mode == "accuracy" or file not in (ACCURACY, "accuracy.txt"):
            (made.staging / file).write_text(file)
    return made


def publish(made):
    """The folder with the logs."""
    return made.publish(made.collect(None), before_move)[0]


def kept(tmp_path):
    """The record of the only run; the folder of its temporary files lasts as long as its process."""
    (record,) = (path for path in (tmp_path / "runs").iterdir() if not path.name.startswith("."))
    return record


def before_move(folder, place):
    """The parent process is informed right before a folder is moved: it must still exist then."""
    assert folder.is_dir()


@pytest.mark.parametrize(
    ("mode", "part", "files"),
    [
        ("performance", "performance/run_1", FILES),
        ("accuracy", "accuracy", FILES | {ACCURACY, "accuracy.txt"}),
    ],
)
def test_an_official_result_goes_where_the_rules_require(tmp_path, mode, part, files):
    made = places(tmp_path, mode)
    target = tmp_path / "results" / "sys" / "bert-99" / "Offline" / part
    assert publish(made) == target
    assert {path.name for path in target.iterdir()} == files
    record = kept(tmp_path)
    assert {path.name for path in record.iterdir()} == {"run.json", "user.conf", TIMELINE}


def test_an_invalid_run_never_reaches_results(tmp_path):
    made = places(tmp_path)
    logs, _ = made.publish(None, before_move)
    assert logs.parent == tmp_path / "runs"
    assert not (tmp_path / "results").exists()


def test_a_result_is_replaced_only_with_force_and_completely(tmp_path):
    publish(places(tmp_path))
    with pytest.raises(ConfigError, match="pass --force to replace it"):
        places(tmp_path)
    target = tmp_path / "results" / "sys" / "bert-99" / "Offline" / "performance" / "run_1"
    (target / "old").touch()
    publish(places(tmp_path, force=True))
    assert {path.name for path in target.iterdir()} == FILES
    assert [path.name for path in target.parent.iterdir()] == ["run_1"]


def test_a_result_survives_when_the_new_one_cannot_be_moved(tmp_path, monkeypatch):
    publish(places(tmp_path))
    target = tmp_path / "results" / "sys" / "bert-99" / "Offline" / "performance" / "run_1"
    made = places(tmp_path, force=True)
    rename = type(target).rename

    def failing(self, to):
        if to == target and self.name == "result":
            raise OSError(28, "No space left on device")
        return rename(self, to)

    monkeypatch.setattr(type(target), "rename", failing)
    with pytest.raises(RunFailed, match="could not be moved"):
        publish(made)
    assert {path.name for path in target.iterdir()} == FILES


def test_results_on_another_file_system_are_copied_first(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "_same_filesystem", lambda a, b: False)
    target = publish(places(tmp_path))
    assert {path.name for path in target.iterdir()} == FILES
    assert [path.name for path in target.parent.iterdir()] == ["run_1"]


def test_the_accuracy_log_is_kept_whatever_the_folder_names(tmp_path):
    target = publish(places(tmp_path, "accuracy", system="performance"))
    assert (target / ACCURACY).exists()


def test_a_result_that_appeared_meanwhile_is_not_replaced_and_the_logs_are_kept(tmp_path):
    late = places(tmp_path)
    target = tmp_path / "results" / "sys" / "bert-99" / "Offline" / "performance" / "run_1"
    target.mkdir(parents=True)
    (target / "first").touch()
    with pytest.raises(RunFailed, match=r"a result appeared .* The logs are kept in"):
        publish(late)
    assert [path.name for path in target.iterdir()] == ["first"]
    assert {path.name for path in (kept(tmp_path) / "result").iterdir()} == FILES


def test_an_interrupted_replacement_is_undone_by_the_next_run(tmp_path):
    target = publish(places(tmp_path))
    target.rename(target.with_name(".run_1.old"))
    with pytest.raises(ConfigError, match="pass --force"):
        places(tmp_path)
    assert {path.name for path in target.iterdir()} == FILES


def test_a_copy_that_fails_leaves_nothing_in_results_and_keeps_the_logs(tmp_path, monkeypatch):
    def full(source, near):
        near.mkdir()
        (near / SUMMARY).touch()
        raise OSError(28, "No space left on device")

    made = places(tmp_path)
    monkeypatch.setattr(results, "_same_filesystem", lambda a, b: False)
    monkeypatch.setattr(results.shutil, "copytree", full)
    with pytest.raises(RunFailed, match="No space left on device"):
        publish(made)
    assert not list((tmp_path / "results" / "sys" / "bert-99" / "Offline" / "performance").iterdir())
    assert len(list((tmp_path / "runs").glob("*/result/mlperf_log_*"))) == 2


def test_results_that_cannot_be_written_are_refused_before_the_test(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(ConfigError, match="cannot be created"):
        places(tmp_path)


def test_two_runs_of_one_second_have_folders_of_their_own(tmp_path, monkeypatch):
    monkeypatch.setattr(results.time, "strftime", lambda _: "T-")
    first = places(tmp_path, official=False).publish(None, before_move)[0]
    second = places(tmp_path, official=False).publish(None, before_move)[0]
    assert first != second
    assert (first / "run.json").exists()
    assert (second / "run.json").exists()


def test_too_little_space_is_reported_before_the_test(tmp_path):
    check_space(tmp_path, 1)
    with pytest.raises(RunFailed, match="MiB are free at"):
        check_space(tmp_path, 1 << 60)


def test_a_truncated_log_is_not_a_result(tmp_path):
    line = ':::MLLOG {"key": "%s", "value": 1, "metadata": {"is_error": false}}\n'
    (tmp_path / SUMMARY).write_text("...\nNo errors encountered during test.\n")
    (tmp_path / DETAIL).write_text(line % "a" + line % "num_errors")
    assert read_detail(tmp_path, "performance").values["a"] == 1
    for mode, text in (("accuracy", line % "num_errors"), ("performance", line % "power_end"), ("performance", "")):
        (tmp_path / DETAIL).write_text(text)
        with pytest.raises(RunFailed, match="check that the disk is not full"):
            read_detail(tmp_path, mode)
    (tmp_path / DETAIL).write_text(line % "num_errors")
    (tmp_path / SUMMARY).write_text("MLPerf Results Summ")
    with pytest.raises(RunFailed, match="check that the disk is not full"):
        read_detail(tmp_path, "performance")


FIRST = ':::MLLOG {"key": "loadgen_version", "value": "6.0", "metadata": {"is_error": false}}'
LAST = ':::MLLOG {"key": "num_errors", "value": 0, "metadata": {"is_error": false}}'


@pytest.mark.parametrize(
    "entry",
    [
        "{}",
        "[]",
        "5",
        "null",
        "{",
        "\xff",
        "[" * 9999,
        '{"key": "a", "value": 1}',
        '{"key": "a", "value": 1, "metadata": 5}',
        '{"key": ["a"], "value": 1, "metadata": {"is_error": false}}',
        *(
            f'{{"key": "{key}", "value": {value}, "metadata": {{"is_error": false}}}}'
            for key in ("result_query_count", "result_99.00_percentile_latency_ns", "effective_target_qps")
            for value in ('"5"', "[5]", "null", "true", "NaN", "1e999", "1" + "0" * 400)
        ),
    ],
)
def test_a_log_with_a_line_that_loadgen_does_not_write_is_one_sentence(tmp_path, entry):
    check_damaged(tmp_path, f"{FIRST}\n:::MLLOG {entry}\n{LAST}\n", 2)


def test_a_log_whose_beginning_was_overwritten_is_damaged(tmp_path):
    check_damaged(tmp_path, "\0" * 100 + f"{FIRST}\n{LAST}\n", 1)
    check_damaged(tmp_path, f"{FIRST}\n" + "\0" * 100 + f"{FIRST}\n{LAST}\n", 2)
    check_damaged(tmp_path, f"another program\n{FIRST}\n{LAST}\n", 1)


def check_damaged(tmp_path, log, line):
    (tmp_path / SUMMARY).write_text("No errors encountered during test.\n")
    (tmp_path / DETAIL).write_text(log, "latin-1")
    with pytest.raises(RunFailed, match=rf"line {line} of .*{DETAIL} is not as LoadGen writes it: .*; repeat the run"):
        read_detail(tmp_path, "performance")


def test_lines_of_other_programs_are_skipped(tmp_path):
    (tmp_path / SUMMARY).write_text("No errors encountered during test.\n")
    (tmp_path / DETAIL).write_text(f"{FIRST}\na line of another program\n{LAST}\n")
    assert read_detail(tmp_path, "performance").values == {"loadgen_version": "6.0", "num_errors": 0}


def test_a_logged_error_makes_a_run_invalid_and_is_shown(tmp_path):
    line = ':::MLLOG {"key": "%s", "value": "%s", "metadata": {"is_error": %s}}\n'
    (tmp_path / SUMMARY).write_text("1 ERROR encountered. See detailed log.\n")
    (tmp_path / DETAIL).write_text(
        line % ("result_validity", "VALID", "false")
        + line % ("error_runtime", "it broke", "true")
        + line % ("num_errors", "1", "false")
    )
    detail = read_detail(tmp_path, "performance")
    assert not detail.valid
    assert detail.reasons("") == ["LoadGen logged an error: error_runtime: it broke"]


@pytest.mark.parametrize(
    ("version", "last", "whole"),
    [
        ("3.0 @ f536725011", "result_99.90_percentile_latency_ns", True),
        ("5.0.9 @ abc", "result_99.90_percentile_per_query_latency_ns", True),
        ("3.0 @ f536725011", "result_97.00_percentile_latency_ns", False),
        ("6.0.17 @ d6147c7eb7", "result_99.90_percentile_latency_ns", False),
    ],
)
def test_logs_of_older_loadgens_end_earlier(tmp_path, version, last, whole):
    lines = [(key, value) for key, value in (("loadgen_version", version), ("result_validity", "VALID"), (last, 1))]
    entries = ({"key": key, "value": value, "metadata": {"is_error": False}} for key, value in lines)
    (tmp_path / DETAIL).write_text("".join(f":::MLLOG {json.dumps(entry)}\n" for entry in entries))
    (tmp_path / SUMMARY).write_text("No errors encountered during test.\n")
    if whole:
        assert read_detail(tmp_path, "performance").valid
    else:
        with pytest.raises(RunFailed, match="is truncated: "):
            read_detail(tmp_path, "performance")
