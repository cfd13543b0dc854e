"""Notices within seconds that a node is gone: each has a sentinel beside it that must answer."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.cluster.actor_link import BEAT, RayLink, in_words

SILENT = 4.0
"""Seconds without an answer after which a node is lost."""
_LOOKS = 4  # so often, too: this process may itself have been suspended, or have had no processor
_ENDING = 1.0  # seconds
PROBE = 200_000
"""Bytes that go through a raylet, since it may be what does not answer."""


class Heartbeats:
    """Asks all sentinels, and the nodes for what they promise; the first failure of a node goes to its link."""

    def __init__(self, ray: Any, links: Sequence[RayLink], starting: float) -> None:
        """``ray`` is the package; processes have ``starting`` seconds for their first answer."""
        self.over = threading.Event()
        self._ray, self._links = ray, links
        self._pending: dict[Any, tuple[RayLink, bool]] = {}
        self._heard = dict.fromkeys((link.name for link in links), time.monotonic() + starting)
        self._looks = dict.fromkeys(self._heard, 0)
        self._own, self._own_looks = time.monotonic(), 0
        self._threads = [
            threading.Thread(target=self._watch, name="heartbeats", daemon=True),
            threading.Thread(target=self._probe, name="own-heartbeat", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ask no more. Returns within a second, also while Ray does not answer."""
        self.over.set()
        ends = time.monotonic() + _ENDING
        for thread in self._threads:
            thread.join(max(0.0, ends - time.monotonic()))

    def _watch(self) -> None:
        while not self.over.is_set():
            try:
                self._look()
            except Exception as error:  # noqa: BLE001  Ray raises many kinds; unwatched, a test could wait for ever
                if self.over.is_set():
                    return
                for link in self._links:
                    link.lose(in_words(error))
                return

    def _look(self) -> None:
        self._ask()
        refs = list(self._pending)
        done = self._ray.wait(refs, num_returns=len(refs), timeout=BEAT)[0] if refs else []
        now = time.monotonic()
        for ref in done:
            self._hear(ref, now)
        self._own_looks += 1
        for link in self._links:
            self._looks[link.name] += 1
            if now - self._heard[link.name] > SILENT and self._looks[link.name] > _LOOKS:
                link.lose(f"no answer for {SILENT:.0f} s")
            elif now - self._own > SILENT and self._own_looks > _LOOKS:
                link.lose(f"Ray on this machine has not answered for {SILENT:.0f} s")
        self.over.wait(BEAT - (time.monotonic() - now) if done else 0.0)

    def _ask(self) -> None:
        asked = set(self._pending.values())
        for link in self._links:
            if link.failure:
                continue
            if (link, True) not in asked:
                self._pending[link.sentinel.beat.remote(link.about.pid)] = (link, True)
            if (link, False) not in asked:
                self._pending[link.actor.beat.remote()] = (link, False)

    def _hear(self, ref: Any, now: float) -> None:
        link, from_sentinel = self._pending.pop(ref)
        try:
            found = self._ray.get(ref)
        except Exception as error:  # noqa: BLE001  Ray raises many kinds
            link.lose(in_words(error))
            return
        if from_sentinel:
            self._heard[link.name], self._looks[link.name] = now, 0
            if not found:
                link.lose("its process was stopped")
        else:
            within, link.doing = found
            link.promised = now + within

    def _probe(self) -> None:
        """The raylet of this machine also has to answer."""
        while not self.over.is_set():
            with contextlib.suppress(Exception):
                self._ray.put(np.zeros(PROBE, np.uint8))
                self._own, self._own_looks = time.monotonic(), 0
            self.over.wait(BEAT)
