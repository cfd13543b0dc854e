from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness import paths


def test_a_checkout_keeps_everything_in_itself():
    assert paths.CHECKOUT
    assert Path(__file__).parents[3] == paths.ROOT
    assert paths.advice("make", "pip") == "make"


@pytest.mark.parametrize(
    ("given", "base"), [("/elsewhere", "/elsewhere"), ("", "/home/me/.cache"), ("relative", "/home/me/.cache")]
)
def test_the_cache_of_a_user_as_xdg_defines_it(monkeypatch, given, base):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CACHE_HOME", given)
    assert paths.user_cache() == Path(base) / "mlperf-cpu-harness"


def test_a_user_without_a_home(monkeypatch, tmp_path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # it finds no home
    monkeypatch.chdir(tmp_path)
    assert paths.user_cache() == tmp_path / ".cache" / "mlperf-cpu-harness"
