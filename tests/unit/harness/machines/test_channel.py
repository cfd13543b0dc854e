"""The connection for parcels and answers: who is let in, and that messages arrive whole, in order, and encrypted."""

from __future__ import annotations

import socket
import threading
from collections import defaultdict

import numpy as np
import pytest
from certificates import certificate_in

from harness.machines import channel
from harness.machines.channel import Acceptor, Channel, connect, new_key

HERE = "127.0.0.1"


class Side:
    """One end of a connection, and what it received."""

    def __init__(self, connection):
        self.messages, self.ended, self.changed = [], [], threading.Condition()
        self.channel = Channel(connection, lambda found: self._put(self.messages, found), self._over)
        self.channel.start()

    def _over(self, error):
        self._put(self.ended, error)

    def _put(self, where, found):
        with self.changed:
            where.append(found)
            self.changed.notify_all()

    def wait(self, condition):
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), 20)


@pytest.fixture
def key():
    return new_key()


@pytest.fixture
def joined():
    """Makes the two ends of a connection."""
    made = []

    def join(key):
        accepted: list[socket.socket] = []
        inside = threading.Event()
        acceptor = Acceptor(HERE, key, lambda found: (accepted.append(found), inside.set()))
        driver = Side(connect(HERE, acceptor.port, key))
        assert inside.wait(20)
        made.extend([driver, Side(accepted[0])])
        return made[-2:]

    yield join
    for side in made:
        side.channel.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    return certificate_in(tmp_path_factory.mktemp("tls"))


@pytest.fixture(params=["plain", "tls"])
def encryption(request, monkeypatch):
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    if request.param == "tls":
        for name, value in request.getfixturevalue("certificate").items():
            monkeypatch.setenv(name, str(value))


def test_messages_of_any_size_arrive_whole_in_both_directions_at_once(encryption, joined, key):
    sides = joined(key)
    sizes = [0, 1, 100, 1 << 16, (1 << 20) + 1, 5 << 20, 7]
    texts = [bytes([place]) * size for place, size in enumerate(sizes)]
    for text in texts:
        for side in sides:
            side.channel.send(text)
    for side in sides:
        side.wait(lambda found: len(found.messages) == len(texts))
        assert side.messages == texts


def test_arrays_of_any_size_arrive_whole_between_small_messages(encryption, joined, key):
    driver, node = joined(key)
    many = np.arange(3 << 20, dtype=np.uint8)
    many.flags.writeable = False  # as the samples of a data set
    few = [
        many[:count]
        for count in (0, 1, channel._SEPARATE_ARRAY_BYTES - 1, channel._SEPARATE_ARRAY_BYTES, channel._BUFFER_BYTES + 1)
    ]
    sent = [{"pixels": many, "rows": few}, "between", {"strided": many[::3], "again": many}, few]
    for message in sent:
        driver.channel.send(message)
    node.wait(lambda found: len(found.messages) == len(sent))
    np.testing.assert_equal(node.messages, sent)


def test_large_arrays_are_sent_from_their_own_memory(joined, key):
    driver, node = joined(key)
    array = np.zeros(40 << 20, np.uint8)
    with node.channel._lock:  # nothing is read meanwhile
        driver.channel.send(array)
        left = driver.channel._left[-1]
        assert np.shares_memory(np.frombuffer(left, np.uint8), array)
    node.wait(lambda found: found.messages)


def test_messages_of_one_thread_keep_their_order_while_others_send(encryption, joined, key):
    driver, node = joined(key)
    senders = [
        threading.Thread(target=lambda n=n: [driver.channel.send((n, k, b"x" * 3000)) for k in range(300)])
        for n in range(3)
    ]
    for sender in senders:
        sender.start()
    node.wait(lambda found: len(found.messages) == 900)
    of = defaultdict(list)
    for n, k, _ in node.messages:
        of[n].append(k)
    assert of == {n: list(range(300)) for n in range(3)}


def test_sending_does_not_wait_for_a_side_that_does_not_read(joined, key):
    driver, node = joined(key)
    with node.channel._lock:  # nothing is read meanwhile
        for number in range(40):
            driver.channel.send(bytes([number]) * (1 << 20))
        assert driver.channel._left
    node.wait(lambda found: len(found.messages) == 40)
    assert [found[0] for found in node.messages] == list(range(40))


def test_the_other_side_hears_once_that_one_is_closed_and_the_closed_one_nothing(encryption, joined, key):
    driver, node = joined(key)
    node.channel.close()
    node.channel.close()
    driver.wait(lambda found: found.ended)
    driver.channel.send("to nobody")
    assert len(driver.ended) == 1
    assert not node.ended


def test_a_message_that_cannot_be_read_ends_the_connection_with_its_error(joined, key):
    driver, node = joined(key)
    with node.channel._lock:
        node.channel._connection.send(channel._HEAD.pack(3, 0) + b"abc")
    driver.wait(lambda found: found.ended)
    assert type(driver.ended[0]).__name__ == "UnpicklingError"


def test_only_who_has_the_key_is_let_in(encryption, key):
    accepted, inside = [], threading.Event()
    acceptor = Acceptor(HERE, key, lambda found: (accepted.append(found), inside.set()))
    with pytest.raises(OSError, match=r"refused|key|reset"):
        connect(HERE, acceptor.port, new_key())
    with socket.create_connection((HERE, acceptor.port)) as stranger:
        stranger.sendall(b"G" * 200)
    assert not accepted
    with connect(HERE, acceptor.port, key):
        assert inside.wait(20)
    accepted[0].close()


def test_the_listening_side_must_also_have_the_key(monkeypatch, key):
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    with socket.create_server((HERE, 0)) as listening:

        def imitate():
            found, _ = listening.accept()
            with found:
                found.recv(32)
                found.sendall(b"\0" * 64)
                found.recv(32)

        threading.Thread(target=imitate).start()
        with pytest.raises(OSError, match="does not have the key"):
            connect(HERE, listening.getsockname()[1], key)


def test_a_driver_without_a_certificate_of_the_cluster_is_turned_away(certificate, monkeypatch, key):
    for name, value in certificate.items():
        monkeypatch.setenv(name, str(value))
    acceptor = Acceptor(HERE, key, lambda found: None)
    monkeypatch.delenv("RAY_USE_TLS")
    monkeypatch.setattr(channel, "_CONNECTING_SECONDS", 2.0)
    with pytest.raises(OSError, match=r"timed out|refused|reset|key"):
        connect(HERE, acceptor.port, key)


def test_a_node_whose_address_belongs_to_a_router_listens_everywhere(monkeypatch, key):
    monkeypatch.delenv("RAY_USE_TLS", raising=False)
    inside = threading.Event()
    acceptor = Acceptor("192.0.2.1", key, lambda found: (found.close(), inside.set()))
    connect(HERE, acceptor.port, key).close()
    assert inside.wait(20)
