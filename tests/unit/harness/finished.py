"""Makes the folder of a finished run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from harness.results.finished import find
from harness.results.timeline import TIMELINE
from harness.running.recorder import Recorder
from harness.scenarios.base import Scenario, find_scenario
from harness.scheduling.base import Work
from harness.task.shape import Shape


def run_folder(
    above: Path,
    *,
    name: str | None = None,
    second: int = 10,
    scenario: str = "Server",
    mode: str = "performance",
    rate: float = 300.0,
    valid: bool = True,
    reasons: list[str] | None = None,
    notice: str | None = "Development run: not for submission.",
    model: str = "small",
    built: str | None = None,
    compressed: bool = True,
    caveat: str = "",
    accuracy: dict[str, float] | None = None,
    timeline: bool = True,
    queries: int = 3000,
    others: float | None = None,
) -> Path:
    """The folder with record, logs and timeline."""
    folder = above / (name or f"20261125T1200{second}-development-{model}-null-{scenario}-{mode}")
    folder.mkdir(parents=True)
    kind = find_scenario(scenario)
    values: dict[str, Any] = {
        "loadgen_version": "6.0.17",
        "effective_scenario": scenario,
        "effective_min_duration_ms": 1000,
        **({"effective_target_latency_ns": 130_000_000} if kind.paced else {}),
    }
    if mode == "performance":
        values |= {
            "result_validity": "VALID" if valid else "INVALID",
            kind.result_key: 12_345_678 if kind.latency else rate,
            "result_query_count": queries,
            "result_mean_latency_ns": 9_000_000,
            "result_max_latency_ns": 2_000_000_000,
            **{f"result_{key}_percentile_latency_ns": ns for key, ns in _PERCENTILES.items()},
        }
    values["num_errors" if mode == "performance" else "power_end"] = 0
    lines = [
        f":::MLLOG {json.dumps({'key': k, 'value': v, 'metadata': {'is_error': False}})}" for k, v in values.items()
    ]
    (folder / "mlperf_log_detail.txt").write_text("\n".join(lines))
    (folder / "mlperf_log_summary.txt").write_text("No errors encountered during test.\n")
    metadata = {"model": built, **({"compression": "one shot"} if compressed else {})} if built else {}
    record = {
        "harness": "0.1.0",
        "time": f"2026-11-25T12:00:{second}+0000",
        "command": f"harness run --scenario {scenario}",
        "for_submission": False,
        "rehearsal": False,
        "notice": notice,
        "scenario": scenario,
        "mode": mode,
        "audit": None,
        "identity": {"model_sha256": None, "engine": "null", "engine_settings": {}, "benchmark_settings": {}},
        "model": {
            "name": model,
            "path": "small.onnx",
            "benchmark": "bert",
            "official_name": "bert-99",
            "sha256": None,
            "source": "unknown",
            "precision": "int8",
            "input_data_types": "int64",
            "weight_transformations": "no",
            "retraining": "No",
            "equivalent": False,
            "settings": {},
            "caveat": caveat,
            "remark": "",
            "metadata": metadata,
        },
        "dataset": {"name": "sample", "path": "s.json", "sha256": None, "samples_used": 250},
        "tuned": None,
        "benchmark_settings": {},
        "engine": {"name": "null", "streams": 2},
        "result": {
            "metric": {
                "name": "90th percentile latency" if kind.latency else "throughput",
                "value": 12.345678 if kind.latency else rate,
                "unit": "ms" if kind.latency else "samples/s",
            },
            "latency_ms": {key: ns / 1e6 for key, ns in _PERCENTILES.items()},
            "duration_s": 2.0,
            "samples": queries,
            "batches": queries,
            "cost": 100 * queries,
            "cost_unit": "tokens",
            "padded_to_real": 1.2,
            "accuracy": accuracy,
            "accuracy_scope": "all 250 questions of sample" if accuracy else None,
            "cores": None if others is None else _cores(others),
        },
        "loadgen": {"loadgen_version": "6.0.17"},
        "machine": {
            "cpu": "some CPU",
            "cores": 2,
            "memory_bytes": 2**33,
            "os": "Linux",
            "python": "3.11.7",
            "packages": {"numpy": "1.26.4"},
        },
        "valid": valid,
        "reasons": reasons or [],
    }
    (folder / "run.json").write_text(json.dumps(record))
    if timeline:
        _recorded(kind, queries).save(folder / TIMELINE, kind.samples_per_query)
    return folder


def _cores(others: float) -> dict[str, Any]:
    return {"own": 1.3, "others": others, "stolen": 0.01, "of": 2.0, "disturbed": others > 0.1}


_PERCENTILES = {"50.00": 9_876_543, "90.00": 20_000_000, "99.00": 30_000_000}


def rated(folder: Path) -> dict[str, Any]:
    """The record."""
    return json.loads((folder / "run.json").read_text())


def _recorded(scenario: type[Scenario], queries: int) -> Recorder:
    recorder = Recorder()
    recorder.arrived(100.0)
    for number in range(queries):
        start = 100.0 + number / 1000
        arrivals = () if scenario.one_query else (start - 0.001 * (number % 7),)
        length = 64 * (1 + number % 6)
        recorder.answered(start, start + 0.002 + 0.001 * (number % 5), _work(number, length, arrivals), 50)
    recorder._cpu += [(100.0 + 0.2 * tick, 0.1 * tick, 0.3 * tick) for tick in range(15)]
    return recorder


def _work(number: int, length: int, arrivals: tuple[float, ...]) -> Work:
    return Work([number], np.array([number]), Shape(1, length), arrivals)


def found(runs: Path, *chosen: str, last: int | None = None):
    return find(chosen, last, runs, runs.parent / "tree")
