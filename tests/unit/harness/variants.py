"""Ways to write a good tree that both official checkers accept; `harness check` must also accept them."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable

from breakages import (
    ACCURACY,
    SUMMARY,
    B,
    Breakage,
    R,
    appended,
    both,
    gone,
    inferred,
    logged,
    replaced,
    system,
    twin,
    written,
)
from submission_tree import SYSTEM, put

from harness.results.layout import Layout

SERVER = f"{R}/Server/performance/run_1"


def lower_case(layout: Layout) -> None:
    """All folders of scenarios, and in the classic layout their measurements files, in lower case."""
    for top in (*layout.trees, "results"):
        for path in layout.root.glob(f"{top}/*/*/*"):
            if path.name != path.name.lower():
                path.rename(path.with_name(path.name.lower()))


def numbers(layout: Layout) -> None:
    """All fields that may be numbers."""
    counts = {"number_of_nodes": 1, "host_processors_per_node": 2, "host_processor_core_count": 96}
    sizes = {"host_memory_capacity": 768, "host_storage_capacity": 2.5, "host_network_card_count": 1}
    system(accelerators_per_node=8, accelerator_memory_capacity=80, accelerator_frequency=1980, **counts, **sizes)(
        layout
    )


def summary_of(value: str, detail: float) -> Callable[[Layout], object]:
    """Server's logs with its result as LoadGen writes it: two decimals in the summary."""
    return both(
        logged(SERVER, result_completed_samples_per_sec=detail),
        lambda layout: put(
            layout.root / SERVER / SUMMARY,
            re.sub(
                r"(Completed samples per second +: ).*", rf"\g<1>{value}", (layout.root / SERVER / SUMMARY).read_text()
            ),
        ),
    )


def high_accuracy(layout: Layout) -> None:
    """The results of bert-99 are those of bert-99.9, as the official preprocess_submission.py copies them."""
    for top in (f"results/{SYSTEM}", layout.code):
        shutil.copytree(layout.root / top / "bert-99", layout.root / top / "bert-99.9")


VARIANTS = [
    Breakage("numbers", "closed", numbers, "", ""),
    Breakage("counts as floats", "open", system(number_of_nodes=1.0, host_processors_per_node=2.0), "", ""),
    Breakage("status upper case", "closed", system(status="RDI"), "", ""),
    Breakage("status capitalised", "open", system(status="Available"), "", ""),
    Breakage("notes", "closed", system(sw_notes='A stand-in for "x"', hw_notes='19" rack'), "", ""),
    Breakage("lists", "open", system(other_software_stack=["Python", "LoadGen"], cooling={"fans": 4}), "", ""),
    Breakage("not networked", "closed", system(is_network=""), "", ""),
    Breakage(
        "power", "closed", written(f"systems/{SYSTEM}_power.yaml", "node:\n  PSUs: []\n  Min PSUs Needed: 0\n"), "", ""
    ),
    Breakage("mlperf.conf", "closed", written(f"{R}/Offline/mlperf.conf", "*.*.min_duration = 600000\n"), "", ""),
    Breakage(
        "classic mlperf.conf", "classic", written(f"measurements/{SYSTEM}/bert-99/Offline/mlperf.conf", "# x\n"), "", ""
    ),
    Breakage("trace", "closed", written(f"{R}/Offline/performance/run_1/mlperf_log_trace.json", "[]"), "", ""),
    Breakage("results.json", "open", written(f"{B}/Offline/accuracy/results.json", "{}"), "", ""),
    Breakage("lower-case scenarios", "closed", lower_case, "", ""),
    Breakage("lower-case scenarios in open", "open", lower_case, "", ""),
    Breakage("lower-case scenarios of v5.1", "classic", lower_case, "", ""),
    Breakage("Server near 10/s", "open", summary_of("10.02", 10.0173), "", ""),
    Breakage("Server near 1/s", "open", summary_of("1.04", 1.0367), "", ""),
    Breakage("Server below 1/s", "open", summary_of("0.10", 0.0953), "", ""),
    Breakage("MultiStream inferred", "closed", inferred("SingleStream", "MultiStream"), "", ""),
    Breakage("Offline inferred from SingleStream", "closed", inferred("SingleStream", "Offline"), "", ""),
    Breakage("Offline inferred from MultiStream", "closed", inferred("MultiStream", "Offline"), "", ""),
    Breakage(
        "both inferred, in lower case",
        "closed",
        both(
            *(both(gone(f"{R}/{n}"), twin(f"{R}/SingleStream", f"{R}/{n.lower()}")) for n in ("Offline", "MultiStream"))
        ),
        "",
        "",
    ),
    Breakage("Offline both measured and inferred", "closed", twin(f"{R}/MultiStream", f"{R}/offline"), "", ""),
    Breakage("bert-99 from bert-99.9", "closed", high_accuracy, "", ""),
    Breakage(
        "output of the official accuracy script",
        "closed",
        both(
            lambda layout: written(
                f"{B}/Offline/accuracy/accuracy.txt",
                "Reading examples...\nLoading LoadGen logs...\nPost-processing predictions...\n"
                + (layout.root / B / "Offline/accuracy/accuracy.txt").read_text(),
            )(layout),
            replaced(f"{B}/SingleStream/accuracy/accuracy.txt", '"', "'"),
            appended(f"{B}/SingleStream/accuracy/accuracy.txt", "\n"),
        ),
        "",
        "",
    ),
    Breakage(
        "last query of MultiStream filled",
        "open",
        replaced(f"{B}/Offline/accuracy/{ACCURACY}", '"seq_id" : 0, "qsl_idx" : 0,', '"seq_id":10839, "qsl_idx":0,'),
        "",
        "",
    ),
    Breakage("own name mapped", "open", written("model_mapping.json", json.dumps({"mynet": "resnet"})), "", ""),
]
