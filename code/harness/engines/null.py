"""An engine that computes nothing: it shows what the harness itself costs, and lets it be tested in seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from harness.engines.base import Array, Engine, EngineSettings, Runner, Signature


class NullSettings(EngineSettings):
    """Settings of the null engine."""

    max_batch: int = Field(1024, ge=1, description="samples in one batch at most")
    max_tokens: int = Field(65536, ge=1, description="cost units in one batch at most")
    delay_us: int = Field(0, ge=0, description="microseconds that a batch pretends to take")


class NullEngine(Engine):
    """Answers every batch with zeros; its answers are never a result."""

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
