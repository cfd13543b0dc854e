"""OpenVINO on the CPU."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import ClassVar, Literal, Protocol

import numpy as np
from pydantic import Field, JsonValue

from harness.engines.base import Array, Engine, EngineSettings, Runner, Signature
from harness.engines.cores import CoreSettings, StreamLayout, batch_sizes, stream_counts
from harness.engines.profiler import NodeTotal, ProfiledNode, Profiler, Times, alone
from harness.errors import ConfigError, MissingDependencyError
from harness.graph import Tensor
from harness.host.machine import computes_bf16, core_count
from harness.paths import SETUP

Precision = Literal["f32", "bf16"]

_DTYPES: dict[str, type[np.generic]] = {
    "f32": np.float32,
    "f16": np.float16,
    "f64": np.float64,
    "i64": np.int64,
    "i32": np.int32,
    "i8": np.int8,
    "u8": np.uint8,
    "boolean": np.bool_,
}


class _Type(Protocol):
    """An element type of OpenVINO."""

    def get_type_name(self) -> str: ...


class _Dimension(Protocol):
    is_static: bool
    is_dynamic: bool

    def get_length(self) -> int: ...


class _PartialShape(Protocol):
    """The dimensions of a tensor; it cannot be iterated if their number is open."""

    rank: _Dimension

    def __iter__(self) -> Iterator[_Dimension]: ...


class _Port(Protocol):
    """An input or output of a model."""

    names: set[str]
    any_name: str
    element_type: _Type
    partial_shape: _PartialShape


class _Counter(Protocol):
    """The time of a node: ``openvino.ProfilingInfo``."""

    node_name: str
    node_type: str
    real_time: timedelta


class _Request(Protocol):
    """The part of ``openvino.InferRequest`` that is used here."""

    profiling_info: Sequence[_Counter]

    def infer(self, inputs: Mapping[str, object], share_inputs: bool) -> Mapping[int, Array]: ...


class _CompiledModel(Protocol):
    """The part of ``openvino.CompiledModel`` that is used here."""

    inputs: Sequence[_Port]
    outputs: Sequence[_Port]

    def create_infer_request(self) -> _Request: ...

    def get_property(self, name: str) -> object: ...


class OpenVinoSettings(CoreSettings):
    """The settings of OpenVINO."""

    max_tokens: int = Field(384, ge=1, description="maximum padded cost units in a batch")
    instances: int | None = Field(
        None, ge=1, description="copies of the model, which share the streams; default: one, for all NUMA nodes"
    )
    precision: Precision | None = Field(
        None, description="what FP32 layers are computed in; default: bf16 if the processor has it, else f32"
    )

    def layout(self) -> StreamLayout:
        """The layout of the streams on this machine, by default with one thread each.

        One instance serves all NUMA nodes: OpenVINO keeps the weights on each, and its streams near them. It also
        limits the threads of all streams together to the cores.
        """
        layout = StreamLayout.of(self.model_copy(update={"instances": self.instances or 1}), preferred=1, pin=False)
        return replace(layout, threads=min(layout.threads, max(1, core_count() // layout.streams)))

    def in_force(self) -> dict[str, JsonValue]:
        """The settings with the layout on this machine; if threads are pinned, OpenVINO chooses their CPUs."""
        layout = {key: value for key, value in super().in_force().items() if key != "cpus"}
        return {**layout, "precision": self.precision or ("bf16" if computes_bf16() else "f32")}


class OpenVinoEngine(Engine):
    """Accepts batches of any shape.

    Several streams compute in OpenVINO's threads, by default one for each core. A single stream computes in the calling
    thread, with the help of OpenVINO's threads.
    """

    name: ClassVar[str] = "openvino"
    Settings: ClassVar[type[EngineSettings]] = OpenVinoSettings

    def __init__(self, model: Path, settings: OpenVinoSettings) -> None:
        """Load and compile the model.

        Raises:
            MissingDependencyError: OpenVINO cannot be imported.
            ConfigError: the processor lacks the precision.
        """
        super().__init__(model, settings)
        if settings.precision == "bf16" and not computes_bf16():
            raise ConfigError("this processor does not compute in bf16: omit precision=bf16, or set precision=f32.")
        self._openvino = import_openvino()
        self.layout = layout = settings.layout()
        self.streams = layout.streams
        core = self._openvino.Core()
        read = core.read_model(str(model))
        self.config = self._config(settings.in_force()["precision"])
        """OpenVINO's properties, by name, with which each instance is compiled."""
        self._compiled: list[_CompiledModel] = [core.compile_model(read, "CPU", self.config) for _ in layout.instances]
        # With several instances, the waiting batch could go to a busy one while another is idle.
        self.waiting = int(layout.streams > 1 and len(layout.instances) == 1)
        places = [layout.instance(n % layout.streams) for n in range(layout.streams + self.waiting)]
        self._free = [self._compiled[place].create_infer_request() for place in places]
        """The requests without a batch."""
        self.inputs = tuple(_tensor(port) for port in self._compiled[0].inputs)
        self.outputs = tuple(_tensor(port) for port in self._compiled[0].outputs)

    @classmethod
    def search_space(cls, max_cost: int, one_stream: bool) -> list[list[dict[str, str]]]:
        """Streams, batches, pinning, and the precision if there is a choice."""
        pins = [{"pin": "true"}, {"pin": "false"}]
        counts = stream_counts(core_count())
        precisions = [[{"precision": "bf16"}, {"precision": "f32"}]] if computes_bf16() else []
        if one_stream:
            return [[{"streams": "1", "threads": str(count)} for count in counts], pins, *precisions]
        return [
            [{"streams": str(count)} for count in counts],
            batch_sizes(cls.Settings, max_cost),
            pins,
            *precisions,
        ]

    @classmethod
    def profiler(cls) -> type[Profiler]:
        """The library's own counters."""
        return OpenVinoProfiler

    def _config(self, precision: JsonValue) -> dict[str, object]:
        layout, count = self.layout, len(self.layout.instances)
        return {
            "NUM_STREAMS": layout.streams // count,
            "INFERENCE_NUM_THREADS": layout.streams // count * layout.threads,
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_HYPER_THREADING": False,
            "ENABLE_CPU_PINNING": layout.pin,
            # Without it, every instance pins its threads to the first cores; with it, each needs a core of its own.
            "ENABLE_CPU_RESERVATION": layout.pin and 1 < count <= core_count(),
            # Otherwise layers with INT8 weights but float inputs would have their inputs quantised too.
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        }

    def compile(self, signature: Signature) -> Runner:
        """Nothing is compiled: the model accepts any shape."""
        ports = self._compiled[0].outputs
        order = [next(n for n, port in enumerate(ports) if name in port.names) for name in signature.outputs]
        types = {port.any_name: port.element_type for port in self._compiled[0].inputs}
        free, tensor, shape = self._free, self._openvino.Tensor, self._openvino.Shape

        def runner(batch: Mapping[str, Array]) -> Sequence[Array]:
            # A read-only array would be copied; wrapped in a tensor it is not. OpenVINO only reads it.
            inputs = {name: tensor(np.ascontiguousarray(a), shape(a.shape), types[name]) for name, a in batch.items()}
            request = free.pop()
            try:
                outputs = request.infer(inputs, share_inputs=True)  # copies of the request's
            finally:
                free.append(request)
            return [outputs[index] for index in order]

        return runner

    def describe(self) -> dict[str, JsonValue]:
        """Name, version, the layout in force, and the precision that OpenVINO computes in."""
        version = str(self._openvino.__version__).partition("-")[0]
        return {**super().describe(), "version": version}

    def close(self) -> None:
        """Free the compiled models; OpenVINO keeps its sleeping threads."""
        self._free.clear()
        self._compiled.clear()


