"""An engine that computes nothing, to measure the harness's own overhead and to test the harness quickly."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from harness.engines.base import Array, Engine, EngineSettings, Runner, Signature


class NullSettings(EngineSettings):
    """The settings of the null engine."""

    max_batch: int = Field(1024, ge=1, description="maximum samples in a batch")
    max_tokens: int = Field(65536, ge=1, description="maximum cost units in a batch")
    delay_us: int = Field(0, ge=0, description="simulated duration of a batch in microseconds")


class NullEngine(Engine):
    """Answers every batch with zeros, which are never a result."""

    name: ClassVar[str] = "null"
    Settings: ClassVar[type[EngineSettings]] = NullSettings
    computes: ClassVar[bool] = False

    def __init__(self, model: Path | None, settings: NullSettings) -> None:
        super().__init__(model, settings)
        self.streams = settings.streams or 1
        self._delay = settings.delay_us / 1e6

    def compile(self, signature: Signature) -> Runner:
        """A runner that returns the same zeros each time."""
        zeros = [np.zeros(dims, np.float32) for dims in signature.outputs.values()]

        def runner(batch: Mapping[str, Array]) -> Sequence[Array]:
            if self._delay:
                time.sleep(self._delay)
            return zeros

        return runner
