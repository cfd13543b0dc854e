"""ONNX Runtime with one fault, named by $FAULT; used as --engine engine:Faulty. $MOMENT says where it strikes."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np

from harness.engines.base import Engine
from harness.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSettings
from harness.preparing import prepared

prepared._STEP_SECONDS = 15.0  # a model that never loads is given up after 15 seconds instead of 15 minutes

FAULT, MOMENT = os.environ.get("FAULT", ""), os.environ.get("MOMENT", "test")
AFTER = {"warm-up": 0, "test": int(os.environ.get("AFTER", "300"))}
"""Batches that succeed before the fault; a warm-up takes fewer than 300 when the scenario's rate is set."""


def _cast(dtype):
    return lambda outputs: [output.astype(dtype) for output in outputs]


def _spoiled(value, dtype=None):
    def spoil(outputs):
        changed = [output.astype(dtype or output.dtype) for output in outputs]
        changed[0].reshape(-1)[len(changed[0].reshape(-1)) // 2] = value
        return changed

    return spoil


def _structured(outputs):
    return [output.view([("value", output.dtype)]) for output in outputs]


def _alias(outputs, shared={}):  # noqa: B006  one buffer for all threads is the fault
    kept = []
    for number, output in enumerate(outputs):
        buffer = shared.setdefault((number, output.shape), np.empty_like(output))
        buffer[...] = output
        kept.append(buffer)
    time.sleep(0.002)
    return kept


def _later(outputs):
    """Outputs that a thread of the engine overwrites some time after they were returned."""
    kept = [output.copy() for output in outputs]
    threading.Timer(0.0005, lambda: [output.fill(1.0) for output in kept]).start()
    return kept


OUTPUTS = {
    "nan": _spoiled(np.nan),
    "infinity": _spoiled(np.inf),
    "minus-infinity": _spoiled(-np.inf),
    "object-nan": _spoiled(np.nan, object),
    "object-none": _spoiled(None, object),
    "object": _cast(object),
    "complex": _cast(np.complex64),
    "complex-nan": _spoiled(complex(1, np.nan), np.complex64),
    "float64-huge": _spoiled(1e300, np.float64),
    "float16-overflow": lambda outputs: [(output * 1e6).astype(np.float16) for output in outputs],
    "text": _cast(str),
    "bytes": _cast("S8"),
    "bool": _cast(bool),
    "uint8": _cast(np.uint8),
    "int8": _cast(np.int8),
    "int64": _cast(np.int64),
    "dates": lambda outputs: [output.astype(np.int64).astype("datetime64[s]") for output in outputs],
    "structured": _structured,
    "none": lambda outputs: None,
    "none-inside": lambda outputs: [None for _ in outputs],
    "generator": lambda outputs: (output for output in outputs),
    "lists": lambda outputs: [output.tolist() for output in outputs],
    "numbers": lambda outputs: [float(output.sum()) for output in outputs],
    "dictionary": lambda outputs: dict(enumerate(outputs)),
    "string": lambda outputs: "done",
    "exception-object": lambda outputs: ValueError("no"),
    "too-few": lambda outputs: outputs[:-1],
    "too-many": lambda outputs: [*outputs, outputs[0]],
    "empty": lambda outputs: [],
    "no-rows": lambda outputs: [output[:0] for output in outputs],
    "a-row-less": lambda outputs: [output[:-1] for output in outputs],
    "a-row-more": lambda outputs: [np.concatenate([output, output[:1]]) for output in outputs],
    "narrow": lambda outputs: [output[:, :-1] for output in outputs],
    "flat": lambda outputs: [output.reshape(-1) for output in outputs],
    "transposed": lambda outputs: [output.T for output in outputs],
    "another-axis": lambda outputs: [output[:, :, None] for output in outputs],
    "scalars": lambda outputs: [np.float32(1) for _ in outputs],
    "masked-nan": lambda outputs: [np.ma.masked_invalid(np.full_like(output, np.nan)) for output in outputs],
    "shared-buffer": _alias,
    "overwritten-later": _later,
    "rows-mixed": lambda outputs: [np.roll(output, 1, axis=0) for output in outputs],
    "zeros": lambda outputs: [np.zeros_like(output) for output in outputs],
    "first-batch-for-all": lambda outputs, kept={}: [
        kept.setdefault((number, output.shape), output.copy()) for number, output in enumerate(outputs)
    ],
}
HARMLESS = {
    "float64": _cast(np.float64),
    "big-endian": _cast(">f4"),
    "strided": lambda outputs: [np.repeat(output, 2, axis=-1)[..., ::2] for output in outputs],
    "fortran": lambda outputs: [np.asfortranarray(output) for output in outputs],
    "read-only": lambda outputs: [np.frombuffer(o.tobytes(), o.dtype).reshape(o.shape) for o in outputs],
    "tuple": tuple,
}


def _raise(error):
    raise error


def _recurse(depth=0):
    return _recurse(depth + 1)


def _hang_with_the_gil():
    ctypes.PyDLL(None).sleep(3600)


def _own_folders():
    return [path for path in Path(os.environ["RUNS"]).glob("*") if path.is_dir()]


def _remove_logs():
    for folder in _own_folders():
        for path in folder.rglob("mlperf_log_detail.txt"):
            path.unlink()


def _truncate_logs():
    def cut():
        time.sleep(0.3)
        for folder in _own_folders():
            for path in folder.rglob("mlperf_log_detail.txt"):
                os.truncate(path, 100)

    threading.Thread(target=cut).start()


def _remove_folder():
    import shutil

    for folder in _own_folders():
        shutil.rmtree(folder, ignore_errors=True)


def _edit(variable, change):
    def act():
        path = Path(os.environ[variable])
        changed = change(path.read_bytes())
        staged = path.with_name("staged")
        staged.write_bytes(changed)
        staged.replace(path)

    return act


def _edit_in_place(variable, change):
    def act():
        path = Path(os.environ[variable])
        changed = change(path.read_bytes())
        with path.open("r+b") as file:
            file.write(changed)
            file.truncate()

    return act


def _same_stat(variable, change):
    """Edit a file in place and set its time of modification back."""

    def act():
        path = Path(os.environ[variable])
        status = path.stat()
        _edit_in_place(variable, change)()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return act


FILES = {
    "MODEL_FILE": lambda data: data[:-1] + b"\0",
    "DATASET_FILE": lambda data: data.replace(b"the", b"teh"),
    "VOCAB_FILE": lambda data: data.replace(b"the\n", b"teh\n", 1),
}
INPUTS = {
    **{
        f"{name.lower()}-{how.__name__.strip('_')}": how(name, change)
        for name, change in FILES.items()
        for how in (_edit, _edit_in_place, _same_stat)
    },
    **{f"{name.lower()}-removed": (lambda name=name: Path(os.environ[name]).unlink()) for name in FILES},
}
UNCHANGED = {f"{name.lower()}-copied": _edit(name, lambda data: data) for name in FILES} | {
    f"{name.lower()}-touched": (lambda name=name: os.utime(os.environ[name])) for name in FILES
}
ACTS = {
    **INPUTS,
    **UNCHANGED,
    "exit-0": lambda: os._exit(0),
    "exit-1": lambda: os._exit(1),
    "exit-2": lambda: os._exit(2),
    "exit-3": lambda: os._exit(3),
    "exit-130": lambda: os._exit(130),
    "sys-exit-0": lambda: sys.exit(0),
    "sys-exit-text": lambda: sys.exit("text"),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "abort": os.abort,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "terminated": lambda: os.kill(os.getpid(), signal.SIGTERM) or time.sleep(3600),
    "interrupt": lambda: _raise(KeyboardInterrupt()),
    "base-exception": lambda: _raise(BaseException("odd")),
    "generator-exit": lambda: _raise(GeneratorExit()),
    "stop-iteration": lambda: _raise(StopIteration()),
    "runtime-error": lambda: _raise(RuntimeError("first line\nsecond line")),
    "os-error": lambda: _raise(OSError(28, "No space left on device")),
    "unicode": lambda: _raise(ValueError("\udcff\x1b[31m\0")),
    "long-message": lambda: _raise(ValueError("x" * 100_000)),
    "memory": lambda: _raise(MemoryError()),
    "recursion": _recurse,
    "hang": lambda: time.sleep(3600),
    "hang-with-the-gil": _hang_with_the_gil,
    "logs-removed": _remove_logs,
    "logs-cut": _truncate_logs,
    "folder-removed": _remove_folder,
}
SIDE_EFFECTS = {
    "other-folder": lambda: os.chdir("/"),
    "stdout-closed": lambda: os.close(1),
    "noise": lambda: (os.write(1, b"noise\xff\n" * 50), os.write(2, b"noise\xff\n" * 50)),
    "environment": os.environ.clear,
    "umask": lambda: os.umask(0o777) and None,
    "signals": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)),
}
DESCRIPTIONS = {
    "bytes": b"\xff",
    "array": np.zeros(3),
    "nan": float("nan"),
    "deep": json.loads("[" * 500 + "]" * 500),
    "object": object(),
    "surrogate": "\udcff",
    "keys": {1: 2, None: 3},
}


