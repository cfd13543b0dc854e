"""Files of a run that are replaced between hashing and the end of the test."""

from __future__ import annotations

import json
import shutil

import pytest

from harness.catalog.models import find_model


@pytest.mark.parametrize(
    ("engine", "name", "change"),
    [
        ("BeforeLoading", "model.onnx", ["weights", "WEIGHTS"]),
        ("DuringTheTest", "squad.json", ['"text": "In"', '"text": "No"']),
    ],
)
def test_a_file_that_is_replaced_while_it_is_in_use_makes_no_result(
    harness, tmp_path, monkeypatch, engine, name, change
):
    model, dataset = tmp_path / "model.onnx", tmp_path / "squad.json"
    shutil.copy(find_model("minilm-l6-squad-int8").path, model)
    shutil.copy(harness.dataset, dataset)
    monkeypatch.setenv("MEDDLE", json.dumps([str(tmp_path / name), *change]))
    run = harness.run(
        *("--engine", f"meddling:{engine}", "--model", model, "--dataset", dataset, "--mode", "accuracy"),
        *("--set", "max_batch=4"),
    )
    assert run.code == 1, run.out
    assert f"{tmp_path / name} changed while it was in use" in run.err
    assert run.err.count("error:") == 1
    assert run.kept == []
