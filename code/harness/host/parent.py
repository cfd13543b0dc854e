"""A process that does not outlive the one that started it. Imports only the standard library, so that it is fast."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

_PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int | None = None) -> None:
    """Let the kernel kill this process when the thread that started it ends, even in native code or while stopped.

    ``parent`` is the id of the process that started it: if that has ended already, this process ends at once.
    """
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if parent is not None and os.getppid() != parent:
        os._exit(1)
