"""The process of a node and the driver's side of it, with calls of a thread in place of Ray's."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from hashlib import sha256

import numpy as np
import pytest

from harness.cluster.messages import Answers, NodeRequest, Parcel
from harness.errors import EngineError, RunFailed
from harness.machines import actor as acting
from harness.machines import files
from harness.machines.actor import Failure, NodeActor, Sentinel
from harness.machines.actor_link import RayLink, in_words
from harness.machines.channel import Channel, connect, new_key

REQUEST = NodeRequest(b"", "a:b")


class Instant:
    """Answers at once; a parcel without samples breaks its engine."""

    def __init__(self):
        self.opened, self.given_up, self.loaded, self.closed = 0, False, None, False

    def open(self, failed):
        self.opened, self.failed = self.opened + 1, failed

    def answer(self, parcel, done):
        if not len(parcel.ids):
            self.failed(EngineError("the engine broke"))
            return
        count = len(parcel.ids)
        done(Answers(parcel.number, parcel.ids, np.arange(count + 1), np.zeros(count, np.uint8), 1, 0, 0))

    def give_up(self):
        self.given_up = True

    def load(self, indices):
        if len(indices) == 3:
            raise EngineError("a file changed")
        self.loaded = indices

    def close(self):
        self.closed = True


@pytest.fixture
def node():
    return Instant()


@pytest.fixture
def actor(node, monkeypatch):
    monkeypatch.setattr(acting, "end_with_parent", lambda: None)
    monkeypatch.setattr(acting, "find_prepare", lambda name: lambda request, name, beat: (node, name))
    made = NodeActor()
    assert made.prepare(REQUEST, "b") == "b"
    return made


def answers(number):
    return Answers(number, np.zeros(0, np.uint64), np.zeros(1, np.int64), np.zeros(0, np.uint8), 0, 0, 0)


def parcel(number, count=2):
    return Parcel(number, np.arange(count, dtype=np.uint64), np.zeros(count, np.int64), None)


class Received:
    """The answers and errors that a link passes on."""

    def __init__(self):
        self.answers, self.errors, self.changed = [], [], threading.Condition()

    def answered(self, answers):
        with self.changed:
            self.answers.append(answers.number)
            self.changed.notify_all()

    def failed(self, error):
        with self.changed:
            self.errors.append(error)
            self.changed.notify_all()

    def wait(self, condition):
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), 20), (self.answers, self.errors)


@pytest.fixture
def driver(actor):
    """The other end of the node's connection, and what arrived there."""
    key, found, came = new_key(), [], threading.Condition()

    def put(message):
        with came:
            found.append(message)
            came.notify_all()

    made = Channel(connect("127.0.0.1", actor.listen("127.0.0.1", key), key), put, lambda error: None)
    made.start()

    def heard(count):
        with came:
            assert came.wait_for(lambda: len(found) >= count, 20), found
        return found

    made.heard = heard
    yield made
    made.close()


def test_answers_and_failures_come_with_the_number_of_their_test(actor, driver):
    actor.open(1)
    driver.send((1, parcel(0)))
    driver.send((1, parcel(1)))
    assert [(test, each.number) for test, each in driver.heard(2)] == [(1, 0), (1, 1)]
    actor.open(2)
    driver.send((2, parcel(0)))
    driver.send((2, parcel(1, 0)))
    assert [(test, type(each)) for test, each in driver.heard(4)[2:]] == [(2, Answers), (2, Failure)]
    assert str(driver.heard(4)[3][1].error) == "the engine broke"


def test_parcels_of_an_earlier_test_are_not_answered(actor, driver):
    actor.open(1)
    actor.open(2)
    driver.send((1, parcel(5)))
    driver.send((2, parcel(3)))
    assert [(test, each.number) for test, each in driver.heard(1)] == [(2, 3)]


def test_a_late_promise_shows_in_the_heartbeat(actor):
    assert actor.beat()[0] > 0
    actor._beat(-1.0, "it warms up")
    within, doing = actor.beat()
    assert within <= -1
    assert doing == "it warms up"


