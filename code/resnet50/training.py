"""Images as training data, with the preprocessing of a run and ImageNet's labels, and top-1 of a part held back."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.errors import ConfigError
from harness.files.fingerprint import Fingerprint
from harness.graph import listing
from harness.host.machine import core_count
from harness.task.feeds import GraphOnly
from harness.task.shape import Array, Integers
from harness.task.training import TrainingBatch, TrainingData, hold_back
from harness.terminal.progress import Progress
from resnet50.images import SUFFIXES, VAL_MAP, class_folders, dataset_file, find_images
from resnet50.interface import choose_layout, number_of_classes, settled_outputs
from resnet50.labels import CLASSES
from resnet50.pixels import Pixels, decoded_file, load_pixels
from resnet50.preprocess import PreprocessingProfile, normaliser
from resnet50.qsl import write_image

_MAX_CACHED_IMAGES = 50_000
"""Maximum number of images that are decoded once and cached (7 GiB); more are decoded at each use."""
_MIN_CROP_AREA = 0.25
"""Minimum area of a random part of an image, as a share."""
_VALIDATION = re.compile(r"ILSVRC2012_val_\d{8}")
"""Names of the images that official runs are scored on."""


class ImageTraining(TrainingData):
    """Photographs, prepared as for a run; a sample is an image."""

    varies = True

    def __init__(
        self,
        path: Path,
        graph: Path,
        *,
        profile: PreprocessingProfile,
        layout: str | None,
        cache_dir: Path,
        hold_out: float,
        seed: int,
    ) -> None:
        """Find the images and their labels, and hold back about ``hold_out`` of them, drawn by ``seed``.

        ``profile`` and ``layout`` are the benchmark's settings. A folder that has neither val_map.txt nor class folders
        holds images without labels, in itself or in folders below; none of these is held back.

        Raises:
            ConfigError: there are no images, one is damaged, or the graph is not an ImageNet classifier.
        """
        engine = GraphOnly(graph)
        chosen = choose_layout(engine.inputs, graph, layout)
        self._input = engine.inputs[0]
        if self._input.dims[0]:
            raise ConfigError(f"{graph} takes batches of {self._input.dims[0]} only: export it with a free batch.")
        outputs = settled_outputs(engine.outputs, graph, self._input, chosen)
        self._output, classes = next(((t.name, c) for t in outputs if (c := number_of_classes(t))), ("", 0))
        if not classes:
            raise ConfigError(f"{graph} has no output with a value for each class, only {listing(outputs)}.")
        images = _find(path)
        self.labelled = images.labels is not None
        self._targets = None if images.labels is None else images.labels + (classes - CLASSES)
        self._pixels, self._layout = _pixels(images.files, profile, cache_dir), chosen
        self._normalise = normaliser(profile)
        every = np.arange(len(images.files))
        train, held = hold_back(every, every, hold_out if self.labelled else 0.0, seed)
        self._samples = np.concatenate((train, held))
        self.count = len(train)
        self.held_back = np.arange(len(train), len(every))[: len(held)]
        self.digest = sha256(f"{profile!r} {images.digest}".encode()).hexdigest()
        self.origin = f"{len(every):,} files, sha256 of their names, sizes and labels {images.digest}"
        self.official = any(_VALIDATION.fullmatch(file.stem) for file in images.files)

    def batch(self, indices: Integers) -> TrainingBatch:
        """The images in the graph's layout and dtype; targets are the outputs' indices of their labels."""
        return self._batch(indices, lambda pixels, place: pixels)

    def varied(self, indices: Integers, seed: Sequence[int]) -> TrainingBatch:
        """As `batch`, but with a random part of each image, scaled to full size and mirrored half of the time."""
        return self._batch(indices, lambda pixels, place: random_part(pixels, np.random.default_rng((*seed, place))))

    def _batch(self, indices: Integers, change: Callable[[NDArray[np.uint8], int], NDArray[np.uint8]]) -> TrainingBatch:
        samples, layout = self._samples[indices], self._layout
        images = np.empty((len(samples), *layout.dims), layout.dtype)

        def write(place: int) -> None:
            pixels = change(self._pixels.read(int(samples[place])), place)
            write_image(pixels, images[place], layout, self._normalise)

        with ThreadPoolExecutor(core_count(), thread_name_prefix="images") as pool:
            list(pool.map(write, range(len(samples))))
        targets = None if self._targets is None else {self._output: self._targets[samples]}
        return TrainingBatch({self._input.name: images}, targets, (self._output,))

    def score(self, outputs: Iterable[Mapping[str, Array]]) -> tuple[str, float]:
        """Top-1: the share of images held back whose label has the highest value."""
        if self._targets is None or not len(self.held_back):
            raise ConfigError(
                "nothing can be scored: the images have no labels, or none held back; set hold_out above 0."
            )
        found = np.concatenate([_best(tensors[self._output]) for tensors in outputs])
        return "top-1", 100.0 * float((found == self._targets[self._samples[self.count :]]).mean())


def random_part(pixels: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A part of an image, (224, 224, 3), scaled to full size with bilinear interpolation, mirrored half of the time.

    Its area is a quarter to all of the image's, its width 3/4 to 4/3 of its height: torchvision's RandomResizedCrop,
    whose smallest area is 8 % of an image that is not cropped yet.
    """
    side = len(pixels)
    area, ratio = rng.uniform(_MIN_CROP_AREA, 1.0), np.exp(rng.uniform(-1.0, 1.0) * np.log(4 / 3))
    width, height = (min(side, float(side * np.sqrt(area * factor))) for factor in (ratio, 1 / ratio))
    left, top = rng.uniform(0, side - width), rng.uniform(0, side - height)
    box = (left, top, left + width, top + height)
    found = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR, box))
    return found[:, ::-1] if rng.random() < 0.5 else found


