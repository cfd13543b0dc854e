"""Accuracy loss and speed gain of pruning and quantisation: dense trained models, compressed in one shot.

    python -m benchmarks.recovery [--model M --dataset D] [--sparsities 0,0.5,0.8] [--precisions fp32,int8]
                                  [--train RECIPE[:METHOD],... [--train-data D] [--steps N]]

Each variant is made once (build/recovery); its accuracy comes from an accuracy run through LoadGen and its speed from
an Offline run, on each of DeepSparse, OpenVINO and ONNX Runtime that is installed. INT8 files are written in each form
(`models compress --for`): that of DeepSparse, and that of OpenVINO, which ONNX Runtime shares. Measurements are kept
beside the variants until anything they depend on changes, so that an interrupted table can be resumed; --fresh ignores
them. OpenVINO computes FP32 files in FP32, even if its default is bf16; INT8 files keep that default.
A third of the data set (for SQuAD, of its passages) is used for calibration and the rest is scored; with
--calibration the whole data set is scored. Recovery is accuracy in percent of the dense FP32 model's on the same
engine. "same arg-max" is the share of samples (images, or windows of a passage) for which all engines' logs have the
same class, or the same start and end. Magnitude pruning in FP32 is shown beside the second-order method. Without
--model, the FP32 models and data sets in the folder `shared` beside the repository are used, if it exists.

--train adds models that `harness models train` makes from the dense one by these recipes, which takes hours unless they
are in build/recovery already; METHOD is magnitude, second-order or layer-wise, in place of the recipe's. So
"--sparsities 0 --precisions fp32 --train minilm-80-fp32:second-order,minilm-80-fp32:magnitude" compares the two at the
same sparsity and steps.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import itertools
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from benchmarks.common import command
from benchmarks.trained import RecipeVariant, duration
from bert.squad import read_squad
from harness import __version__, paths
from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.catalog.models import find_model
from harness.compress.compress import CompressSettings
from harness.compress.quantise import EngineForm
from harness.errors import RunFailed
from harness.files.digest import sha256_of
from harness.files.disk import write_text
from harness.host.machine import core_count, cpu_model
from harness.loadgen.accuracy_log import read_responses
from harness.models.build import CALIBRATION_SAMPLES
from harness.models.compression import compress_file
from harness.registry import LIBRARIES, installed
from harness.terminal import console
from harness.validation import validated
from resnet50.images import find_images

_FOLDER = paths.ROOT / "build" / "recovery"
_SHARED = paths.ROOT.parent / "shared"
_DEFAULTS = (
    ("models/minilm-l6-squad-fp32.onnx", "data/squad-sample/dev-sample-v1.1.json"),
    ("models/efficientnet-lite0-fp32.onnx", "data/imagenet-sample"),
)
_FORMS: tuple[EngineForm, ...] = ("deepsparse", "openvino")
_KEEP = {"efficientnet-lite0": ("_conv_stem", "_blocks.0/_depthwise_conv")}
"""Layers to leave unchanged, by official name: they cause most of the error and take little time."""


@dataclass(frozen=True)
class Variant:
    """A way to compress a model."""

    sparsity: float
    precision: str
    method: str
    block: int
    engine: EngineForm | None = None
    """The engine whose operators an INT8 file has."""

    @property
    def dense(self) -> bool:
        """Whether this is the unchanged model."""
        return not self.sparsity and self.precision == "fp32"

    def __str__(self) -> str:
        """The variant's name in the table."""
        pruned = f"{self.sparsity:.0%} {self.method}" if self.sparsity else "dense"
        return f"{pruned}{f', blocks of {self.block}' if self.sparsity and self.block > 1 else ''}"


def variants(sparsities: list[float], precisions: list[str], block: int) -> Iterator[Variant]:
    """The dense model always comes first: the others are compared with it."""
    yield Variant(0.0, "fp32", "second-order", 1)
    for precision, sparsity in itertools.product(precisions, sparsities):
        if not sparsity and precision == "fp32":
            continue
        for form in _FORMS if precision == "int8" else (None,):
            yield Variant(sparsity, precision, "second-order", block, form)
        if sparsity and precision == "fp32":
            yield Variant(sparsity, precision, "magnitude", block)


