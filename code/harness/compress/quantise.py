"""A network with its layers in 8 bits, in the operators that an engine runs fast."""

from __future__ import annotations

from typing import Literal

from onnx import ModelProto

from harness.compress.integer import IntegerEncoder
from harness.compress.plan import Plan
from harness.compress.qdq import QdqEncoder

EngineForm = Literal["deepsparse", "openvino", "onnxruntime"]
_ENCODERS: dict[EngineForm, type[IntegerEncoder | QdqEncoder]] = {
    "deepsparse": IntegerEncoder,
    "openvino": QdqEncoder,
    "onnxruntime": QdqEncoder,
}


def quantise(plan: Plan, engine: EngineForm = "deepsparse") -> ModelProto:
    """The plan's network with its layers, its products and its embedding tables in 8 bits, in the form of an engine.

    For DeepSparse, a convolution needs a single scale; a matrix product may have one per output, which is slower.
    """
    encoder = _ENCODERS[engine](plan)
    for node in plan.network.nodes:
        encoder.add(node)
    return encoder.model()
