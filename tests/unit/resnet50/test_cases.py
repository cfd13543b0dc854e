"""Images and classifiers as met in the field: ../shared/cases, with their right values."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from harness.catalog.manifests import Dataset
from harness.engines.onnxruntime import OnnxRuntimeEngine, OnnxRuntimeSettings
from harness.task.base import ASSUMED, GIVEN, Accuracy
from harness.task.shape import Shape
from resnet50.task import ResNet50, ResNet50Settings

pytestmark = pytest.mark.slow

Write = Callable[[Path, Path], object]


@pytest.fixture(scope="module")
def made(cases, imagenet_sample, tmp_path_factory):
    """A function that makes a data set of the first ``count`` images of the other order, written by ``write``."""
    other = [line.split() for line in (cases / "val_map-other-order.txt").read_text().splitlines()]
    right = dict(line.split() for line in (imagenet_sample / "val_map.txt").read_text().splitlines())

    def make(count: int, write: Write = shutil.copyfile, suffix: str = ".JPEG", labels: str = "right") -> Dataset:
        folder = tmp_path_factory.mktemp("images")
        (folder / "val").mkdir()
        lines = []
        for name, label in other[:count]:
            place = name if name.startswith("val/") else f"val/{name}"
            new = Path(place).with_suffix(suffix)
            write(imagenet_sample / place, folder / new)
            lines.append(f"{new} {right[place] if labels == 'right' else label}\n")
        (folder / "val_map.txt").write_text("".join(lines))
        return Dataset(name="case", path=folder / "val_map.txt", sha256=None)

    return make


class Classified:
    """A model's answers to a data set."""

    def __init__(self, model: Path, dataset: Dataset, folder: Path, settings: dict[str, object], batch: int) -> None:
        sources = dict.fromkeys(settings, GIVEN)
        self.benchmark = ResNet50(ResNet50Settings(**settings), folder / "cache", sources)
        engine = OnnxRuntimeEngine(model, OnnxRuntimeSettings(streams=1))
        qsl = self.benchmark.open(dataset, None, engine.inputs)
        sut = self.benchmark.make_sut(engine, qsl)
        sut.prepare(Shape(batch, 1))
        indices = np.arange(qsl.count)
        qsl.load(indices)
        parts = [sut.answer(indices[n : n + batch], Shape(batch, 1)).buffer for n in range(0, qsl.count, batch)]
        entries = [
            {"seq_id": n, "qsl_idx": n, "data": value.tobytes().hex().upper(), "token_count": 0}
            for n, value in enumerate(np.concatenate(parts))
        ]
        qsl.unload(indices)
        log = folder / "log.json"
        log.write_text(json.dumps(entries))
        self.accuracy: Accuracy = self.benchmark.score(log, dataset, None, folder / "accuracy.txt", None)
        self.sampled = self.benchmark.sampled_doubts(sut, dataset)
        self.choices = {choice.name: (choice.value, choice.source) for choice in self.benchmark.scoring_choices(sut)}

    @property
    def top1(self) -> float:
        return round(self.accuracy.metrics["top-1"], 3)


@pytest.fixture
def classified(tmp_path):
    def run(model: Path, dataset: Dataset, batch: int = 4, **settings: object) -> Classified:
        return Classified(model, dataset, tmp_path, settings, batch)

    return run


def turned_left(source: Path, target: Path) -> None:
    """Stored turned left, with the EXIF orientation that turns it back."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(source).convert("RGB").transpose(Image.Transpose.ROTATE_90)
    image.save(target, "JPEG", quality=95, exif=exif)


def deep_grey(source: Path, target: Path) -> None:
    """A grey PNG of 16 bits."""
    Image.fromarray(np.asarray(Image.open(source).convert("L")).astype(np.uint16) * 257).save(target)


@pytest.mark.parametrize(("write", "suffix"), [(turned_left, ".JPEG"), (deep_grey, ".png")])
def test_the_mlperf_profile_reads_images_as_its_source_does(case_graphs, made, classified, write, suffix):
    found = classified(case_graphs / "image-mlperf-profile.onnx", made(12, write, suffix), preprocessing="mlperf")
    assert found.top1 == 100
    assert found.accuracy.doubts == found.sampled == ()
    assert found.choices["preprocessing"] == ("mlperf", GIVEN)


def test_labels_in_another_order_of_classes_are_named(efficientnet_fp32, made, classified):
    found = classified(efficientnet_fp32, made(24, labels="wrong"), preprocessing="efficientnet-lite")
    assert found.top1 == 0
    assert "labels, output or preprocessing" in found.accuracy.doubts[0]
    assert found.sampled == ()


def test_an_assumed_profile_is_named_and_so_is_a_better_one(case_graphs, made, classified):
    model, dataset = case_graphs / "image-batch-of-8.onnx", made(24)
    assumed = classified(model, dataset, batch=8)
    assert assumed.top1 == 37.5
    assert assumed.choices["preprocessing"] == ("mlperf", ASSUMED)
    assert assumed.choices["label offset"] == ("0", "from the graph")
    (doubt,) = assumed.sampled
    assert "9 are right with preprocessing mlperf and 23 with efficientnet-lite" in doubt
    advised = doubt.rpartition("--set preprocessing=")[2].rstrip(".")
    told = classified(model, dataset, batch=8, preprocessing=advised)
    assert told.top1 == 95.833
    assert told.sampled == told.accuracy.doubts == ()
    assert told.choices["preprocessing"] == ("efficientnet-lite", GIVEN)
