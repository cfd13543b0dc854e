"""ONNX Runtime on the CPU."""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
from pydantic import Field, JsonValue

from harness.engines.base import Array, Dims, Engine, EngineSettings, Runner, Signature
from harness.engines.cores import CoreSettings, Cpus, batch_sizes, on_cpus, stay_on, stream_counts
from harness.engines.profiler import NodeTotal, ProfiledNode, Profiler, Times, alone
from harness.graph import Tensor
from harness.host.machine import core_count

_DTYPES: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class _NodeArg(Protocol):
    """An input or output as described by ONNX Runtime."""

    name: str
    type: str
    shape: list[int | str | None]


class _Session(Protocol):
    """The part of ``onnxruntime.InferenceSession`` that is used here."""

    def run(self, output_names: list[str], input_feed: Mapping[str, Array]) -> list[Array]: ...

    def get_inputs(self) -> list[_NodeArg]: ...

    def get_outputs(self) -> list[_NodeArg]: ...

    def end_profiling(self) -> str: ...


class _Options(Protocol):
    """The part of ``onnxruntime.SessionOptions`` that a profiler sets."""

    enable_profiling: bool
    profile_file_prefix: str


class OnnxRuntimeSettings(CoreSettings):
    """The settings of ONNX Runtime."""

    max_tokens: int = Field(384, ge=1, description="maximum padded cost units in a batch")
    spinning: bool = Field(True, description="threads spin while they wait: faster, but they keep their cores busy")


