"""ImageNet as a QSL: a sample is an image; tensors of the loaded images are in memory, in the model's layout."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.files.fingerprint import Fingerprint
from harness.host.machine import core_count
from harness.task.qsl import Carrier, SampleLibrary, extended
from harness.task.shape import Array, Integers, Shape
from resnet50.pixels import Pixels
from resnet50.preprocess import SIDE, PreprocessingProfile, normaliser

IMAGES = "images"
PERFORMANCE_SAMPLES = 1024
"""Set by the rules for ResNet50 (performance_sample_count_override in mlperf.conf)."""
_REPEATED_IMAGES = 64
"""Number of first images that are repeated after the last one: batches that wrap around then need no copy either."""
_MAX_THREADS = 4
"""Maximum threads that normalise received images: each does 10,000 a second, and a driver sends fewer than 30,000."""
_MIN_IMAGES_PER_THREAD = 4
"""Minimum images for each of several threads."""


_FLOAT32: np.dtype[np.generic] = np.dtype(np.float32)


@dataclass(frozen=True)
class ImageLayout:
    """How a model takes an image: floats are normalised, uint8 are the pixels."""

    dtype: np.dtype[np.generic] = _FLOAT32
    channels_first: bool = True

    @property
    def dims(self) -> tuple[int, int, int]:
        """The shape of one image: (3, 224, 224) or (224, 224, 3)."""
        return (3, SIDE, SIDE) if self.channels_first else (SIDE, SIDE, 3)


_PIXELS, _AS_SENT = "pixels", ImageLayout(np.dtype(np.uint8), channels_first=False)
Normalise = Callable[[NDArray[np.uint8], Array], None]


class ImageSamples(SampleLibrary):
    """Samples with the tensors of those in memory."""

    layout: ImageLayout
    _images: Array
    """(rows, *layout.dims)"""
    _held: int
    """Rows without those that are repeated."""

    def cost(self, indices: Integers) -> Integers:
        """1 for each image."""
        return np.ones(len(indices), dtype=np.int64)

    def arrange(self, indices: Integers) -> Integers:
        """Order the samples into runs of images that are adjacent in memory: such batches need no copy.

        Every image of a query comes once, then those that occur again a second time, and so on.
        """
        order = np.argsort(indices, kind="stable")
        ordered = indices[order]
        position = np.arange(len(indices))
        starts = np.r_[True, ordered[1:] != ordered[:-1]] if len(indices) else np.zeros(0, bool)
        turn = position - np.maximum.accumulate(np.where(starts, position, 0))
        arranged: Integers = order[np.lexsort((ordered, turn))]
        return arranged

    def collate(self, indices: Integers, shape: Shape) -> Mapping[str, Array]:
        """images: (batch, *dims) in the model's dtype; rows past the samples are zeros."""
        rows = self.rows(indices)
        if len(rows) == shape.batch <= len(self._images) - rows[0]:
            side_by_side = np.arange(rows[0], rows[0] + shape.batch)
            if (rows == side_by_side % self._held).all():
                return {IMAGES: self._images[side_by_side[0] : side_by_side[-1] + 1]}
        images = np.empty((shape.batch, *self.layout.dims), self.layout.dtype)
        # The default mode "raise" would make another copy; `rows` has already checked the indices.
        np.take(self._images, rows, axis=0, out=images[: len(rows)], mode="clip")
        images[len(rows) :] = 0
        return {IMAGES: images}


class ImageQSL(ImageSamples):
    """Pixels on disk, normalised tensors of the loaded images in memory: 588 KiB each as float32."""

    def __init__(
        self, pixels: Pixels, profile: PreprocessingProfile, layout: ImageLayout, files: Sequence[Fingerprint] = ()
    ) -> None:
        """``files`` are the images' files."""
        super().__init__(len(pixels), PERFORMANCE_SAMPLES)
        self.files = files
        self.layout = self._form = layout
        self._pixels = pixels
        self._normalise = normaliser(profile)
        self._held = 0
        self._images = np.empty((0, *layout.dims), layout.dtype)

    def hold(self, indices: Integers) -> None:
        """Read these images from the cache, verify them, and normalise them with all cores."""
        form = self._form
        self._images = np.empty((0, *form.dims), form.dtype)  # frees the old images before loading new ones
        self._held = len(indices)
        images = np.empty((self._held + min(_REPEATED_IMAGES, self._held), *form.dims), form.dtype)

        def read(row: int) -> None:
            write_image(self._pixels.read(int(indices[row])), images[row], form, self._normalise)

        with ThreadPoolExecutor(core_count(), thread_name_prefix="load") as pool:
            list(pool.map(read, range(len(indices))))
        images[self._held :] = images[: len(images) - self._held]
        images.flags.writeable = False  # so are the batches that are slices of it
        self._images = images

    def hold_as_sent(self) -> None:
        """Hold pixels, a quarter of the size of float32; the nodes normalise them, within the timed test."""
        self._form = _AS_SENT

    def pack(self, indices: Integers) -> Mapping[str, Array]:
        """Pixels, uint8 (n, 224, 224, 3), or without `hold_as_sent` the tensors, (n, *dims)."""
        rows = self.rows(indices)
        adjacent = len(rows) and (np.diff(rows) == 1).all()
        images = self._images[rows[0] : rows[-1] + 1] if adjacent else self._images[rows]
        return {_PIXELS if self._form == _AS_SENT else IMAGES: images}

    def carrier(self, places: int) -> "ImageCarrier":
        """Places in the layout of this data set, normalised by its profile."""
        return ImageCarrier(places, self.layout, self._normalise)


class ImageCarrier(ImageSamples, Carrier):
    """Images received from another machine."""

    def __init__(self, places: int, layout: ImageLayout, normalise: Normalise) -> None:
        super().__init__(places)
        self.layout = layout
        self._normalise = normalise
        self._held = places
        self._images = np.empty((places, *layout.dims), layout.dtype)
        self._threads = min(_MAX_THREADS, core_count())
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="normalise")

    def _fill(self, places: Integers, packed: Mapping[str, Array]) -> None:
        if IMAGES in packed:
            self._images[places] = packed[IMAGES]
            return
        pixels, images = packed[_PIXELS].astype(np.uint8, copy=False), self._images

        def write(part: slice) -> None:
            for place, image in zip(places[part].tolist(), pixels[part], strict=True):
                write_image(image, images[place], self.layout, self._normalise)

        size = -(-len(places) // self._threads)
        if self._threads == 1 or size < _MIN_IMAGES_PER_THREAD:
            write(slice(None))
        else:
            list(self._pool.map(write, [slice(start, start + size) for start in range(0, len(places), size)]))

    def _extend(self, places: int) -> None:
        # In this order: a batch collated at the same time must not find the first place behind the last one.
        self._held = places
        self._images = extended(self._images, places)


def write_image(pixels: NDArray[np.uint8], image: Array, layout: ImageLayout, normalise: Normalise) -> None:
    """One image, (224, 224, 3), into its tensor, (*dims)."""
    last_channel = image.transpose(1, 2, 0) if layout.channels_first else image
    if layout.dtype == np.uint8:
        last_channel[:] = pixels
    else:
        normalise(pixels, last_channel)
