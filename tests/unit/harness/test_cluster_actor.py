"""The process of a node and the driver's side of it, with calls of a thread in place of Ray's."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from hashlib import sha256

import numpy as np
import pytest

from harness.cluster import actor as acting
from harness.cluster import files
from harness.cluster.actor import Failure, NodeActor, Sentinel
from harness.cluster.actor_link import RayLink, in_words
from harness.cluster.messages import WHOLE, Answers, NodeRequest, Parcel, packed, unpacked
from harness.cluster.outbox import CALLS
from harness.errors import EngineError, RunFailed

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
    monkeypatch.setattr(acting, "_end_with_parent", lambda: None)
    monkeypatch.setattr(acting, "find_prepare", lambda name: lambda request, name, beat: (node, name))
    made = NodeActor()
    assert made.prepare(REQUEST, "b") == "b"
    return made


def answers(number):
    return Answers(number, np.zeros(0, np.uint64), np.zeros(1, np.int64), np.zeros(0, np.uint8), 0, 0, 0)


def parcel(number, count=2):
    return Parcel(number, np.arange(count, dtype=np.uint64), np.zeros(count, np.int64), None)


def test_answers_and_failures_come_with_the_number_of_their_test(actor):
    actor.open(1)
    assert [(test, each.number) for test, each in unpacked(actor.exchange(0, 1, [parcel(0), parcel(1)]))] == [
        (1, 0),
        (1, 1),
    ]
    actor.open(2)
    found = unpacked(actor.exchange(1, 2, packed([parcel(0), parcel(1, 0)], 0)))
    assert [(test, type(each)) for test, each in found] == [(2, Answers), (2, Failure)]
    assert str(found[1][1].error) == "the engine broke"


def test_parcels_of_an_earlier_test_are_not_answered(actor):
    actor.open(1)
    actor.open(2)
    with ThreadPoolExecutor(2) as pool:
        late = pool.submit(actor.exchange, 0, 1, [parcel(5)])
        later = pool.submit(actor.exchange, 1, 2, [parcel(3)])
        while not (late.done() and later.done()):
            actor._back(2, answers(4))
            time.sleep(0.01)
        found = [each.number for call in (late, later) for _, each in unpacked(call.result(20))]
        assert found.count(3) == 1
        assert 5 not in found


def test_calls_take_effect_in_their_turn(actor):
    actor.open(1)
    with ThreadPoolExecutor(2) as pool:
        second = pool.submit(actor.exchange, 1, 1, [parcel(8)])
        time.sleep(0.1)
        assert not second.done()
        first = pool.submit(actor.exchange, 0, 1, [parcel(7)])
        while not (first.done() and second.done()):  # the first may take both answers along
            actor._back(1, answers(9))
            time.sleep(0.01)
        found = [each.number for call in (first, second) for _, each in unpacked(call.result(20))]
        assert found.index(7) < found.index(8)


def test_small_messages_are_pickled_and_large_ones_left_to_the_carrier():
    assert isinstance(packed([parcel(0)], 1000), bytes)
    assert isinstance(packed([parcel(0)], WHOLE), list)


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
    ended = acting._Arriving.end
    monkeypatch.setattr(acting._Arriving, "put", look)
    monkeypatch.setattr(acting._Arriving, "end", lambda arriving: (look(), arriving._chunks.put(b""), ended(arriving)))
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


def test_an_error_that_cannot_travel_becomes_words(actor, node):
    class Odd(Exception):
        def __init__(self, one, two):
            super().__init__(one)

    actor.open(1)
    node.failed(Odd("broken", 2))
    (_, failure), *_ = unpacked(actor.exchange(0, 1, []))
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
    monkeypatch.setattr(acting, "_end_with_parent", lambda: None)
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
    """An actor whose calls of `exchange` run on threads of their own, and all others in order on one."""

    def __init__(self, actor):
        self.actor, self.alive = actor, threading.Event()
        self.alive.set()
        self.pools = {"exchange": ThreadPoolExecutor(CALLS)}
        self.other = ThreadPoolExecutor(1)

    def __getattr__(self, name):
        return Call(self.pools.get(name, self.other), getattr(self.actor, name), self.alive)


class Ray:
    @staticmethod
    def get(ref):
        return ref.result()

    @staticmethod
    def wait(refs, timeout):
        done, left = wait(refs, timeout)
        return list(done), list(left)


class Told:
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
def left():
    return []


@pytest.fixture
def link(actor, left):
    remote = Remote(actor)
    made = RayLink(Ray, "b", remote, None, ("h", 1), left.append)
    made.listen()
    yield made
    made.close()
    actor._outbox.put((0, Failure(RunFailed("unblocks a call"))))
    for pool in (remote.other, *remote.pools.values()):
        pool.shutdown(wait=False)


def test_parcels_are_answered_in_order_whoever_sends(link):
    told = Told()
    link.open(told.answered, told.failed)
    senders = [
        threading.Thread(target=lambda n=n: [link.send(parcel(100 * n + k)) for k in range(50)]) for n in range(4)
    ]
    for sender in senders:
        sender.start()
    told.wait(lambda found: len(found.answers) == 200)
    assert sorted(told.answers) == sorted(100 * n + k for n in range(4) for k in range(50))
    for n in range(4):  # of one sender: in the order of its calls
        mine = [number for number in told.answers if number // 100 == n]
        assert mine == sorted(mine)
    assert not told.errors


def test_answers_of_an_earlier_test_are_not_given_to_the_next(link, actor):
    first, second = Told(), Told()
    link.open(first.answered, first.failed)
    link.open(second.answered, second.failed)
    actor._back(1, answers(7))
    link.send(parcel(3))
    second.wait(lambda found: found.answers)
    assert second.answers == [3]
    assert not first.answers


def test_an_error_of_the_node_ends_the_test_with_its_kind_and_name(link):
    told = Told()
    link.open(told.answered, told.failed)
    link.send(parcel(0, 0))
    told.wait(lambda found: found.errors)
    assert isinstance(told.errors[0], EngineError)
    assert str(told.errors[0]) == "node b on ?: the engine broke"


def test_an_error_of_a_call_keeps_its_kind_and_gets_the_name(link, node):
    link.load(np.arange(2))
    assert len(node.loaded) == 2
    with pytest.raises(EngineError, match=r"^node b on \?: a file changed$"):
        link.load(np.arange(3))
    assert link.failure is None


def test_a_process_that_ended_is_a_loss_and_is_told_once(link):
    told = Told()
    link.open(told.answered, told.failed)
    link.actor.alive.clear()
    link.send(parcel(0))
    with pytest.raises(RunFailed, match=r"node b on \? was lost: its process ended\."):
        link.load(np.arange(2))
    link.lose("no answer for 4 s")
    told.wait(lambda found: found.errors)
    assert len(told.errors) == 1
    after = Told()
    link.open(after.answered, after.failed)
    assert [str(error) for error in after.errors] == ["node b on ? was lost: its process ended."]


def test_a_call_to_a_node_that_is_lost_meanwhile_does_not_wait(link, node):
    node.load = lambda indices: time.sleep(5)
    threading.Timer(0.2, link.lose, ["no answer for 4 s"]).start()
    began = time.monotonic()
    with pytest.raises(RunFailed, match="no answer for 4 s"):
        link.load(np.arange(2))
    assert time.monotonic() - began < 4


def test_the_cluster_hears_once_that_a_link_is_closed(link, left):
    link.close()
    link.close()
    assert left == [link]
    told = Told()
    link.open(told.answered, told.failed)
    link.lose("too late")
    assert not told.errors


def test_errors_of_ray_become_words():
    assert in_words(ActorDiedError("a\nb")) == "its process ended"
    assert in_words(ValueError("odd.\nlines")) == "ValueError: odd"
