"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import Field

from harness.engines.base import Engine, EngineSettings, Runner, Signature
from harness.graph import Tensor
from harness.machine import core_count

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class OnnxRuntimeSettings(EngineSettings):
    """Settings of ONNX Runtime."""

    max_tokens: int = Field(384, ge=1, description="padded cost units in one batch at most")
    spinning: bool = Field(True, description="threads spin while they wait: faster, but they use their cores")


class OnnxRuntimeEngine(Engine):
    """Takes batches of any shape. By default each core runs batches of its own, which is faster than sharing one."""

    name: ClassVar[str] = "onnxruntime"
    Settings: ClassVar[type[EngineSettings]] = OnnxRuntimeSettings

    def __init__(self, model: Path, settings: OnnxRuntimeSettings) -> None:
        """Load the model."""
        super().__init__(model, settings)
        import onnxruntime as ort

        self._version = ort.__version__
        self.threads, self.streams = settings.cores(core_count(), preferred=1)
        options = ort.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(settings.spinning)))
        # A session owns a pool of threads, which streams would have to share; with one thread there is no pool, and
        # all streams can use the same session and the same weights.
        count = self.streams if self.threads > 1 else 1
        self._sessions = [
            ort.InferenceSession(str(model), options, providers=["CPUExecutionProvider"]) for _ in range(count)
        ]
        session = self._sessions[0]
        self.inputs = tuple(_tensor(node) for node in session.get_inputs())
        self.outputs = tuple(_tensor(node) for node in session.get_outputs())

    def compile(self, signature: Signature) -> Runner:
        """Nothing is compiled: ONNX Runtime takes each batch as it comes."""
        names = list(signature.outputs)
        run = self._sessions[0].run if len(self._sessions) == 1 else self._run_on_free_session
        return lambda batch: run(names, batch)

    def _run_on_free_session(self, names: list[str], batch: Mapping[str, np.ndarray]) -> Sequence[np.ndarray]:
        session = self._sessions.pop()  # as many sessions as streams, so one is always free
        try:
            return session.run(names, batch)
        finally:
            self._sessions.append(session)

    def describe(self) -> dict[str, object]:
        """Name, version, threads and streams in force."""
        return {
            **super().describe(),
            "version": self._version,
            "threads": self.threads,
            "streams": self.streams,
        }


def _tensor(node: object) -> Tensor:
    dtype = np.dtype(_DTYPES.get(node.type, np.object_))
    return Tensor(node.name, dtype, tuple(d if isinstance(d, int) and d > 0 else None for d in node.shape))
