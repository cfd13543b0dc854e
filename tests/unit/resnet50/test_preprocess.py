from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from resnet50.preprocess import PROFILES, SIDE, decoded, normaliser, pixels


def picture(height: int, width: int) -> np.ndarray:
    y, x, channel = np.ogrid[:height, :width, :3]
    return ((x * x * 7 + y * 13 + x * y * 3 + channel * 101) % 256).astype(np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    y, x, channel = np.ogrid[:height, :width, :3]
    return (127 + 60 * np.sin(x / 17 + channel) + 60 * np.cos(y / 23)).astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


# What cv2.resize(INTER_AREA) of opencv-python-headless 4.11.0.86 makes of picture(): short side 256, the middle 224.
OPENCV = {
    (375, 500): [[166, 45, 112], [156, 176, 102], [163, 42, 129], [121, 89, 121], [124, 74, 175]],
    (512, 768): [[171, 80, 117], [106, 143, 116], [108, 81, 118], [132, 105, 142], [101, 202, 111]],
    (200, 333): [[102, 187, 48], [44, 145, 195], [28, 129, 226], [193, 140, 139], [42, 143, 234]],
    (600, 257): [[141, 226, 87], [106, 194, 52], [143, 131, 89], [78, 179, 24], [206, 51, 152]],
    (256, 256): [[208, 53, 154], [207, 52, 153], [135, 236, 81], [227, 72, 173], [109, 210, 55]],
    (1024, 1024): [[131, 120, 125], [133, 122, 127], [129, 134, 123], [113, 118, 139], [135, 124, 129]],
}


@pytest.mark.parametrize("size", OPENCV)
def test_the_mlperf_profile_makes_the_pixels_that_the_reference_makes(size):
    made = pixels(encoded(picture(*size)), PROFILES["mlperf"])
    for place, expected in zip(((0, 0), (3, 200), (100, 17), (150, 151), (223, 223)), OPENCV[size], strict=True):
        assert np.abs(made[place].astype(int) - expected).max() <= 1, place


@pytest.mark.parametrize(("height", "width"), [(300, 311), (257, 1000), (999, 400), (256, 257)])
def test_the_area_rule_averages_what_each_pixel_covers(height, width):
    image = picture(height, width)

    def coverage(length: int, new: int) -> np.ndarray:
        edges = np.arange(new + 1) * length / new
        cover = np.clip(
            np.minimum(edges[1:, None], np.arange(length) + 1) - np.maximum(edges[:-1, None], np.arange(length)),
            0,
            None,
        )
        return cover / cover.sum(axis=1, keepdims=True)

    new_height, new_width = (256 * height // width, 256) if height > width else (256, 256 * width // height)
    whole = np.einsum("ih,hwc,jw->ijc", coverage(height, new_height), image, coverage(width, new_width), optimize=True)
    top, left = (new_height - SIDE) // 2, (new_width - SIDE) // 2
    expected = whole[top : top + SIDE, left : left + SIDE]
    made = pixels(encoded(image), PROFILES["mlperf"])
    assert np.abs(made - expected).max() <= 0.51


@pytest.mark.parametrize(("profile", "left"), [("pytorch", 18), ("efficientnet-lite", 17)])
def test_the_middle_of_an_odd_remainder_is_cut_as_each_library_does(profile, left):
    # 256 x 259: 17.5 pixels are left on each side, which torchvision rounds half to even and the others cut.
    image = picture(256, 259)
    assert (pixels(encoded(image), PROFILES[profile]) == image[16:240, left : left + SIDE]).all()


@pytest.mark.parametrize(
    ("profile", "shape", "size", "corner"),
    [
        ("pytorch", (300, 401), (342, 256), (59, 16)),
        ("pytorch", (801, 333), (256, 615), (16, 196)),
        ("pytorch", (99, 99), (256, 256), (16, 16)),
        ("efficientnet-lite", (300, 401), (342, 256), (59, 16)),
        ("efficientnet-lite", (801, 333), (256, 616), (16, 196)),
        ("efficientnet-lite", (99, 99), (256, 256), (16, 16)),
    ],
)
def test_the_other_profiles_resize_the_short_side_as_pillow_does(profile, shape, size, corner):
    image = picture(*shape)
    filters = {"pytorch": Image.Resampling.BILINEAR, "efficientnet-lite": Image.Resampling.BICUBIC}
    whole = np.asarray(Image.fromarray(image).resize(size, filters[profile]))
    left, top = corner
    assert (pixels(encoded(image), PROFILES[profile]) == whole[top : top + SIDE, left : left + SIDE]).all()


@pytest.mark.parametrize("profile", PROFILES)
def test_grey_palette_transparent_and_cmyk_images_become_rgb(profile):
    image = Image.fromarray(smooth(300, 300))
    plain = pixels(encoded(image), PROFILES[profile]).astype(int)
    grey = image.convert("L")
    assert (pixels(encoded(grey), PROFILES[profile]) == pixels(encoded(grey.convert("RGB")), PROFILES[profile])).all()
    for other in (
        encoded(image.convert("P", palette=Image.Palette.ADAPTIVE, colors=256)),
        encoded(image.convert("RGBA")),
        encoded(image.convert("CMYK"), "JPEG", quality=100),
    ):
        made = pixels(other, PROFILES[profile])
        assert made.shape == (SIDE, SIDE, 3)
        assert made.dtype == np.uint8
        assert np.abs(made - plain).mean() < 6


STORED = {  # how each EXIF orientation is stored, as seen from the upright image
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: np.rot90,
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: lambda image: np.rot90(image, -1),
}


@pytest.mark.parametrize("orientation", [*STORED, 0, 9])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_mlperf_profile_turns_images_by_exif_as_cv2_imread_does_and_the_others_do_not(orientation, kind):
    upright = smooth(300, 400)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED.get(orientation, STORED[1])(upright)))
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data, plain = encoded(stored, kind, exif=exif, **options), encoded(stored, kind, **options)
    made = decoded(data, PROFILES["mlperf"])
    assert made.size == (400, 300)
    assert np.abs(np.asarray(made).astype(int) - upright).max() <= (4 if kind == "JPEG" else 0)
    for other in ("pytorch", "efficientnet-lite"):
        assert (pixels(data, PROFILES[other]) == pixels(plain, PROFILES[other])).all()


