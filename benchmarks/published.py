"""The published results table as ratios on this machine: the six models through LoadGen Offline, side by side.

    python -m benchmarks.published [--models NAME,...] [--dataset D] [--seconds S] [--shapes N]

A fetched model (`harness models fetch`) is used unchanged; any other is built once with random weights in build/models:
its speed depends only on its architecture, sparsity and encoding, and it has no accuracy. The baseline of each
benchmark is its FP32 model on ONNX Runtime the reference's way: one sample at a time, padded in full. Every model is
measured in a separate process, on each installed engine.
"""

from __future__ import annotations

import argparse
import gzip
import json
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from benchmarks.common import apart, command, prepare_test
from benchmarks.offline import loadgen_test, raw_engine, reference_way
from harness import TOOL, __version__
from harness.catalog import manifests
from harness.catalog.manifests import CompressionRecipe
from harness.catalog.models import fetch_record, find_model, model_file
from harness.errors import did_you_mean
from harness.graph import read_graph
from harness.host.machine import core_count, cpu_model
from harness.models.build import BuildRequest, build
from harness.registry import installed
from harness.settings.fastest import FORM
from harness.task.shape import Shape
from harness.terminal import console

_MIN_SAMPLES = 64
"""With fewer samples, the average length would differ from the data set's."""


PUBLISHED = {name: entry for name, (_, entry) in manifests.published().items()}


def find_file(name: str) -> tuple[Path, str]:
    """The path of a model, fetched or built, and which part of it is random, for the table."""
    if model_file(name).is_file() and fetch_record(name):
        return find_model(name).path, "nothing: fetched"
    path, entry = model_file(f"{name}-random"), manifests.models()[name][1]
    made = read_graph(path).metadata if path.is_file() else {}
    if not _as_built(
        made, entry.recipe or CompressionRecipe.model_validate({"precision": entry.precision}), PUBLISHED[name].engine
    ):
        console.note(f"building {name} with random weights ...")
        path = build(BuildRequest(name, "random"))
    pruned = "sparsity" in find_model(str(path)).metadata
    return path, "weights, and which of them are zeros" if pruned else "weights"


def _as_built(made: Mapping[str, str], recipe: CompressionRecipe, engine: str) -> bool:
    """Whether a file with this metadata is what this version builds for the engine of the published result."""
    same = float(made.get("sparsity", 0)) == recipe.sparsity and made.get("precision") == recipe.precision
    written = recipe.precision != "int8" or made.get(FORM) == engine
    return same and written and made.get("tool") == f"{TOOL} {__version__}"


def loadgen_rate(path: str, dataset: str | None, engine: str, seconds: float, options: Mapping[str, object]) -> float:
    """Samples/s that LoadGen reports for Offline, in a test of about ``seconds``."""
    setup = prepare_test(path, dataset, engine, "Offline", options)
    rough = raw_engine(setup, _MIN_SAMPLES // 2)
    return loadgen_test(setup, max(_MIN_SAMPLES, int(rough * seconds)))[0]


def reference_rate(path: str, dataset: str | None, seconds: float) -> float:
    """Samples/s of one sample at a time, padded to the longest, on ONNX Runtime with all cores."""
    options = {"threads": core_count(), "streams": 1, "max_batch": 1}
    setup = prepare_test(path, dataset, "onnxruntime", "Offline", options)
    setup.sut.prepare(Shape(1, setup.scenario.max_cost))
    return reference_way(setup, seconds)


def main() -> None:
    """Build what is missing, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(PUBLISHED), help="default: all six")
    parser.add_argument("--dataset", default=None, help="for BERT; default: the full set if fetched, else the sample")
    parser.add_argument("--images", default=None, help="data set for ResNet50")
    parser.add_argument("--seconds", type=float, default=20, help="approximate length of each measurement")
    parser.add_argument("--shapes", type=int, default=12, help="sequence lengths that DeepSparse compiles for a BERT")
    parser.add_argument("--json", type=Path, default=None, help="also write the measurements to this file")
    args = parser.parse_args()
    names = [name for name in args.models.split(",") if name]
    for name in names:
        if name not in PUBLISHED:
            parser.error(f"no published model '{name}': {did_you_mean(name, PUBLISHED)}")

    table = Table(
        "model", "engine", "samples/s", "÷ baseline", "published", "file, gzip", "random", box=None, pad_edge=False
    )
    baselines: dict[str, float] = {}
    measured = []

    def show(title: str, engine: str, rate: float, base: float, published: str, file: str, random: str) -> None:
        measured.append({"model": title, "engine": engine, "samples/s": rate, "ratio": rate / base, "random": random})
        digits = 1 if rate >= 10 else 2
        table.add_row(title, engine, f"{rate:.{digits}f}", f"{rate / base:.1f}", published, file, random)

    for name in names:
        benchmark = manifests.models()[name][0]
        dense = next(key for key in PUBLISHED if manifests.models()[key][0] == benchmark)
        dataset = args.dataset if benchmark == "bert" else args.images
        if benchmark not in baselines:
            path, random = find_file(dense)
            console.note(f"measuring {dense} the reference's way ...")
            baselines[benchmark] = apart(reference_rate, str(path), dataset, args.seconds)
            title = f"{PUBLISHED[dense].title}, the reference's way"
            base = baselines[benchmark]
            show(title, "onnxruntime", base, base, "1.0", "", random)
        path, random = find_file(name)
        row, base = PUBLISHED[name], baselines[benchmark]
        content = path.read_bytes()
        sizes = f"{len(content) / 1e6:.1f} MB, {len(gzip.compress(content, 6)) / 1e6:.1f} MB ({row.file})"
        engines = ["deepsparse", "onnxruntime"] if "deepsparse" in installed() else ["onnxruntime"]
        for engine in [row.engine] if row.engine == "onnxruntime" else engines:
            console.note(f"measuring {name} on {engine} ...")
            options = {"shapes": args.shapes} if engine == "deepsparse" and benchmark == "bert" else {}
            rate = apart(loadgen_rate, str(path), dataset, engine, args.seconds, options)
            published = row.samples_per_second / PUBLISHED[dense].samples_per_second if engine == row.engine else 0
            show(row.title, engine, rate, base, f"{published:.1f}" if published else "", sizes, random)
    console.out.print(f"{cpu_model()}, {core_count()} cores; Offline, LoadGen; random weights have no accuracy")
    console.print_table(table)
    if args.json:
        args.json.write_text(json.dumps({"machine": cpu_model(), "rows": measured}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    command(main)
