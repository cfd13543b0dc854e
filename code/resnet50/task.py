"""The ResNet50 benchmark: classification of ImageNet 2012's validation images, scored by top-1."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from harness.catalog.contract import BenchmarkSettings
from harness.catalog.datasets import find_dataset
from harness.catalog.manifests import Dataset
from harness.compress.scaling import Scaling
from harness.engines.base import Engine
from harness.errors import CheckFailed
from harness.graph import Tensor
from harness.task.base import ASSUMED, FROM_GRAPH, Accuracy, Benchmark, Choice
from harness.task.qsl import SampleLibrary
from harness.task.sut import SUT
from harness.terminal.progress import OnProgress
from resnet50.accuracy import accuracy_text, score_log, write_accuracy_txt
from resnet50.doubts import label_doubts, profile_doubts
from resnet50.images import check_official, class_folders, dataset_file, find_images, make_stand_in
from resnet50.interface import LAYOUTS, choose_layout
from resnet50.pixels import load_pixels
from resnet50.preprocess import PROFILES
from resnet50.qsl import ImageQSL
from resnet50.sut import ResNet50SUT
from resnet50.training import ImageTraining


class ResNet50Settings(BenchmarkSettings):
    """Settings of ResNet50 and other ImageNet classifiers."""

    preprocessing: Literal[*PROFILES] = Field(  # type: ignore[valid-type]  # one list of the names
        "mlperf", description="how images become the model's input"
    )
    layout: Literal[*LAYOUTS] | None = Field(  # type: ignore[valid-type]
        None, description="order of an image's axes; default: as the graph says, or else the one that it runs with"
    )
    label_offset: int | None = Field(
        None, ge=0, le=1, description="output index of label 0; default: 1 of 1001 classes, 0 of 1000"
    )


class ResNet50(Benchmark):
    """Image classification into 1000 classes."""

    settings: ResNet50Settings
    name: ClassVar[str] = "resnet50"
    official_name: ClassVar[str] = "resnet50"
    max_cost: ClassVar[int] = 1
    server_bound: ClassVar[float] = 0.015
    max_response: ClassVar[int] = 4
    prepared: ClassVar[str] = "pixels"
    prepared_from: ClassVar[str] = "images"
    Settings: ClassVar[type[BenchmarkSettings]] = ResNet50Settings
    one_file: ClassVar[bool] = False

    @classmethod
    def accepts(cls, inputs: Sequence[Tensor]) -> bool:
        """One input of four dimensions."""
        return len(inputs) == 1 and len(inputs[0].dims) == 4

    @classmethod
    def dataset_file(cls, path: Path) -> Path:
        """Also accepts a folder, for its val_map.txt or its class folders."""
        return dataset_file(path)

    @classmethod
    def dataset_parts(cls, path: Path) -> Sequence[Path]:
        """The val_map.txt, or the class folders in their order."""
        return [path] if path.is_file() else class_folders(path)

    def check_official(self, dataset: Dataset) -> None:
        """The 50,000 validation images by name, 50 of each class."""
        check_official(find_images(dataset.path), dataset.path)

    def open(
        self,
        dataset: Dataset,
        samples: int | None,
        inputs: Sequence[Tensor],
        progress: OnProgress = lambda done, total: None,
        model: Path | None = None,
    ) -> ImageQSL:
        """The images' pixels, from the cache if it has them; in memory in the layout of the graph's input."""
        layout = choose_layout(inputs, model, self.settings.layout)
        profile = PROFILES[self.settings.preprocessing]
        files = find_images(dataset.path).files[:samples]
        pixels = load_pixels(files, profile, self.cache_dir, progress=progress)
        return ImageQSL(pixels, profile, layout, pixels.files)

    def scalings(self, inputs: Sequence[Tensor], model: Path) -> Mapping[str, Scaling]:
        """Pixels, scaled as the profile normalises them."""
        layout = choose_layout(inputs, model, self.settings.layout)
        if layout.dtype != np.float32:
            return {}
        profile = PROFILES[self.settings.preprocessing]
        return {inputs[0].name: Scaling(profile.mean, profile.deviation, 1 if layout.channels_first else 3)}

    def stand_in(self, folder: Path) -> Path:
        """The first shipped drawings, repeated as hard links under the official names, with labels in rotation."""
        sample = find_images(find_dataset(self.name, "imagenet-synthetic").path)
        assert self.official_samples is not None
        return make_stand_in(folder / "imagenet-stand-in", sample.files, self.official_samples)

    def make_sut(self, engine: Engine, qsl: SampleLibrary) -> ResNet50SUT:
        """The one SUT for every engine."""
        assert isinstance(qsl, ImageQSL)
        return ResNet50SUT(engine, qsl, self.settings.label_offset)

    def scoring_choices(self, sut: SUT) -> tuple[Choice, ...]:
        """Preprocessing, layout, label offset, and the output that is read."""
        assert isinstance(sut, ResNet50SUT)
        profile = Choice("preprocessing", self.settings.preprocessing, self.source("preprocessing"))
        if not sut.engine.outputs:
            return (profile,)
        given = self.settings.label_offset is not None
        layout_source = self.source("layout") if self.settings.layout else sut.layout_source
        return (
            profile,
            Choice("layout", "NCHW" if sut.qsl.layout.channels_first else "NHWC", layout_source),
            Choice("label offset", str(sut.offset), self.source("label_offset") if given else FROM_GRAPH),
            Choice("output", sut.output, FROM_GRAPH if len(sut.engine.outputs) == 1 else ASSUMED),
        )

    def sampled_doubts(self, sut: SUT, dataset: Dataset) -> tuple[str, ...]:
        """Whether another preprocessing gets twice as many of a few images right."""
        assert isinstance(sut, ResNet50SUT)
        if dataset.metric or not sut.engine.computes:
            return ()
        images = find_images(dataset.path)
        return profile_doubts(sut, self.settings.preprocessing, images.files, images.labels)

    def score(self, log: Path, dataset: Dataset, samples: int | None, output: Path, note: str | None) -> Accuracy:
        """Top-1 as in the official script, over all images; labels that are off by one are also rejected."""
        images = find_images(dataset.path)
        score = score_log(log, images.labels, dtype="float32", samples=samples)
        if score.missing or score.shift:
            raise CheckFailed(score.warnings[-1])
        write_accuracy_txt(output, score, log, note, dataset.metric)
        return Accuracy(
            {dataset.metric or "top-1": score.top1},
            score.scope or f"all {score.total:,} images of {dataset.name}",
            score.warnings,
            label_doubts(score.found, images.labels),
        )

    def score_partial(self, log: Path, dataset: Dataset) -> str:
        """Top-1 of the images that the log answers; labels that are off by one are rejected."""
        score = score_log(log, find_images(dataset.path).labels, partial=True)
        if score.shift:
            raise CheckFailed(score.warnings[-1])
        return accuracy_text(score, log, metric=dataset.metric)

    def training_data(self, path: Path, graph: Path, hold_out: float, max_cost: int | None, seed: int) -> ImageTraining:
        """A val_map.txt or its folder, class folders, or a folder of images without labels."""
        return ImageTraining(
            path,
            graph,
            profile=PROFILES[self.settings.preprocessing],
            layout=self.settings.layout,
            cache_dir=self.cache_dir,
            hold_out=hold_out,
            seed=seed,
        )
