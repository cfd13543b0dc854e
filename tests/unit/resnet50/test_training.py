"""Training data of ResNet50: labels, images as in a run, and a part held back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from harness.errors import ConfigError
from resnet50 import training
from resnet50.images import find_images
from resnet50.preprocess import PROFILES, normaliser, pixels
from resnet50.task import ResNet50, ResNet50Settings
from resnet50.training import ImageTraining, random_part


def classifier(path: Path, classes: int = 1000) -> Path:
    """A graph with the interface of a classifier."""
    shapes = {"input": ["batch", 3, 224, 224], "logits": ["batch", classes]}
    values = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, dims) for name, dims in shapes.items()}
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, classes], np.zeros(3 * classes))
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "g", [values["input"]], [values["logits"]], [weight])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (240, 260, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


def opened(path: Path, tmp_path: Path, hold_out: float = 0.0, classes: int = 1000) -> ImageTraining:
    graph = classifier(tmp_path / "graph.onnx", classes)
    return ResNet50(ResNet50Settings(), tmp_path / "cache").training_data(path, graph, hold_out, None, 0)


def label(folder: Path) -> None:
    (folder / "val_map.txt").write_text("".join(f"{number}.png {10 * number}\n" for number in range(8)))


def test_images_and_labels_are_those_of_a_run(folder, tmp_path):
    label(folder)
    data = opened(folder, tmp_path)
    batch = data.batch(np.array([5, 2]))
    assert batch.answers == ("logits",)
    assert batch.targets["logits"].tolist() == [50, 20]
    profile, expected = PROFILES["mlperf"], np.empty((224, 224, 3), np.float32)
    normaliser(profile)(pixels((folder / "5.png").read_bytes(), profile), expected)
    np.testing.assert_array_equal(batch.feed["input"][0].transpose(1, 2, 0), expected)
    assert batch.feed["input"].flags.writeable
    assert batch.mask is None


def test_a_step_takes_random_parts_which_its_seed_draws_again(folder, tmp_path):
    label(folder)
    data, indices = opened(folder, tmp_path), np.array([5, 2, 5])
    one, again, other = (data.varied(indices, (0, 4, step)) for step in (7, 7, 8))
    images = one.feed["input"]
    assert np.array_equal(images, again.feed["input"])
    assert one.targets["logits"].tolist() == [50, 20, 50]
    assert not any(np.array_equal(images[0], each) for each in (images[2], other.feed["input"][0]))
    assert images.shape == data.batch(indices).feed["input"].shape


def test_a_random_part_lies_in_the_image_and_is_mirrored_half_of_the_time():
    ramp = np.arange(224, dtype=np.uint8)  # each pixel holds its column or its row
    image = np.stack([np.tile(ramp, (224, 1)), np.tile(ramp[:, None], (1, 224)), np.zeros((224, 224))], 2).astype(
        np.uint8
    )
    parts = [random_part(image, np.random.default_rng(seed)).astype(int) for seed in range(200)]
    mirrored = [part[0, 0, 0] > part[0, -1, 0] for part in parts]
    assert 70 < sum(mirrored) < 130
    widths = np.array([abs(part[0, 0, 0] - part[0, -1, 0]) + 1 for part in parts])
    heights = np.array([part[-1, 0, 1] - part[0, 0, 1] + 1 for part in parts])
    assert (heights > 0).all()
    areas, ratios = widths * heights / 224**2, widths / heights
    assert 0.2 < areas.min() < 0.35 < 0.8 < areas.max() <= 1
    assert 0.7 < ratios.min() < 0.85 < 1.2 < ratios.max() < 1.4


def test_a_background_class_shifts_the_targets(folder, tmp_path):
    label(folder)
    assert opened(folder, tmp_path, classes=1001).batch(np.array([5])).targets["logits"].tolist() == [51]


def test_a_part_is_held_back_and_scored(folder, tmp_path):
    label(folder)
    data = opened(folder, tmp_path, hold_out=0.5)
    assert (data.count, data.held_back.tolist()) == (4, [4, 5, 6, 7])
    right = data.batch(data.held_back).targets["logits"]
    values = np.zeros((4, 1000), np.float32)
    values[np.arange(4), right] = 1
    assert data.score([{"logits": values[:3]}, {"logits": values[3:]}]) == ("top-1", 100.0)
    values[0] = 0
    values[0, right[0] - 1] = 1
    assert data.score([{"logits": values}]) == ("top-1", 75.0)


def test_photographs_without_labels(folder, tmp_path):
    data = opened(folder, tmp_path, hold_out=0.5)
    assert not data.labelled
    assert len(data.held_back) == 0
    assert data.count == 8
    assert data.batch(np.arange(8)).targets is None
    with pytest.raises(ConfigError, match="nothing can be scored"):
        data.score([])


def test_the_images_of_official_runs_are_recognised(folder, tmp_path):
    label(folder)
    data = opened(folder, tmp_path)
    assert not data.official
    assert data.origin.startswith("8 files, sha256 of their names, sizes and labels ")
    (folder / "3.png").rename(folder / "ILSVRC2012_val_00000003.png")
    (folder / "val_map.txt").unlink()
    assert opened(folder, tmp_path).official


@pytest.mark.parametrize("names", [("train",), ("val",), ("train", "val")])
def test_one_part_of_imagenet_is_to_be_given(folder, tmp_path, names):
    for name in names:
        (folder / name / "n01440764").mkdir(parents=True)
    with pytest.raises(ConfigError, match=f"has class folders in {' and in '.join(names)}: give one of these"):
        opened(folder, tmp_path)


def test_a_folder_without_images_or_that_is_not_there_is_rejected(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        opened(tmp_path / "no", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="neither val_map"):
        opened(tmp_path / "empty", tmp_path)


def test_too_many_images_for_the_cache_are_decoded_when_used(folder, tmp_path, monkeypatch):
    label(folder)
    cached = opened(folder, tmp_path)
    monkeypatch.setattr(training, "_MAX_CACHED_IMAGES", 4)
    uncached = opened(folder, tmp_path)
    every = np.arange(8)
    np.testing.assert_array_equal(cached.batch(every).feed["input"], uncached.batch(every).feed["input"])
    assert cached.digest == uncached.digest


def test_the_layout_of_the_developers_sample(imagenet_sample, efficientnet_fp32, tmp_path):
    settings = ResNet50Settings.model_validate({"preprocessing": "efficientnet-lite"})
    data = ResNet50(settings, tmp_path).training_data(imagenet_sample, efficientnet_fp32, 0.2, None, 0)
    total = len(find_images(imagenet_sample / "val_map.txt").files)
    assert data.labelled
    assert len(data.held_back) == int(0.2 * total)
    assert data.batch(data.order(4, 0, 0)).feed["input"].shape == (4, 3, 224, 224)
