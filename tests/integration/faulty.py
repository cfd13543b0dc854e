"""Engines that fail in every way that an engine can; used as --engine faulty:Name."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from harness.engines.base import Engine
from harness.engines.null import NullEngine
from harness.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSettings


class _Faulty(NullEngine):
    after = 2
    """Number of batches that succeed."""

    def compile(self, signature):
        inner = super().compile(signature)

        def runner(batch):
            if self.settings.delay_us:
                time.sleep(self.settings.delay_us / 1e6)
            self.batches = getattr(self, "batches", 0) + 1
            outputs = inner(batch)
            return self.spoil(outputs) if self.batches > self.after else outputs

        return runner


class Raises(_Faulty):
    name = "raises"

    def spoil(self, outputs):
        raise RuntimeError("vnni unit on fire\nsecond line")


class RaisesInTheTest(_Faulty):
    """Works in the warm-up, which has no streams."""

    name = "raises-in-the-test"

    def spoil(self, outputs):
        if threading.current_thread().name.startswith("stream-"):
            raise RuntimeError("vnni unit on fire\nsecond line")
        return outputs


class NotANumber(_Faulty):
    name = "nan"

    def spoil(self, outputs):
        return [np.full_like(outputs[0], np.nan), outputs[1]]


class WrongShape(_Faulty):
    name = "wrong-shape"

    def spoil(self, outputs):
        return [outputs[0][:, :-1], outputs[1]]


class TooFew(_Faulty):
    name = "too-few"

    def spoil(self, outputs):
        return outputs[:1]


class Lists(_Faulty):
    name = "lists"

    def spoil(self, outputs):
        return [output.tolist() for output in outputs]


class NumberedVersion(NullEngine):
    name = "numbered-version"

    def describe(self):
        return {**super().describe(), "version": 3}


class Exits(_Faulty):
    name = "exits"

    def spoil(self, outputs):
        raise SystemExit(3)


class Crashes(_Faulty):
    name = "crashes"

    def spoil(self, outputs):
        os.kill(os.getpid(), signal.SIGSEGV)


class Hangs(_Faulty):
    name = "hangs"

    def spoil(self, outputs):
        time.sleep(3600)


class HangsWithTheGil(_Faulty):
    name = "hangs-with-the-gil"

    def spoil(self, outputs):
        ctypes.PyDLL(None).sleep(3600)


class HangsCompiling(_Faulty):
    name = "hangs-compiling"
    fixed_shapes = True

    def __init__(self, model, settings):
        super().__init__(model, settings)
        self.settings = SimpleNamespace(shapes=1, max_batch=4, max_tokens=1000)

    def compile(self, signature):
        ctypes.PyDLL(None).sleep(3600)


class WrongInLargeBatches(Engine):
    """ONNX Runtime, except that rows are mixed up in batches of more than two."""

    name = "wrong"
    Settings = OnnxRuntimeSettings
    fixed_shapes = False

    def __init__(self, model, settings):
        super().__init__(model, settings)
        self._inner = OnnxRuntimeEngine(model, settings)
        self.inputs, self.outputs = self._inner.inputs, self._inner.outputs

    def compile(self, signature):
        inner = self._inner.compile(signature)

        def runner(batch):
            outputs = inner(batch)
            return [np.roll(output, 1, axis=0) for output in outputs] if len(outputs[0]) > 2 else outputs

        return runner


class ExitsWith2(_Faulty):
    name = "exits-with-2"

    def spoil(self, outputs):
        os._exit(2)


class PressesCtrlC(_Faulty):
    name = "presses-ctrl-c"

    def spoil(self, outputs):
        raise KeyboardInterrupt


class ExitsClosing(NullEngine):
    name = "exits-closing"

    def close(self):
        os._exit(0)


class HangsClosing(NullEngine):
    name = "hangs-closing"

    def close(self):
        ctypes.PyDLL(None).sleep(3600)


class DescribesNothing(NullEngine):
    """Fails in describe(), remark() and close()."""

    name = "describes-nothing"

    def describe(self):
        raise RuntimeError("no such attribute")

    def remark(self):
        raise RuntimeError("nothing to say")

    def close(self):
        raise SystemExit("double free")


class AbortsCompiling(NullEngine):
    """Prints a backtrace and ends the process, as native code does for a graph that it cannot compile."""

    name = "aborts"
    fixed_shapes = True

    def compile(self, signature):
        os.write(2, b"Assertion at generator.hpp:455\nBacktrace:\n" + b" 0# 0x00007f689fbca0f3\n" * 100)
        os.write(1, b"on stdout, too\n")
        os._exit(1)


class StallsThenRaises(_Faulty):
    """Stalls for seconds before it reports its failure."""

    name = "stalls"
    after = 100

    def spoil(self, outputs):
        time.sleep(7)
        raise RuntimeError("device lost")


class SlowInItsFirstTest(NullEngine):
    """Takes half a second for a batch once LoadGen is there, in the first process only; no warm-up shows that."""

    name = "slow-in-its-first-test"

    def __init__(self, model, settings):
        super().__init__(model, settings)
        self.mark = Path("tested")
        self.first = not self.mark.exists()

    def compile(self, signature):
        inner = super().compile(signature)

        def runner(batch):
            if self.first and "mlperf_loadgen" in sys.modules:
                self.mark.touch()
                time.sleep(0.5)
            return inner(batch)

        return runner


class Profiled(OnnxRuntimeEngine):
    """Works until it is profiled."""

    name = "profiled"

    @classmethod
    def profiler(cls):
        return _NoProfiler


class _NoProfiler(OnnxRuntimeEngine):
    def __init__(self, model, settings):
        raise RuntimeError("out of tricks")
