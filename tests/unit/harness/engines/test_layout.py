from __future__ import annotations

import os
import threading

import pytest

from harness.engines import cores as cores_module
from harness.engines import deepsparse
from harness.engines.cores import CoreSettings, StreamLayout, on_cpus, stay_on
from harness.engines.deepsparse import DeepSparseSettings
from harness.engines.onnxruntime import OnnxRuntimeSettings
from harness.errors import ConfigError
from harness.host import machine
from harness.host.machine import Core

ONE_NODE = [Core(0, 2 * n) for n in range(16)]
TWO_NODES = [Core(0, 0), Core(0, 1), Core(0, 2), Core(0, 3), Core(1, 8), Core(1, 9), Core(1, 10), Core(1, 11)]


def layout(machine, preferred=4, pin=False, **settings):
    return StreamLayout.of(CoreSettings(**settings), preferred, pin, machine)


@pytest.mark.parametrize(
    ("threads", "streams", "expected"),
    [
        (None, None, (4, 4)),
        (2, None, (2, 8)),
        (None, 8, (2, 8)),
        (3, 2, (3, 2)),
        (None, 99, (1, 99)),
        (None, 1, (16, 1)),
    ],
)
def test_cores_are_shared_out(threads, streams, expected):
    made = layout(ONE_NODE, threads=threads, streams=streams)
    assert (made.threads, made.streams) == expected


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ""),
        ({"streams": 32}, ""),
        ({"threads": 16, "streams": 2}, ""),
        ({"streams": 33}, "streams = 33 makes 33 threads compete for 16 cores, which"),
        ({"threads": 33, "streams": 1}, "streams = 1, threads = 33 make 33 threads compete for 16 cores, which"),
    ],
)
def test_more_than_two_threads_on_a_core_are_warned_of(settings, said, monkeypatch):
    monkeypatch.setattr(cores_module, "cores", lambda: ONE_NODE)
    warning = CoreSettings(**settings).crowded()
    assert warning.startswith(said)
    assert bool(warning) == bool(said)


def test_deepsparse_gives_no_stream_more_threads_than_there_are_cores(monkeypatch):
    monkeypatch.setattr(cores_module, "cores", lambda: ONE_NODE)
    monkeypatch.setattr(deepsparse, "core_count", lambda: 16)
    settings = DeepSparseSettings(streams=1, threads=99)
    assert settings.layout().threads == 16
    assert settings.crowded() == ""
    assert DeepSparseSettings(streams=99).crowded()


@pytest.mark.parametrize("available", range(1, 33))
def test_few_cores_idle_whatever_their_number(available):
    made = layout([Core(0, n) for n in range(available)])
    assert made.threads >= min(4, available)
    assert available - made.streams < made.threads * made.streams <= available


def test_each_numa_node_has_an_instance_with_its_own_streams():
    made = layout(TWO_NODES, preferred=2)
    assert made.instances == ((0, 1, 2, 3), (8, 9, 10, 11))
    assert made.pin
    assert [made.instance(stream) for stream in range(made.streams)] == [0, 0, 1, 1]
    assert [made.cpus(stream) for stream in range(made.streams)] == [(0, 1), (2, 3), (8, 9), (10, 11)]


def test_one_stream_spans_the_nodes():
    made = layout(TWO_NODES, streams=1)
    assert made.instances == (tuple(core.cpu for core in TWO_NODES),)


def test_pinning_is_as_the_user_says():
    assert layout(ONE_NODE, pin=True).pin
    assert not layout(ONE_NODE).pin
    assert StreamLayout.of(CoreSettings(pin=True), 4, False, ONE_NODE).pin
    assert not StreamLayout.of(CoreSettings(pin=False), 4, True, TWO_NODES).pin


def test_streams_that_no_instance_count_divides_are_refused():
    with pytest.raises(ConfigError, match="3 streams cannot be divided among 2 instances"):
        layout(ONE_NODE, streams=3, instances=2)
    assert len(layout(TWO_NODES, streams=3).instances) == 1


def test_more_threads_than_cores_share_them():
    made = layout(ONE_NODE[:2], threads=2, streams=2, instances=2)
    assert made.instances == ((0,), (2,))
    assert [made.cpus(stream) for stream in (0, 1)] == [(0,), (2,)]


