"""An engine that changes the realtime clock while LoadGen tests, for a process with clock.c preloaded.

$CLOCK_FAULT is a list of [seconds since the test's first batch, seconds by which the clock is set forward].
"""

from __future__ import annotations

import ctypes
import json
import os
import threading
import time

from harness.engines.null import NullEngine


class Clocked(NullEngine):
    name = "clocked"

    def __init__(self, model, settings):
        super().__init__(model, settings)
        self._faults = json.loads(os.environ["CLOCK_FAULT"])
        self._began = None

    def compile(self, signature):
        inner = super().compile(signature)

        def runner(batch):
            time.sleep(0.002)
            self._change_the_clock()
            return inner(batch)

        return runner

    def _change_the_clock(self):
        if self._began is None and any(thread.name == "loadgen" for thread in threading.enumerate()):
            self._began = time.monotonic()
        while self._began is not None and self._faults and time.monotonic() - self._began > self._faults[0][0]:
            ctypes.CDLL(None).clock_step(ctypes.c_double(self._faults.pop(0)[1]))
