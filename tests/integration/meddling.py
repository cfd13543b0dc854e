"""Engines that change a run's files at the worst moment: $MEDDLE is a list of [file, text in it, text instead]."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

from harness.engines.null import NullEngine
from harness.engines.onnxruntime import OnnxRuntimeEngine


def meddle():
    path, old, new = json.loads(os.environ["MEDDLE"])
    content = Path(path).read_bytes()
    assert old.encode() in content
    other = Path(f"{path}.other")
    other.write_bytes(content.replace(old.encode(), new.encode()))
    other.replace(path)


class BeforeLoading(OnnxRuntimeEngine):
    name = "meddling-before-loading"

    def __init__(self, model, settings):
        meddle()
        super().__init__(model, settings)


class DuringTheTest(NullEngine):
    name = "meddling-during-the-test"
    done = False

    def compile(self, signature):
        inner = super().compile(signature)

        def runner(batch):
            if not self.done and any(thread.name == "loadgen" for thread in threading.enumerate()):
                self.done = True
                meddle()
            return inner(batch)

        return runner
