"""What benchmarks.image_data measures with."""

from __future__ import annotations

import os

from benchmarks import image_data

from harness.host.machine import core_count


def test_one_core_is_all_that_is_used_meanwhile(monkeypatch, tmp_path):
    before = os.sched_getaffinity(0), core_count()
    monkeypatch.setattr(image_data, "harness_way", lambda *_: float(core_count()))
    assert image_data.on_one_core([], image_data.PROFILES["mlperf"], tmp_path) == 1
    assert (os.sched_getaffinity(0), core_count()) == before
