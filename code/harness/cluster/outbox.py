"""Answers on their way back: each call that brings parcels to a node waits there, and takes answers along."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

CALLS = 4
"""Calls of a node that are under way at once. Parcels that come meanwhile travel together in the next one."""
_T = TypeVar("_T")


class Outbox(Generic[_T]):
    """What is to travel back. Calls leave in the order in which they came."""

    def __init__(self, calls: int = CALLS) -> None:
        """Of so many calls, the oldest leaves at once, also with nothing: the driver sends no more before that."""
        self._calls = calls
        self._lock = threading.Lock()
        self._waiting: deque[threading.Lock] = deque()
        self._found: list[_T] = []
        self._leaving = False

    def put(self, found: _T) -> None:
        """To travel with the next call."""
        with self._lock:
            self._found.append(found)
            # A call that has been woken takes along what comes until it runs.
            if self._waiting and not self._leaving:
                self._leaving = True
                self._waiting.popleft().release()

    def take(self) -> list[_T]:
        """All that is there, once something is; nothing if too many calls wait."""
        turn = threading.Lock()
        turn.acquire()
        with self._lock:
            if self._found and not self._waiting and not self._leaving:
                return self._taken()
            self._waiting.append(turn)
            if len(self._waiting) >= self._calls:
                self._waiting.popleft().release()
        turn.acquire()
        with self._lock:
            self._leaving = False
            return self._taken()

    def _taken(self) -> list[_T]:
        found, self._found = self._found, []
        return found
