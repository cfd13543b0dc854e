"""Which files are the data set's images, in which order, and what each shows.

ImageNet's validation images lie in one folder, flat or in a folder for each class, with or without a ``val_map.txt``
whose lines are ``NAME LABEL``. The order of the samples is that of ``val_map.txt``, or of the file names: for the
50,000 official names both are the same.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import ConfigError, NotOfficial
from harness.host.files import write_text
from resnet50.labels import CLASSES, read_val_map

VAL_MAP = "val_map.txt"
OFFICIAL_IMAGES = 50_000
_STAND_IN = "STAND-IN.txt"
_CLASS_FOLDER = re.compile(r"n\d{8}")
_SUFFIXES = {".jpeg", ".jpg", ".png"}


@dataclass(frozen=True)
class ImageSet:
    """Images by sample index."""

    files: tuple[Path, ...]
    labels: NDArray[np.int64]
    """(n,): 0 to 999 in the order of the WordNet ids."""


def dataset_file(path: Path) -> Path:
    """What stands for the data set at a path: its ``val_map.txt`` where there is one, otherwise the folder.

    Raises:
        ConfigError: it is a folder without ``val_map.txt`` and without folders of classes.
    """
    if path.is_file():
        return path
    for place in (path, path.parent) if path.name == "val" else (path, path / "val"):
        if (place / VAL_MAP).is_file():
            return place / VAL_MAP
    if not _class_folders(path):
        raise ConfigError(
            f"{path} has neither {VAL_MAP} nor folders of classes (n01440764, ...): put {VAL_MAP} there, a line "
            "'NAME LABEL' for each image, labels from 0 to 999."
        )
    return path


def find_images(path: Path) -> ImageSet:
    """The images of ``val_map.txt`` (beside it, in ``val/``, or in folders of classes), or of folders of classes.

    Raises:
        ConfigError: an image is missing or there twice, the labels cannot be known, or there are no images.
    """
    if path.is_file():
        names, labels = read_val_map(path)
        return ImageSet(_find(names, path), labels)
    folders = _class_folders(path)
    if len(folders) != CLASSES:
        raise ConfigError(
            f"{path} has folders of {len(folders)} classes where ImageNet has {CLASSES}, so that labels are not known: "
            f"complete it, or put {VAL_MAP} there, a line 'NAME LABEL' for each image."
        )
    found = sorted(
        (file.name, label, file)
        for label, folder in enumerate(folders)
        for file in folder.iterdir()
        if file.suffix.lower() in _SUFFIXES
    )
    if not found:
        raise ConfigError(f"{path} holds no images: give the folder of ImageNet's validation set.")
    return ImageSet(tuple(file for _, _, file in found), np.array([label for _, label, _ in found], dtype=np.int64))


def check_official(images: ImageSet, path: Path) -> None:
    """Make sure that these are the images of ImageNet 2012's validation set, as far as names and labels tell.

    Raises:
        NotOfficial: they are not.
    """
    wrong = None
    if len({(stat.st_dev, stat.st_ino) for stat in map(Path.stat, images.files)}) < len(images.files):
        wrong = "one file stands for several images, as in the stand-in of rehearsals"
    elif len(images.files) != OFFICIAL_IMAGES:
        wrong = f"it has {len(images.files):,} images"
    else:
        expected = (f"ILSVRC2012_val_{number:08}" for number in range(1, OFFICIAL_IMAGES + 1))
        for number, (file, name) in enumerate(zip(images.files, expected, strict=True), start=1):
            if file.stem != name:
                wrong = f"image {number} is {file.name} where {name} belongs"
                break
        counts = np.bincount(images.labels, minlength=CLASSES)
        if wrong is None and (counts != OFFICIAL_IMAGES // CLASSES).any():
            label = int(np.argmax(counts != OFFICIAL_IMAGES // CLASSES))
            wrong = f"label {label} stands for {counts[label]} images where each class has {OFFICIAL_IMAGES // CLASSES}"
    if wrong:
        raise NotOfficial(
            f"an official run needs the {OFFICIAL_IMAGES:,} validation images of ImageNet 2012 in order, and {path} "
            f"is not that: {wrong}. Set IMAGENET_DIR to the folder that has them."
        )


def make_stand_in(folder: Path, images: Sequence[Path], count: int) -> Path:
    """A folder like ImageNet's with ``count`` images under the official names, all of them links to the first of these.

    Returns:
        Its val_map.txt; label i % 1000 for image i, whatever it shows.

    Raises:
        ConfigError: the folder cannot be written.
    """
    val_map = folder / VAL_MAP
    if val_map.is_file():
        return val_map
    building = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    try:
        shutil.rmtree(building, ignore_errors=True)
        (building / "val").mkdir(parents=True)
        (building / _STAND_IN).write_text("Copies of a few drawings, for rehearsals: not ImageNet.\n", "utf-8")
        names = [f"val/ILSVRC2012_val_{number + 1:08}.JPEG" for number in range(count)]
        # A power of two, so that the shards of the pixel cache are all the same one.
        distinct = min(64, len(images))
        for number, name in enumerate(names):
            if number < distinct:
                shutil.copyfile(images[number], building / name)
            else:
                (building / name).hardlink_to(building / names[number % distinct])
        write_text(building / VAL_MAP, "".join(f"{name} {number % CLASSES}\n" for number, name in enumerate(names)))
        building.rename(folder)
    except OSError as error:
        if not val_map.is_file():  # otherwise another process was faster
            raise ConfigError(f"the stand-in for ImageNet cannot be made in {folder}: {error.strerror}.") from error
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return val_map


def _class_folders(path: Path) -> list[Path]:
    """Folders named by WordNet ids, in their order, below ``path`` or ``path/val``."""
    for place in (path, path / "val"):
        if place.is_dir():
            found = sorted(entry for entry in place.iterdir() if _CLASS_FOLDER.fullmatch(entry.name))
            if found:
                return found
    return []


def _find(names: list[str], val_map: Path) -> tuple[Path, ...]:
    """Each image's file; its name in the map may lead from the map's folder, or say less or more than that."""
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
                f"{val_map} names files alike in several folders, and they do not lie there: give their paths."
            )
        located: dict[str, Path] = {}
        for folder in (*places, *_class_folders(root)):
            if folder.is_dir():
                for file in folder.iterdir():
                    if file.name in by_name:
                        other = located.setdefault(file.name, file)
                        if other != file:
                            raise ConfigError(
                                f"{file.name} is in {other.parent} and in {file.parent}: keep one of them."
                            )
        files = tuple(located.get(name.rpartition("/")[2], root / name) for name in names)
    for number, file in enumerate(files, start=1):
        if not file.is_file():
            raise ConfigError(
                f"{val_map}, image {number}: there is no {file}. Every image of the map has to be there, for the "
                "results of all that follow would be counted for the wrong ones."
            )
    return files