@pytest.mark.parametrize(
    ("settings", "instances"),
    [
        ({"streams": 16}, ((0, 1, 2, 3), (8, 9, 10, 11))),  # twice as many streams as cores
        ({"streams": 2, "threads": 2}, ((0, 1, 2, 3), (8, 9, 10, 11))),
        ({"streams": 4, "instances": 4}, ((0, 1), (2, 3), (8, 9), (10, 11))),
        ({"streams": 3, "instances": 3}, ((0, 1), (2, 3, 8), (9, 10, 11))),
    ],
)
def test_no_instance_spans_two_nodes_where_the_numbers_allow_it(settings, instances):
    made = layout(TWO_NODES, **settings)
    assert made.instances == instances
    assert all(set(made.cpus(stream)) <= set(instances[made.instance(stream)]) for stream in range(made.streams))


def test_nodes_of_different_size_have_an_instance_each():
    made = layout(TWO_NODES[:7], preferred=1)
    assert made.instances == ((0, 1, 2, 3), (8, 9, 10))
    assert made.streams == 6


def test_a_thread_is_kept_on_its_cpus_and_a_block_gives_them_back():
    mine = os.sched_getaffinity(0)
    first = min(mine)
    with on_cpus((first,)):
        assert os.sched_getaffinity(0) == {first}
    assert os.sched_getaffinity(0) == mine
    seen = []

    def work():
        stay_on((first,))
        seen.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [{first}]
    stay_on((first,))  # the main thread: LoadGen's threads would inherit its CPUs
    assert os.sched_getaffinity(0) == mine


def test_the_cores_of_a_node_stand_side_by_side():
    found = machine.cores()
    assert list(found) == sorted(found)
    assert machine.core_count() == len({core.cpu for core in found}) <= len(os.sched_getaffinity(0))


def test_cores_of_the_same_number_on_two_dies_are_two(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 4})
    for cpu, die, core in ((0, 0, 0), (1, 0, 0), (2, 1, 0), (3, 1, 1)):  # 0 and 1 are hyper-threads; 4 reports nothing
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        for name, value in (("physical_package_id", 0), ("die_id", die), ("core_id", core)):
            (folder / name).write_text(f"{value}\n")
    assert [core.cpu for core in machine.cores(tmp_path)] == [0, 2, 3, 4]


def test_what_suits_a_scenario_yields_to_what_the_user_says():
    latency = {"latency": True, "arriving": False, "max_cost": 1}
    arriving = {"latency": False, "arriving": True, "max_cost": 1}
    assert OnnxRuntimeSettings().suited(**latency).streams == 1
    assert OnnxRuntimeSettings(threads=1).suited(**latency).streams is None
    assert OnnxRuntimeSettings().suited(**arriving).streams is None
    suited = DeepSparseSettings().suited(**arriving)
    assert (suited.scheduler, suited.streams) == ("elastic", 2 * machine.core_count())
    assert DeepSparseSettings().suited(**{**arriving, "max_cost": 384}).streams is None
    for mine in ({"streams": 1}, {"scheduler": "multi_stream"}, {"instances": 1}, {"threads": 1}):
        assert DeepSparseSettings(**mine).suited(**arriving) == DeepSparseSettings(**mine)


@pytest.mark.parametrize(("cores", "streams"), [(1, 1), (2, 2), (7, 7), (8, None), (64, None)])
def test_images_run_on_a_stream_per_core_where_cores_are_few(monkeypatch, cores, streams):
    monkeypatch.setattr(deepsparse, "core_count", lambda: cores)
    waiting = {"latency": False, "arriving": False, "max_cost": 1}
    assert DeepSparseSettings().suited(**waiting).streams == streams
    assert DeepSparseSettings().suited(**{**waiting, "max_cost": 384}).streams is None
    assert DeepSparseSettings().suited(**{**waiting, "latency": True}).streams == 1
    for mine in ({"streams": 1}, {"instances": 1}, {"threads": 1}):
        assert DeepSparseSettings(**mine).suited(**waiting) == DeepSparseSettings(**mine)