class OpenVinoProfiler(OpenVinoEngine, Profiler):
    """OpenVINO reports a node's mean time over all batches so far, in whole microseconds, which limits the precision.

    One stream has one graph, so that all batches are in one mean.
    """

    def __init__(self, model: Path, settings: OpenVinoSettings) -> None:
        """Load and compile the model, with one stream."""
        super().__init__(model, alone(settings))

    def _config(self, precision: JsonValue) -> dict[str, object]:
        return {**super()._config(precision), "PERF_COUNT": True}

    def compile(self, signature: Signature) -> Runner:
        """As in a test, but counts the batches."""
        return self._counting(super().compile(signature))

    def _before(self) -> Times:
        if not self._batches:
            return {}
        found: Times = {}
        for counter in self._free[0].profiling_info:
            node = ProfiledNode(counter.node_name, counter.node_type)
            seconds = counter.real_time.total_seconds() * self._batches
            found[node] = NodeTotal(found.get(node, NodeTotal(0.0, 0)).seconds + seconds, self._batches)
        return found

    def _since(self, before: Mapping[ProfiledNode, NodeTotal]) -> Times:
        return {
            node: NodeTotal(spent.seconds - earlier.seconds, spent.calls - earlier.calls)
            for node, spent in self._before().items()
            if spent.seconds > (earlier := before.get(node, NodeTotal(0.0, 0))).seconds
        }


def import_openvino() -> ModuleType:
    """The package, without its telemetry: otherwise the import sends usage data and writes to the home folder.

    Raises:
        MissingDependencyError: it cannot be imported.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it then counts as not installed
    try:
        import openvino
    except ImportError as error:
        raise MissingDependencyError(
            f"OpenVINO cannot be imported ({error}): {SETUP}, or use --engine onnxruntime."
        ) from error
    module: ModuleType = openvino
    return module


def _tensor(port: _Port) -> Tensor:
    shape = port.partial_shape
    dims = () if shape.rank.is_dynamic else tuple(d.get_length() if d.is_static else None for d in shape)
    kind = port.element_type.get_type_name()
    if kind in _DTYPES:
        return Tensor(port.any_name, np.dtype(_DTYPES[kind]), dims)
    return Tensor(port.any_name, np.dtype(object), dims, {"bf16": "bfloat16"}.get(kind, kind))