def test_damaged_exif_is_ignored_as_by_cv2_imread():
    exif = Image.Exif()
    exif[0x0112] = 6
    data = bytearray(encoded(smooth(300, 400), "JPEG", exif=exif))
    start = data.index(b"Exif\0\0") + 8
    data[start : start + 6] = b"\xff" * 6
    assert decoded(bytes(data), PROFILES["mlperf"]).size == (400, 300)


def png16(values: np.ndarray, colour: int) -> bytes:
    """A PNG of 16 bits; ``colour`` is its colour type."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("profile", PROFILES)
def test_images_of_16_bits_give_their_upper_8_bits_as_cv2_imread_does(profile):
    image = smooth(300, 300)
    noise = np.random.default_rng(0).integers(0, 256, image.shape).astype(np.uint16)
    deep = (image.astype(np.uint16) << 8) + noise
    grey, rgb = np.repeat(image[..., :1], 3, axis=2), image
    transparent = np.dstack((deep, noise[..., :1]))
    for data, expected in (
        (png16(deep[..., 0], 0), grey),
        (png16(image[..., 0].astype(np.uint16) * 257, 0), grey),
        (encoded(Image.fromarray(deep[..., 0]), "TIFF"), grey),
        (png16(deep[..., [0, 2]], 4), grey),
        (png16(deep, 2), rgb),
        (png16(transparent, 6), rgb),
    ):
        assert (np.asarray(decoded(data, PROFILES[profile])) == expected).all()


@pytest.mark.filterwarnings("error")
def test_transparency_is_dropped_as_by_cv2_imread():
    image = smooth(300, 300)
    alpha = np.arange(300 * 300, dtype=np.uint8).reshape(300, 300, 1)
    palette = Image.fromarray(image).convert("P", palette=Image.Palette.ADAPTIVE)
    opaque = np.asarray(palette.convert("RGB"))
    grey = np.repeat(image[..., :1], 3, axis=2)
    for data, expected in (
        (encoded(np.dstack((image, alpha))), image),
        (encoded(np.dstack((image[..., :1], alpha))), grey),
        (encoded(palette, transparency=bytes(range(256))), opaque),
        (encoded(palette, transparency=3), opaque),
        (encoded(Image.fromarray(image[..., 0]), transparency=100), grey),
    ):
        assert (np.asarray(decoded(data, PROFILES["mlperf"])) == expected).all()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (encoded(Image.fromarray(smooth(300, 300)[..., 0].astype(np.float32)), "TIFF"), "mode F"),
        (encoded(Image.fromarray(smooth(300, 300)[..., 0].astype(np.int32)), "TIFF"), "mode I,"),
        (encoded(Image.fromarray(smooth(300, 300)).convert("LAB"), "TIFF"), "mode LAB"),
        (
            encoded(smooth(300, 300), "GIF", save_all=True, append_images=[Image.fromarray(picture(300, 300))]),
            "2 frames",
        ),
        (encoded(smooth(300, 300), "JPEG", progressive=True)[:4000], "truncated"),
        (b"<html>", "not an image"),
    ],
)
def test_images_without_a_single_meaning_are_refused(data, problem):
    with pytest.raises(ValueError, match=problem):
        pixels(data, PROFILES["pytorch"])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(smooth(300, 300), "JPEG")[:4000], "truncated"),
        (b"", "not an image that Pillow can read"),
        (b"\xff\xd8 or not", "not an image that Pillow can read"),
    ],
)
def test_an_incomplete_image_is_refused_with_the_reason(data, reason):
    with pytest.raises(ValueError, match=reason):
        pixels(data, PROFILES["mlperf"])


@pytest.mark.parametrize(
    ("profile", "formula"),
    [
        ("mlperf", lambda x: x - np.array([123.68, 116.78, 103.94])),
        ("pytorch", lambda x: (x / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])),
        ("efficientnet-lite", lambda x: (x / 255 - 0.498) / 0.502),
    ],
)
def test_pixels_are_normalised_as_each_model_was_trained(profile, formula):
    image = picture(SIDE, SIDE)
    found = np.empty((SIDE, SIDE, 3), np.float32)
    normaliser(PROFILES[profile])(image, found)
    np.testing.assert_allclose(found, formula(image.astype(np.float64)), rtol=1e-6, atol=1e-5)


def test_every_profile_names_its_source():
    assert all(profile.source for profile in PROFILES.values())