@dataclass(frozen=True)
class VariantMeasurements:
    """The measurements of a variant on an engine."""

    metric: str
    score: float
    """In percent."""
    rate: float
    """Samples/s of Offline."""
    valid: bool
    answers: list[list[int]]
    """For each sample: the label, or the tokens with the highest start and end logits."""


def variant_file(model: manifests.Model, variant: Variant, calibration: str) -> Path:
    """The model's file, compressed first if it does not exist yet."""
    if variant.dense:
        return model.path
    values = {"sparsity": variant.sparsity, "precision": variant.precision, "method": variant.method}
    values |= {"block": variant.block, "engine": variant.engine, "keep": _KEEP.get(model.official_name, ())}
    settings = validated(CompressSettings, values)
    data = content_of(find_dataset(model.benchmark, calibration))
    made_with = [_sources("harness/compress"), model.sha256, settings.model_dump_json(), data, str(CALIBRATION_SAMPLES)]
    what = f"{variant.sparsity:g}-{variant.precision}-{variant.method}-{_key(made_with)}"
    path = _FOLDER / f"{model.name}-{what}.onnx"
    if not path.is_file():
        console.note(f"compressing {model.name}: {variant}, {variant.precision} ...")
        compress_file(str(model.path), path, settings, calibration, CALIBRATION_SAMPLES)
    return path


def held_out(benchmark: str, dataset: manifests.Dataset) -> tuple[Path, Path]:
    """The data set split in two, below build/recovery: every third passage or image calibrates, the others are scored.

    Raises:
        ConfigError: it cannot be read.
    """
    folder = _FOLDER / f"{dataset.name}-{_key([str(dataset.path), content_of(dataset)])}"
    parts = folder / "calibration", folder / "scored"
    if benchmark == "bert":
        read_squad(dataset.path)
        whole = json.loads(dataset.path.read_text("utf-8"))
        for number, part in enumerate(parts):
            count, articles = itertools.count(), []
            for article in whole["data"]:
                mine = [p for p in article["paragraphs"] if (next(count) % 3 == 0) == (number == 0)]
                articles += [{**article, "paragraphs": mine}] if mine else []
            write_text(part.with_suffix(".json"), json.dumps({**whole, "data": articles}))
        return parts[0].with_suffix(".json"), parts[1].with_suffix(".json")
    images = find_images(dataset.path)
    for number, part in enumerate(parts):
        (part / "val").mkdir(parents=True, exist_ok=True)
        lines = []
        for place, (file, label) in enumerate(zip(images.files, images.labels, strict=True)):
            if (place % 3 == 0) == (number == 0):
                link = part / "val" / f"{place:06}{file.suffix}"
                link.unlink(missing_ok=True)
                link.symlink_to(file.resolve())
                lines.append(f"val/{link.name} {label}\n")
        write_text(part / "val_map.txt", "".join(lines))
    return parts


