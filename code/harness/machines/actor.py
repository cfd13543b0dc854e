"""The process of a node: it receives parcels and sends answers back."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import queue
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.cluster.local_link import find_prepare
from harness.cluster.messages import Answers, NodeReady, NodeRequest, Parcel
from harness.cluster.node import Node
from harness.errors import RunFailed
from harness.host.parent import end_with_parent
from harness.host.usage import Reading, cpu_quota, reading, usable
from harness.machines import files
from harness.machines.channel import Acceptor, Channel
from harness.task.shape import Integers

_STEP_SECONDS = 600.0  # for a step without progress reports, such as hashing files


@dataclass(frozen=True)
class Failure:
    """The error that ended a test on a node."""

    error: BaseException


@dataclass(frozen=True)
class ProcessInfo:
    """Facts about a node's process, reported before it prepares anything."""

    host: str
    pid: int
    parent: int
    """Process id of its raylet."""
    cpus: int
    """The number of logical CPUs that it may use."""


class NodeActor:
    """The process of a node.

    Most methods run on one thread, in order. Heartbeats, checks and arriving parcels have one thread each.
    """

    def __init__(self) -> None:
        # Ray sets this variable, but the harness chooses the engine's threads.
        os.environ.pop("OMP_NUM_THREADS", None)
        end_with_parent()  # its raylet
        self._node: Node | None = None
        self._files: _ReceivedFile | None = None
        self._channel: Channel | None = None
        self._joined = threading.Event()
        self._lock = threading.Lock()
        self._test = 0
        self._promise = (time.monotonic(), float("inf"), "")

    def about(self) -> ProcessInfo:
        """The host, the process ids and the CPUs of this node."""
        return ProcessInfo(socket.gethostname(), os.getpid(), os.getppid(), len(os.sched_getaffinity(0)))

    def missing(self, needed: Sequence[files.Needed]) -> list[str]:
        """The names of the files that the driver must send."""
        with self._at_work("its files are compared"):
            return files.missing(needed)

    def begin_file(self, name: str, sha256: str) -> None:
        """Begin to receive a file; the next calls of `more` bring its chunks."""
        self._files = _ReceivedFile(name, sha256)

    def more(self, chunk: bytes) -> None:
        """Receive the next chunk of the file."""
        assert self._files
        with self._at_work("a file arrives"):
            self._files.put(chunk)

    def end_file(self) -> None:
        """Complete the file; raises the errors of `files.store`."""
        assert self._files
        with self._at_work("a file is compared"):
            self._files.end()

    def prepare(self, request: NodeRequest, name: str) -> NodeReady:
        """Prepare the node; raises any error that must end the run."""
        with self._at_work():
            self._node, ready = find_prepare(request.prepare)(request, name, self._beat)
        return ready

    @contextlib.contextmanager
    def _at_work(self, doing: str = "") -> Iterator[None]:
        """Promise progress during the block, but not afterwards: the node may wait long while others receive files."""
        self._beat(_STEP_SECONDS, doing)
        try:
            yield
        finally:
            self._beat(float("inf"))

    def _beat(self, within: float, doing: str = "") -> None:
        self._promise = (time.monotonic(), within, doing)

    def beat(self) -> tuple[float, str]:
        """Seconds left until the promised progress is due, and what the preparation is doing."""
        since, within, doing = self._promise
        return since + within - time.monotonic(), doing

    def listen(self, address: str, key: bytes) -> int:
        """Listen for the driver, which must have the key; returns the port for parcels and answers."""
        return Acceptor(address, key, self._accepted).port

    def _accepted(self, connection: socket.socket) -> None:
        # When the driver ends, the raylet ends and kills this process, so a lost connection needs no handling.
        self._channel = Channel(connection, self._arrived, lambda error: None)
        self._joined.set()
        self._channel.start()

    def open(self, test: int) -> None:
        """Begin a test."""
        assert self._node
        self._joined.wait()  # the driver may be connected before `_accepted` has run here
        with self._lock:  # no parcel of the previous test may reach this one
            self._test = test
            self._node.open(lambda error: self._back(test, Failure(_portable(error))))

    def _arrived(self, message: tuple[int, Parcel]) -> None:
        """``message`` is (test number, parcel); the answer goes back as (test number, answers)."""
        test, parcel = message
        with self._lock:
            if test == self._test:
                assert self._node
                self._node.answer(parcel, partial(self._back, test))

    def _back(self, test: int, found: Answers | Failure) -> None:
        assert self._channel
        self._channel.send((test, found))

    def give_up(self) -> None:
        """Answer the remaining samples without computing them."""
        if self._node:
            self._node.give_up()

    def load(self, indices: Integers) -> None:
        """Load exactly these samples of this node's data set."""
        assert self._node
        self._node.load(indices)

    def close(self) -> None:
        """End the test."""
        if self._node:
            self._node.close()

    def facts(self, module: str, function: str) -> Any:
        """The result of ``module.function()`` on this machine."""
        return getattr(importlib.import_module(module), function)()

    def receive(self, payload: object) -> None:
        """Do nothing: the driver measures the time that the payload takes to this node."""

    def produce(self, size: int) -> NDArray[np.uint8]:
        """``size`` bytes: the driver measures the time that they take from this node."""
        return np.zeros(size, np.uint8)

    def share(self) -> tuple[int, float | None]:
        """The number of CPUs that this process may use, and its CPU quota (None without one)."""
        return len(usable()), cpu_quota()

    def clock(self) -> float:
        """Seconds of the realtime clock."""
        return time.time()

    def usage(self) -> Reading | None:
        """The processor time used so far, for `CoreUse`; None if this system does not show it."""
        return reading()


class Sentinel:
    """A process beside a node's process, which answers even while an engine holds the GIL there."""

    def __init__(self) -> None:
        end_with_parent()  # its raylet

    def beat(self, *pids: int) -> bool:
        """Whether the processes of the node and its raylet exist and are not stopped; id 0 (unknown) is skipped."""
        return all(runs(pid) for pid in pids if pid)


def runs(pid: int) -> bool:
    """Whether this process exists on this machine and is not stopped."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "TtZX"


def _portable(error: BaseException) -> BaseException:
    """The error, or a RunFailed with its message if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001  pickling an engine's exception can raise anything
        return RunFailed(f"{type(error).__name__}: {error}")
    return error


class _ReceivedFile:
    """A file whose chunks arrive one by one and are written to disk by a thread."""

    def __init__(self, name: str, sha256: str) -> None:
        self._chunks: queue.Queue[bytes] = queue.Queue(2)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._store, args=(name, sha256), daemon=True)
        self._thread.start()

    def _store(self, name: str, sha256: str) -> None:
        try:
            files.store(name, sha256, iter(self._chunks.get, b""))
        except BaseException as error:  # noqa: BLE001  raised by `end`
            self._error = error

    def put(self, chunk: bytes) -> None:
        while self._thread.is_alive():
            with contextlib.suppress(queue.Full):
                return self._chunks.put(chunk, timeout=1.0)
        return None

    def end(self) -> None:
        self.put(b"")
        self._thread.join()
        if self._error:
            raise self._error
