"""DeepSparse, the engine for sparse models.

It runs fixed shapes, so there is one engine for each (batch, length) shape. Its licence allows evaluation use only.
``deepsparse.Engine(..., input_shapes=...)`` rewrites the ONNX file in place (1.8.0), so it gets a private copy.
"""

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self

import numpy as np
from pydantic import Field, JsonValue

from harness.engines.base import Array, Engine, EngineSettings, Runner, Signature
from harness.engines.cores import CoreSettings, Cpus, StreamLayout, batch_sizes, on_cpus, stay_on, stream_counts
from harness.errors import ConfigError, MissingDependencyError
from harness.graph import Tensor, listing, read_graph
from harness.host.machine import core_count
from harness.paths import advice

_MINIMUM_FRACTION = 0.9  # of the operators run by DeepSparse itself, without a remark
_THREADS_PER_STREAM = 4  # by default
_MAXIMUM_INSTANCES = 8  # that tuning tries: memory and compile time grow with them


class _NativeEngine(Protocol):
    """The part of ``deepsparse.Engine`` that is used here."""

    fraction_of_supported_ops: float

    def run(self, inp: list[Array], val_inp: bool) -> list[Array]: ...


class DeepSparseSettings(CoreSettings):
    """The settings of DeepSparse."""

    max_tokens: int = Field(1024, ge=1, description="maximum padded cost units in a batch")
    shapes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="(batch, length) shapes to compile, 2 to 30 seconds each by model; default: up to 12, in a "
        "development run fewer if they would take over 20 seconds",
    )
    scheduler: Literal["single_stream", "multi_stream", "elastic"] | None = Field(
        None,
        description="DeepSparse's own scheduler; default: single_stream for one stream, else multi_stream",
    )

    convert: bool = Field(
        True,
        description="convert the 8-bit layers of a QDQ model to operators that DeepSparse runs fast; false: run the "
        "file as it is",
    )

    def suited(self, *, latency: bool, arriving: bool, max_cost: int) -> Self:
        """For Server and samples of one size, the elastic scheduler, with more streams than cores.

        Samples of several lengths need several engines, whose schedulers know nothing of each other. Where a machine
        has too few cores for two streams of several threads, samples of one size run on one stream per core.
        """
        free = self.streams is None and self.scheduler is None and self.instances is None and self.threads is None
        if arriving and max_cost == 1 and free:
            return self.model_copy(update={"streams": 2 * core_count(), "scheduler": "elastic"})
        if not latency and max_cost == 1 and free and core_count() < 2 * _THREADS_PER_STREAM:
            return self.model_copy(update={"streams": core_count()})
        return super().suited(latency=latency, arriving=arriving, max_cost=max_cost)

    def layouts(self, suited: Self) -> list[Self]:
        """As for every engine, unless the user sets the scheduler.

        DeepSparse reads at its import whether to pin its threads, which depends on whether there are several instances.
        """
        if self.scheduler:
            return [suited]
        first, *fewer = super().layouts(suited)
        several = len(first.layout().instances) > 1
        fewer = [settings.model_copy(update={"scheduler": None}) for settings in fewer]
        return [first, *(settings for settings in fewer if (len(settings.layout().instances) > 1) == several)]

    def layout(self) -> StreamLayout:
        """The layout of the streams on this machine, by default pinned, with four threads each.

        DeepSparse gives no stream more threads than there are cores.
        """
        layout = StreamLayout.of(self, preferred=_THREADS_PER_STREAM, pin=True)
        return replace(layout, threads=min(layout.threads, core_count()))

    def in_force(self) -> dict[str, JsonValue]:
        """The settings with the layout on this machine and its scheduler."""
        layout = self.layout()
        suited = "multi_stream" if layout.streams > len(layout.instances) else "single_stream"
        return {**super().in_force(), "scheduler": self.scheduler or suited}