class Faulty(Engine):
    """The real engine with $FAULT at $MOMENT."""

    name = "faulty"
    Settings = OnnxRuntimeSettings
    fixed_shapes = False

    def __init__(self, model: Path, settings: OnnxRuntimeSettings) -> None:
        super().__init__(model, settings)
        self._inner = OnnxRuntimeEngine(model, settings)
        self.inputs, self.outputs = self._inner.inputs, self._inner.outputs
        self.streams = self._inner.streams
        self._batches, self._lock = 0, threading.Lock()
        self._strike("init")

    def _strike(self, moment):
        if moment == MOMENT and FAULT in ACTS | SIDE_EFFECTS:
            (ACTS | SIDE_EFFECTS)[FAULT]()

    def compile(self, signature):
        self._strike("compile")
        inner = self._inner.compile(signature)

        def runner(batch):
            with self._lock:
                self._batches += 1
                reached, once = self._batches > AFTER.get(MOMENT, 1 << 60), self._batches == AFTER.get(MOMENT, -1) + 1
            if reached and FAULT == "input-zeroed":
                for array in batch.values():
                    array[...] = 0
            outputs = inner(batch)
            if FAULT in OUTPUTS | HARMLESS and reached:
                return (OUTPUTS | HARMLESS)[FAULT](outputs)
            if once:
                self._strike(MOMENT)
            return outputs

        return runner

    def describe(self):
        self._strike("describe")
        if MOMENT == "described":
            return {**super().describe(), "version": DESCRIPTIONS[FAULT]}
        return super().describe()

    def close(self):
        self._strike("close")
        super().close()
