from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import trained
from benchmarks.trained import RecipeVariant, duration

from harness.errors import ConfigError, RunFailed


def test_a_training_is_a_recipe_with_another_method_or_without():
    plain, other = RecipeVariant.parse("minilm-80", None), RecipeVariant.parse("minilm-80-fp32:magnitude", 12)
    assert (plain.recipe.name, plain.method, plain.precision) == ("minilm-80", None, "int8")
    assert (other.recipe.pruning.method, other.recipe.steps, other.precision) == ("magnitude", 12, "fp32")
    assert str(other) == "minilm-80-fp32, trained: 80 % magnitude, blocks of 4".replace(" %", "%")


def test_what_differs_has_another_file_and_the_same_command_finds_its_own(tmp_path, monkeypatch):
    weights, data = tmp_path / "dense.onnx", tmp_path / "train.json"
    commands = []

    def run(command, check):
        commands.append(command)
        Path(command[command.index("--output") + 1]).touch()
        return type("Done", (), {"returncode": 0})

    monkeypatch.setattr(trained.subprocess, "run", run)
    texts = ("minilm-80-fp32", "minilm-80-fp32:magnitude", "minilm-80")
    files = [RecipeVariant.parse(text, 20).file(weights, data, tmp_path) for text in texts]
    assert len({*files, RecipeVariant.parse("minilm-80", 30).file(weights, data, tmp_path)}) == 4
    assert RecipeVariant.parse("minilm-80", 20).file(weights, data, tmp_path) == files[2]
    assert len(commands) == 4
    assert commands[1][3:] == [
        *("models", "train", "minilm-80-fp32", "--weights", str(weights), "--data", str(data)),
        *("--output", str(files[1]), "--method", "magnitude", "--steps", "20"),
    ]


def test_a_training_that_failed_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(trained.subprocess, "run", lambda command, check: type("Done", (), {"returncode": 2}))
    with pytest.raises(RunFailed, match=r"harness models train test-tiny .* failed"):
        RecipeVariant.parse("test-tiny", None).file(tmp_path / "dense.onnx", tmp_path, tmp_path)


def test_the_duration_is_that_of_the_report(tmp_path):
    path = tmp_path / "small.onnx"
    (tmp_path / "small.training.json").write_text(json.dumps({"seconds": 9000, "preparing": 60, "step": 1200}))
    assert duration(path) == "2 h 31 min, 1,200 steps"
    (tmp_path / "small.training.json").write_text("[]")
    with pytest.raises(ConfigError, match="not the report of a training"):
        duration(path)
