"""Writes a network with its layers in 8 bits, in the operators that an engine runs fast.

These operators were found by measurement:

- DeepSparse 1.8 fuses MatMulInteger and QLinearConv, and gains nothing from QDQ graphs.
- OpenVINO runs QDQ products in 8 bits, as its runtime model shows, and MatMulInteger in FP32.
- ONNX Runtime runs QDQ products faster than MatMulInteger, and convolutions equally fast in both forms.

So OpenVINO and ONNX Runtime share one form.
"""

from __future__ import annotations

from typing import Literal

from onnx import ModelProto

from harness.compress.integer import IntegerEncoder
from harness.compress.plan import Plan
from harness.compress.qdq import QdqEncoder

EngineForm = Literal["deepsparse", "openvino", "onnxruntime"]
ENCODERS: dict[EngineForm, type[IntegerEncoder | QdqEncoder]] = {
    "deepsparse": IntegerEncoder,
    "openvino": QdqEncoder,
    "onnxruntime": QdqEncoder,
}


def quantise(plan: Plan, engine: EngineForm = "deepsparse") -> ModelProto:
    """The plan's network with its layers, its products and its embedding tables in 8 bits, in the form of an engine.

    A layer may have a scale for each output, which DeepSparse runs more slowly.
    """
    encoder = ENCODERS[engine](plan)
    for node in plan.network.nodes:
        encoder.add(node)
    return encoder.model()
