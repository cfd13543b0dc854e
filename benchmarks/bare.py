"""Engines without the harness: each library's own Python API or benchmark tool, with the harness's settings."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import RunFailed
from harness.preparing.prepared import Prepared
from harness.task.shape import Array, Shape

ShapedFeed = tuple[Shape, Mapping[str, Array]]
Call = Callable[[ShapedFeed], object]
_LOADING_SECONDS = 300.0  # maximum for a tool to load and compile a model
_MAX_TOOL_BATCHES = 40
"""Number of batches, spread evenly over a query, whose shapes are passed to a tool."""


@dataclass(frozen=True)
class BareLayout:
    """A model, and how an engine of the harness runs it."""

    model: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    streams: int
    threads: int
    """Per stream."""
    scheduler: str
    """DeepSparse's own scheduler; "" for other engines."""
    config: Mapping[str, object] = field(default_factory=dict)
    """The properties with which OpenVINO compiles the model."""

    @classmethod
    def of(cls, ready: Prepared) -> BareLayout:
        """The layout of a prepared scenario."""
        engine, facts = ready.engine, ready.description.values()
        assert engine.model is not None, "a prepared engine has a model"
        threads = facts.get("threads") or 1
        assert isinstance(threads, int)
        return cls(
            engine.model,
            tuple(tensor.name for tensor in engine.inputs),
            tuple(tensor.name for tensor in engine.outputs),
            engine.streams,
            threads,
            str(facts.get("scheduler") or ""),
            getattr(engine, "config", {}),
        )


def _onnxruntime(layout: BareLayout, work: Sequence[ShapedFeed]) -> list[Call]:
    """A session for each stream; streams of one thread share one."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = layout.threads, 4
    copies = layout.streams if layout.threads > 1 else 1
    sessions = [
        ort.InferenceSession(str(layout.model), options, providers=["CPUExecutionProvider"]) for _ in range(copies)
    ]
    names = list(layout.outputs)

    def call(session: ort.InferenceSession) -> Call:
        return lambda batch: session.run(names, batch[1])

    return [call(session) for session in sessions * (layout.streams // copies)]


def _openvino(layout: BareLayout, work: Sequence[ShapedFeed]) -> list[Call]:
    """One compiled model for all shapes, with an infer request for each stream."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would send usage data
    import openvino as ov

    compiled = ov.Core().compile_model(str(layout.model), "CPU", dict(layout.config))

    def call(request: ov.InferRequest) -> Call:
        return lambda batch: request.infer(dict(batch[1]), share_inputs=True)

    return [call(compiled.create_infer_request()) for _ in range(layout.streams)]


def _deepsparse(layout: BareLayout, work: Sequence[ShapedFeed]) -> list[Call]:
    """One engine per shape, which all streams call."""
    os.environ["NM_DISABLE_ANALYTICS"] = "1"  # read at import
    import deepsparse

    cores = layout.streams * layout.threads
    engines = {}
    with tempfile.TemporaryDirectory() as folder:
        for shape, tensors in dict(work).items():
            engines[shape] = deepsparse.Engine(
                str(shutil.copyfile(layout.model, Path(folder) / "model.onnx")),  # DeepSparse rewrites this file
                batch_size=shape.batch,
                num_cores=cores,
                num_streams=layout.streams,
                scheduler=layout.scheduler,
                input_shapes=[list(tensors[name].shape) for name in layout.inputs],
            )

    def call(batch: ShapedFeed) -> object:
        shape, tensors = batch
        return engines[shape].run([tensors[name] for name in layout.inputs], val_inp=False)

    return [call] * layout.streams


BARE = {"onnxruntime": _onnxruntime, "openvino": _openvino, "deepsparse": _deepsparse}
"""By engine: the function that makes one call per stream, for the shapes of the given batches."""


def _benchmark_app(layout: BareLayout, work: Sequence[ShapedFeed], seconds: float) -> float:
    """Samples/s of the openvino package's benchmark_app, on random inputs with the shapes of these batches."""
    count = min(_MAX_TOOL_BATCHES, len(work))
    chosen = [work[place * len(work) // count][1] for place in range(count)]
    shapes = ",".join(
        name + "".join(f"[{','.join(map(str, tensors[name].shape))}]" for tensors in chosen) for name in layout.inputs
    )
    # Without its telemetry, which would send usage data.
    start = (
        "import sys; sys.modules['openvino_telemetry'] = None; from openvino.tools.benchmark.main import main; main()"
    )
    command = [sys.executable, "-c", start, "-m", str(layout.model), "-d", "CPU"]
    command += ["-hint", "none", "-nireq", str(layout.streams), "-t", str(max(1, round(seconds)))]
    # Without -layout it may count batches instead of samples, and feed images as bytes.
    command += ["-data_shape", shapes, "-layout", ",".join(f"{name}[N...]" for name in layout.inputs)]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.json"
        config.write_text(json.dumps({"CPU": dict(layout.config)}), "utf-8")
        command += ["-load_config", str(config)]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=10 * seconds + _LOADING_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise RunFailed(f"benchmark_app did not end within {error.timeout:.0f} s.") from error
    found = re.search(r"Throughput:\s+([\d.]+) FPS", done.stdout)
    if not found:
        last = (done.stdout + done.stderr).strip().splitlines()[-1:]
        raise RunFailed(f"benchmark_app failed (exit code {done.returncode}): {''.join(last)}")
    return float(found[1])


TOOLS = {"openvino": _benchmark_app}
"""By engine: a tool of the same package that measures samples/s. The PyPI package onnxruntime has none."""