@pytest.fixture
def promises(actor, monkeypatch):
    """What the heartbeat says while files are compared or stored."""
    heard = []

    def look(*given):
        heard.append(actor.beat())
        return []

    monkeypatch.setattr(files, "missing", look)
    monkeypatch.setattr(files, "store", lambda name, digest, chunks: list(chunks))
    ended = acting._ReceivedFile.end
    monkeypatch.setattr(acting._ReceivedFile, "put", look)
    monkeypatch.setattr(
        acting._ReceivedFile, "end", lambda arriving: (look(), arriving._chunks.put(b""), ended(arriving))
    )
    monkeypatch.setattr(acting, "find_prepare", lambda name: lambda request, name, beat: (None, look()))
    return heard


def test_each_step_renews_the_promise_and_a_node_that_waits_has_made_none(actor, promises):
    def missing():
        actor.missing([])

    def more():
        actor.more(b"a")

    def prepare():
        actor.prepare(REQUEST, "b")

    actor.begin_file("x", "0")
    for step in (missing, more, actor.end_file, prepare):
        promises.clear()
        actor._beat(-1.0, "long ago")
        step()
        within, doing = promises[0]
        assert 500 < within <= 600, step
        assert doing != "long ago"
        assert actor.beat() == (float("inf"), ""), step


def test_an_error_that_cannot_travel_becomes_words(actor, node, driver):
    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(one)

    actor.open(1)
    node.failed(Odd("broken", 2))
    ((_, failure),) = driver.heard(1)
    assert isinstance(failure.error, RunFailed)
    assert "Odd: broken" in str(failure.error)


def test_a_file_comes_in_chunks_and_only_if_it_is_the_one_announced(actor, monkeypatch, tmp_path):
    data = b"abc" * 1000
    stored = files.store
    monkeypatch.setattr(files, "store", lambda name, digest, chunks: stored(name, digest, chunks, tmp_path))
    for digest in (sha256(data).hexdigest(), "0" * 64):
        actor.begin_file("x/model.onnx", digest)
        for start in range(0, len(data), 700):
            actor.more(data[start : start + 700])
        if digest[:3] == "000":
            with pytest.raises(RunFailed, match="arrived damaged"):
                actor.end_file()
        else:
            actor.end_file()
    assert (tmp_path / "x" / "model.onnx").read_bytes() == data


def test_the_sentinel_sees_whether_a_process_is_stopped(monkeypatch):
    monkeypatch.setattr(acting, "end_with_parent", lambda: None)
    sentinel = Sentinel()
    assert sentinel.beat(0, 0)
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert sentinel.beat(child.pid)
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        assert not sentinel.beat(child.pid)
        assert not sentinel.beat(os.getpid(), child.pid)
    finally:
        child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not sentinel.beat(child.pid)
    child.wait()
    assert not sentinel.beat(child.pid)


# ---- the driver's side


class ActorDiedError(Exception):
    pass


class TaskError(Exception):
    def __init__(self, cause):
        self.cause = cause


class Call:
    """A method as Ray has it: `remote` returns what `get` and `wait` take."""

    def __init__(self, pool, method, alive):
        self.pool, self.method, self.alive = pool, method, alive

    def remote(self, *given) -> Future:
        def work():
            try:
                found = self.method(*given)
            except Exception as error:
                raise TaskError(error) from error
            return found

        if not self.alive.is_set():
            dead: Future = Future()
            dead.set_exception(ActorDiedError("killed"))
            return dead
        return self.pool.submit(work)


class Remote:
    """An actor whose calls run in order on one thread."""

    def __init__(self, actor):
        self.actor, self.alive = actor, threading.Event()
        self.alive.set()
        self.thread = ThreadPoolExecutor(1)

    def __getattr__(self, name):
        return Call(self.thread, getattr(self.actor, name), self.alive)

    def die(self):
        """As a process does: calls fail from now on, and its connections end."""
        self.alive.clear()
        self.actor._channel.close()


class Ray:
    @staticmethod
    def get(ref):
        return ref.result()

    @staticmethod
    def wait(refs, timeout):
        done, left = wait(refs, timeout)
        return list(done), list(left)


@pytest.fixture
def left():
    return []


@pytest.fixture
def link(actor, left):
    remote = Remote(actor)
    made = RayLink(Ray, "b", remote, None, ("127.0.0.1", 1), left.append)
    made.listen()
    yield made
    made.close()
    remote.thread.shutdown(wait=False)


