"""The files of pinned packages."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w.-]+)==([\w.+-]+)", (ROOT / name).read_text("utf-8"), re.MULTILINE))


def test_training_pins_only_what_nothing_else_needs():
    training = pins("requirements-train.lock")
    assert "torch" in training
    assert not training.keys() & (pins("requirements.lock").keys() | pins("requirements-deepsparse.lock").keys())


def test_mlflow_pins_only_what_nothing_else_pins():
    mlflow = pins("requirements-mlflow.lock")
    assert "mlflow-skinny" in mlflow
    others = [pins(f"requirements{name}.lock") for name in ("", "-deepsparse", "-train", "-cluster", "-parquet")]
    assert not mlflow.keys() & {name for each in others for name in each}
