"""A SUT whose times are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from echo import EchoSut

from harness.engines.base import EngineSettings

ONES = np.ones(100, dtype=np.int64)


class Simulated(EchoSut):
    """Takes the seconds of a curve, on a clock of its own; and seconds to compile."""

    def __init__(self, curve, costs=ONES, noise=lambda now: 1.0, compiling=0.0, streams=1):
        super().__init__(streams)
        self.curve, self.noise, self.compiling = curve, noise, compiling
        self.now, self.compiled = 0.0, []
        self.qsl = SimpleNamespace(cost=lambda indices: costs[indices], count=len(costs))
        self.engine.computes = True
        self.engine.settings = EngineSettings()

    def clock(self):
        return self.now

    def answer(self, indices, shape):
        self.now += self.curve(shape) * self.noise(self.now)
        return super().answer(indices, shape)

    def prepare(self, shape):
        self.now += self.compiling
        self.compiled.append(shape)
        self._runners[shape] = None
