"""Top-1 of LoadGen's mlperf_log_accuracy.json: ``python -m resnet50.accuracy --log LOG --val-map FILE``.

Reads only that log and the labels. The rules are those of the official ``accuracy-imagenet.py`` (mlcommons/inference,
``vision/classification_and_detection/tools``): the first value of a response, truncated to an integer, is the predicted
label; of several responses to an image the first counts; top-1 covers the images that have a response. This script also
reports problems that the official one ignores: images without a response, values that are not labels, a type other than
the given one, labels that are off by one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.errors import ConfigError
from harness.files.disk import write_text
from harness.loadgen import accuracy_log
from harness.loadgen.accuracy_log import LoggedResponses, counted, read_responses, refuse, run_script
from resnet50.doubts import label_doubts
from resnet50.labels import CLASSES, read_val_map

_Label = np.float32 | np.int64 | np.int32
# If several give the same labels, the first one is chosen.
_DTYPES: dict[str, np.dtype[_Label]] = {"float32": np.dtype("<f4"), "int64": np.dtype("<i8"), "int32": np.dtype("<i4")}
_AUTO = "auto"
_SHIFT_FACTOR = 10  # required hits of the shifted labels, relative to unshifted labels and to chance
_SHIFT_HITS = 10  # minimum: if chance gives 1, a Poisson count of 10 has a probability of 1e-7
_CHECK = "check the SUT and --dtype"


@dataclass(frozen=True)
class ImageScore:
    """Top-1 over those of the first ``expected`` of the data set's ``images`` that have a response."""

    good: int
    expected: int
    images: int
    dtype: str
    """Type of the log's labels: float32, int32 or int64."""
    shift: int
    """The number to add to the predicted labels, 1 or -1, if they then match far better; otherwise 0."""
    warnings: tuple[str, ...]
    """If ``missing`` or ``shift`` is not 0, the last one says why top-1 does not describe the model."""
    found: Mapping[int, int]
    """Image index to predicted label, in the log's order."""
    partial: bool = False
    """Whether the run did not have to answer every image."""

    @property
    def total(self) -> int:
        """The number of images with a response."""
        return len(self.found)

    @property
    def missing(self) -> int:
        """The number of images without a required response."""
        return 0 if self.partial else self.expected - self.total

    @property
    def top1(self) -> float:
        """Percent of ``total``."""
        return 100.0 * self.good / self.total

    @property
    def scope(self) -> str:
        """Empty for the complete data set, otherwise the qualifier that must accompany every printed result."""
        if self.partial:
            return (
                "" if self.total == self.images else f"on the {self.total} of {self.images} images that the log samples"
            )
        first = f"first {self.expected} of {self.images}" if self.expected < self.images else f"{self.images}"
        if self.missing:
            return f"on only {self.total} of the {first} images, the others have no response"
        return f"on the {first} images" if self.expected < self.images else ""


def score_log(
    log_path: str | Path,
    labels: NDArray[np.int64],
    *,
    dtype: str = _AUTO,
    samples: int | None = None,
    partial: bool = False,
) -> ImageScore:
    """Score a log whose QSL held all images, or the first ``samples``; with ``partial`` it may hold any of them.

    A log of sampled responses, as TEST01 writes, is partial: it has some of the images, each possibly several times.

    ``labels`` is (images,), 0 to 999; ``dtype`` is float32, int32, int64, or auto to detect it from the bytes.

    Raises:
        ConfigError: a file is missing or of the wrong kind, or an argument is invalid.
        CheckFailed: the log cannot be scored.
    """
    if dtype != _AUTO and dtype not in _DTYPES:
        raise ConfigError(f"unknown dtype {dtype!r}: choose from {_AUTO}, {', '.join(_DTYPES)}.")
    images = len(labels)
    expected = images if samples is None else samples
    if not 0 < expected <= images:
        raise ConfigError(f"samples is {samples}, but the data set has {images}: choose from 1 to {images}.")
    responses = read_responses(log_path, expected)
    refuse(log_path, responses.unusable, responses.advice)
    indices = np.fromiter(responses.first, np.int64)
    values = _read_values(log_path, responses, indices, dtype)

    found, wanted = [int(value) for value in values.first.tolist()], labels[indices]
    good = sum(a == b for a, b in zip(found, wanted.tolist(), strict=True))
    warnings = list(_warnings(responses, indices, values, expected, partial))
    shift, hits = _find_shift(values.first[values.is_label].astype(np.int64), wanted[values.is_label], good)
    if shift:
        warnings.append(
            f"the labels in {log_path} look shifted by one against those of the data set, so label_offset is "
            f"probably wrong: with 1 {'added to' if shift > 0 else 'subtracted from'} each, top-1 would be "
            f"{100 * hits / len(found):.3f} %."
        )
    return ImageScore(
        good=good,
        expected=expected,
        images=images,
        dtype=values.dtype,
        shift=shift,
        warnings=tuple(warnings),
        found=dict(zip(responses.first, found, strict=True)),
        partial=partial,
    )


