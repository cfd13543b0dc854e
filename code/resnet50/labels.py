"""``val_map.txt``: each image's name and label, in the order of the samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import ConfigError
from harness.host.files import read_input

CLASSES = 1000


def read_val_map(path: str | Path) -> tuple[list[str], NDArray[np.int64]]:
    """Names, and labels (n,) from 0 to 999, of a file whose lines are ``NAME LABEL``.

    A line is split at white space and further columns are ignored, as in the official
    ``vision/classification_and_detection/tools/accuracy-imagenet.py`` (mlcommons/inference); a name may hold a folder.

    Raises:
        ConfigError: the file cannot be read, or one of its lines is not of that form; the message names the line.
    """
    try:
        text = read_input(path, "val_map").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_val_map(path) from error
    if "\0" in text:
        raise _no_val_map(path)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")
    if lines == [""]:
        raise ConfigError(f"{path} is empty: give a val_map.txt, a line 'NAME LABEL' for each image.")
    names, labels = [], []
    for number, line in enumerate(lines, start=1):
        columns = line.split(maxsplit=2)
        if len(columns) < 2:
            problem = f"{_short(line)!r} has no label" if columns else "it is blank, so that the samples would shift"
            raise ConfigError(f"{path}, line {number}: {problem}; write 'NAME LABEL', one line for each image.")
        names.append(columns[0])
        try:
            labels.append(int(columns[1]))
        except ValueError as error:
            raise ConfigError(
                f"{path}, line {number}: the label {_short(columns[1])!r} is no integer; write 'NAME LABEL', names "
                "without spaces."
            ) from error
    _check_range(path, labels)
    if len(set(names)) < len(names):
        _refuse_duplicate(path, names)
    return names, np.array(labels, dtype=np.int64)


def _check_range(path: str | Path, labels: list[int]) -> None:
    low, high = min(labels), max(labels)
    if low >= 1 and high == CLASSES:
        raise ConfigError(
            f"{path}, line {labels.index(high) + 1}: the label {high} is past {CLASSES - 1}; labels count from 0, "
            "and these, none of which is 0, look as if they counted from 1: subtract 1 from each."
        )
    if low < 0 or high >= CLASSES:
        number = next(i for i, label in enumerate(labels, start=1) if not 0 <= label < CLASSES)
        raise ConfigError(
            f"{path}, line {number}: the label {_short(str(labels[number - 1]))} is outside 0-{CLASSES - 1}; use "
            "ImageNet's labels in the order of the WordNet ids."
        )


def _refuse_duplicate(path: str | Path, names: list[str]) -> None:
    lines: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        first = lines.setdefault(name, number)
        if first != number:
            raise ConfigError(
                f"{path}, line {number}: {_short(name)!r} is in line {first} already; an image is one sample: remove "
                "one of the two."
            )


def _no_val_map(path: str | Path) -> ConfigError:
    return ConfigError(f"{path} is no text file: give a val_map.txt, a line 'NAME LABEL' for each image.")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