def content_of(dataset: manifests.Dataset) -> str:
    """A key that changes with the content of the data set."""
    if dataset.sha256:
        return dataset.sha256
    files = sorted(path for path in dataset.path.rglob("*") if path.is_file())
    return _key([(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files])


def _key(parts: Sequence[object]) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


@cache
def _sources(package: str = "") -> str:
    """A key of the code, or of one of its folders: the version alone does not change with every line."""
    files = sorted((paths.ROOT / "code" / package).rglob("*.py"))
    return _key([__version__, *(sha256_of(path) for path in files)])


def options_of(benchmark: str, precision: str, engine: str, shapes: int) -> list[str]:
    """The engine's options for a file of that precision, NAME=VALUE each."""
    if engine == "deepsparse" and benchmark == "bert":
        return [f"shapes={shapes}"]
    return ["precision=f32"] if engine == "openvino" and precision == "fp32" else []


def measured(
    model: manifests.Model,
    path: Path,
    engine: str,
    dataset: manifests.Dataset,
    seconds: float,
    options: Sequence[str],
    *,
    fresh: bool,
) -> VariantMeasurements:
    """The row of a variant's file: the saved one, or else measured now."""
    depends = [_sources(), sha256_of(path), engine, version(engine), content_of(dataset), seconds, list(options)]
    kept = _FOLDER / f"{path.stem}-{engine}-{_key([*depends, cpu_model(), core_count()])}.row.json"
    if kept.is_file() and not fresh:
        return VariantMeasurements(**json.loads(kept.read_text("utf-8")))
    console.note(f"measuring {path.stem} on {engine} ...")
    with tempfile.TemporaryDirectory() as folder:
        record = run(path, engine, "accuracy", dataset.path, seconds, options, Path(folder) / "accuracy")
        log = next(Path(folder).glob("accuracy/*/mlperf_log_accuracy.json"))
        found = answers(log, record["dataset"]["samples_used"], model.benchmark)
        speed = run(path, engine, "performance", dataset.path, seconds, options, Path(folder) / "performance")
    metric, score = next(iter(record["result"]["accuracy"].items()))
    row = VariantMeasurements(metric, score, speed["result"]["metric"]["value"], speed["valid"], found)
    write_text(kept, json.dumps(asdict(row)))
    return row


def answers(log: Path, count: int, benchmark: str) -> list[list[int]]:
    """`VariantMeasurements.answers` of a run's accuracy log."""
    responses = read_responses(log, count).first
    logged = [np.frombuffer(responses[index], "<f4") for index in range(count)]
    if benchmark == "bert":
        return [values.reshape(-1, 2).argmax(axis=0).tolist() for values in logged]
    return [[int(values[0])] for values in logged]


def agreement(rows: Sequence[VariantMeasurements]) -> str:
    """The share of samples for which all rows have the same answer."""
    same = [all(answer == one for answer in others) for one, *others in zip(*(r.answers for r in rows), strict=True)]
    return f"{100 * sum(same) / len(same):.1f} %" if len(rows) > 1 else "-"


def run(
    path: Path, engine: str, mode: str, dataset: Path, seconds: float, options: Sequence[str], folder: Path
) -> dict[str, Any]:
    """run.json of one run of the command line, recorded in ``folder``."""
    arguments = [sys.executable, "-m", "harness.cli", "run", "--model", str(path), "--engine", engine, "--mode", mode]
    arguments += ["--dataset", str(dataset), "--runs-dir", str(folder), "--no-tuned"]
    arguments += ["--duration", str(seconds)] if mode == "performance" else []
    arguments += [word for option in options for word in ("--set", option)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    found = next(folder.glob("*/run.json"), None)
    if found is None:
        raise RunFailed(f"{' '.join(arguments)} failed: {done.stderr.strip()}")
    record: dict[str, Any] = json.loads(found.read_text("utf-8"))
    return record


def installed_engines() -> list[str]:
    """The installed engines; notes which are missing."""
    found = installed()
    for name in LIBRARIES:
        if name not in found:
            console.note(f"{name} is not installed: its rows are left out.")
    return found


@dataclass(frozen=True)
class TableFile:
    """A file of the table."""

    words: str
    precision: str
    form: str
    """The engine whose operators it has, or "any"."""
    path: Path
    training: str = "-"
    """How long it was trained, as text."""


def entries(model: manifests.Model, chosen: Sequence[Variant], calibration: str) -> Iterator[TableFile]:
    """The compressed files, the dense model first."""
    for variant in chosen:
        path = variant_file(model, variant, calibration)
        yield TableFile(str(variant), variant.precision, variant.engine or "any", path)


def trained_entries(model: manifests.Model, trainings: Sequence[RecipeVariant], data: Path) -> Iterator[TableFile]:
    """The trained files."""
    for training in trainings:
        path = training.file(model.path, data, _FOLDER)
        form = find_model(str(path)).metadata.get("engine_form", "any")
        yield TableFile(str(training), training.precision, form, path, duration(path))


def table_of(
    model: manifests.Model, dataset: manifests.Dataset, title: str, files: Iterator[TableFile], args: argparse.Namespace
) -> Table:
    """The table of these files, each measured on every engine that is installed."""
    table = Table("variant", "precision", "for", "engine", "score", "recovery", "same arg-max", "file, gzip",
                  "samples/s", "÷ dense FP32", "training",
                  title=title, box=None, pad_edge=False)  # fmt: skip
    engines, dense = installed_engines(), list[VariantMeasurements]()
    for entry in files:
        rows = [
            measured(
                *(model, entry.path, engine, dataset, args.seconds),
                options_of(model.benchmark, entry.precision, engine, args.shapes),
                fresh=args.fresh,
            )
            for engine in engines
        ]
        dense = dense or rows
        content = entry.path.read_bytes()
        sizes = f"{len(content) / 1e6:.1f} MB, {len(gzip.compress(content, 6)) / 1e6:.1f} MB"
        for engine, row, whole in zip(engines, rows, dense, strict=True):
            table.add_row(
                entry.words,
                entry.precision,
                entry.form,
                engine,
                f"{row.metric} {row.score:.2f}",
                f"{100 * row.score / whole.score:.1f} %" if whole.score else "-",
                agreement(rows),
                sizes,
                f"{row.rate:.1f}{'' if row.valid else ' INVALID'}",
                f"{row.rate / whole.rate:.2f}",
                entry.training,
            )
    return table


def main() -> None:
    """Compress what is missing, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a dense FP32 model: its name or path")
    parser.add_argument("--dataset", help="the data set to score it on")
    parser.add_argument("--calibration", help="the data set for calibration; default: a third of --dataset")
    parser.add_argument("--sparsities", default="0,0.5,0.8")
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--block", type=int, default=1, help="neighbouring weights to prune together")
    parser.add_argument("--seconds", type=float, default=10, help="length of each Offline run")
    parser.add_argument("--shapes", type=int, default=4, help="sequence lengths that DeepSparse compiles for a BERT")
    parser.add_argument("--train", default="", help="recipes to train the model with, each optionally with :METHOD")
    parser.add_argument("--train-data", type=Path, help="data to train on; default: the calibration data")
    parser.add_argument("--steps", type=int, help="steps of each training; default: the recipe's")
    parser.add_argument("--fresh", action="store_true", help="ignore saved measurements")
    args = parser.parse_args()
    if bool(args.model) != bool(args.dataset):
        parser.error("give --model and --dataset together")
    if args.train and not args.model:
        parser.error("--train needs --model and --dataset")
    work = [(args.model, args.dataset)]
    if not args.model:
        work = [(str(_SHARED / model), str(_SHARED / data)) for model, data in _DEFAULTS if (_SHARED / model).is_file()]
    if not work:
        parser.error("give --model and --dataset: a dense FP32 model, and the data set to score it on")
    try:
        sparsities = [float(s) for s in args.sparsities.split(",")]
    except ValueError:
        parser.error(f"--sparsities {args.sparsities}: give numbers below 1, such as 0,0.5,0.8")
    chosen = list(variants(sparsities, args.precisions.split(","), args.block))
    trainings = [RecipeVariant.parse(text, args.steps) for text in filter(None, args.train.split(","))]
    console.out.print(f"{cpu_model()}, {core_count()} cores")
    for name, data in work:
        model = find_model(name)
        dataset = find_dataset(model.benchmark, data)
        calibration = args.calibration
        if calibration is None:
            calibration, scored = map(str, held_out(model.benchmark, dataset))
            dataset = find_dataset(model.benchmark, scored)
        files = itertools.chain(
            entries(model, chosen, calibration), trained_entries(model, trainings, args.train_data or Path(calibration))
        )
        console.print_table(table_of(model, dataset, f"{model.name} on {Path(data).name}", files, args))


if __name__ == "__main__":
    command(main)
