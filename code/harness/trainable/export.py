"""The trained model as a file."""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, helper

from harness.compress.quantise import EngineForm, quantise
from harness.trainable.fake import FakeQuantisation
from harness.trainable.graph import GraphModule


def export(
    module: GraphModule, quantisation: FakeQuantisation | None, engine_form: EngineForm, metadata: Mapping[str, str]
) -> ModelProto:
    """The graph with its trained weights: in 8 bits in an engine's form, or in FP32 without ``quantisation``.

    It computes what the module does: nothing is fitted or rounded again. ``metadata`` is added to that of the trained
    graph.
    """
    model = quantise(quantisation.plan(), engine_form) if quantisation else module.store()
    known = {entry.key: entry.value for entry in module.network.model.metadata_props}
    helper.set_model_props(model, {**known, **metadata})
    return model
