"""How the driver waits for the nodes of a cluster, with calls of threads in place of Ray's."""

from __future__ import annotations

import time
from concurrent.futures import Future, wait
from threading import Event
from types import SimpleNamespace

import pytest

from harness.errors import ConfigError, RunFailed
from harness.machines import ray_link
from harness.machines.actor import ProcessInfo
from harness.machines.actor_link import RayLink
from harness.machines.ray_link import RayCluster


class Ray:
    @staticmethod
    def get(ref):
        return ref.result()

    @staticmethod
    def wait(refs, num_returns, timeout):
        done, left = wait(refs, timeout)
        return list(done), list(left)


def call(*found):
    """A method as Ray has it, which returns what is given, or never if nothing is."""
    future: Future = Future()
    if found:
        future.set_result(found[0])
    return SimpleNamespace(remote=lambda *given: future)


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setattr(ray_link, "_ray", lambda: Ray)
    monkeypatch.setattr(ray_link, "BEAT_SECONDS", 0.01)
    made = RayCluster.__new__(RayCluster)
    made.local, made._hearts = None, None
    actor = SimpleNamespace(about=call(ProcessInfo("h", 7, 6, 1)))
    made.links = [RayLink(Ray, "a", actor, SimpleNamespace(beat=call(True)), ("h", 1), lambda link: None)]
    return made


def no_beat(*given):
    pass


def test_a_node_has_begun_once_both_its_processes_have(cluster, monkeypatch):
    cluster._await_processes(no_beat)
    assert cluster.links[0].about.pid == 7
    monkeypatch.setattr(ray_link, "_JOINING_SECONDS", 0.1)
    cluster.links[0].sentinel.beat = call()
    with pytest.raises(RunFailed, match="node a on h did not start"):
        cluster._await_processes(no_beat)


def test_a_promise_of_an_earlier_step_does_not_count(cluster):
    link = cluster.links[0]
    link.promised = time.monotonic() - 1
    slow: Future = Future()

    def beat(*given):
        if not slow.done():
            slow.set_result("done")

    assert list(cluster._all(beat, float("inf"), [slow])) == [(link, "done")]
    assert link.promised > time.monotonic() + 500


def test_nodes_on_this_machine_that_do_not_start_are_not_blamed_on_an_address(cluster, monkeypatch):
    monkeypatch.setattr(ray_link, "_JOINING_SECONDS", -1.0)
    monkeypatch.setattr(ray_link, "_ENDING_SECONDS", -1.0)
    with pytest.raises(ConfigError, match="start it with `harness cluster up`"):
        cluster._wait_for_port("127.0.0.1:1", no_beat)
    cluster.local = SimpleNamespace(names=["local-1", "local-2"], check=lambda: None)
    with pytest.raises(ConfigError, match=r"^2 nodes on this machine did not start") as caught:
        cluster._wait_for_port("127.0.0.1:1", no_beat)
    assert "cluster up" not in str(caught.value)


def test_a_node_that_was_just_started_has_time_to_join(cluster, monkeypatch):
    def node(name):
        return {"NodeName": name, "Alive": True, "Resources": {"CPU": 1.0}}

    lists = iter([[], [node("one")]])
    ray = SimpleNamespace(nodes=lambda: next(lists, [node("one"), node("two")]))
    monkeypatch.setattr(ray_link, "_ray", lambda: ray)
    assert [name for name, _ in cluster._nodes(["one", "two"], no_beat)] == ["one", "two"]
    monkeypatch.setattr(ray_link, "_LISTING_SECONDS", 0.3)
    with pytest.raises(ConfigError, match="nodes that have not joined the cluster: three; run `harness cluster up`"):
        cluster._nodes(["one", "three"], no_beat)


def test_a_node_that_was_started_again_is_used_once_ray_has_forgotten_the_old_one(cluster, monkeypatch):
    def node(name, number):
        return {"NodeName": name, "Alive": True, "Resources": {"CPU": 1.0}, "NodeID": number}

    both = [node("one", 1), node("two", 2), node("two", 3)]
    lists = iter([both, both])
    ray = SimpleNamespace(nodes=lambda: next(lists, [both[0], both[2]]))
    monkeypatch.setattr(ray_link, "_ray", lambda: ray)
    assert [found["NodeID"] for _, found in cluster._nodes(["one", "two"], no_beat)] == [1, 3]
    ray.nodes = lambda: both
    assert [name for name, _ in cluster._nodes([], no_beat)] == ["one-0", "two-1", "two-2"]
    monkeypatch.setattr(ray_link, "_FORGETTING_SECONDS", 0.3)
    with pytest.raises(ConfigError, match="Ray lists two nodes called two: `harness cluster down`, then `up`"):
        cluster._nodes(["one", "two"], no_beat)


def test_shutting_ray_down_gets_little_time_if_it_will_hang(cluster, monkeypatch):
    monkeypatch.setattr(ray_link, "_ENDING_SECONDS", 0.6)
    monkeypatch.setattr(ray_link, "_BRIEFLY_SECONDS", 0.1)
    took = {}
    for runs in (False, True):
        ends = Event()
        calls = {"close": lambda ends=ends: ends.wait(20), "raylet_runs": lambda runs=runs: runs}
        cluster._hearts = SimpleNamespace(over=Event(), **calls)
        began = time.monotonic()
        cluster.close()
        took[runs] = time.monotonic() - began
        ends.set()
    assert 0.1 <= took[False] < 0.6 <= took[True] < 10
