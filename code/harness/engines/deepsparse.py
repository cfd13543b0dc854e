"""DeepSparse, the engine for sparse models.

It runs fixed shapes, so that there is one engine for each (batch, length) shape. Its licence allows evaluation use
only. ``deepsparse.Engine(..., input_shapes=...)`` rewrites the ONNX file in place (1.8.0), so it gets a private copy.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self

from pydantic import Field, JsonValue

from harness.engines.base import Array, Engine, EngineSettings, Runner, Signature
from harness.engines.cores import CoreSettings, Cpus, Layout, batch_sizes, on_cpus, stay_on, stream_counts
from harness.errors import MissingDependencyError
from harness.graph import read_graph
from harness.host.machine import core_count

_LEAST_FRACTION = 0.9
_MOST_INSTANCES = 8  # that tuning tries: memory and compiling grow with them


class _Compiled(Protocol):
    """What is used of a ``deepsparse.Engine``."""

    fraction_of_supported_ops: float

    def run(self, inp: list[Array], val_inp: bool) -> list[Array]: ...


class DeepSparseSettings(CoreSettings):
    """Settings of DeepSparse."""

    max_tokens: int = Field(1024, ge=1, description="padded cost units in one batch at most")
    shapes: int = Field(8, ge=1, le=64, description="(batch, length) shapes to compile, about 2 seconds each")
    scheduler: Literal["single_stream", "multi_stream", "elastic"] | None = Field(
        None,
        description="DeepSparse's own scheduler; default: single_stream for one stream, else multi_stream",
    )

    def suited(self, *, latency: bool, arriving: bool, max_cost: int) -> Self:
        """Server with samples of one size: DeepSparse's elastic scheduler, with more requests than cores.

        With samples of several lengths, each shape has an engine of its own, which knows nothing of the others.
        """
        free = self.streams is None and self.scheduler is None and self.instances is None and self.threads is None
        if arriving and max_cost == 1 and free:
            return self.model_copy(update={"streams": 2 * core_count(), "scheduler": "elastic"})
        return super().suited(latency=latency, arriving=arriving, max_cost=max_cost)

    def layout(self) -> Layout:
        """The streams on this machine's cores, by default pinned and of four threads each."""
        return Layout.of(self, preferred=4, pin=True)

    def in_force(self) -> dict[str, JsonValue]:
        """The settings with the layout on this machine and the scheduler that suits it."""
        layout = self.layout()
        suited = "multi_stream" if layout.streams > len(layout.instances) else "single_stream"
        return {**super().in_force(), "scheduler": self.scheduler or suited}


class DeepSparseEngine(Engine):
    """One compiled ``deepsparse.Engine`` a shape."""

    name: ClassVar[str] = "deepsparse"
    Settings: ClassVar[type[EngineSettings]] = DeepSparseSettings
    fixed_shapes: ClassVar[bool] = True
    reshapes: ClassVar[bool] = True

    def __init__(self, model: Path, settings: DeepSparseSettings) -> None:
        """Read the graph's inputs and outputs; nothing is compiled yet.

        Raises:
            MissingDependencyError: DeepSparse is not installed.
        """
        super().__init__(model, settings)
        self._file = model
        self.layout = settings.layout()
        self.streams = self.layout.streams
        several = len(self.layout.instances) > 1
        # Read at import. DeepSparse would send usage data otherwise, and leave its threads to the kernel, which often
        # puts two of them, that wait for each other, on one core. Its own pinning knows nothing of other instances.
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
        """The instance of each stream that is idle."""
        graph = read_graph(model)
        self.inputs, self.outputs, self._weight_files = graph.inputs, graph.outputs, graph.weight_files
        self.fractions: list[float] = []

    @classmethod
    def choices(cls, max_cost: int, one_stream: bool) -> list[list[dict[str, str]]]:
        """Streams with their scheduler, or each with an instance of its own; batches, shapes and pinning."""
        pins = [{"pin": "true"}, {"pin": "false"}]
        most = core_count()
        if one_stream:
            return [[{"streams": "1", "threads": str(count)} for count in stream_counts(most)], pins]
        streams = [{"streams": "1"}]
        for count in stream_counts(most)[1:]:
            streams += [{"streams": str(count), "scheduler": kind} for kind in ("multi_stream", "elastic")]
            # Each instance is compiled apart.
            streams += [{"streams": str(count), "instances": str(count)}] if count <= _MOST_INSTANCES else []
        streams.append({"streams": str(2 * most), "scheduler": "elastic"})
        shapes = [{"shapes": str(count)} for count in (4, 8, 12)]
        return [streams, batch_sizes(cls.Settings, max_cost), *([shapes] if max_cost > 1 else []), pins]

    def compile(self, signature: Signature) -> Runner:
        """Compile the model for these input shapes: seconds for a small model, up to a minute for a large one."""
        names = [tensor.name for tensor in self.inputs]
        order = [[tensor.name for tensor in self.outputs].index(name) for name in signature.outputs]
        shapes = [list(signature.inputs[name]) for name in names]
        with tempfile.TemporaryDirectory(prefix="deepsparse-") as folder:
            for name in self._weight_files:  # read by name, beside the graph
                link = Path(folder) / name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(self._file.parent / name)
            engines = [self._instance(Path(folder) / self._file.name, shapes, cpus) for cpus in self.layout.instances]
        free = self._free
        # With one core, DeepSparse computes in the thread that calls.
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

    def _instance(self, copy: Path, shapes: list[list[int]], cpus: Cpus) -> _Compiled:
        shutil.copyfile(self._file, copy)
        num_cores = min(self.layout.threads * self._each, len(cpus))
        # Threads inherit the CPUs of the one that starts them.
        with on_cpus(cpus) if self.layout.pin and len(self.layout.instances) > 1 else nullcontext():
            engine: _Compiled = self._deepsparse.Engine(
                str(copy),
                batch_size=shapes[0][0],
                num_cores=num_cores,  # of all streams together
                num_streams=min(self._each, num_cores),  # what more streams bring waits inside DeepSparse
                scheduler=self._scheduler,
                input_shapes=shapes,
            )
        self.fractions.append(float(engine.fraction_of_supported_ops))
        return engine

    def describe(self) -> dict[str, JsonValue]:
        """Name, version, cores, streams, and the share of the graph that DeepSparse itself runs."""
        return {
            **super().describe(),
            "version": self._deepsparse.__version__,
            "fraction_of_supported_ops": min(self.fractions, default=None),
        }

    def remark(self) -> str:
        """That much of the graph is left to the ONNX Runtime in DeepSparse, which it does without an error."""
        fraction = min(self.fractions, default=1.0)
        if fraction >= _LEAST_FRACTION:
            return ""
        return (
            f"DeepSparse runs only {fraction:.0%} of this graph's operators itself, and leaves the others to a slow "
            "ONNX Runtime of its own: NM_LOGGING_LEVEL=diagnose says which; try --engine onnxruntime."
        )


def missing_reason(error: ImportError) -> str:
    """Why DeepSparse cannot be used here, and what to do."""
    import sys

    if sys.version_info >= (3, 12):
        return (
            f"DeepSparse 1.8.0 needs Python 3.11 or older and this is Python {sys.version_info[0]}."
            f"{sys.version_info[1]}: use --engine onnxruntime, or make the environment anew with Python 3.11."
        )
    return f"DeepSparse cannot be imported ({error}): run `make setup`, or use --engine onnxruntime."
