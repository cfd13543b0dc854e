"""ImageNet as a QSL: a sample is an image; tensors of the loaded images are in memory, in the model's layout."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from harness.host.machine import core_count
from harness.task.qsl import SampleLibrary
from harness.task.shape import Shape
from resnet50.pixels import Pixels
from resnet50.preprocess import SIDE, Profile, normaliser

IMAGES = "images"
PERFORMANCE_SAMPLES = 1024
"""Set by the rules for ResNet50 (performance_sample_count_override in mlperf.conf)."""
_AGAIN = 64
"""So many of the first images are repeated after the last one: batches that wrap around then need no copy either."""


class ImageQSL(SampleLibrary):
    """Pixels on disk (memory-mapped), normalised tensors of the loaded images in memory: 588 KiB each as float32."""

    def __init__(self, pixels: Pixels, profile: Profile) -> None:
        super().__init__(len(pixels), PERFORMANCE_SAMPLES)
        self._pixels = pixels
        self._normalise = normaliser(profile)
        self.set_layout(np.dtype(np.float32), channels_first=True)

    def set_layout(self, dtype: np.dtype, *, channels_first: bool) -> None:
        """Set the model's input type before samples are loaded: floats are normalised, uint8 are the pixels."""
        self._dtype = dtype
        self._channels_first = channels_first
        self._held = 0
        self._images = np.empty((0, *self.dims), dtype)

    @property
    def dims(self) -> tuple[int, int, int]:
        """Shape of one image: (3, 224, 224) or (224, 224, 3)."""
        return (3, SIDE, SIDE) if self._channels_first else (SIDE, SIDE, 3)

    def cost(self, indices: np.ndarray) -> np.ndarray:
        """1 for each image."""
        return np.ones(len(indices), dtype=np.int64)

    def arrange(self, indices: np.ndarray) -> np.ndarray:
        """Order the samples into runs of images that are adjacent in memory: such batches need no copy.

        Every image of a query comes once, then those that occur again a second time, and so on.
        """
        order = np.argsort(indices, kind="stable")
        ordered = indices[order]
        position = np.arange(len(indices))
        starts = np.r_[True, ordered[1:] != ordered[:-1]] if len(indices) else np.zeros(0, bool)
        turn = position - np.maximum.accumulate(np.where(starts, position, 0))
        return order[np.lexsort((ordered, turn))]

    def collate(self, indices: np.ndarray, shape: Shape) -> Mapping[str, np.ndarray]:
        """images: (batch, *dims) in the model's dtype; rows past the samples are zeros."""
        rows = self.rows(indices)
        if len(rows) == shape.batch <= len(self._images) - rows[0]:
            side_by_side = np.arange(rows[0], rows[0] + shape.batch)
            if (rows == side_by_side % self._held).all():
                return {IMAGES: self._images[side_by_side[0] : side_by_side[-1] + 1]}
        images = np.empty((shape.batch, *self.dims), self._dtype)
        # The default mode "raise" would make another copy; `rows` has already checked the indices.
        np.take(self._images, rows, axis=0, out=images[: len(rows)], mode="clip")
        images[len(rows) :] = 0
        return {IMAGES: images}

    def hold(self, indices: np.ndarray) -> None:
        """Read these images from the cache, verify them, and normalise them with all cores."""
        self._images = np.empty((0, *self.dims), self._dtype)  # frees the old images before loading new ones
        self._held = len(indices)
        images = np.empty((self._held + min(_AGAIN, self._held), *self.dims), self._dtype)
        last_channel = images.transpose(0, 2, 3, 1) if self._channels_first else images

        def read(row: int) -> None:
            pixels = self._pixels.read(int(indices[row]))
            if self._dtype == np.uint8:
                last_channel[row] = pixels
            else:
                self._normalise(pixels, last_channel[row])

        with ThreadPoolExecutor(core_count(), thread_name_prefix="load") as pool:
            for _ in pool.map(read, range(len(indices))):
                pass
        images[self._held :] = images[: len(images) - self._held]
        self._images = images
