"""Reads ``val_map.txt``: the name and label of each image, in sample order."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import ConfigError
from harness.files.disk import read_input

CLASSES = 1000


def read_val_map(path: str | Path) -> tuple[list[str], NDArray[np.int64]]:
    """The names, and the labels (n,) from 0 to 999, in a file whose lines are ``NAME LABEL``.

    Lines are split at white space and further columns are ignored, as in the official
    ``vision/classification_and_detection/tools/accuracy-imagenet.py`` (mlcommons/inference); names may include folders.

    Raises:
        ConfigError: the file cannot be read, or a line is invalid; the message gives the line number.
    """
    try:
        text = read_input(path, "val_map").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _no_val_map(path) from error
    if "\0" in text:
        raise _no_val_map(path)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip().split("\n")
    if lines == [""]:
        raise ConfigError(f"{path} is empty: pass a val_map.txt with a line 'NAME LABEL' for each image.")
    names, labels = [], []
    for number, line in enumerate(lines, start=1):
        columns = line.split(maxsplit=2)
        if len(columns) < 2:
            problem = f"{_short(line)!r} has no label" if columns else "it is blank, which would shift the samples"
            raise ConfigError(f"{path}, line {number}: {problem}; write 'NAME LABEL', one line for each image.")
        names.append(columns[0])
        try:
            labels.append(int(columns[1]))
        except ValueError as error:
            raise ConfigError(
                f"{path}, line {number}: the label {_short(columns[1])!r} is not an integer; write 'NAME LABEL', with "
                "no spaces in the name."
            ) from error
    _check_range(path, labels)
    if len(set(names)) < len(names):
        _refuse_duplicate(path, names)
    return names, np.array(labels, dtype=np.int64)


def _check_range(path: str | Path, labels: list[int]) -> None:
    low, high = min(labels), max(labels)
    if low >= 1 and high == CLASSES:
        raise ConfigError(
            f"{path}, line {labels.index(high) + 1}: the label {high} is above {CLASSES - 1}; labels start at 0, "
            "and these seem to start at 1, since none of them is 0: subtract 1 from each."
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
                f"{path}, line {number}: {_short(name)!r} is already in line {first}; an image is one sample: remove "
                "one of the two lines."
            )


def _no_val_map(path: str | Path) -> ConfigError:
    return ConfigError(f"{path} is not a text file: pass a val_map.txt with a line 'NAME LABEL' for each image.")


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