class OnnxRuntimeEngine(Engine):
    """Accepts batches of any shape. By default each core runs its own batches, which is faster than sharing one."""

    name: ClassVar[str] = "onnxruntime"
    Settings: ClassVar[type[EngineSettings]] = OnnxRuntimeSettings
    alternative: ClassVar[str] = ""

    def __init__(self, model: Path, settings: OnnxRuntimeSettings) -> None:
        """Load the model."""
        super().__init__(model, settings)
        import onnxruntime as ort

        self._ort = ort
        self.layout = layout = settings.layout()
        self.streams = layout.streams
        self._spinning = settings.spinning
        self._free: list[tuple[_Session, Cpus]] = []
        """Session and CPUs of each idle stream."""
        if layout.threads > 1:
            # A session owns a thread pool, which its streams would have to share.
            for stream in range(layout.streams):
                cpus = layout.cpus(stream)
                self._free.append((self._session(cpus), cpus))
        else:
            # With one thread there is no pool: the streams of an instance can share a session and its weights.
            sessions = [self._session(cpus[:1]) for cpus in layout.instances]
            for stream in range(layout.streams):
                self._free.append((sessions[layout.instance(stream)], layout.cpus(stream)))
        session = self._free[0][0]
        self.inputs = tuple(_tensor(node) for node in session.get_inputs())
        self.outputs = tuple(_tensor(node) for node in session.get_outputs())

    @classmethod
    def search_space(cls, max_cost: int, one_stream: bool) -> list[list[dict[str, str]]]:
        """Streams, batches, pinning and spinning."""
        pins = [{"pin": "true"}, {"pin": "false"}]
        spins = [{"spinning": "true"}, {"spinning": "false"}]
        counts = stream_counts(core_count())
        if one_stream:
            return [[{"streams": "1", "threads": str(count)} for count in counts], pins, spins]
        return [[{"streams": str(count)} for count in counts], batch_sizes(cls.Settings, max_cost), pins, spins]

    @classmethod
    def profiler(cls) -> type[Profiler]:
        """The library's own profiler."""
        return OnnxRuntimeProfiler

    def _configure(self, options: _Options) -> None:
        """Set further options of each session."""

    def _session(self, cpus: Cpus) -> _Session:
        options = self._ort.SessionOptions()
        self._configure(options)
        options.intra_op_num_threads = self.layout.threads
        options.log_severity_level = 4
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(self._spinning)))
        pinned = self.layout.pin
        if pinned and len(cpus) > 1:  # of all threads except the calling one; CPUs are counted from 1
            places = ";".join(str(cpu + 1) for cpu in cpus[1:])
            options.add_session_config_entry("session.intra_op_thread_affinities", places)
        with on_cpus(cpus) if pinned else nullcontext():
            session: _Session = self._ort.InferenceSession(
                str(self.model), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        return session

    def compile(self, signature: Signature) -> Runner:
        """Nothing is compiled: ONNX Runtime accepts any shape."""
        names = list(signature.outputs)
        free, pin = self._free, self.layout.pin

        def runner(batch: Mapping[str, Array]) -> Sequence[Array]:
            slot = session, cpus = free.pop()
            try:
                if pin:
                    stay_on(cpus[:1])
                return session.run(names, batch)
            finally:
                free.append(slot)

        return runner

    def describe(self) -> dict[str, JsonValue]:
        """Name, version, and the layout in force."""
        return {**super().describe(), "version": self._ort.__version__}


class OnnxRuntimeProfiler(OnnxRuntimeEngine, Profiler):
    """Writes the events of each batch to a file, which is read and removed at the end."""

    def __init__(self, model: Path, settings: OnnxRuntimeSettings) -> None:
        """Load the model, with one stream."""
        self._folder = Path(tempfile.mkdtemp())
        try:
            super().__init__(model, alone(settings))
        except BaseException:
            self.close()
            raise

    def _configure(self, options: _Options) -> None:
        options.enable_profiling = True
        options.profile_file_prefix = str(self._folder / "events")

    def compile(self, signature: Signature) -> Runner:
        """As in a test, but counts the batches."""
        return self._counting(super().compile(signature))

    _warm = 0
    """Number of batches that ran before the recording."""

    def _before(self) -> Mapping[ProfiledNode, NodeTotal]:
        self._warm = self._batches
        return {}

    def _since(self, before: Mapping[ProfiledNode, NodeTotal]) -> Times:
        session, _ = self._free[0]
        return node_times(json.loads(Path(session.end_profiling()).read_bytes()), self._warm)

    def close(self) -> None:
        """Remove the file."""
        shutil.rmtree(self._folder, ignore_errors=True)


_KERNEL = "_kernel_time"  # suffix of the events of nodes


def node_times(events: Sequence[Mapping[str, object]], skipped: int) -> Times:
    """The nodes in ONNX Runtime's events, without the first ``skipped`` runs of the model."""
    starts = sorted(int(str(event["ts"])) for event in events if event["name"] == "model_run")
    first = starts[skipped] if skipped < len(starts) else float("inf")
    found: Times = {}
    for event in events:
        name, args = str(event["name"]), event.get("args")
        if name.endswith(_KERNEL) and isinstance(args, dict) and int(str(event["ts"])) >= first:
            operator = str(args["op_name"])
            node = ProfiledNode(name.removesuffix(_KERNEL) or f"{operator} {args['node_index']}", operator)
            before = found.get(node, NodeTotal(0.0, 0))
            found[node] = NodeTotal(before.seconds + int(str(event["dur"])) / 1e6, before.calls + 1)
    return found


def try_shapes(model: Path, inputs: Mapping[str, Array]) -> dict[str, Dims] | None:
    """The shapes of all outputs for these inputs; None if the model does not run with them.

    For graphs that leave dimensions open.
    """
    try:
        engine = OnnxRuntimeEngine(model, OnnxRuntimeSettings(streams=1, threads=1))
        names = [tensor.name for tensor in engine.outputs]
        outputs = engine.compile(Signature({}, dict.fromkeys(names, ())))(inputs)
    except Exception:  # noqa: BLE001  the library's errors have no common base class
        return None
    return {name: output.shape for name, output in zip(names, outputs, strict=True)}


def _tensor(node: _NodeArg) -> Tensor:
    dims = tuple(d if isinstance(d, int) and d > 0 else None for d in node.shape)
    if node.type in _DTYPES:
        return Tensor(node.name, np.dtype(_DTYPES[node.type]), dims)
    return Tensor(node.name, np.dtype(object), dims, node.type.removeprefix("tensor(").removesuffix(")"))