@dataclass(frozen=True)
class _Values:
    """The responses, read as one type."""

    dtype: str
    first: NDArray[_Label]
    """(n,) of that type: the first value of each response."""
    is_label: NDArray[np.bool_]
    """(n,): whether it is an integer from -1, the background, to 1000, the last of 1001 classes."""

    @classmethod
    def read(cls, data: Sequence[bytes], dtype: str) -> _Values:
        kind = _DTYPES[dtype]
        first = np.frombuffer(b"".join(response[: kind.itemsize] for response in data), kind)
        with np.errstate(invalid="ignore"):  # a signalling NaN is not a label
            return cls(dtype, first, (first == np.trunc(first)) & (first >= -1) & (first <= CLASSES))


def _read_values(log_path: str | Path, responses: LoggedResponses, indices: NDArray[np.int64], dtype: str) -> _Values:
    """The responses as ``dtype``; CheckFailed if they are clearly of another type, or hold a NaN."""
    data = list(responses.first.values())
    sizes = np.array([len(response) for response in data])
    refuse(log_path, {"responses are not a multiple of 4 bytes, as every label is": indices[sizes % 4 > 0]}, _CHECK)
    uneven = {name: indices[sizes % kind.itemsize > 0] for name, kind in _DTYPES.items()}
    readings = {name: _Values.read(data, name) for name in _DTYPES if not len(uneven[name])}
    detected = _detect(list(readings.values()))
    if dtype == _AUTO:
        if detected is None:
            problems = {f"responses are not a label as {r.dtype}": indices[~r.is_label] for r in readings.values()}
            refuse(log_path, problems, f"--dtype auto cannot detect the type: pass {' or '.join(readings)}")
        assert detected is not None, "a type under which every response is a label would have been detected"
        values = detected
    else:
        cure = f"--dtype {detected.dtype} would fit" if detected else _CHECK
        size = _DTYPES[dtype].itemsize
        refuse(log_path, {f"responses are not a multiple of {size} bytes, as {dtype} is": uneven[dtype]}, cure)
        values = readings[dtype]
        if detected and (detected.is_label != values.is_label).any():
            refuse(log_path, {f"responses are not a label as {dtype}": indices[~values.is_label]}, cure)
    refuse(log_path, {"responses are NaN or infinite": indices[~np.isfinite(values.first)]}, _CHECK)
    return values


def _detect(readings: Sequence[_Values]) -> _Values | None:
    """The reading that fits the bytes, None if they do not settle it; float32 is the first of ``readings``.

    Only the bytes of 0 are a label both as float32 and as an integer, and a label as int64 is the same label as int32.
    Therefore readings under which the same responses are labels give the same score; readings differ only by responses,
    other than 0, that are labels under some of them.

    The reading chosen explains every response that any reading explains, and at least half of the responses by which
    they differ. A rival that explains more than half as many prevents a choice: int64 whose upper half is zero in most
    responses, but not in all, may be damaged, or pairs of int32.
    """
    fits = np.array([reading.is_label for reading in readings])
    telling = ~fits.all(axis=0) & (readings[0].first != 0)
    support = fits[:, telling].sum(axis=1)
    best = int(support.argmax())
    rivals = support[(fits != fits[best]).any(axis=1)]
    unexplained = (fits.any(axis=0) & ~fits[best]).any()
    if unexplained or 2 * support[best] < telling.sum() or (2 * rivals > support[best]).any():
        return None
    return readings[best]


