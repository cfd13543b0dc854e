"""Tests from Python, and the example of the document."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness import paths
from harness.api import run
from harness.errors import ConfigError
from harness.settings.runfile import RUNFILE

ROOT = Path(__file__).parents[2]


def test_the_example_of_the_document_runs(tmp_path, monkeypatch, capsys):
    [example] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "elsewhere.md").read_text("utf-8"), re.DOTALL)
    names: dict[str, object] = {"__name__": "a notebook"}
    exec(compile(example, "docs/elsewhere.md", "exec"), names)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert re.fullmatch(r"4 (IN)?VALID throughput [\d.,]+ samples/s", lines[0])
    assert "onnxruntime" in lines[2]
    for outcome in names["outcomes"].values():  # it writes to build/runs, as a user's would
        folder = paths.ROOT / "build" / "runs" / outcome.name
        assert (folder / RUNFILE).is_file()
        assert outcome.values["effective_scenario"] == "Offline"


def test_a_mistake_is_the_error_with_the_sentence_of_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as in a notebook
    with pytest.raises(ConfigError, match=r"^unknown option 'max_bach' for engine null: did you mean 'max_batch'\?$"):
        run(engine="null", options={"max_bach": 2}, runs_dir=tmp_path)
    assert not list(tmp_path.iterdir())


def test_warnings_of_the_test_and_of_its_process_are_in_the_outcome(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    conf = tmp_path / "user.conf"
    conf.write_text("*.Offline.target_qps = 900\n*.Offline.target_qps = 1000\n")
    outcome = run(engine="null", samples=8, duration=0.5, user_conf=conf, runs_dir=tmp_path / "runs")
    assert any("target_qps" in warning and "user.conf" in warning for warning in outcome.warnings)
    shown = capsys.readouterr().err
    assert all(f"warning: {warning}" in shown for warning in outcome.warnings)


def test_a_run_file_repeats_its_run(harness):
    first = harness.run("--engine", "null", "--scenario", "SingleStream", "--duration", 0.5, "--samples", 8)
    assert first.code in (0, 1), first.err
    again = harness.run(first.folder / RUNFILE, "--json")
    assert again.code in (0, 1), again.err
    records = sorted(harness.runs.glob("*/run.json"))
    one, other = (json.loads(path.read_text()) for path in records)
    for key in ("identity", "dataset", "scenario", "mode", "model"):
        assert one[key] == other[key]
    files = [(path.parent / RUNFILE).read_text() for path in records]
    assert files[0] == files[1]
