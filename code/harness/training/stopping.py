"""Ctrl-C during a training: the current step is completed, and a checkpoint is written."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, current_thread, main_thread
from types import FrameType

from harness.terminal import console


@contextmanager
def stoppable() -> Iterator[Event]:
    """An event that Ctrl-C sets, so that the current step is completed; a second Ctrl-C stops at once."""
    event = Event()
    if current_thread() is not main_thread():  # only the main thread can handle signals
        yield event
        return

    def stop(number: int, frame: FrameType | None) -> None:
        event.set()
        signal.signal(signal.SIGINT, before)
        console.note("stopping after this step; press Ctrl-C again to stop at once")

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)
