"""The driver's side of a node that is an actor of Ray."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from harness.cluster.actor import About, Failure
from harness.cluster.link import Link
from harness.cluster.messages import Answers, NodeReady, Parcel, packed, unpacked
from harness.cluster.outbox import CALLS
from harness.errors import HarnessError, RunFailed
from harness.task.shape import Integers

BEAT = 0.5
"""Seconds between two heartbeats."""
_LOADING = 600.0  # seconds to load samples or to open a test


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
        self.about = About("?", 0, 0, 0)
        self.failure: BaseException | None = None
        self.promised = float("inf")
        """The moment by which its preparation makes progress."""
        self.doing = ""
        self._ray, self._left = ray, left
        self._lock = threading.Lock()
        self._waiting: list[Parcel] = []
        self._busy = False  # somebody sends, or will at once
        self._calls: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._under_way = self._turn = 0
        self._closed = False
        self._test = 0
        self._answered: Callable[[Answers], None] = lambda answers: None
        self._failed: Callable[[BaseException], None] = lambda error: None

    def late(self) -> float:
        """Seconds since the moment that it promised; negative before."""
        return time.monotonic() - self.promised

    def where(self) -> str:
        """For messages."""
        return f"node {self.name} on {self.about.host}"

    def listen(self) -> None:
        """Begin to collect answers."""
        self._exchange()
        threading.Thread(target=self._collect, name=f"answers-{self.name}", daemon=True).start()

    def open(self, answered: Callable[[Answers], None], failed: Callable[[BaseException], None]) -> None:
        """Begin a test."""
        with self._lock:
            self._test += 1
            self._waiting.clear()
            self._answered, self._failed = answered, failed
        if self.failure:
            failed(self.failure)
            return
        try:
            self.call(_LOADING, "open", self._test)
        except HarnessError as error:
            failed(error)

    def send(self, parcel: Parcel) -> None:
        """The caller that finds nobody sending sends also what others add meanwhile."""
        with self._lock:
            self._waiting.append(parcel)
        self._exchange()

    def _exchange(self) -> None:
        """Send what waits; a call is always under way, so that the node can answer."""
        while True:
            with self._lock:
                wanted = self._under_way < CALLS if self._waiting else not self._under_way
                if self._busy or self.failure or not wanted:
                    return
                self._busy = True
                parcels, self._waiting = self._waiting, []
                turn, test = self._turn, self._test
                self._turn, self._under_way = turn + 1, self._under_way + 1
            try:
                self._calls.put(self.actor.exchange.remote(turn, test, packed(parcels, sum(map(_size, parcels)))))
            except Exception as error:  # noqa: BLE001  Ray raises many kinds
                self.lose(in_words(error))
            with self._lock:
                self._busy = False

    def give_up(self) -> None:
        """Tell the node to answer the rest without computing it; this may overtake parcels that are under way."""
        with contextlib.suppress(Exception):  # a node that is lost needs not be told
            self.actor.give_up.remote()

    def load(self, indices: Integers) -> None:
        """Wait until the node holds these samples."""
        self.call(_LOADING, "load", indices)

    def call(self, within: float, method: str, *given: Any) -> Any:
        """What a method of the actor returns; gives up as soon as the node is lost.

        Raises:
            HarnessError: the node's own error with its name, or its loss.
        """
        ray = self._ray
        try:
            found = getattr(self.actor, method).remote(*given)
            ends = time.monotonic() + within
            while not ray.wait([found], timeout=BEAT)[0]:
                if self.failure:
                    raise self.failure
                if time.monotonic() > ends:
                    raise RunFailed(f"{self.where()} has not done {method} for {within:.0f} s.")
            return ray.get(found)
        except HarnessError as error:
            raise self._named(error) from error
        except Exception as error:
            raise self.lost(error) from error

    def lost(self, error: BaseException) -> BaseException:
        """The failure that an error of Ray means: of the node's own code, or its loss."""
        cause = getattr(error, "cause", None)
        if isinstance(cause, BaseException):
            return self._named(cause)
        self.lose(in_words(error))
        return self.failure or error

    def _named(self, cause: BaseException) -> HarnessError:
        if self.where() in str(cause):
            assert isinstance(cause, HarnessError)
            return cause
        kind = type(cause) if isinstance(cause, HarnessError) else RunFailed
        words = str(cause) if isinstance(cause, HarnessError) else f"{type(cause).__name__}: {cause}"
        return kind(f"{self.where()}: {words}")

    def lose(self, why: str) -> None:
        """The node is gone: end the test."""
        self._fail(RunFailed(f"{self.where()} was lost: {why}."))

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._closed or self.failure:
                return
            self.failure = error
            failed = self._failed
        failed(error)

    def _collect(self) -> None:
        while not self._closed:
            try:
                found = unpacked(self._ray.get(self._calls.get()))
                self._deliver(found)
            except BaseException as error:  # noqa: BLE001  of Ray, or of a defect: the test must not wait for ever
                self._fail(self.lost(error))
                return

    def _deliver(self, found: list[tuple[int, Answers | Failure]]) -> None:
        """Pass on what a call brought. What the scheduler sends meanwhile travels in one call."""
        with self._lock:
            self._under_way -= 1
            mine = not self._busy
            self._busy = True
        for test, each in found:
            if test != self._test:
                continue
            if isinstance(each, Failure):
                self._failed(self._named(each.error))
            else:
                self._answered(each)
        if mine:
            with self._lock:
                self._busy = False
        self._exchange()

    def close(self) -> None:
        """The actor ends, and with the last one the cluster."""
        with self._lock:
            closed, self._closed = self._closed, True
        if not closed:
            self._left(self)


def _size(parcel: Parcel) -> int:
    return sum(array.nbytes for array in (parcel.samples or {}).values())


def in_words(error: BaseException) -> str:
    """What an error of Ray says of a node."""
    name = type(error).__name__
    known = {"ActorDiedError": "its process ended", "ActorUnavailableError": "its process cannot be reached"}
    return known.get(name, f"{name}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """For a message: Ray's own have many."""
    return str(error).strip().split("\n")[0][:200].rstrip(".")
