"""A good submission tree with logs in LoadGen's format, for tests that break it.

The values are made up. The format is that of LoadGen 6.0.17; older versions differ only in lines that are not checked.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from harness.checking.check import examine
from harness.checking.tree import Problem
from harness.results.layout import LAYOUTS, Layout, Scene
from harness.rules.rounds import RULES, SEEDS, Round, find_round

SUBMITTER, SYSTEM, IMPLEMENTATION = "Acme", "epyc-9654-deepsparse", "harness"
SCENARIOS = {"resnet50": ("SingleStream", "MultiStream", "Offline"), "bert-99": ("SingleStream", "Offline")}
LOADGEN = {"v5.0": "5.0.21", "v5.1": "6.0.4", "v6.0": "6.0.15", "v6.1": "6.0.17"}
SCORE = {
    "Offline": ("result_samples_per_second", 1234.56, "Samples per second: "),
    "SingleStream": ("early_stopping_latency_ss", 2_345_678, " * Early stopping 90.0th percentile estimate: "),
    "MultiStream": ("early_stopping_latency_ms", 9_876_543, " * Early stopping 99.0th percentile estimate: "),
    "Server": ("result_completed_samples_per_sec", 987.65, "Completed samples per second    : "),
}

MORE = {
    "SingleStream": {"result_qps_without_loadgen_overhead": 431.5, "early_stopping_latency_ms": 2_400_000},
    "MultiStream": {"early_stopping_latency_ss": 9_111_111, "result_mean_query_latency_ns": 9_000_000},
}
"""Values that other results can be inferred from."""

SYSTEM_JSON: dict[str, Any] = {
    "division": "closed",
    "submitter": SUBMITTER,
    "system_type": "edge",
    "system_type_detail": "",
    "status": "available",
    "system_name": "Acme server",
    "number_of_nodes": "1",
    "host_processor_model_name": "AMD EPYC 9654",
    "host_processors_per_node": "2",
    "host_processor_core_count": "96",
    "host_processor_frequency": "",
    "host_processor_caches": "",
    "host_processor_interconnect": "",
    "host_memory_capacity": "768 GB",
    "host_memory_configuration": "24x 32 GB DDR5-4800",
    "host_storage_capacity": "2 TB",
    "host_storage_type": "NVMe",
    "host_networking": "Ethernet",
    "host_network_card_count": "1x 10 GbE",
    "host_networking_topology": "N/A",
    "accelerators_per_node": "0",
    "accelerator_model_name": "N/A",
    "accelerator_frequency": "",
    "accelerator_memory_capacity": "N/A",
    "accelerator_memory_configuration": "N/A",
    "accelerator_host_interconnect": "N/A",
    "accelerator_interconnect": "N/A",
    "accelerator_interconnect_topology": "",
    "accelerator_on-chip_memories": "",
    "cooling": "air",
    "hw_notes": "",
    "framework": "DeepSparse 1.8.0",
    "operating_system": "Debian 12",
    "other_software_stack": "Python 3.11, LoadGen",
    "sw_notes": "",
}

MEASUREMENTS = {
    "input_data_types": "fp32",
    "retraining": "No",
    "starting_weights_filename": "model.onnx",
    "weight_data_types": "int8",
    "weight_transformations": "No",
}


def log_line(key: str, value: Any, is_error: bool = False) -> str:
    entry = {
        "key": key,
        "value": value,
        "time_ms": 0.027131,
        "namespace": "mlperf::logging",
        "event_type": "POINT_IN_TIME",
        "metadata": {"is_error": is_error, "is_warning": False, "file": "x.cc", "line_no": 1, "pid": 2, "tid": 3},
    }
    return f":::MLLOG {json.dumps(entry)}\n"


def settings(round_: Round, benchmark: str, scenario: str, mode: str, **extra: Any) -> dict[str, Any]:
    """The values of a valid test of 600 seconds."""
    rules = RULES[benchmark]
    per_query = {"SingleStream": 1, "MultiStream": 8, "Server": 1, "Offline": 815_000}[scenario]
    values = {
        "loadgen_version": f"{LOADGEN[round_.name]} @ d6147c7eb7",
        "sut_name": "PyFastSUT",
        "qsl_reported_total_count": rules.samples,
        "qsl_reported_performance_count": rules.performance_samples,
        "requested_scenario": scenario,
        "effective_scenario": scenario,
        "effective_test_mode": mode,
        "effective_samples_per_query": per_query,
        "effective_target_qps": 1000,
        "effective_target_latency_ns": 15_000_000 if scenario == "Server" else 0,
        "effective_target_latency_percentile": 0.9 if scenario == "SingleStream" else 0.99,
        "effective_min_duration_ms": 600_000,
        "effective_max_duration_ms": 0,
        "effective_min_query_count": 1 if scenario == "Offline" else 100,
        "effective_max_query_count": 0,
        **{f"effective_{name}": seed for name, seed in zip(SEEDS, round_.seeds, strict=True)},
        "effective_accuracy_log_rng_seed": 0,
        "effective_accuracy_log_probability": 0,
        "effective_accuracy_log_sampling_target": 0,
        "effective_performance_issue_unique": False,
        "effective_performance_issue_same": False,
        "effective_performance_issue_same_index": 0,
        "effective_performance_sample_count": rules.performance_samples,
        "effective_accuracy_sample_count": rules.samples,
        "effective_sample_concatenate_permutation": False,
        **extra,
        "power_begin": "11-25-2026 10:40:46.079",
        "power_end": "11-25-2026 10:50:46.079",
    }
    if mode == "AccuracyOnly":
        return values
    key, score, _ = SCORE[scenario]
    return {
        **values,
        "result_validity": "VALID",
        "result_perf_constraints_met": True,
        "result_min_duration_met": True,
        "result_min_queries_met": True,
        "early_stopping_met": True,
        "early_stopping_result": "",
        "result_query_count": 1 if scenario == "Offline" else 250_000,
        **MORE.get(scenario, {}),
        key: score,
        "result_mean_latency_ns": 1_000_000,
        "result_99.00_percentile_latency_ns": 3_000_000,
        "num_errors": 0,
    }


def summary(values: dict[str, Any]) -> str:
    """mlperf_log_summary.txt of those values."""
    end = "\nNo warnings encountered during test.\n\nNo errors encountered during test.\n"
    if values["effective_test_mode"] == "AccuracyOnly":
        return end
    scenario = values["effective_scenario"]
    parameters = {
        "samples_per_query": "effective_samples_per_query",
        "target_latency (ns)": "effective_target_latency_ns",
        "min_duration (ms)": "effective_min_duration_ms",
        "max_duration (ms)": "effective_max_duration_ms",
        "min_query_count": "effective_min_query_count",
        "max_query_count": "effective_max_query_count",
        **{name: f"effective_{name}" for name in SEEDS},
        "accuracy_log_rng_seed": "effective_accuracy_log_rng_seed",
        "performance_sample_count": "effective_performance_sample_count",
    }
    lines = [
        "MLPerf Results Summary",
        "SUT name : PyFastSUT",
        f"Scenario : {scenario}",
        f"Mode     : {values['effective_test_mode']}",
        f"{SCORE[scenario][2]}{values.get(SCORE[scenario][0])}",
        f"Result is : {values['result_validity']}",
        "  Min duration satisfied : Yes",
        "Test Parameters Used",
        *(f"{name} : {values[key]}" for name, key in parameters.items()),
    ]
    return "\n".join(lines) + "\n" + end


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def put_logs(folder: Path, values: dict[str, Any]) -> None:
    put(folder / "mlperf_log_detail.txt", "".join(log_line(key, value) for key, value in values.items()))
    put(folder / "mlperf_log_summary.txt", summary(values))


def put_accuracy(folder: Path, benchmark: str, samples: int) -> None:
    """accuracy.txt and a truncated accuracy log."""
    data = "00000000" if benchmark == "resnet50" else "0000C0BF" * 2 * 384
    entries = ",\n".join(f'{{ "seq_id" : {n}, "qsl_idx" : {n}, "data" : "{data}" }}' for n in range(400))
    content = f"[\n{entries}\n]\n".encode()
    path = folder / "mlperf_log_accuracy.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content[:4096] + b"\n\n...\n\n" + content[-4096:])
    score = f"accuracy=76.456%, good={round(0.76456 * samples)}, total={samples}"
    if benchmark != "resnet50":
        score = '{"exact_match": 83.67, "f1": 90.88}'
    put(folder / "accuracy.txt", f"{score}\nhash={hashlib.sha256(content).hexdigest()}\n")


def put_result(layout: Layout, round_: Round, scene: Scene, compliance: bool) -> None:
    """A result with all of its files."""
    measurements = layout.measurements(scene)
    put(layout.measurements_file(scene, IMPLEMENTATION), json.dumps(MEASUREMENTS, indent=2) + "\n")
    put(measurements / "user.conf", "# no settings\n*.Offline.target_qps = 1235\n")
    put(measurements / "README.md", f"# {scene.benchmark}, {scene.scenario}\n")
    rules = RULES[scene.benchmark]
    args = (round_, scene.benchmark, scene.scenario)
    put_logs(layout.performance(scene), settings(*args, "PerformanceOnly"))
    put_logs(layout.accuracy(scene), settings(*args, "AccuracyOnly"))
    put_accuracy(layout.accuracy(scene), scene.benchmark, rules.samples)
    if not compliance:
        return
    audits = {
        "TEST01": {
            "effective_accuracy_log_rng_seed": 720381539243781796,
            "effective_accuracy_log_sampling_target": 4096,
        },
        "TEST04": {"effective_performance_issue_same": True, "effective_performance_issue_same_index": 3},
    }
    for test in rules.tests:
        folder = layout.compliance(scene, test)
        put_logs(folder / "performance" / "run_1", settings(*args, "PerformanceOnly", **audits[test]))
        score = SCORE[scene.scenario][1]
        put(
            folder / "verify_performance.txt",
            f"Verifying performance.\nReference score = {score}\nTest score = {score}\nTEST PASS\n",
        )
    first = layout.compliance(scene, "TEST01")
    put_accuracy(first / "accuracy", scene.benchmark, rules.samples)
    verdict = "num_perf_log_entries = 4096\nnum_perf_log_qsl_idx_match = 4096\nnum_perf_log_data_mismatch = 0\n"
    put(first / "verify_accuracy.txt", f"Verifying accuracy.\n{verdict}TEST PASS\n\n")


def make_tree(root: Path, name: str = "v6.1", division: str = "closed", **system: str) -> Layout:
    """A good tree below ``root``; ``system`` overrides fields of the description."""
    round_ = find_round(name)
    layout = LAYOUTS[round_.layout](root / division / SUBMITTER)
    described = SYSTEM_JSON | {"division": division} | system
    put(layout.system_file(SYSTEM), json.dumps(described, indent=2) + "\n")
    if division == "closed":
        put(layout.calibration, "# Calibration\n\n256 samples of the calibration set.\n")
    for benchmark in SCENARIOS if division == "closed" else ("resnet50", "bert-99"):
        put(layout.root / layout.code / benchmark / IMPLEMENTATION / "README.md", "# The harness\n")
        put(layout.root / layout.code / benchmark / IMPLEMENTATION / "main.py", "print('hello')\n")
        scenarios = SCENARIOS[benchmark]
        if division == "open":
            scenarios = ("Server", "Offline") if benchmark == "resnet50" else ("Offline",)
        elif described["system_type"] != "edge" and benchmark == "resnet50":
            scenarios = (*scenarios, "Server")
        for scenario in scenarios:
            for place in filter(None, (layout, layout.copies)):
                put_result(place, round_, Scene(SYSTEM, benchmark, scenario), division == "closed")
    if layout.copies:
        put(layout.root / layout.copies.code / "README.md", "The code is in ../code.\n")
    return layout


def check(root: Path, round_: Round | None = None, rehearsal: bool = False) -> list[Problem]:
    """The problems of a tree."""
    return list(examine(root, round_, rehearsal).problems)
