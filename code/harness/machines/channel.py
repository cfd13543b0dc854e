"""A connection between the driver and one node, for parcels and answers.

Ray starts the nodes and carries all other messages. A call through Ray costs each side about a millisecond of processor
time while the cores compute, which Server would pay for every query; a message here costs a fraction of that.
`multiprocessing.connection` has no encryption, and its `send` blocks until the other side reads.
"""

from __future__ import annotations

import contextlib
import hmac
import pickle
import secrets
import select
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from harness.machines import tls

_HEAD = struct.Struct("<QI")  # of a message: bytes of its pickle, and the number of arrays that follow separately
_SIZE = struct.Struct("<Q")  # bytes of such an array
_SEPARATE_ARRAY_BYTES = 1 << 16  # minimum size of an array that is sent outside the pickle, which would copy it
_BUFFER_BYTES = 1 << 16  # for small messages
_NONCE_BYTES = 32
_GREETING_SECONDS = 10.0  # for the other side to prove that it has the key
_CONNECTING_SECONDS = 60.0  # the node may be busy turning away connections without the key
_BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def new_key() -> bytes:
    """A secret that both sides of a connection must have; it is sent through Ray, which has authenticated them."""
    return secrets.token_bytes(_NONCE_BYTES)


class Channel:
    """Messages in both directions, complete and in the order of `send`. Sending never waits for the other side."""

    def __init__(
        self, connection: socket.socket, received: Callable[[Any], None], ended: Callable[[BaseException], None]
    ) -> None:
        """``received`` gets each message; ``ended`` gets the error that ended the channel, once. Both use its thread.

        The connection must come from `connect` or an `Acceptor`: messages are unpickled.
        """
        connection.setblocking(False)
        self._connection, self._received, self._ended = connection, received, ended
        # OpenSSL allows only one thread at a time, whether it reads or writes.
        self._lock = threading.Lock()
        self._left: deque[memoryview] = deque()
        self._draining = self._closed = False
        self._got, self._chunk = bytearray(), memoryview(bytearray(_BUFFER_BYTES))

    def start(self) -> None:
        """Begin to receive."""
        threading.Thread(target=self._read, name="channel", daemon=True).start()

    def send(self, message: object) -> None:
        """Send a message, from any thread; another thread sends the part that the connection does not take at once.

        Large arrays in it are not copied: they must not change afterwards.
        """
        arrays: list[memoryview] = []

        def in_pickle(found: pickle.PickleBuffer) -> bool:
            """Whether an array belongs in the pickle; the others are collected."""
            view = found.raw()
            if view.nbytes < _SEPARATE_ARRAY_BYTES:
                return True
            arrays.append(view)
            return False

        body = pickle.dumps(message, 5, buffer_callback=in_pickle)
        head = _HEAD.pack(len(body), len(arrays)) + b"".join(_SIZE.pack(view.nbytes) for view in arrays)
        with self._lock:
            if self._closed:
                return
            self._left.extend([memoryview(head + body), *arrays])
            if self._draining or self._push():
                return
            self._draining = True
        threading.Thread(target=self._drain, name="channel-sends", daemon=True).start()

    def close(self) -> None:
        """End the channel; may be called twice, from any thread."""
        with self._lock:
            self._closed = True
            self._left.clear()
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_RDWR)

    def _push(self) -> bool:
        """Send as much as the connection takes now; True if nothing is left to send."""
        try:
            while self._left:
                sent = self._connection.send(self._left[0])
                if sent == len(self._left[0]):
                    self._left.popleft()
                else:
                    self._left[0] = self._left[0][sent:]
        except _BLOCKED:
            return False
        except OSError:  # the reading thread reports it
            self._left.clear()
        return True

    def _drain(self) -> None:
        poll = select.poll()
        poll.register(self._connection, select.POLLOUT)
        while True:
            poll.poll()
            with self._lock:
                if self._closed or self._push():
                    self._draining = False
                    return

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        try:
            while True:
                size, count = _HEAD.unpack(self._next(_HEAD.size, poll))
                sizes = [_SIZE.unpack(self._next(_SIZE.size, poll))[0] for _ in range(count)]
                body = self._next(size, poll)
                self._received(pickle.loads(body, buffers=[self._next(each, poll) for each in sizes]))
        except BaseException as error:  # noqa: BLE001  the test must not wait forever
            if not self._closed:
                self._ended(error)
        finally:
            self.close()
            with self._lock:
                self._connection.close()

    def _next(self, count: int, poll: select.poll) -> bytearray | memoryview:
        """The next ``count`` bytes, in memory that nothing else uses."""
        while (missing := count - len(self._got)) > 0:
            if missing > _BUFFER_BYTES:
                return self._next_large(count, poll)
            self._got += self._chunk[: self._receive(self._chunk, poll)]
        part = self._got[:count]
        del self._got[:count]
        return part

    def _next_large(self, count: int, poll: select.poll) -> memoryview:
        """Like `_next`, for more than the bytes that have arrived and one more chunk."""
        part, had = np.empty(count, np.uint8).data, len(self._got)  # a bytearray would be cleared first
        part[:had] = self._got
        self._got.clear()
        while had < count:
            had += self._receive(part[had:], poll)
        return part

    def _receive(self, into: memoryview, poll: select.poll) -> int:
        """Wait for bytes to arrive; returns their number."""
        while True:
            try:
                with self._lock:
                    count = self._connection.recv_into(into)
            except _BLOCKED:
                poll.poll()
                continue
            if not count:
                raise EOFError
            return count