def _warnings(
    responses: LoggedResponses, indices: NDArray[np.int64], values: _Values, expected: int, partial: bool
) -> Iterator[str]:
    """Problems that the official script does not report; missing responses come last."""
    if responses.repeated and not partial:
        yield f"{counted('responses repeat an image, of which the first counts', responses.repeated)}."
    if not values.is_label.all():
        what = f"responses are not a label, an integer from -1 to {CLASSES}, as {values.dtype}"
        yield f"{counted(what, indices[~values.is_label])}; {_CHECK}."
    if responses.missing and not partial:
        cure, held = responses.advice, responses.prefix
        if held:
            cure = f"if the run held only the first {held} images, pass --samples {held}"
        what = counted(f"of {expected} images have no response", responses.missing)
        yield f"{what}, so this is not the accuracy of the data set; {cure}."


def _find_shift(found: NDArray[np.int64], wanted: NDArray[np.int64], good: int) -> tuple[int, int]:
    """(shift, hits): the number to add to predicted labels, and how many are then correct; (0, 0) if not off by one.

    Labels are off by one if the shifted ones hit at least 10 times, and 10 times as often as the unshifted ones and as
    chance would. Chance pairs predicted and expected labels at random, so a model that predicts only a few labels is
    not mistaken for a shifted one.
    """
    best = (0, 0)
    wanted_of = np.bincount(wanted + 2, minlength=CLASSES + 4)
    for shift in (1, -1):
        hits = int(np.count_nonzero(found + shift == wanted))
        chance = float(np.bincount(found + shift + 2, minlength=CLASSES + 4) @ wanted_of) / max(len(found), 1)
        if hits >= max(_SHIFT_HITS, _SHIFT_FACTOR * good, _SHIFT_FACTOR * chance, best[1] + 1):
            best = (shift, hits)
    return best


def accuracy_text(score: ImageScore, log_path: str | Path, note: str | None = None, metric: str | None = None) -> str:
    """The lines of accuracy.txt: the official result, the log's hash, then the scope and the note.

    ``metric`` names the number if it is not an accuracy; the first line is then not the official one.
    """
    result = f"{metric or 'accuracy'}={score.top1:.3f}%, good={score.good}, total={score.total}"
    return accuracy_log.accuracy_text(result, log_path, (score.scope, note))


def write_accuracy_txt(
    path: str | Path, score: ImageScore, log_path: str | Path, note: str | None = None, metric: str | None = None
) -> None:
    """Write accuracy.txt atomically; ``log_path`` is the untruncated log."""
    write_text(path, accuracy_text(score, log_path, note, metric))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit code is 0, 1 if a score or a response is missing, 2 for an invalid command or file."""
    parser = argparse.ArgumentParser("python -m resnet50.accuracy", description="Top-1 of a LoadGen log.")
    parser.add_argument("--log", required=True, help="mlperf_log_accuracy.json of LoadGen, untruncated")
    parser.add_argument("--val-map", required=True, help="val_map.txt of ImageNet, a line 'NAME LABEL' per image")
    parser.add_argument(
        "--dtype", choices=(_AUTO, *_DTYPES), default=_AUTO, help="type of the labels [auto: detected from the bytes]"
    )
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--samples", type=int, help="number of images, if the run used only the first ones")
    scope.add_argument("--partial", action="store_true", help="score only the images in the log, as for TEST01")
    parser.add_argument("--output", help="also write the result to this file (accuracy.txt)")
    parser.add_argument("--verbose", action="store_true", help="also list the misclassified images")
    args = parser.parse_args(argv)

    def run() -> tuple[str, Sequence[str], int]:
        names, labels = read_val_map(args.val_map)
        score = score_log(args.log, labels, dtype=args.dtype, samples=args.samples, partial=args.partial)
        text = accuracy_text(score, args.log)
        if args.output:
            write_text(args.output, text)
        if args.verbose:
            text = "".join((*_misses(score, names, labels), text, f"labels are {score.dtype}\n"))
        # A shift, which is a warning already, explains a score at chance.
        doubts = () if score.shift else label_doubts(score.found, labels)
        return text, (*score.warnings, *doubts), 1 if score.missing else 0

    return run_script(run)


def _misses(score: ImageScore, names: Sequence[str], labels: NDArray[np.int64]) -> Iterator[str]:
    for index, found in score.found.items():
        if found != labels[index]:
            yield f"{names[index]}, expected: {labels[index]}, found {found}\n"


if __name__ == "__main__":
    sys.exit(main())
