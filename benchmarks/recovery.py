"""What pruning and quantisation cost in accuracy and gain in speed: dense real models, compressed in one shot.

    python -m benchmarks.recovery [--model M --dataset D] [--sparsities 0,0.5,0.8] [--precisions fp32,int8]

Each variant is made once (build/recovery), its accuracy taken from an accuracy run through LoadGen and its speed from
an Offline run, on each engine that is installed. Recovery is accuracy in percent of that of the dense FP32 model on the
same engine. Magnitude pruning in FP32 stands beside the second-order method. Without --model the FP32 models and data
sets in the folder `shared` beside the repository are taken, where there is one.
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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.common import command
from harness import __version__, catalog, console
from harness.compress.compress import CompressSettings
from harness.compress.files import compress_file
from harness.config import validated
from harness.errors import RunFailed
from harness.machine import core_count, cpu_model
from harness.models.build import SAMPLES
from harness.registry import default_engine

_SHARED = catalog.ROOT.parent / "shared"
_DEFAULTS = (
    ("models/minilm-l6-squad-fp32.onnx", "data/squad-sample/dev-sample-v1.1.json"),
    ("models/efficientnet-lite0-fp32.onnx", "data/imagenet-sample"),
)
_KEEP = {"efficientnet-lite0": ("_conv_stem", "_blocks.0/_depthwise_conv")}
"""Layers that stay as they are, by what results are filed under: most of the error comes from them, and little time."""


@dataclass(frozen=True)
class Variant:
    """A way to compress a model."""

    sparsity: float
    precision: str
    method: str
    block: int

    @property
    def dense(self) -> bool:
        """Whether it is the model as it is."""
        return not self.sparsity and self.precision == "fp32"

    def __str__(self) -> str:
        """In words."""
        pruned = f"{self.sparsity:.0%} {self.method}" if self.sparsity else "dense"
        return f"{pruned}{f', blocks of {self.block}' if self.sparsity and self.block > 1 else ''}"


def variants(sparsities: list[float], precisions: list[str], block: int) -> Iterator[Variant]:
    """The dense model first, whatever was asked for: the others are compared with it."""
    yield Variant(0.0, "fp32", "second-order", 1)
    for precision, sparsity in itertools.product(precisions, sparsities):
        if not sparsity and precision == "fp32":
            continue
        yield Variant(sparsity, precision, "second-order", block)
        if sparsity and precision == "fp32":
            yield Variant(sparsity, precision, "magnitude", block)


def variant_file(model: catalog.Model, variant: Variant, calibration: str | None) -> Path:
    """The model's file, compressed if it is not there yet."""
    if variant.dense:
        return model.path
    values = {"sparsity": variant.sparsity, "precision": variant.precision, "method": variant.method}
    values |= {"block": variant.block, "keep": _KEEP.get(model.official_name, ())}
    settings = validated(CompressSettings, values)
    made_with = [__version__, model.sha256, settings.model_dump_json(), calibration, str(SAMPLES)]
    key = hashlib.sha256(repr(made_with).encode()).hexdigest()[:12]
    what = f"{variant.sparsity:g}-{variant.precision}-{variant.method}-{key}"
    path = catalog.ROOT / "build" / "recovery" / f"{model.name}-{what}.onnx"
    if not path.is_file():
        console.note(f"compressing {model.name}: {variant}, {variant.precision} ...")
        compress_file(str(model.path), path, settings, calibration, SAMPLES)
    return path


def run(path: Path, engine: str, mode: str, dataset: str, seconds: float) -> dict[str, Any]:
    """run.json of one run of the command line."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = [
            sys.executable,
            "-m",
            "harness.cli",
            "run",
            "--model",
            str(path),
            "--engine",
            engine,
            "--mode",
            mode,
        ]
        arguments += ["--dataset", dataset, "--runs-dir", folder, "--no-tuned"]
        arguments += ["--duration", str(seconds)] if mode == "performance" else []
        done = subprocess.run(arguments, capture_output=True, text=True)
        found = next(Path(folder).glob("*/run.json"), None)
        if found is None:
            raise RunFailed(f"{' '.join(arguments)} failed: {done.stderr.strip()}")
        return json.loads(found.read_text("utf-8"))


def main() -> None:
    """Compress what is missing, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a dense FP32 model: its name or path")
    parser.add_argument("--dataset", help="the data set that it is scored on")
    parser.add_argument("--calibration", help="the data set that it is calibrated with; default: the shipped one")
    parser.add_argument("--sparsities", default="0,0.5,0.8")
    parser.add_argument("--precisions", default="fp32,int8")
    parser.add_argument("--block", type=int, default=1, help="neighbouring weights that are pruned together")
    parser.add_argument("--seconds", type=float, default=10, help="how long each Offline run is")
    args = parser.parse_args()
    if bool(args.model) != bool(args.dataset):
        parser.error("give --model and --dataset together")
    work = [(args.model, args.dataset)]
    if not args.model:
        work = [(str(_SHARED / model), str(_SHARED / data)) for model, data in _DEFAULTS if (_SHARED / model).is_file()]
    if not work:
        parser.error("give --model and --dataset: a dense FP32 model, and what it is scored on")
    try:
        sparsities = [float(s) for s in args.sparsities.split(",")]
    except ValueError:
        parser.error(f"--sparsities {args.sparsities}: give numbers below 1, such as 0,0.5,0.8")
    chosen = list(variants(sparsities, args.precisions.split(","), args.block))
    engines = ["deepsparse", "onnxruntime"] if default_engine() == "deepsparse" else ["onnxruntime"]
    console.out.print(f"{cpu_model()}, {core_count()} cores")
    for name, dataset in work:
        model = catalog.find_model(name)
        files = [variant_file(model, variant, args.calibration) for variant in chosen]
        table = Table("variant", "precision", "engine", "score", "recovery", "file, gzip", "samples/s", "÷ dense FP32",
                      title=f"{model.name} on {dataset}", box=None, pad_edge=False)  # fmt: skip
        dense: dict[str, tuple[float, float]] = {}
        for variant, path in zip(chosen, files, strict=True):
            content = path.read_bytes()
            sizes = f"{len(content) / 1e6:.1f} MB, {len(gzip.compress(content, 6)) / 1e6:.1f} MB"
            for engine in engines:
                console.note(f"measuring {model.name}: {variant}, {variant.precision}, on {engine} ...")
                scores = run(path, engine, "accuracy", dataset, args.seconds)["result"]["accuracy"]
                metric, score = next(iter(scores.items()))
                speed = run(path, engine, "performance", dataset, args.seconds)
                rate = speed["result"]["metric"]["value"]
                dense.setdefault(engine, (score, rate))
                table.add_row(
                    str(variant),
                    variant.precision,
                    engine,
                    f"{metric} {score:.2f}",
                    f"{100 * score / dense[engine][0]:.1f} %" if dense[engine][0] else "-",
                    sizes,
                    f"{rate:.1f}{'' if speed['valid'] else ' INVALID'}",
                    f"{rate / dense[engine][1]:.2f}",
                )
        console.print_table(table)


if __name__ == "__main__":
    command(main)
