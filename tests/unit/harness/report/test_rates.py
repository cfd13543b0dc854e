"""The rates that a tuning tested, in the report of a run with the same model, engine, data set and machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from finished import run_folder

from harness import paths
from harness.report.page import page
from harness.report.rates import rates_of, rows
from harness.report.text import as_markdown
from harness.results.finished import find
from harness.settings import tuned
from harness.settings.tuned import Rate

RATES = [
    Rate(rate=80, seconds=6, held=False, valid=False, p99_ms=412.5, samples_per_second=61, queries=480),
    Rate(rate=60, seconds=6, held=True, valid=False, p99_ms=110, samples_per_second=59, queries=360),
    Rate(rate=56, seconds=60, held=True, valid=True, p99_ms=95.25, samples_per_second=56, queries=3360),
]


def write(place: Path, **other: object) -> Path:
    """A tuning that belongs to the runs of `run_folder`, except for ``other``."""
    values: dict[str, object] = {
        "model": "small",
        "model_sha256": None,
        "dataset": "sample",
        "engine": "null",
        "scenario": "Server",
        "options": {"streams": "2"},
        "key": "target_qps",
        "value": 56.0,
        "score": 56.0,
        "unit": "queries/s",
        "default_score": 40.0,
        "rates": RATES,
        "machine": {"cpu": "some CPU", "cores": 2, "numa_nodes": 1},
        "harness": "0",
        "time": "2026-11-25T11:00:00+0000",
    }
    tuned.write(place, tuned.Tuned.model_validate({**values, **other}), "")
    return place


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """A repository, where tunings are looked for."""
    monkeypatch.setattr(paths, "ROOT", tmp_path / "repository")
    return tmp_path / "repository"


def place_in(root: Path) -> Path:
    return root / "measurements" / "mine" / "bert-99" / "Server"


def the_run(runs: Path, **options):
    folder = run_folder(runs, **options)
    detail = folder / "mlperf_log_detail.txt"
    line = {"key": "effective_target_qps", "value": 50, "metadata": {"is_error": False}}
    detail.write_text(f"{detail.read_text()}\n:::MLLOG {json.dumps(line)}")
    return find([str(folder)], None, runs)[0]


def test_the_tests_are_shown_lowest_rate_first_with_the_run_and_the_bound(root, tmp_path):
    write(place_in(root))
    run = the_run(tmp_path / "runs")
    found = rates_of(run)
    assert found is not None
    assert rows(run, found) == [
        ["target_qps", "99th percentile", "test", "queries", "result"],
        ["56", "95.25 ms", "60 s", "3,360", "VALID"],
        ["60", "110.00 ms", "6 s", "360", "within the bound, too few queries"],
        ["80", "412.50 ms", "6 s", "480", "over the bound"],
        ["50", "30.00 ms", "this run, 10.0 s", "3,000", "VALID"],
    ]
    assert "streams=2, 2026-11-25" in found.about
    shown = page([run])
    plot = shown[shown.index("Rate against latency") :]
    plot = plot[: plot.index("</figure>")]
    for label in ("VALID", "too few queries", "over the bound", "this run, VALID", "bound 130 ms"):
        assert f">{label}</text>" in plot
    assert ">target_qps</text>" in plot
    assert ">99th percentile, ms</text>" in plot
    assert 'role="img" aria-label="Rate against latency: 3 tests of harness tune' in plot
    assert "<td>412.50 ms</td>" in shown
    assert "| 56 | 95.25 ms | 60 s | 3,360 | VALID |" in as_markdown([run])


@pytest.mark.parametrize(
    "other",
    [
        {"rates": []},
        {"model_sha256": "0" * 64},
        {"engine": "openvino"},
        {"dataset": "another"},
        {"dataset_sha256": "1" * 64},
        {"machine": {"cpu": "another", "cores": 2, "numa_nodes": 1}},
        {"cluster": "hosts.toml"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_another_tuning_is_not_shown(root, tmp_path, other):
    write(place_in(root), **other)
    run = the_run(tmp_path / "runs")
    assert rates_of(run) is None
    assert "Rate against latency" not in page([run])
    assert "target_qps |" not in as_markdown([run])


@pytest.mark.parametrize("scenario", ["Offline", "SingleStream"])
def test_only_a_scenario_with_a_bound_has_rates(root, tmp_path, scenario):
    write(place_in(root).with_name(scenario), scenario=scenario)
    assert rates_of(the_run(tmp_path / "runs", scenario=scenario)) is None


def test_the_tuning_that_the_run_used_comes_first_wherever_it_is(root, tmp_path):
    write(place_in(root))
    elsewhere = write(tmp_path / "elsewhere", options={"streams": "1"})
    folder = run_folder(tmp_path / "runs")
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "tuned": str(elsewhere / tuned.FILE)}))
    found = rates_of(find([str(folder)], None, tmp_path / "runs")[0])
    assert found is not None
    assert found.tuning.options == {"streams": "1"}


def test_a_damaged_file_is_skipped_and_a_test_without_a_result_has_no_own_mark(root, tmp_path, capsys):
    (root / "measurements" / "a" / "bert-99" / "Server").mkdir(parents=True)
    (root / "measurements" / "a" / "bert-99" / "Server" / tuned.FILE).write_text("{")
    write(place_in(root))
    folder = run_folder(tmp_path / "runs")  # its log has no rate
    run = find([str(folder)], None, tmp_path / "runs")[0]
    found = rates_of(run)
    assert found is not None
    assert len(rows(run, found)) == 4
    assert ">this run, VALID</text>" not in page([run])
    assert "skipped: " in capsys.readouterr().err