class DeepSparseEngine(Engine):
    """One compiled ``deepsparse.Engine`` per shape."""

    name: ClassVar[str] = "deepsparse"
    Settings: ClassVar[type[EngineSettings]] = DeepSparseSettings
    fixed_shapes: ClassVar[bool] = True
    form: ClassVar[Literal["integer"] | None] = "integer"
    lacks: ClassVar[frozenset[str]] = frozenset({"float16", "bfloat16"})
    reshapes: ClassVar[bool] = True

    def __init__(self, model: Path, settings: DeepSparseSettings) -> None:
        """Read the graph's inputs and outputs; nothing is compiled yet.

        Raises:
            MissingDependencyError: DeepSparse is not installed.
            ConfigError: an input or output has a type that DeepSparse lacks.
        """
        super().__init__(model, settings)
        self._file = model
        self.layout = settings.layout()
        self.streams = self.layout.streams
        several = len(self.layout.instances) > 1
        # Both are read at import. Without them DeepSparse sends usage data, and the kernel often puts two threads that
        # wait for each other on one core. DeepSparse's own pinning knows nothing of other instances.
        os.environ["NM_DISABLE_ANALYTICS"] = "1"
        os.environ["NM_BIND_THREADS_TO_CORES"] = str(int(self.layout.pin and not several))
        try:
            import deepsparse
        except ImportError as error:
            raise MissingDependencyError(missing_reason(error)) from error
        self._deepsparse = deepsparse
        self._each = self.layout.streams // len(self.layout.instances)
        self._scheduler = settings.in_force()["scheduler"]
        self._free = [self.layout.instance(stream) for stream in range(self.streams)]
        """The instance of each idle stream."""
        graph = read_graph(model)
        _check_types((*graph.inputs, *graph.outputs))
        self.inputs, self.outputs, self._weight_files = graph.inputs, graph.outputs, graph.weight_files
        self.fractions: list[float] = []

    @property
    def parallel(self) -> int:
        """At most the number of cores: with the elastic scheduler, more streams share them."""
        return min(self.streams, core_count()) if self._scheduler == "elastic" else self.streams

    @classmethod
    def search_space(cls, max_cost: int, one_stream: bool) -> list[list[dict[str, str]]]:
        """Streams with their scheduler, or each with its own instance; batches, shapes and pinning."""
        pins = [{"pin": "true"}, {"pin": "false"}]
        cores = core_count()
        if one_stream:
            return [[{"streams": "1", "threads": str(count)} for count in stream_counts(cores)], pins]
        streams = [{"streams": "1"}]
        for count in stream_counts(cores)[1:]:
            streams += [{"streams": str(count), "scheduler": kind} for kind in ("multi_stream", "elastic")]
            # Each instance is compiled separately.
            streams += [{"streams": str(count), "instances": str(count)}] if count <= _MAXIMUM_INSTANCES else []
        streams.append({"streams": str(2 * cores), "scheduler": "elastic"})
        shapes = [{"shapes": str(count)} for count in (4, 8, 12)]
        return [streams, batch_sizes(cls.Settings, max_cost), *([shapes] if max_cost > 1 else []), pins]

    def compile(self, signature: Signature) -> Runner:
        """Compile the model for these input shapes: seconds for a small model, up to a minute for a large one."""
        names = [tensor.name for tensor in self.inputs]
        order = [[tensor.name for tensor in self.outputs].index(name) for name in signature.outputs]
        shapes = [list(signature.inputs[name]) for name in names]
        with tempfile.TemporaryDirectory(prefix="deepsparse-") as folder:
            for name in self._weight_files:  # read by name from the graph's folder
                link = Path(folder) / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(self._file.parent / name)
            engines = [self._instance(Path(folder) / self._file.name, shapes, cpus) for cpus in self.layout.instances]
        free = self._free
        # With one core, DeepSparse computes in the calling thread.
        alone = self.layout.pin and self.layout.threads * self._each == 1

        def runner(batch: Mapping[str, Array]) -> Sequence[Array]:
            instance = free.pop()
            try:
                if alone:
                    stay_on(self.layout.instances[instance])
                outputs = engines[instance].run([batch[name] for name in names], val_inp=False)
            finally:
                free.append(instance)
            return [outputs[index] for index in order]

        return runner

    def _instance(self, copy: Path, shapes: list[list[int]], cpus: Cpus) -> _NativeEngine:
        shutil.copyfile(self._file, copy)
        num_cores = min(self.layout.threads * self._each, len(cpus))
        # Threads inherit the CPUs of the thread that starts them.
        with on_cpus(cpus) if self.layout.pin and len(self.layout.instances) > 1 else nullcontext():
            engine: _NativeEngine = self._deepsparse.Engine(
                str(copy),
                batch_size=shapes[0][0],
                num_cores=num_cores,  # of all streams together
                num_streams=min(self._each, num_cores),  # requests of further streams wait inside DeepSparse
                scheduler=self._scheduler,
                input_shapes=shapes,
            )
        self.fractions.append(float(engine.fraction_of_supported_ops))
        return engine

    def describe(self) -> dict[str, JsonValue]:
        """Name, version, cores, streams, and the fraction of the graph that DeepSparse itself runs."""
        return {
            **super().describe(),
            "version": self._deepsparse.__version__,
            "fraction_of_supported_ops": min(self.fractions, default=None),
        }

    def remark(self) -> str:
        """Warn of a graph that DeepSparse silently leaves to its slow built-in ONNX Runtime."""
        fraction = min(self.fractions, default=1.0)
        if fraction >= _MINIMUM_FRACTION:
            return ""
        return (
            f"DeepSparse runs only {fraction:.0%} of this graph's operators itself, and leaves the others to its "
            "slow built-in ONNX Runtime: NM_LOGGING_LEVEL=diagnose shows which; try --engine onnxruntime."
        )


def _check_types(tensors: Sequence[Tensor]) -> None:
    # Without this check, the first batch fails: "unsupported type".
    unknown = [tensor for tensor in tensors if tensor.dtype.kind == "O" or tensor.dtype == np.float16]
    if unknown:
        raise ConfigError(f"deepsparse has no type for {listing(unknown)} of the model: use --engine onnxruntime.")


def missing_reason(error: ImportError) -> str:
    """Why DeepSparse cannot be used here, and what to do about it."""
    import sys

    if sys.version_info >= (3, 12):
        return (
            f"DeepSparse 1.8.0 needs Python 3.11 or older and this is Python {sys.version_info[0]}."
            f"{sys.version_info[1]}: use --engine onnxruntime, or recreate the environment with Python 3.11."
        )
    install = advice("run `make setup`", "`pip install deepsparse==1.8.0`")
    return f"DeepSparse cannot be imported ({error}): {install}, or use --engine onnxruntime."
