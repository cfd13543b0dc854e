"""Top-1 of LoadGen's mlperf_log_accuracy.json: ``python -m resnet50.accuracy --log LOG --val-map FILE``.

Reads nothing but that log and the labels. The rules are those of the official ``accuracy-imagenet.py``
(mlcommons/inference, ``vision/classification_and_detection/tools``): the first value of a response, cut to an integer,
is the label found; of several responses to an image the first counts; top-1 is of the images that have a response. What
that script does not tell is told here: images without a response, values that are no labels, another type than the one
given, labels that are off by one.
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
from harness.host.files import write_text
from harness.loadgen import accuracy_log
from harness.loadgen.accuracy_log import LoggedResponses, read_responses, refuse, run_script, tell
from resnet50.labels import CLASSES, read_val_map

_Label = np.float32 | np.int64 | np.int32
# In this order where several give the same labels.
_DTYPES: dict[str, np.dtype[_Label]] = {"float32": np.dtype("<f4"), "int64": np.dtype("<i8"), "int32": np.dtype("<i4")}
_AUTO = "auto"
_SHIFT_FACTOR = 10  # what the shifted labels must hit, as a multiple of what else would explain it
_SHIFT_HITS = 10  # at least, where chance gives 1: a Poisson count of 10 then has a probability of 1e-7
_CHECK = "check the SUT and --dtype"


@dataclass(frozen=True)
class Score:
    """Top-1 of the first ``expected`` of the data set's ``images``, as far as they have a response."""

    good: int
    expected: int
    images: int
    dtype: str
    """What the log's labels are: float32, int32 or int64."""
    shift: int
    """1 or -1 where the labels found would fit far better with that added, else 0."""
    warnings: tuple[str, ...]
    """With ``missing`` or ``shift``, the last of them says why top-1 says nothing about the model."""
    found: Mapping[int, int]
    """Image index to the label found, in the log's order."""
    partial: bool = False
    """Whether images without a response are none that the run had to answer."""

    @property
    def total(self) -> int:
        """How many images have a response."""
        return len(self.found)

    @property
    def missing(self) -> int:
        """How many images have none, of those that must have one."""
        return 0 if self.partial else self.expected - self.total

    @property
    def top1(self) -> float:
        """Percent of ``total``."""
        return 100.0 * self.good / self.total

    @property
    def scope(self) -> str:
        """Empty for the whole data set, else the words that everything printed must carry."""
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
) -> Score:
    """The score of a log whose QSL held all images, or the first ``samples``; ``partial`` takes any of them.

    A log that samples a performance run, as TEST01 makes it, is partial: it has any images, and those more than once.

    ``labels`` is (images,), 0 to 999; ``dtype`` float32, int32, int64, or auto for what the bytes say.
    ConfigError: no such file, or not this kind of file; CheckFailed: a log that has no score.
    """
    if dtype != _AUTO and dtype not in _DTYPES:
        raise ConfigError(f"no such dtype {dtype!r}: choose from {_AUTO}, {', '.join(_DTYPES)}.")
    images = len(labels)
    expected = images if samples is None else samples
    if not 0 < expected <= images:
        raise ConfigError(f"samples is {samples}, the data set has {images}: choose from 1 to {images}.")
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
            f"the labels in {log_path} look shifted by one against those of the data set, so that label_offset is "
            f"probably wrong: with 1 {'added to' if shift > 0 else 'subtracted from'} each, top-1 would be "
            f"{100 * hits / len(found):.3f} %."
        )
    return Score(
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
    """The responses read as one type."""

    dtype: str
    first: NDArray[_Label]
    """(n,) of that type: the first value of each response."""
    is_label: NDArray[np.bool_]
    """(n,): whether it is a whole number from -1, the background, to 1000, the last of 1001 classes."""

    @classmethod
    def read(cls, data: Sequence[bytes], dtype: str) -> _Values:
        kind = _DTYPES[dtype]
        first = np.frombuffer(b"".join(response[: kind.itemsize] for response in data), kind)
        with np.errstate(invalid="ignore"):  # a signalling NaN is no label
            return cls(dtype, first, (first == np.trunc(first)) & (first >= -1) & (first <= CLASSES))


def _read_values(log_path: str | Path, responses: LoggedResponses, indices: NDArray[np.int64], dtype: str) -> _Values:
    """The responses as ``dtype``; CheckFailed if they plainly are another one, or hold a NaN."""
    data = list(responses.first.values())
    sizes = np.array([len(response) for response in data])
    refuse(log_path, {"responses are no multiple of 4 bytes, as any label is": indices[sizes % 4 > 0]}, _CHECK)
    uneven = {name: indices[sizes % kind.itemsize > 0] for name, kind in _DTYPES.items()}
    readings = {name: _Values.read(data, name) for name in _DTYPES if not len(uneven[name])}
    detected = _detect(list(readings.values()))
    if dtype == _AUTO:
        if detected is None:
            problems = {f"responses are no label as {r.dtype}": indices[~r.is_label] for r in readings.values()}
            refuse(log_path, problems, f"--dtype auto cannot tell the type: give {' or '.join(readings)}")
        assert detected is not None, "a type under which every response is a label would have been detected"
        values = detected
    else:
        cure = f"--dtype {detected.dtype} would fit" if detected else _CHECK
        size = _DTYPES[dtype].itemsize
        refuse(log_path, {f"responses are no multiple of {size} bytes, as {dtype} is": uneven[dtype]}, cure)
        values = readings[dtype]
        if detected and (detected.is_label != values.is_label).any():
            refuse(log_path, {f"responses are no label as {dtype}": indices[~values.is_label]}, cure)
    refuse(log_path, {"responses are NaN or infinite": indices[~np.isfinite(values.first)]}, _CHECK)
    return values


def _detect(readings: Sequence[_Values]) -> _Values | None:
    """The reading that the bytes speak for, None where they do not tell; float32 is the first of them.

    No bytes but those of 0 are labels both as float32 and as an integer, and what is a label as int64 is the same one
    as int32. So readings under which the same responses are labels give the same score; what tells them apart are
    responses, other than 0, that are labels under some of them only.

    The one chosen explains every response that any reading explains, and at least half of those that tell. A rival
    that explains more than half as many leaves it open: int64 whose upper half is empty but for a few responses may be
    damaged, or pairs of int32.
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
    """What the official script does not tell; a missing response comes last."""
    if responses.repeated and not partial:
        yield f"{tell('responses repeat an image, of which the first counts', responses.repeated)}."
    if not values.is_label.all():
        what = f"responses are no label, a whole number from -1 to {CLASSES}, as {values.dtype}"
        yield f"{tell(what, indices[~values.is_label])}; {_CHECK}."
    if responses.missing and not partial:
        cure, held = responses.advice, responses.prefix
        if held:
            cure = f"if the run held only the first {held} images, say so with --samples {held}"
        what = tell(f"of {expected} images have no response", responses.missing)
        yield f"{what}, so that this is no accuracy of the data set; {cure}."


def _find_shift(found: NDArray[np.int64], wanted: NDArray[np.int64], good: int) -> tuple[int, int]:
    """(shift, hits): what to add to the labels found, and how many are right then; (0, 0) if they are not off by one.

    They are off where the shifted ones hit 10 times or more, 10 times what the plain ones do and 10 times what chance
    would give. Chance pairs the labels found with those wanted at random, so that a model that gives but a few labels
    is not taken for a shifted one.
    """
    best = (0, 0)
    wanted_of = np.bincount(wanted + 2, minlength=CLASSES + 4)
    for shift in (1, -1):
        hits = int(np.count_nonzero(found + shift == wanted))
        chance = float(np.bincount(found + shift + 2, minlength=CLASSES + 4) @ wanted_of) / max(len(found), 1)
        if hits >= max(_SHIFT_HITS, _SHIFT_FACTOR * good, _SHIFT_FACTOR * chance, best[1] + 1):
            best = (shift, hits)
    return best


def accuracy_text(score: Score, log_path: str | Path, note: str | None = None, metric: str | None = None) -> str:
    """The lines of accuracy.txt: the official one, the log's hash, then what a reader must know.

    ``metric`` is what the number is where it is no accuracy; the first line is then not the official one.
    """
    result = f"{metric or 'accuracy'}={score.top1:.3f}%, good={score.good}, total={score.total}"
    return accuracy_log.accuracy_text(result, log_path, (score.scope, note))


def write_accuracy_txt(
    path: str | Path, score: Score, log_path: str | Path, note: str | None = None, metric: str | None = None
) -> None:
    """Writes accuracy.txt in one step; ``log_path`` is the untruncated log."""
    write_text(path, accuracy_text(score, log_path, note, metric))


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; its exit code: 0, 1 for a log that lacks a score or an image, 2 for a wrong command or file."""
    parser = argparse.ArgumentParser("python -m resnet50.accuracy", description="Top-1 of a LoadGen log.")
    parser.add_argument("--log", required=True, help="LoadGen's mlperf_log_accuracy.json, not truncated")
    parser.add_argument("--val-map", required=True, help="ImageNet's val_map.txt, lines of NAME LABEL")
    parser.add_argument(
        "--dtype", choices=(_AUTO, *_DTYPES), default=_AUTO, help="of the labels [auto: what their bytes say]"
    )
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--samples", type=int, help="the run's QSL held only the first so many images")
    scope.add_argument("--partial", action="store_true", help="score the images in the log only, such as TEST01's")
    parser.add_argument("--output", help="write accuracy.txt here")
    parser.add_argument("--verbose", action="store_true", help="list the images whose label was not found")
    args = parser.parse_args(argv)

    def run() -> tuple[str, Sequence[str], int]:
        names, labels = read_val_map(args.val_map)
        score = score_log(args.log, labels, dtype=args.dtype, samples=args.samples, partial=args.partial)
        text = accuracy_text(score, args.log)
        if args.output:
            write_text(args.output, text)
        if args.verbose:
            text = "".join((*_misses(score, names, labels), text, f"labels are {score.dtype}\n"))
        return text, score.warnings, 1 if score.missing else 0

    return run_script(run)


def _misses(score: Score, names: Sequence[str], labels: NDArray[np.int64]) -> Iterator[str]:
    for index, found in score.found.items():
        if found != labels[index]:
            yield f"{names[index]}, expected: {labels[index]}, found {found}\n"


if __name__ == "__main__":
    sys.exit(main())
