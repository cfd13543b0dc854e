"""Finds the data set's image files, their order and their labels.

ImageNet's validation images are in one folder, either flat or in a folder for each class, with or without a
``val_map.txt`` whose lines are ``NAME LABEL``. The samples are in the order of ``val_map.txt``, or of the file names:
for the 50,000 official names both are the same.
"""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import ConfigError, NotOfficial
from harness.files.disk import remove_left_over, staging, write_text
from resnet50.labels import CLASSES, read_val_map

VAL_MAP = "val_map.txt"
OFFICIAL_IMAGES = 50_000
_STAND_IN = "STAND-IN.txt"
_CLASS_FOLDER = re.compile(r"n\d{8}")
SUFFIXES = {".jpeg", ".jpg", ".png"}


@dataclass(frozen=True)
class ImageSet:
    """Images by sample index."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    """(n,): 0 to 999 in the order of the WordNet ids."""


def dataset_file(path: Path) -> Path:
    """The path that identifies the data set at ``path``: its ``val_map.txt`` if it has one, otherwise the folder.

    Raises:
        ConfigError: it is a folder with neither ``val_map.txt`` nor class folders.
    """
    if path.is_file():
        return path
    for place in (path, path.parent) if path.name == "val" else (path, path / "val"):
        if (place / VAL_MAP).is_file():
            return place / VAL_MAP
    if not class_folders(path):
        raise ConfigError(
            f"{path} has neither {VAL_MAP} nor class folders (n01440764, ...): add {VAL_MAP} with a line "
            "'NAME LABEL' for each image, labels from 0 to 999."
        )
    return path


def find_images(path: Path) -> ImageSet:
    """The images listed in ``val_map.txt`` (next to it, in ``val/``, or in class folders), or those in class folders.

    Raises:
        ConfigError: an image is missing or exists twice, the labels are unknown, or there are no images.
    """
    if path.is_file():
        names, labels = read_val_map(path)
        return ImageSet(_find(names, path), labels)
    folders = class_folders(path)
    if len(folders) != CLASSES:
        raise ConfigError(
            f"{path} has {len(folders)} class folders and ImageNet has {CLASSES} classes, so the labels are unknown: "
            f"complete it, or add {VAL_MAP} with a line 'NAME LABEL' for each image."
        )
    found = sorted(
        (file.name, label, file)
        for label, folder in enumerate(folders)
        for file in folder.iterdir()
        if file.suffix.lower() in SUFFIXES
    )
    if not found:
        raise ConfigError(f"{path} contains no images: pass the folder of ImageNet's validation set.")
    return ImageSet(tuple(file for _, _, file in found), np.array([label for _, label, _ in found], dtype=np.int64))


def check_official(images: ImageSet, path: Path) -> None:
    """Check by names and labels that these are the images of ImageNet 2012's validation set.

    Raises:
        NotOfficial: they are not.
    """
    wrong = None
    if len({(stat.st_dev, stat.st_ino) for stat in map(Path.stat, images.files)}) < len(images.files):
        wrong = "several images are the same file, as in the stand-in of rehearsals"
    elif len(images.files) != OFFICIAL_IMAGES:
        wrong = f"it has {len(images.files):,} images"
    else:
        expected = (f"ILSVRC2012_val_{number:08}" for number in range(1, OFFICIAL_IMAGES + 1))
        for number, (file, name) in enumerate(zip(images.files, expected, strict=True), start=1):
            if file.stem != name:
                wrong = f"image {number} is {file.name} instead of {name}"
                break
        counts = np.bincount(images.labels, minlength=CLASSES)
        if wrong is None and (counts != OFFICIAL_IMAGES // CLASSES).any():
            label = int(np.argmax(counts != OFFICIAL_IMAGES // CLASSES))
            wrong = f"label {label} has {counts[label]} images instead of {OFFICIAL_IMAGES // CLASSES}"
    if wrong:
        raise NotOfficial(
            f"an official run needs the {OFFICIAL_IMAGES:,} validation images of ImageNet 2012 in order, and {path} "
            f"does not match: {wrong}. Set IMAGENET_DIR to the folder that contains them."
        )


def make_stand_in(folder: Path, images: Sequence[Path], count: int) -> Path:
    """Make a folder like ImageNet's with ``count`` images under the official names: copies of a few, and links to them.

    Returns:
        Its val_map.txt, with label i % 1000 for image i regardless of its content.

    Raises:
        ConfigError: the folder cannot be written.
    """
    val_map = folder / VAL_MAP
    remove_left_over(folder.parent, folder.name)
    if val_map.is_file():
        return val_map
    try:
        with staging(folder) as building:
            _fill_stand_in(building, images, count)
            building.rename(folder)
    except OSError as error:
        if not val_map.is_file():  # otherwise another process was faster
            raise ConfigError(
                f"cannot write the stand-in for ImageNet to {folder}: {error.strerror}; free space or fix the folder."
            ) from error
    return val_map


def _fill_stand_in(building: Path, images: Sequence[Path], count: int) -> None:
    (building / "val").mkdir()
    (building / _STAND_IN).write_text("Copies of a few drawings, for rehearsals: not ImageNet.\n", "utf-8")
    names = [f"val/ILSVRC2012_val_{number + 1:08}.JPEG" for number in range(count)]
    # A power of two, so that all shards of the pixel cache are identical.
    distinct = min(64, len(images))
    for number, name in enumerate(names):
        if number < distinct:
            shutil.copyfile(images[number], building / name)
        else:
            (building / name).hardlink_to(building / names[number % distinct])
    write_text(building / VAL_MAP, "".join(f"{name} {number % CLASSES}\n" for number, name in enumerate(names)))


def class_folders(path: Path) -> list[Path]:
    """Folders named by WordNet ids, sorted, in ``path`` or ``path/val``."""
    for place in (path, path / "val"):
        if place.is_dir():
            found = sorted(entry for entry in place.iterdir() if _CLASS_FOLDER.fullmatch(entry.name))
            if found:
                return found
    return []


def _find(names: list[str], val_map: Path) -> tuple[Path, ...]:
    """The file of each name in val_map.txt, which may have other folders in front than the file has."""
    root = val_map.parent
    places = [root, root / "val"]
    for place in places:
        files = tuple(place / name for name in names)
        if all(file.is_file() for file in (files[0], files[-1])):
            break
    else:
        by_name = {name.rpartition("/")[2]: name for name in names}
        if len(by_name) < len(names):
            raise ConfigError(
                f"{val_map} lists a file name in several folders, but the files are not there: correct their paths."
            )
        located: dict[str, Path] = {}
        for folder in (*places, *class_folders(root)):
            if folder.is_dir():
                for file in folder.iterdir():
                    if file.name in by_name:
                        other = located.setdefault(file.name, file)
                        if other != file:
                            raise ConfigError(
                                f"{file.name} is in both {other.parent} and {file.parent}: keep one of them."
                            )
        files = tuple(located.get(name.rpartition("/")[2], root / name) for name in names)
    for number, file in enumerate(files, start=1):
        if not file.is_file():
            raise ConfigError(
                f"{val_map}, image {number}: {file} does not exist; add it, or the results of all later images would "
                "be scored against the wrong labels."
            )
    return files
