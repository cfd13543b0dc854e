"""The shipped classifier and the synthetic ImageNet."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import PIL
import pytest
from PIL import Image, features

from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from resnet50.images import find_images
from resnet50.preprocess import PROFILES, SIDE, normaliser, pixels

TOOL = Path(__file__).parents[3] / "tools" / "make_image_defaults"
MADE_WITH = ("13.0.0", "3.2.0", "1")
"""Pillow, libjpeg-turbo and NumPy of the shipped drawings: others may write other bytes."""
MODEL = manifests.folder("resnet50") / "data" / "efficientnet-lite0-int8.onnx"


@pytest.fixture(scope="module")
def synthetic():
    return find_images(find_dataset("resnet50", "imagenet-synthetic").path)


@pytest.fixture
def tool(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(TOOL), *sys.path])
    import draw

    return draw


def test_the_manifest_says_how_many_images_there_are_and_that_scores_are_agreement(synthetic):
    entry = manifests.datasets("resnet50")["imagenet-synthetic"]
    assert len(synthetic.files) == entry.samples
    assert entry.metric == "agreement with the FP32 baseline"
    assert not entry.official
    val = synthetic.files[0].parent
    assert sorted(val.iterdir()) == sorted(synthetic.files)


def test_the_images_are_as_varied_as_imagenets(synthetic):
    sizes, modes = set(), set()
    for file in synthetic.files:
        with Image.open(file) as image:
            sizes.add(image.size)
            modes.add(image.mode)
    assert len(sizes) >= 15
    assert min(min(size) for size in sizes) < 256 < 500 < max(max(size) for size in sizes)
    assert any(width > height for width, height in sizes)
    assert any(width < height for width, height in sizes)
    assert {"RGB", "L", "CMYK"} <= modes
    assert len(set(synthetic.labels.tolist())) > 40


def test_the_drawings_are_those_of_the_generator(synthetic, tool):
    here = (PIL.__version__, features.version("libjpeg_turbo"), np.__version__.partition(".")[0])
    if here != MADE_WITH:
        pytest.skip(f"Pillow, libjpeg-turbo and NumPy are {here}; the images were made with {MADE_WITH}")
    for file in synthetic.files[::12]:
        with Image.open(file) as image:
            number = int(image.info["comment"].decode().removeprefix("drawing "))
        assert file.read_bytes() == tool.drawing(number), file.name


def test_the_model_runs_as_integers_but_for_its_first_layers():
    model = onnx.load(str(MODEL))
    dequantised = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")]
    float32 = [node.name for node in layers if not set(node.input[:2]) <= dequantised]
    assert (len(layers), len(float32)) == (50, 3)
    assert [(entry.domain, entry.version <= 14) for entry in model.opset_import] == [("", True)]
    assert model.ir_version <= 8
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert metadata["precision"] == "int8"
    assert "no photographs" in metadata["calibration"]
    assert MODEL.stat().st_size < 6 * 2**20


@pytest.mark.slow
def test_the_model_agrees_with_the_baseline_on_the_drawings(synthetic):
    assert agreement(MODEL, synthetic) >= 0.95


@pytest.mark.slow
def test_the_labels_are_the_answers_of_the_fp32_model(synthetic, efficientnet_fp32):
    assert agreement(efficientnet_fp32, synthetic) == 1


def agreement(model: Path, images) -> float:
    profile = PROFILES["efficientnet-lite"]
    write = normaliser(profile)
    tensors = np.empty((len(images.files), SIDE, SIDE, 3), np.float32)
    for file, row in zip(images.files, tensors, strict=True):
        write(pixels(file.read_bytes(), profile), row)
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    found = session.run(["logits"], {"input": np.ascontiguousarray(tensors.transpose(0, 3, 1, 2))})[0]
    return float((found.argmax(axis=1) == images.labels).mean())