def test_parcels_are_answered_in_order_whichever_thread_sends(link):
    received = Received()
    link.open(received.answered, received.failed)
    senders = [
        threading.Thread(target=lambda n=n: [link.send(parcel(100 * n + k)) for k in range(50)]) for n in range(4)
    ]
    for sender in senders:
        sender.start()
    received.wait(lambda found: len(found.answers) == 200)
    assert sorted(received.answers) == sorted(100 * n + k for n in range(4) for k in range(50))
    for n in range(4):  # of one sender: in the order of its calls
        mine = [number for number in received.answers if number // 100 == n]
        assert mine == sorted(mine)
    assert not received.errors


def test_answers_of_an_earlier_test_are_not_given_to_the_next(link, actor):
    first, second = Received(), Received()
    link.open(first.answered, first.failed)
    link.open(second.answered, second.failed)
    actor._back(1, answers(7))
    link.send(parcel(3))
    second.wait(lambda found: found.answers)
    assert second.answers == [3]
    assert not first.answers


def test_an_error_of_the_node_ends_the_test_with_its_kind_and_name(link):
    received = Received()
    link.open(received.answered, received.failed)
    link.send(parcel(0, 0))
    received.wait(lambda found: found.errors)
    assert isinstance(received.errors[0], EngineError)
    assert str(received.errors[0]) == "node b: the engine broke"


def test_an_error_of_a_call_keeps_its_kind_and_gets_the_name(link, node):
    link.load(np.arange(2))
    assert len(node.loaded) == 2
    with pytest.raises(EngineError, match=r"^node b: a file changed$"):
        link.load(np.arange(3))
    assert link.failure is None


def test_a_process_that_ended_is_reported_once_as_lost(link):
    received = Received()
    link.open(received.answered, received.failed)
    link.actor.die()
    with pytest.raises(RunFailed, match=r"node b was lost: its process ended\."):
        link.load(np.arange(2))
    link.mark_lost("no answer for 4 s")
    received.wait(lambda found: found.errors)
    assert len(received.errors) == 1
    after = Received()
    link.open(after.answered, after.failed)
    assert [str(error) for error in after.errors] == ["node b was lost: its process ended."]


def test_a_process_that_ends_while_nothing_is_asked_of_it_is_a_loss(link):
    received = Received()
    link.open(received.answered, received.failed)
    link.actor.die()
    received.wait(lambda found: found.errors)
    assert [str(error) for error in received.errors] == ["node b was lost: its process ended."]
    link.send(parcel(0))


def test_a_connection_that_ends_is_a_loss_also_if_the_process_lives(link, actor):
    received = Received()
    link.open(received.answered, received.failed)
    actor._channel.close()
    received.wait(lambda found: found.errors)
    assert str(received.errors[0]).startswith("node b was lost: the connection to it ended (")


def test_a_node_whose_port_is_closed_is_named(actor, monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setattr(actor, "listen", lambda address, key: port)
    remote = Remote(actor)
    link = RayLink(Ray, "b", remote, None, ("127.0.0.1", 1), lambda link: None)
    with pytest.raises(RunFailed, match=rf"node b cannot be reached at 127.0.0.1:{port} \("):
        link.listen()
    remote.thread.shutdown(wait=False)


def test_a_call_to_a_node_that_is_lost_meanwhile_does_not_wait(link, node):
    node.load = lambda indices: time.sleep(5)
    threading.Timer(0.2, link.mark_lost, ["no answer for 4 s"]).start()
    began = time.monotonic()
    with pytest.raises(RunFailed, match="no answer for 4 s"):
        link.load(np.arange(2))
    assert time.monotonic() - began < 4


def test_the_cluster_hears_once_that_a_link_is_closed(link, left):
    link.close()
    link.close()
    assert left == [link]
    received = Received()
    link.open(received.answered, received.failed)
    link.mark_lost("too late")
    assert not received.errors


def test_errors_of_ray_become_words():
    assert in_words(ActorDiedError("a\nb")) == "its process ended"
    assert in_words(ValueError("odd.\nlines")) == "ValueError: odd"
