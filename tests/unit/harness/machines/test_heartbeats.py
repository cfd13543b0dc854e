"""Which silence means that a node is lost, with calls of threads in place of Ray's, and a clock that runs faster."""

from __future__ import annotations

import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import Future, wait

import pytest

from harness.machines import heartbeats, silence
from harness.machines.actor import ProcessInfo
from harness.machines.heartbeats import Heartbeats, reachable


class Beats:
    """What `beat` answers; nothing while it is silent."""

    def __init__(self, answer):
        self.answer, self.silent = answer, threading.Event()
        self.beat = self

    def remote(self, *given) -> Future:
        found: Future = Future()
        if not self.silent.is_set():
            if isinstance(self.answer, Exception):
                found.set_exception(self.answer)
            else:
                found.set_result(self.answer)
        return found


class Ray:
    def __init__(self):
        self.stuck, self.broken = threading.Event(), None

    def get(self, ref):
        return ref.result()

    def wait(self, refs, num_returns, timeout):
        if self.broken:
            raise self.broken
        done, left = wait(refs, timeout)
        return list(done), list(left)

    def put(self, value):
        while self.stuck.is_set():
            time.sleep(0.01)


class Link:
    def __init__(self, name):
        self.name, self.about = name, ProcessInfo("h", 7, 6, 1)
        self.sentinel, self.actor = Beats(True), Beats((5.0, "it warms up"))
        self.failure, self.promised, self.doing, self.address = None, 0.0, "", ("h", 1)
        self.lost = threading.Event()

    def mark_lost(self, why):
        self.failure = self.failure or why
        self.lost.set()


@pytest.fixture
def hearts(monkeypatch):
    monkeypatch.setattr(heartbeats, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(silence, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(silence, "STARVED_SECONDS", 1.5)
    made = []

    def make(links, starting=0.0, reached=False, raylet=0):
        ray = Ray()
        made.append(Heartbeats(ray, links, starting, raylet, lambda address: reached))
        return ray

    make.made = made
    yield make
    for each in made:
        each.over.set()


def test_nodes_that_answer_are_kept_and_say_what_they_promise(hearts):
    links = [Link("a"), Link("b")]
    hearts(links)
    time.sleep(1.0)
    assert not any(link.failure for link in links)
    assert links[0].doing == "it warms up"
    assert 0 < links[0].promised - time.monotonic() <= 5


def test_only_the_node_that_is_silent_is_lost(hearts):
    links = [Link("a"), Link("b")]
    hearts(links)
    time.sleep(0.2)
    links[1].sentinel.silent.set()
    assert links[1].lost.wait(20)
    assert links[1].failure.startswith("no answer for ")
    assert not links[0].failure


def test_a_silent_node_whose_machine_can_be_reached_has_more_time(hearts):
    links = [Link("a"), Link("b")]
    hearts(links, reached=True)
    time.sleep(0.2)
    links[1].sentinel.silent.set()
    assert not links[1].lost.wait(0.8)
    assert links[1].lost.wait(20)
    assert links[1].failure.endswith(" s")
    assert not links[0].failure


def test_a_kernel_accepts_connections_for_a_process_that_does_not():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert reachable(server.getsockname())
        address = server.getsockname()
    assert not reachable(address)


def test_a_node_whose_own_process_is_silent_is_kept_as_its_engine_may_hold_the_lock(hearts):
    link = Link("a")
    link.actor.silent.set()
    hearts([link])
    time.sleep(1.0)
    assert not link.failure


def test_a_stopped_process_is_lost_at_once(hearts):
    link = Link("a")
    hearts([link], starting=100.0)
    link.sentinel.answer = False
    assert link.lost.wait(20)
    assert link.failure == "its process was stopped"


def test_an_error_of_ray_is_a_loss(hearts):
    link = Link("a")
    link.actor.answer = ValueError("gone")
    hearts([link], starting=100.0)
    assert link.lost.wait(20)
    assert link.failure == "ValueError: gone"


def test_processes_have_time_to_start(hearts):
    link = Link("a")
    link.sentinel.silent.set()
    hearts([link], starting=100.0)
    assert not link.lost.wait(1.0)


def test_ray_on_the_drivers_machine_must_also_answer(hearts):
    links = [Link("a"), Link("b")]
    ray = hearts(links)
    ray.stuck.set()
    try:
        assert all(link.lost.wait(20) for link in links)
        assert links[0].failure.startswith("Ray on the driver's machine has not answered for ")
    finally:
        ray.stuck.clear()


def test_all_nodes_are_lost_at_once_if_the_raylet_on_the_drivers_machine_is_stopped_or_gone(hearts):
    links = [Link("a"), Link("b")]
    with subprocess.Popen(["sleep", "60"]) as raylet:
        try:
            hearts(links, starting=100.0, raylet=raylet.pid)
            assert not links[0].lost.wait(0.3)
            raylet.send_signal(signal.SIGSTOP)
            assert all(link.lost.wait(20) for link in links)
            assert links[0].failure == "Ray's process (raylet) on the driver's machine has ended or was stopped"
        finally:
            raylet.kill()
    again = Link("c")
    hearts([again], starting=100.0, raylet=raylet.pid)
    assert again.lost.wait(20)
    assert again.failure == links[0].failure


def test_an_error_of_ray_is_blamed_on_the_raylet_if_that_is_gone(hearts):
    link = Link("a")
    link.actor.answer = ValueError("gone")
    with subprocess.Popen(["sleep", "60"]) as raylet:
        raylet.kill()
        raylet.wait()
        hearts([link], starting=100.0, raylet=raylet.pid)
        assert link.lost.wait(20)
    assert link.failure == "Ray's process (raylet) on the driver's machine has ended or was stopped"


def test_one_loss_does_not_hide_the_next(hearts):
    links = [Link("a"), Link("b")]
    hearts(links)
    links[0].actor.answer = ValueError("gone")
    assert links[0].lost.wait(20)
    links[1].sentinel.silent.set()
    assert links[1].lost.wait(20)


def test_an_error_of_ray_itself_loses_all_nodes_as_nobody_watches_them(hearts):
    links = [Link("a"), Link("b")]
    ray = hearts(links, starting=100.0)
    ray.broken = ValueError("not connected")
    assert all(link.lost.wait(20) for link in links)
    assert [link.failure for link in links] == ["ValueError: not connected"] * 2


def test_no_thread_calls_ray_once_it_is_closed(hearts):
    link = Link("a")
    ray = hearts([link], starting=100.0)
    hearts.made[0].close()
    assert not any(thread.is_alive() for thread in hearts.made[0]._threads)
    ray.broken = ValueError("shut down")
    assert not link.failure


def test_closing_does_not_wait_for_a_ray_that_does_not_answer(hearts):
    ray = hearts([Link("a")], starting=100.0)
    ray.stuck.set()
    try:
        time.sleep(0.1)
        hearts.made[0].close()
        assert hearts.made[0]._threads[1].is_alive()
    finally:
        ray.stuck.clear()
