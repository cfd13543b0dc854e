"""Which files of published models benchmarks.published uses again."""

from __future__ import annotations

import onnx
import pytest
from benchmarks import published
from graphs import graph, node

from harness import TOOL, __version__
from harness.models.build import BuildRequest

SAME = {"tool": f"{TOOL} {__version__}", "precision": "int8", "sparsity": "0.85", "engine_form": "deepsparse"}


@pytest.mark.parametrize(
    ("name", "changed", "builds"),
    [
        ("resnet50-pruned85-int8", {}, False),
        ("resnet50-pruned85-int8", {"engine_form": None}, True),
        ("resnet50-pruned85-int8", {"engine_form": "openvino"}, True),
        ("resnet50-pruned85-int8", {"sparsity": "0.5"}, True),
        ("resnet50-pruned85-int8", {"tool": f"{TOOL} 0.0.1"}, True),
        ("resnet50-fp32", {"precision": "fp32", "sparsity": None, "engine_form": None}, False),
        ("resnet50-fp32", {"sparsity": None}, True),
    ],
)
def test_a_file_is_used_again_only_if_it_is_what_would_be_built(tmp_path, monkeypatch, name, changed, builds):
    path = tmp_path / f"{name}-random.onnx"
    model = graph([node("Relu", "x", "y")], {"x": ("N", 3, 224, 224)}, ["y"], {})
    facts = {"weights": "random weights, seed 0", "model": name, **SAME, **changed}
    onnx.helper.set_model_props(model, {key: value for key, value in facts.items() if value})
    onnx.save(model, path)
    built = []

    def build(request):
        built.append(request)
        return path

    monkeypatch.setattr(published, "model_file", lambda key: tmp_path / f"{key}.onnx")
    monkeypatch.setattr(published, "build", build)
    pruned = facts.get("sparsity") is not None
    assert published.find_file(name) == (path, "weights, and which of them are zeros" if pruned else "weights")
    assert built == ([BuildRequest(name, "random")] if builds else [])
