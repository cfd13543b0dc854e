"""The exported file computes what the trained module does."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from graphs import run
from onnx import ModelProto

from bert.architecture import BertConfig, build_bert
from harness.compress.network import Network
from harness.compress.products import products
from harness.compress.quantise import EngineForm
from harness.models.weights import RandomWeights

torch = pytest.importorskip("torch", reason="training is not installed: make setup TRAIN=1")

from harness.trainable.export import export  # noqa: E402
from harness.trainable.fake import FakeQuantisation  # noqa: E402
from harness.trainable.graph import GraphModule  # noqa: E402

_CONFIG = BertConfig(layers=2, hidden=32, heads=2, feed_forward=64, vocabulary=1100, positions=24)
_OUTPUTS = ("start_logits", "end_logits")


def _questions(seed: int, rows: int = 8, length: int = 20) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask = (np.arange(length) < rng.integers(8, length + 1, (rows, 1))).astype(np.int64)
    kinds = np.broadcast_to(np.arange(length) > 5, mask.shape) * mask
    return {"input_ids": rng.integers(0, 1100, (rows, length)) * mask, "attention_mask": mask, "token_type_ids": kinds}


def _tensors(feed: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value) for name, value in feed.items()}


@pytest.fixture(scope="module")
def trained() -> tuple[GraphModule, FakeQuantisation]:
    """A small BERT after some steps of quantisation-aware training that raise the logits of one token."""
    torch.manual_seed(1)
    module = GraphModule(Network(build_bert(RandomWeights(1), _CONFIG)))
    quantisation = FakeQuantisation(module, module.network.layers, list(products(module.network)))
    quantisation.observe(_tensors(_questions(number)) for number in range(4))
    quantisation.enable()
    layer = module.network.inner()[0]
    mask = torch.rand(module.matrix(layer).shape) < 0.5
    module.weights[layer.output] = lambda matrix: matrix * mask
    optimizer = torch.optim.AdamW(module.trained(), lr=3e-3)
    for number in range(20):
        if number == 15:
            quantisation.freeze()
        feed = _tensors(_questions(100 + number))
        found = module(feed)
        target = feed["input_ids"].argmax(dim=1)
        loss = sum(torch.nn.functional.cross_entropy(found[name], target) for name in _OUTPUTS)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return module, quantisation


def _answers(module: GraphModule, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    with torch.no_grad():
        found = module(_tensors(feed))
    return [found[name].numpy() for name in _OUTPUTS]


@pytest.mark.parametrize("engine", ["deepsparse", "openvino", "onnxruntime"])
def test_the_int8_file_gives_the_answers_of_the_trained_module(
    trained: tuple[GraphModule, FakeQuantisation], engine: EngineForm
) -> None:
    module, quantisation = trained
    written = export(module, quantisation, engine, {})
    same = total = 0
    for number in range(16):
        feed = _questions(1000 + number)
        for found, expected in zip(run(written, feed, *_OUTPUTS), _answers(module, feed), strict=True):
            # One value that is rounded to the next step on one side only changes many after it a little.
            assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)
            assert np.abs(found - expected).mean() < 0.005 * np.ptp(expected)
            same += int((found.argmax(axis=1) == expected.argmax(axis=1)).sum())
            total += len(found)
    assert same / total >= 0.99


def test_the_fp32_file_is_the_module_without_rounding(trained: tuple[GraphModule, FakeQuantisation]) -> None:
    module, _ = trained
    written = export(module, None, "onnxruntime", {})
    other = GraphModule(Network(written))
    feed = _questions(5)
    for found, expected in zip(run(written, feed, *_OUTPUTS), _answers(other, feed), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
    layer = module.network.inner()[0]
    assert 0.4 < np.mean(Network(written).matrix(layer) == 0) < 0.6


@pytest.mark.parametrize("rounded", [False, True])
def test_metadata_of_the_graph_stay_and_are_added_to(
    trained: tuple[GraphModule, FakeQuantisation], rounded: bool
) -> None:
    module, quantisation = trained
    written = export(module, quantisation if rounded else None, "openvino", {"recipe": "test", "weights": "trained"})
    facts = {entry.key: entry.value for entry in written.metadata_props}
    assert facts == {"architecture": "BERT, 2 layers, hidden 32", "recipe": "test", "weights": "trained"}


def test_exporting_changes_nothing(trained: tuple[GraphModule, FakeQuantisation]) -> None:
    module, quantisation = trained
    first: ModelProto = export(module, quantisation, "deepsparse", {})
    assert export(module, quantisation, "deepsparse", {}) == first