class Acceptor:
    """A node's socket for its driver: it accepts the first connection that has the key, and refuses all others."""

    def __init__(self, address: str, key: bytes, accepted: Callable[[socket.socket], None]) -> None:
        """Listen at ``address``, or on all interfaces if none has that address; ``accepted`` gets the connection.

        Raises:
            OSError: no port is free, or a TLS certificate or key cannot be used.
        """
        self._key, self._accepted, self._tls = key, accepted, tls.settings(ssl.PROTOCOL_TLS_SERVER)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            self._listening = socket.create_server((address, 0), family=family)
        except OSError:  # as behind a NAT router
            self._listening = socket.create_server(("", 0), family=family)
        self.port = int(self._listening.getsockname()[1])
        threading.Thread(target=self._wait, name="acceptor", daemon=True).start()

    def _wait(self) -> None:
        with self._listening:
            while True:
                found, _ = self._listening.accept()
                try:
                    found.settimeout(_GREETING_SECONDS)
                    found = self._tls.wrap_socket(found, server_side=True) if self._tls else found
                    _authenticate(found, self._key, mine=b"node", other=b"driver")
                except (OSError, EOFError):
                    found.close()
                    continue
                break
        self._accepted(found)


def connect(address: str, port: int, key: bytes) -> socket.socket:
    """Connect the driver to an `Acceptor`.

    Raises:
        OSError: it cannot be reached, or the other side does not have the key.
    """
    found = socket.create_connection((address, port), _CONNECTING_SECONDS)
    try:
        encryption = tls.settings(ssl.PROTOCOL_TLS_CLIENT)
        found = encryption.wrap_socket(found) if encryption else found
        _authenticate(found, key, mine=b"driver", other=b"node")
    except EOFError as error:
        found.close()
        raise OSError("the connection was refused") from error
    except OSError:
        found.close()
        raise
    return found


def _authenticate(connection: socket.socket, key: bytes, mine: bytes, other: bytes) -> None:
    """Prove to each other that both have the key; raises OSError or EOFError if not."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    nonce = secrets.token_bytes(_NONCE_BYTES)
    connection.sendall(nonce)
    theirs = _exactly(connection, _NONCE_BYTES)
    connection.sendall(hmac.digest(key, mine + theirs + nonce, "sha256"))
    if not hmac.compare_digest(_exactly(connection, _NONCE_BYTES), hmac.digest(key, other + nonce + theirs, "sha256")):
        raise OSError("the other side does not have the key")


def _exactly(connection: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        if not (part := connection.recv(count - len(found))):
            raise EOFError
        found += part
    return found
