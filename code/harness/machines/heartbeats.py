"""Detects within seconds that a node is lost: a sentinel beside each node must answer."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from harness.machines.actor import runs
from harness.machines.actor_link import BEAT_SECONDS, RayLink, in_words
from harness.machines.silence import STARVED_SECONDS, Silence

_ENDING_SECONDS = 1.0  # to end the threads
_CONNECTING_SECONDS = 1.0  # to connect
_PROBE_BYTES = 200_000  # large enough that the object goes through the raylet
Reachable = Callable[[tuple[str, int]], bool]


def reachable(address: tuple[str, int]) -> bool:
    """Whether a kernel accepts connections at this address, even for a stopped process; takes at most a second."""
    try:
        with socket.create_connection(address, _CONNECTING_SECONDS):
            return True
    except OSError:
        return False


class Heartbeats:
    """Asks all sentinels whether their nodes run, and all nodes for promised progress; a lost node ends its link."""

    def __init__(
        self, ray: Any, links: Sequence[RayLink], starting: float, raylet: int, reach: Reachable = reachable
    ) -> None:
        """``ray`` is the package; each sentinel has ``starting`` seconds for its first answer.

        ``raylet`` is the process id of the raylet that serves this process; 0 if unknown.
        """
        self.over = threading.Event()
        self._ray, self._links, self._raylet, self._reach = ray, links, raylet, reach
        self._pending: dict[Any, tuple[RayLink, bool]] = {}
        now = time.monotonic()
        self._silences = {link.name: Silence(now, starting) for link in links}
        self._reached: dict[str, bool | None] = {}
        self._own = Silence(now, 0.0)
        self._threads = [
            threading.Thread(target=self._watch, name="heartbeats", daemon=True),
            threading.Thread(target=self._probe, name="own-heartbeat", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop asking. Returns within a second, even if Ray does not answer."""
        self.over.set()
        ends = time.monotonic() + _ENDING_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def _watch(self) -> None:
        while not self.over.is_set():
            try:
                self._look()
            except Exception as error:  # noqa: BLE001  Ray raises many kinds; unwatched, a test could wait forever
                if self.over.is_set():
                    return
                for link in self._links:
                    link.mark_lost(self._why(error))
                return

    def _look(self) -> None:
        self._ask()
        refs = list(self._pending)
        done = self._ray.wait(refs, num_returns=len(refs), timeout=BEAT_SECONDS)[0] if refs else []
        now = time.monotonic()
        for ref in done:
            self._receive(ref, now)
        self._own.look(now)
        own = self._judge_own()
        for link in self._links:
            self._silences[link.name].look(now)
            why = own or self._judge(link)
            if why:
                link.mark_lost(why)
        self.over.wait(BEAT_SECONDS - (time.monotonic() - now) if done else 0.0)

    def _why(self, error: BaseException) -> str:
        """Why a call failed: without the raylet of this machine, every call fails."""
        return self._judge_own() or in_words(error)

    def _judge_own(self) -> str:
        """Why this machine can no longer reach the nodes; "" if it can."""
        if not self.raylet_runs():
            return "Ray's process (raylet) on the driver's machine has ended or was stopped"
        return (
            f"Ray on the driver's machine has not answered for {STARVED_SECONDS:.0f} s"
            if self._own.verdict(None)
            else ""
        )

    def raylet_runs(self) -> bool:
        """Whether the raylet of this machine exists and is not stopped, as far as known."""
        return not self._raylet or runs(self._raylet)

    def _judge(self, link: RayLink) -> str:
        """Why a node is lost; "" if it is not."""
        silence, name = self._silences[link.name], link.name
        if not silence.suspicious:
            self._reached.pop(name, None)
        elif name not in self._reached:
            self._reached[name] = None
            threading.Thread(target=self._try_to_reach, args=(link,), name=f"reach-{name}", daemon=True).start()
        return silence.verdict(self._reached.get(name))

    def _try_to_reach(self, link: RayLink) -> None:
        while not (self.over.is_set() or link.failure) and self._silences[link.name].suspicious:
            self._reached[link.name] = self._reach(link.address)
            self.over.wait(BEAT_SECONDS)

    def _ask(self) -> None:
        asked = set(self._pending.values())
        for link in self._links:
            if link.failure:
                continue
            if (link, True) not in asked:
                self._pending[link.sentinel.beat.remote(link.about.pid, link.about.parent)] = (link, True)
            if (link, False) not in asked:
                self._pending[link.actor.beat.remote()] = (link, False)

    def _receive(self, ref: Any, now: float) -> None:
        link, from_sentinel = self._pending.pop(ref)
        try:
            found = self._ray.get(ref)
        except Exception as error:  # noqa: BLE001  Ray raises many kinds
            link.mark_lost(self._why(error))
            return
        if from_sentinel:
            self._silences[link.name].heard(now)
            if not found:
                link.mark_lost("its process was stopped")
        else:
            within, link.doing = found
            link.promised = now + within

    def _probe(self) -> None:
        """Record when the raylet of this machine answers."""
        while not self.over.is_set():
            # Ray ends this process if a put finds no raylet: `_look` should notice it first, and report why.
            if self.raylet_runs():
                with contextlib.suppress(Exception):
                    self._ray.put(np.zeros(_PROBE_BYTES, np.uint8))
                    self._own.heard(time.monotonic())
            self.over.wait(BEAT_SECONDS)
