"""The driver's side of a node that is an actor of Ray."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from harness.cluster.link import Link
from harness.cluster.messages import Answers, NodeReady, Parcel
from harness.errors import HarnessError, RunFailed
from harness.machines.actor import Failure, ProcessInfo
from harness.machines.channel import Channel, connect, new_key
from harness.task.shape import Integers

BEAT_SECONDS = 0.5
"""Seconds between two heartbeats."""
_LOADING_SECONDS = 600.0  # to load samples or to open a test
_REPLY_SECONDS = 60.0  # for a node to report its port, or to answer a heartbeat


class RayLink(Link):
    """The driver's side of one actor."""

    def __init__(
        self,
        ray: Any,
        name: str,
        actor: Any,
        sentinel: Any,
        address: tuple[str, int],
        left: Callable[[RayLink], None],
    ) -> None:
        """``ray`` is the package; the raylet listens at ``address``; ``left`` is called when the link is closed."""
        self.name, self.actor, self.sentinel, self.address = name, actor, sentinel, address
        self.ready: NodeReady
        self.about = ProcessInfo("", 0, 0, 0)
        self.failure: BaseException | None = None
        self.promised = float("inf")
        """The time by which its preparation promised progress, as of time.monotonic()."""
        self.doing = ""
        self._ray, self._left = ray, left
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._closed = False
        self._test = 0
        self._answered: Callable[[Answers], None] = lambda answers: None
        self._failed: Callable[[BaseException], None] = lambda error: None

    def late(self) -> float:
        """Seconds by which the promised progress is overdue; negative before it is due."""
        return time.monotonic() - self.promised

    def where(self) -> str:
        """The node and its host, for messages."""
        return f"node {self.name}" + (f" on {self.about.host}" if self.about.host else "")

    def listen(self) -> None:
        """Connect to the node; from then on, answers are received.

        Raises:
            RunFailed: it cannot be reached.
        """
        key, host = new_key(), self.address[0]
        port = self.call(_REPLY_SECONDS, "listen", host, key)
        try:
            self._channel = Channel(connect(host, port, key), self._deliver, self._ended)
        except OSError as error:
            where = f"{self.where()} cannot be reached at {host}:{port} ({error})"
            raise RunFailed(f"{where}: let this machine through its firewall.") from error
        self._channel.start()

    def open(self, answered: Callable[[Answers], None], failed: Callable[[BaseException], None]) -> None:
        """Begin a test."""
        with self._lock:
            self._test += 1
            self._answered, self._failed = answered, failed
        if self.failure:
            failed(self.failure)
            return
        try:
            self.call(_LOADING_SECONDS, "open", self._test)
        except HarnessError as error:
            failed(error)

    def send(self, parcel: Parcel) -> None:
        """Send a parcel without waiting for the node."""
        if self._channel and not self.failure:
            self._channel.send((self._test, parcel))

    def give_up(self) -> None:
        """Make the node answer the remaining samples without computing them; this may overtake parcels in transit."""
        with contextlib.suppress(Exception):  # a lost node has nothing to give up
            self.actor.give_up.remote()

    def load(self, indices: Integers) -> None:
        """Make the node load these samples, and wait until it has."""
        self.call(_LOADING_SECONDS, "load", indices)

    def call(self, within: float, method: str, *given: Any) -> Any:
        """Call a method of the actor and wait at most ``within`` seconds, or until the node is lost.

        Raises:
            HarnessError: the node's own error, with its name added, or the loss of the node.
        """
        ray = self._ray
        try:
            found = getattr(self.actor, method).remote(*given)
            ends = time.monotonic() + within
            while not ray.wait([found], timeout=BEAT_SECONDS)[0]:
                if self.failure:
                    raise self.failure
                if time.monotonic() > ends:
                    raise RunFailed(f"{self.where()} did not complete {method} within {within:.0f} s.")
            return ray.get(found)
        except HarnessError as error:
            raise self._named(error) from error
        except Exception as error:
            raise self.cause_of(error) from error

    def cause_of(self, error: BaseException) -> BaseException:
        """The cause of an error of Ray: an error in the node's own code, or the loss of the node."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, BaseException):
            return self._named(cause)
        self.mark_lost(in_words(error))
        return self.failure or error

    def _named(self, cause: BaseException) -> HarnessError:
        if self.where() in str(cause):
            assert isinstance(cause, HarnessError)
            return cause
        kind = type(cause) if isinstance(cause, HarnessError) else RunFailed
        words = str(cause) if isinstance(cause, HarnessError) else f"{type(cause).__name__}: {cause}"
        return kind(f"{self.where()}: {words}")

    def mark_lost(self, why: str) -> None:
        """Record that the node is lost, and end the test."""
        self._fail(RunFailed(f"{self.where()} was lost: {why}."))

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._closed or self.failure:
                return
            self.failure = error
            failed = self._failed
        if self._channel:
            self._channel.close()
        failed(error)

    def _deliver(self, message: tuple[int, Answers | Failure]) -> None:
        test, found = message
        if test != self._test:
            return
        if isinstance(found, Failure):
            self._failed(self._named(found.error))
        else:
            self._answered(found)

    def _ended(self, error: BaseException) -> None:
        """The connection broke: first try a call through Ray, whose error says more if the process has ended."""
        with contextlib.suppress(HarnessError):
            self.call(_REPLY_SECONDS, "beat")
        self.mark_lost(f"the connection to it ended ({in_words(error)})")

    def close(self) -> None:
        """Close the link; closing the last one ends the cluster."""
        with self._lock:
            closed, self._closed = self._closed, True
        if self._channel:
            self._channel.close()
        if not closed:
            self._left(self)


def in_words(error: BaseException) -> str:
    """Why a node was lost, according to an error of Ray."""
    name = type(error).__name__
    known = {"ActorDiedError": "its process ended", "ActorUnavailableError": "its process cannot be reached"}
    return known.get(name, f"{name}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """The first line of an error; Ray's messages have many."""
    return str(error).strip().split("\n")[0][:200].rstrip(".")
