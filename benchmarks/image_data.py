"""Speed of image preprocessing, and memory of a run with 1,024 loaded images.

    python -m benchmarks.image_data --dataset D [--profile mlperf] [--pairs 5]

Prints, side by side in one run:
  images/s of the harness (all cores, uint8 in its cache) ÷ the reference's way: one process, one image at a time,
    float32 in one .npy file per image, resized by OpenCV if it is installed, otherwise by the harness's own code;
  the same with one core, to show the gain per core;
  images/s of a second pass with the cache, and of loading 1,024 images;
  the peak memory of a performance run of ONNX Runtime over 1,024 loaded images.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from benchmarks.common import command, spread
from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.errors import RunFailed
from harness.host.machine import core_count, cores, cpu_model
from harness.terminal import console
from resnet50.images import find_images
from resnet50.pixels import load_pixels
from resnet50.preprocess import PROFILES, SIDE, PreprocessingProfile, normaliser, pixels
from resnet50.qsl import PERFORMANCE_SAMPLES, ImageLayout, ImageQSL

try:
    import cv2
except ImportError:
    cv2 = None


def reference_way(files: list[Path], profile: PreprocessingProfile, folder: Path) -> float:
    """Images/s of decoding, resizing, normalising and saving each image before the next."""
    write = normaliser(profile)
    start = time.perf_counter()
    for number, file in enumerate(files):
        if cv2 is not None and profile.resize == "area":
            image = opencv_pixels(file)
        else:
            image = pixels(file.read_bytes(), profile)
        tensor = np.empty((SIDE, SIDE, 3), np.float32)
        write(image, tensor)
        np.save(folder / f"{number}.npy", tensor.transpose(2, 0, 1))
    return len(files) / (time.perf_counter() - start)


def opencv_pixels(file: Path) -> NDArray[np.uint8]:
    """The centre of an image after OpenCV resized its short side to 256 by area."""
    image = cv2.cvtColor(cv2.imread(str(file), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    size = (256, 256 * height // width) if height > width else (256 * width // height, 256)
    resized = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    centre: NDArray[np.uint8] = resized[top : top + SIDE, left : left + SIDE]
    return centre


def harness_way(files: list[Path], profile: PreprocessingProfile, folder: Path) -> float:
    """Images/s of the harness; ``folder`` is empty or already contains the cache."""
    start = time.perf_counter()
    load_pixels(files, profile, folder)
    return len(files) / (time.perf_counter() - start)


def on_one_core(files: list[Path], profile: PreprocessingProfile, folder: Path) -> float:
    """`harness_way` with this process pinned to one core."""
    usable = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(usable)})
        cores.cache_clear()
        return harness_way(files, profile, folder)
    finally:
        os.sched_setaffinity(0, usable)
        cores.cache_clear()


def peak_memory(files: list[Path], folder: Path) -> tuple[float, float]:
    """Peak memory in MiB of a performance run with 1,024 loaded images, and MiB of their tensors."""
    count = PERFORMANCE_SAMPLES
    (folder / "val").mkdir(parents=True)
    names = [f"val/{number:05}.JPEG" for number in range(count)]
    for number, name in enumerate(names):
        (folder / name).symlink_to(files[number % len(files)].resolve())
    (folder / "val_map.txt").write_text("".join(f"{name} 0\n" for name in names))
    model = next(name for name, (owner, entry) in manifests.models().items() if owner == "resnet50" and entry.file)
    words = [sys.executable, "-m", "harness.cli", "run", "--engine", "onnxruntime", "--model", model]
    words += ["--dataset", str(folder), "--duration", "5", "--runs-dir", str(folder / "runs")]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 1):  # an INVALID run (too few samples) uses the same memory
        raise RunFailed(f"harness run failed: {ended.stderr.strip()}")
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, count * SIDE * SIDE * 3 * 4 / 2**20


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default=None)
    parser.add_argument("--profile", choices=PROFILES, default="mlperf")
    parser.add_argument("--pairs", type=int, default=5)
    args = parser.parse_args()
    if cv2 is not None:
        cv2.setNumThreads(1)
    profile = PROFILES[args.profile]
    files = list(find_images(find_dataset("resnet50", args.dataset).path).files)
    for file in files:  # fill the page cache, to compare the work and not the disk
        file.read_bytes()

    rows = []
    with tempfile.TemporaryDirectory() as top:
        for pair in range(args.pairs):
            folders = [Path(top) / f"{pair}-{way}" for way in ("reference", "harness", "core")]
            folders[0].mkdir()
            reference = reference_way(files, profile, folders[0])
            first, one = harness_way(files, profile, folders[1]), on_one_core(files, profile, folders[2])
            rows.append((reference, first, one, harness_way(files, profile, folders[1])))
        qsl = ImageQSL(load_pixels(files, profile, folders[1]), profile, ImageLayout())
        start = time.perf_counter()
        qsl.load(np.arange(qsl.performance_count))
        loading = qsl.performance_count / (time.perf_counter() - start)
        del qsl
        peak, tensors = peak_memory(files, Path(top) / "imagenet")

    way_of_reference, all_cores, one_core, again = (list(column) for column in zip(*rows, strict=True))
    table = Table("what", "ratio: median (min - max)", "target", "figures", box=None, pad_edge=False)
    for name, rates, target in (("all cores", all_cores, "1.8 on 2 cores"), ("one core", one_core, "")):
        figures = f"{statistics.median(rates):.0f} and {statistics.median(way_of_reference):.0f} images/s"
        ratios = [a / b for a, b in zip(rates, way_of_reference, strict=True)]
        table.add_row(f"preprocessing ÷ reference's way, {name}", spread(ratios), target, figures)
    table.add_row("preprocessing, second pass", "", "", f"{statistics.median(again):,.0f} images/s")
    table.add_row("loading", "", "", f"{loading:,.0f} images/s")
    table.add_row(
        "peak memory, 1,024 images loaded", "", "", f"{peak:,.0f} MiB, of which {tensors:,.0f} MiB are the images"
    )
    way = "OpenCV" if cv2 is not None and profile.resize == "area" else "the harness's own code (no OpenCV here)"
    console.out.print(f"{cpu_model()}, {core_count()} cores; {len(files)} images, {args.profile}; reference by {way}")
    console.print_table(table)


if __name__ == "__main__":
    command(main)
