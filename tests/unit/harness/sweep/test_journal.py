"""What a test of a sweep is known by."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.settings.request import RunRequest, resolve
from harness.settings.run import RunSettings
from harness.sweep.journal import key


@pytest.fixture
def settings() -> RunSettings:
    return resolve(RunRequest(engine="null", tuned=False))


def other_results(settings: RunSettings, folder: Path, dataset: Path) -> Mapping[str, object]:
    """Another value for each field that a test's result depends on."""
    conf = folder / "user.conf"
    conf.write_text("*.Server.target_qps = 5\n")
    vocab = folder / "vocab.txt"
    vocab.write_text("[PAD]\n")
    return {
        "model": settings.model.model_copy(update={"sha256": "0" * 64}),
        "engine": "onnxruntime",
        "engine_settings": settings.engine_settings.model_copy(update={"streams": 7}),
        "benchmark_settings": settings.benchmark_settings.model_copy(update={"vocab": vocab}),
        "scenario": "Server",
        "mode": "accuracy",
        "dataset": str(dataset),
        "samples": 3,
        "duration": 3.0,
        "official": True,
        "rehearsal": True,
        "audit": "TEST01",
        "system": "other",
        "user_conf": conf,
        "timeline": "off",
        "profile": True,
        "cluster": "threads:2",
        "cluster_samples": "indices",
    }


def same_result(folder: Path) -> Mapping[str, object]:
    """Another value for each field that only says where or how a result is stored or shown, or what came before it."""
    return {
        "engine_choice": "the fastest",
        "force": True,
        "runs_dir": folder / "runs",
        "tree": folder,
        "cache_dir": folder,
        "tuned": folder / "tuned.json",  # its values are in the other fields
        "remarks": ("a remark",),
        "shown": "nothing",
        "missed": 5.0,  # set between the two parts of one test
        "stall_timeout": 1.0,
    }


def test_each_field_of_the_settings_makes_another_test_or_is_known_not_to(
    settings: RunSettings, tmp_path: Path, small_squad: Path
) -> None:
    different, same = other_results(settings, tmp_path, small_squad), same_result(tmp_path)
    assert sorted([*different, *same]) == sorted(RunSettings.model_fields)
    before = key(settings, None)
    for values, changes in ((different, True), (same, False)):
        for name, value in values.items():
            assert getattr(settings, name) != value, name
            assert (key(settings.model_copy(update={name: value}), None) != before) is changes, name


def test_repeats_are_different_tests(settings: RunSettings) -> None:
    assert len({key(settings, repeat) for repeat in (None, 1, 2)}) == 3