def _best(values: Array) -> Integers:
    best: Integers = values.reshape(len(values), -1).argmax(axis=1)
    return best


@dataclass(frozen=True)
class _Images:
    """Image files by sample index."""

    files: Sequence[Path]
    labels: Integers | None
    """int64 (n,): 0 to 999, or None."""

    @cached_property
    def digest(self) -> str:
        """sha256 of their names, sizes and labels, in hex; not of their content, which would all have to be read."""
        made = sha256()
        labels = np.zeros(len(self.files), np.int64) if self.labels is None else self.labels
        for file, label in zip(self.files, labels.tolist(), strict=True):
            made.update(f"{file.name} {file.stat().st_size} {label}\n".encode())
        return made.hexdigest()


def _find(path: Path) -> _Images:
    """The labelled images at ``path``, or those without labels."""
    parts = [name for name in ("train", "val") if _divided(path / name)]
    if parts and not (path / VAL_MAP).is_file():
        raise ConfigError(f"{path} has class folders in {' and in '.join(parts)}: give one of these folders.")
    if not path.exists():
        raise ConfigError(f"{path} does not exist: pass a val_map.txt, or a folder of images.")
    try:
        place = dataset_file(path)
    except ConfigError:  # neither val_map.txt nor class folders
        files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
        if not files:
            raise
        return _Images(files, None)
    found = find_images(place)
    return _Images(found.files, found.labels)


def _divided(path: Path) -> bool:
    """Whether this folder itself contains class folders."""
    return any(folder.parent == path for folder in class_folders(path))


def _pixels(files: Sequence[Path], profile: PreprocessingProfile, cache_dir: Path) -> Pixels:
    if len(files) > _MAX_CACHED_IMAGES:
        return _Uncached(files, profile)
    with Progress("pixels", unit="images") as bar:
        return load_pixels(files, profile, cache_dir, progress=lambda done, total: bar.update(done=done, total=total))


class _Uncached(Pixels):
    """The pixels of images that are too many to cache: a damaged one is found only when it is used."""

    def __init__(self, files: Sequence[Path], profile: PreprocessingProfile) -> None:
        self._paths, self._profile = files, profile
        self.files: list[Fingerprint] = []

    def __len__(self) -> int:
        return len(self._paths)

    def read(self, index: int) -> NDArray[np.uint8]:
        """(224, 224, 3), RGB, decoded from the image's file; ConfigError if it cannot be."""
        return decoded_file(self._paths[index], self._profile)
