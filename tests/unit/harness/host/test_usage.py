"""Who used the cores, from the kernel's counters."""

from __future__ import annotations

import os

import pytest

from harness.host import usage
from harness.host.usage import CoreMeter, CoreUse, Reading, reading


def put(root, **files):
    for name, content in files.items():
        path = root / name.replace("DOT", ".").replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


STAT = """cpu  999 999 999 999 999 999 999 999 0 0
cpu0 100 10 20 500 30 1 2 40 70 0
cpu1 200 0 50 500 30 0 0 0 0 0
cpu2 800 0 0 0 0 0 0 0 0 0
intr 1 2 3
"""


def test_only_the_processors_that_a_process_may_use_count(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "usable", lambda: frozenset({0, 1}))
    monkeypatch.setattr(usage.os, "sysconf", lambda name: 100)
    put(tmp_path, proc__stat=STAT)
    found = reading(tmp_path)
    assert (found.busy, found.stolen, found.group) == (pytest.approx(4.23), 0.4, 0)


def test_finished_children_count_as_its_own_only_where_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "usable", lambda: frozenset({0, 1}))
    monkeypatch.setattr(usage.os, "times", lambda: os.times_result((1.0, 2.0, 4.0, 8.0, 99.0)))
    put(tmp_path, proc__stat=STAT)
    assert (reading(tmp_path).own, reading(tmp_path, children=True).own) == (3.0, 15.0)


@pytest.mark.parametrize("stat", ["", "cpu  1 2 3 4 5 6 7 8", "cpu0 1 2 3 4 5 6 7 8", "cpu7 1 2 3"])
def test_a_system_that_does_not_show_its_processors_has_no_reading(tmp_path, monkeypatch, stat):
    monkeypatch.setattr(usage, "usable", lambda: frozenset({7}))
    put(tmp_path, proc__stat=stat)
    assert reading(tmp_path) is None


@pytest.mark.parametrize(
    "group",
    [
        {
            "proc__self__cgroup": "0::/a",
            "sys__fs__cgroup__a__cpuDOTmax": "150000 100000",
            "sys__fs__cgroup__a__cpuDOTstat": "usage_usec 2500000\nuser_usec 1",
        },
        {
            "proc__self__cgroup": "4:cpu,cpuacct:/x",
            "sys__fs__cgroup__cpu__x__cpuDOTcfs_quota_us": "150000",
            "sys__fs__cgroup__cpu__x__cpuDOTcfs_period_us": "100000",
            "sys__fs__cgroup__cpu__x__cpuacctDOTusage": "2500000000",
        },
    ],
)
def test_a_limited_control_group_is_also_read(tmp_path, monkeypatch, group):
    monkeypatch.setattr(usage, "usable", lambda: frozenset({0, 1}))
    put(tmp_path, proc__stat=STAT, **group)
    assert reading(tmp_path).group == 2.5
    assert usage.cpu_quota(tmp_path) == 1.5


def use(own, busy, stolen=0.0, group=0.0, cpus=2, quota=None):
    return CoreUse.between(
        Reading(10.0, 1, 1, 1, 1), Reading(20.0, 1 + own, 1 + busy, 1 + stolen, 1 + group), cpus, quota or cpus
    )


def test_others_are_what_the_process_did_not_use_itself():
    assert use(own=13, busy=20, stolen=1) == CoreUse(1.3, pytest.approx(0.6), 0.1, 2)
    assert use(own=13, busy=12.9).others == 0  # the machine's counter is coarser


def test_what_others_use_of_processors_that_a_container_does_not_get_takes_nothing_from_it():
    assert use(own=20, busy=320, cpus=64, quota=2).others == 0
    assert use(own=10, busy=635, cpus=64, quota=2).others == pytest.approx(0.5)
    assert use(own=12, busy=40, group=20, cpus=64, quota=2).others == pytest.approx(0.8)  # in the same container


def test_a_container_loses_its_part_of_what_the_host_takes():
    found = use(own=20, busy=30, stolen=10, cpus=64, quota=2)
    assert found.stolen == pytest.approx(1 / 32)
    assert not found.disturbed


def test_another_machine_does_not_have_the_quota_of_this_one(monkeypatch):
    monkeypatch.setattr(usage, "cpu_quota", lambda: 1.5)
    assert CoreUse.between(Reading(10.0, 1, 1, 1), Reading(20.0, 2, 2, 1), 8).cores == 8
    monkeypatch.setattr(usage, "usable", lambda: frozenset(range(8)))
    assert CoreUse.between(Reading(10.0, 1, 1, 1), Reading(20.0, 2, 2, 1)).cores == 1.5


def test_odd_counters_give_no_reading_and_no_failure(monkeypatch):
    def odd(*_):
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr(usage, "cgroup", odd)
    with CoreMeter() as meter:
        pass
    assert meter.use is None
    readings = iter([Reading(1.0, 0, 0, 0), Reading(2.0, 1, 1.5, 0)])
    monkeypatch.setattr(usage, "reading", lambda **_: next(readings))
    with CoreMeter() as meter:
        pass
    assert meter.use is None  # the quota cannot be read


@pytest.mark.parametrize(
    ("others", "stolen", "words"),
    [
        (0.64, 0.0, "other processes used 0.64 of 2 cores"),
        (0.64, 0.02, "other processes used 0.64 of 2 cores"),
        (0.0, 0.5, "the host of this virtual machine took 0.50 of 2 cores"),
        (0.64, 0.5, "other processes used 0.64 of 2 cores and the host of this virtual machine took 0.50"),
        (0.09, 0.08, "other processes used 0.09 of 2 cores"),
    ],
)
def test_words(others, stolen, words):
    found = CoreUse(1.0, others, stolen, 2)
    assert found.disturbed
    assert found.words == words


def test_a_twentieth_of_the_cores_is_notable():
    assert not CoreUse(1.9, 0.06, 0.03, 2).disturbed
    assert CoreUse(1.8, 0.06, 0.05, 2).disturbed
    assert not CoreUse(90.0, 4.0, 0.0, 96).disturbed


def test_the_gain_covers_threads_that_wait_for_each_other():
    assert CoreUse(2.0, 0.0, 0.0, 2).gain == 1
    assert CoreUse(1.0, 0.4, 0.0, 2).gain == pytest.approx(1.5625)
    assert CoreUse(0.1, 1.9, 0.0, 2).gain == CoreUse(0.1, 2.3, 0.0, 2).gain == 3


def test_a_meter_measures_between_its_first_and_its_last_look(monkeypatch):
    readings = iter([Reading(1.0, 0, 0, 0), Reading(2.0, 1, 1.5, 0), Reading(3.0, 2, 4, 0)])
    monkeypatch.setattr(usage, "reading", lambda **_: next(readings))
    meter = CoreMeter()
    assert meter.use is None
    meter.look()
    assert meter.use is None
    meter.look()
    meter.look()
    assert meter.use.own == 1
    assert meter.use.others == pytest.approx(1.0)


def test_a_meter_of_a_short_time_or_of_another_system_has_no_use(monkeypatch):
    for found in (Reading(1.0, 0, 0, 0), None):
        monkeypatch.setattr(usage, "reading", lambda found=found: found)
        with CoreMeter() as meter:
            pass
        assert meter.use is None
