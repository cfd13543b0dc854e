"""Ways to break a good tree, each with the path that `harness check` must name and words of its message."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submission_tree import IMPLEMENTATION, SUBMITTER, SYSTEM, log_line, put, put_logs

from harness.results.layout import Layout, Scene

OFFLINE = Scene(SYSTEM, "resnet50", "Offline")
SINGLE = Scene(SYSTEM, "resnet50", "SingleStream")
MULTI = Scene(SYSTEM, "resnet50", "MultiStream")
SERVER = Scene(SYSTEM, "resnet50", "Server")
BERT = Scene(SYSTEM, "bert-99", "Offline")
BERT_SINGLE = Scene(SYSTEM, "bert-99", "SingleStream")
R, B = f"results/{SYSTEM}/resnet50", f"results/{SYSTEM}/bert-99"
SYSTEM_FILE = f"systems/{SYSTEM}.json"
POWER = f"systems/{SYSTEM}_power.yaml"
DETAIL, SUMMARY, ACCURACY = "mlperf_log_detail.txt", "mlperf_log_summary.txt", "mlperf_log_accuracy.json"
RUN = f"{R}/Offline/performance/run_1"
TEST01, TEST04 = f"{R}/Offline/TEST01", f"{R}/Offline/TEST04"

TREES = {"closed": ("v6.1", "closed"), "open": ("v6.1", "open"), "classic": ("v5.1", "closed")}


@dataclass(frozen=True)
class Breakage:
    """A way to break a tree."""

    name: str
    tree: str
    apply: Callable[[Layout], object]
    path: str
    """Below <division>/<submitter>; with "../" above it."""
    word: str

    def where(self) -> str:
        """The path below the tree's root."""
        return os.path.normpath(f"{TREES[self.tree][1]}/{SUBMITTER}/{self.path}")


def system(drop: str = "", **fields: Any) -> Callable[[Layout], object]:
    def change(layout: Layout) -> None:
        path = layout.system_file(SYSTEM)
        values = json.loads(path.read_text()) | fields
        values.pop(drop, None)
        path.write_text(json.dumps(values))

    return change


def measurements(drop: str = "", **fields: Any) -> Callable[[Layout], object]:
    def change(layout: Layout) -> None:
        path = layout.measurements_file(OFFLINE, IMPLEMENTATION)
        values = json.loads(path.read_text()) | fields
        values.pop(drop, None)
        path.write_text(json.dumps(values))

    return change


def read_values(folder: Path) -> dict[str, Any]:
    lines = (folder / DETAIL).read_text().splitlines()
    return {entry["key"]: entry["value"] for entry in (json.loads(line[9:]) for line in lines)}


def logged(folder: str, drop: str = "", **values: Any) -> Callable[[Layout], object]:
    """Both logs as LoadGen would have written them with those values."""

    def change(layout: Layout) -> None:
        path = layout.root / folder
        changed = read_values(path) | values
        changed.pop(drop, None)
        put_logs(path, changed)

    return change


def replaced(path: str, old: str, new: str) -> Callable[[Layout], object]:
    def change(layout: Layout) -> None:
        file = layout.root / path
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))

    return change


def written(path: str, text: str | bytes) -> Callable[[Layout], object]:
    def change(layout: Layout) -> None:
        file = layout.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())

    return change


def appended(path: str, text: str) -> Callable[[Layout], object]:
    return lambda layout: written(path, (layout.root / path).read_text() + text)(layout)


def cut(path: str, share: float) -> Callable[[Layout], object]:
    return lambda layout: written(path, (layout.root / path).read_bytes()[: int(share * size(layout, path))])(layout)


def size(layout: Layout, path: str) -> int:
    return (layout.root / path).stat().st_size


def gone(path: str) -> Callable[[Layout], object]:
    def change(layout: Layout) -> None:
        place = layout.root / path
        if place.is_dir():
            shutil.rmtree(place)
        else:
            place.unlink()

    return change


def moved(old: str, new: str) -> Callable[[Layout], object]:
    def change(layout: Layout) -> None:
        (layout.root / new).parent.mkdir(parents=True, exist_ok=True)
        (layout.root / old).rename(layout.root / new)

    return change


def copied(old: str, new: str) -> Callable[[Layout], object]:
    return lambda layout: written(new, (layout.root / old).read_bytes())(layout)


def twin(old: str, new: str) -> Callable[[Layout], object]:
    return lambda layout: shutil.copytree(layout.root / old, layout.root / new)


def inferred(source: str, target: str) -> Callable[[Layout], object]:
    """ResNet50's results of a scenario in the place of another one's."""
    return both(gone(f"{R}/{target}"), twin(f"{R}/{source}", f"{R}/{target}"))


def truncated_hash(folder: str) -> Callable[[Layout], object]:
    """accuracy.txt with the hash of the truncated log."""

    def change(layout: Layout) -> None:
        digest = hashlib.sha256((layout.root / folder / ACCURACY).read_bytes()).hexdigest()
        scores = layout.root / folder / "accuracy.txt"
        put(scores, re.sub("hash=.*", f"hash={digest}", scores.read_text()))

    return change


def renamed_system(name: str) -> Callable[[Layout], object]:
    return both(moved(SYSTEM_FILE, f"systems/{name}.json"), moved(f"results/{SYSTEM}", f"results/{name}"))


def folder(path: str) -> Callable[[Layout], object]:
    return lambda layout: (layout.root / path).mkdir(parents=True)


def both(*changes: Callable[[Layout], object]) -> Callable[[Layout], object]:
    return lambda layout: [change(layout) for change in changes]


def nondeterministic(baseline: str, compliance: str) -> Callable[[Layout], object]:
    """A TEST01 whose responses differ, with the accuracy of both runs."""
    return both(
        replaced(f"{TEST01}/verify_accuracy.txt", "TEST PASS", "TEST FAIL"),
        written(f"{TEST01}/accuracy/baseline_accuracy.txt", baseline),
        written(f"{TEST01}/accuracy/compliance_accuracy.txt", compliance),
    )


def line_gone(path: str, key: str) -> Callable[[Layout], object]:
    def change(layout: Layout) -> None:
        file = layout.root / path
        lines = file.read_text().splitlines(keepends=True)
        put(file, "".join(line for line in lines if f'"{key}"' not in line))

    return change


def wide(layout: Layout) -> None:
    """A system of both types, without the Server scenario that the closed division then also requires."""
    system(system_type="datacenter,edge")(layout)


_SEED = 1234567890123456789
BREAKAGES = [
    # The description of the system
    Breakage("system field emptied", "closed", system(cooling=""), SYSTEM_FILE, "cooling is empty"),
    Breakage("system field blank", "closed", system(cooling="  "), SYSTEM_FILE, "cooling is empty"),
    Breakage("system field missing", "closed", system("host_networking"), SYSTEM_FILE, "host_networking is missing"),
    Breakage("system optional field missing", "closed", system("hw_notes"), SYSTEM_FILE, "hw_notes is missing"),
    Breakage("system field null", "closed", system(framework=None), SYSTEM_FILE, "framework is null"),
    Breakage("system field number", "closed", system(operating_system=12), SYSTEM_FILE, "operating_system is a num"),
    Breakage("system field list", "closed", system(sw_notes=["x"]), SYSTEM_FILE, "sw_notes is not a string"),
    Breakage("accelerators 0", "closed", system(accelerators_per_node=0), SYSTEM_FILE, "accelerators_per_node"),
    Breakage("accelerators N/A", "closed", system(accelerators_per_node="N/A"), SYSTEM_FILE, "whole number"),
    Breakage("nodes 0", "closed", system(number_of_nodes=0), SYSTEM_FILE, "number_of_nodes is 0"),
    Breakage("nodes in words", "closed", system(number_of_nodes="one"), SYSTEM_FILE, "whole number"),
    Breakage("sockets in words", "closed", system(host_processors_per_node="2 (dual)"), SYSTEM_FILE, "2 (dual), not a"),
    Breakage("cores with a comma", "open", system(host_processor_core_count="8, 16"), SYSTEM_FILE, "semicolon"),
    Breakage("system name shifts the table", "closed", system(system_name='Acme", "x'), SYSTEM_FILE, "summary.csv"),
    Breakage("notes shift the table", "open", system(sw_notes='flags "-O3, -g"'), SYSTEM_FILE, "summary.csv"),
    Breakage("notes a number", "open", system(hw_notes=3), SYSTEM_FILE, "hw_notes is not a string"),
    Breakage("memory 0", "closed", system(host_memory_capacity=0), SYSTEM_FILE, "host_memory_capacity is 0"),
    Breakage("cores empty", "closed", system(host_processor_core_count=""), SYSTEM_FILE, "core_count is empty"),
    Breakage("cores missing", "open", system("host_processor_core_count"), SYSTEM_FILE, "core_count is missing"),
    Breakage("status unknown", "closed", system(status="soon"), SYSTEM_FILE, "available or preview"),
    Breakage("status missing", "closed", system("status"), SYSTEM_FILE, "status is missing"),
    Breakage("system type unknown", "closed", system(system_type="laptop"), SYSTEM_FILE, "system_type is laptop"),
    Breakage("system type missing", "open", system("system_type"), SYSTEM_FILE, "system_type is missing"),
    Breakage("system type datacenter", "closed", system(system_type="datacenter"), B, "v6.1 does not have bert-99"),
    Breakage("open system type datacenter", "open", system(system_type="datacenter"), R, "v6.1 does not have resnet50"),
    Breakage("division of the other", "closed", system(division="open"), SYSTEM_FILE, "division is open"),
    Breakage("division upper case", "closed", system(division="Closed"), SYSTEM_FILE, "division is Closed"),
    Breakage("submitter of another", "closed", system(submitter="Other"), SYSTEM_FILE, "submitter is Other"),
    Breakage("network system", "closed", system(is_network="true"), SYSTEM_FILE, "is_network"),
    Breakage("is_network false", "closed", system(is_network="false"), SYSTEM_FILE, "is_network"),
    Breakage("system field to fill", "closed", system(cooling="FILL IN: air?"), SYSTEM_FILE, "filled in"),
    Breakage("system file missing", "closed", gone(SYSTEM_FILE), SYSTEM_FILE, "missing"),
    Breakage("system file empty", "closed", written(SYSTEM_FILE, ""), SYSTEM_FILE, "empty"),
    Breakage("system file cut", "closed", cut(SYSTEM_FILE, 0.5), SYSTEM_FILE, "not JSON"),
    Breakage("system file a list", "closed", written(SYSTEM_FILE, "[]"), SYSTEM_FILE, "a list"),
    Breakage("system file Latin-1", "closed", written(SYSTEM_FILE, b'{"a": "\xe9"}'), SYSTEM_FILE, "UTF-8"),
    Breakage("system without results", "closed", written("systems/b.json", "{}"), "systems/b.json", "no results"),
    Breakage(
        "system name with .json", "closed", renamed_system("a.json"), "systems/a.json.json", "not a system description"
    ),
    Breakage("half a character", "closed", system(framework="\ud83d"), SYSTEM_FILE, "incomplete character"),
    # Measurements
    Breakage(
        "measurements field empty",
        "closed",
        measurements(retraining=""),
        f"{R}/Offline/measurements.json",
        "retraining is empty",
    ),
    Breakage(
        "measurements field false",
        "closed",
        measurements(retraining=False),
        f"{R}/Offline/measurements.json",
        "true or false",
    ),
    Breakage(
        "measurements field missing",
        "closed",
        measurements("weight_data_types"),
        f"{R}/Offline/measurements.json",
        "weight_data_types is missing",
    ),
    Breakage(
        "measurements missing",
        "closed",
        gone(f"{R}/Offline/measurements.json"),
        f"{R}/Offline/measurements.json",
        "missing",
    ),
    Breakage(
        "measurements text",
        "open",
        written(f"{R}/Offline/measurements.json", '"hello"'),
        f"{R}/Offline/measurements.json",
        "a string",
    ),
    Breakage("README missing", "closed", gone(f"{R}/Offline/README.md"), f"{R}/Offline/README.md", "missing"),
    Breakage("README empty", "open", written(f"{R}/Offline/README.md", ""), f"{R}/Offline/README.md", "empty"),
    Breakage("user.conf missing", "closed", gone(f"{B}/Offline/user.conf"), f"{B}/Offline/user.conf", "missing"),
    Breakage("user.conf empty", "closed", written(f"{R}/Offline/user.conf", ""), f"{R}/Offline/user.conf", "empty"),
    Breakage(
        "user.conf short",
        "closed",
        appended(f"{R}/Offline/user.conf", "*.Offline.min_duration = 60000\n"),
        f"{R}/Offline/user.conf",
        "min_duration is 60000",
    ),
    Breakage(
        "user.conf not understood",
        "closed",
        appended(f"{R}/Offline/user.conf", "*.Offline.target_qps=5\n"),
        f"{R}/Offline/user.conf",
        "spaces around",
    ),
    Breakage(
        "classic measurements missing",
        "classic",
        gone(f"measurements/{SYSTEM}/resnet50/Offline"),
        f"measurements/{SYSTEM}/resnet50/Offline",
        "missing",
    ),
    Breakage(
        "classic measurements of another name",
        "classic",
        moved(
            f"measurements/{SYSTEM}/bert-99/Offline/{SYSTEM}_{IMPLEMENTATION}_Offline.json",
            f"measurements/{SYSTEM}/bert-99/Offline/measurements.json",
        ),
        f"measurements/{SYSTEM}/bert-99/Offline",
        "needs exactly one file",
    ),
    Breakage(
        "classic measurements of another implementation",
        "classic",
        moved(
            f"measurements/{SYSTEM}/bert-99/Offline/{SYSTEM}_{IMPLEMENTATION}_Offline.json",
            f"measurements/{SYSTEM}/bert-99/Offline/{SYSTEM}_other_Offline.json",
        ),
        f"measurements/{SYSTEM}/bert-99/Offline/{SYSTEM}_other_Offline.json",
        "implementation other",
    ),
    Breakage(
        "measurements shift the table",
        "closed",
        measurements(weight_data_types='int8", "fp32'),
        f"{R}/Offline/measurements.json",
        "summary.csv",
    ),
    # Performance
    Breakage("INVALID", "closed", logged(RUN, result_validity="INVALID"), f"{RUN}/{DETAIL}", "INVALID"),
    Breakage("INVALID in open", "open", logged(RUN, result_validity="INVALID"), f"{RUN}/{DETAIL}", "INVALID"),
    Breakage("no verdict", "closed", line_gone(f"{RUN}/{DETAIL}", "result_validity"), f"{RUN}/{DETAIL}", "is missing"),
    *(
        Breakage(f"wrong {name}", "closed", logged(RUN, **{f"effective_{name}": _SEED}), f"{RUN}/{DETAIL}", name)
        for name in ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed")
    ),
    Breakage(
        "classic seed of v6.1",
        "classic",
        logged(RUN, effective_qsl_rng_seed=2085463073848966840),
        f"{RUN}/{DETAIL}",
        "in v5.1",
    ),
    Breakage(
        "accuracy seed wrong",
        "closed",
        logged(f"{R}/Offline/accuracy", effective_qsl_rng_seed=1),
        f"{R}/Offline/accuracy/{DETAIL}",
        "qsl_rng_seed",
    ),
    Breakage(
        "LoadGen of another round",
        "closed",
        logged(RUN, loadgen_version="6.0.4 @ d6147c7eb7"),
        f"{RUN}/{DETAIL}",
        "belongs to v5.1",
    ),
    Breakage("short", "closed", logged(RUN, effective_min_duration_ms=60000), f"{RUN}/{DETAIL}", "600000 or more"),
    Breakage("short in open", "open", logged(RUN, effective_min_duration_ms=20000), f"{RUN}/{DETAIL}", "600000"),
    Breakage(
        "clock says short",
        "closed",
        logged(RUN, power_end="11-25-2026 10:41:46.079"),
        f"{RUN}/{DETAIL}",
        "took only 60.0 s",
    ),
    Breakage(
        "duration met not", "closed", logged(RUN, result_min_duration_met=False), f"{RUN}/{DETAIL}", "True".lower()
    ),
    Breakage("limited", "closed", logged(RUN, effective_max_query_count=10), f"{RUN}/{DETAIL}", "max_query_count"),
    Breakage(
        "few performance samples",
        "closed",
        logged(RUN, effective_performance_sample_count=500),
        f"{RUN}/{DETAIL}",
        "1024 or more",
    ),
    Breakage(
        "few performance samples of bert",
        "open",
        logged(f"{B}/Offline/performance/run_1", effective_performance_sample_count=1024),
        f"{B}/Offline/performance/run_1/{DETAIL}",
        "10833 or more",
    ),
    Breakage(
        "small Offline query", "closed", logged(RUN, effective_samples_per_query=20000), f"{RUN}/{DETAIL}", "24576"
    ),
    Breakage(
        "small Offline query in open",
        "open",
        logged(f"{B}/Offline/performance/run_1", effective_samples_per_query=250),
        f"{B}/Offline/performance/run_1/{DETAIL}",
        "10833 or more",
    ),
    Breakage(
        "early stopping",
        "closed",
        logged(f"{R}/SingleStream/performance/run_1", early_stopping_met=False),
        f"{R}/SingleStream/performance/run_1/{DETAIL}",
        "early_stopping_met",
    ),
    Breakage(
        "Server bound",
        "open",
        logged(f"{R}/Server/performance/run_1", effective_target_latency_ns=20_000_000),
        f"{R}/Server/performance/run_1/{DETAIL}",
        "15000000 or less",
    ),
    Breakage(
        "no score", "closed", line_gone(f"{RUN}/{DETAIL}", "result_samples_per_second"), f"{RUN}/{DETAIL}", "per_second"
    ),
    Breakage("score 0", "open", logged(RUN, result_samples_per_second=0), f"{RUN}/{DETAIL}", "greater than 0"),
    Breakage(
        "score text", "open", logged(RUN, result_samples_per_second="fast"), f"{RUN}/{DETAIL}", "result_samples_per_sec"
    ),
    Breakage(
        "sample counts text",
        "closed",
        logged(RUN, effective_performance_sample_count="1024"),
        f"{RUN}/{DETAIL}",
        "1024 or more",
    ),
    Breakage(
        "accuracy log in performance's place",
        "closed",
        logged(RUN, effective_test_mode="AccuracyOnly"),
        f"{RUN}/{DETAIL}",
        "PerformanceOnly",
    ),
    Breakage(
        "another scenario",
        "closed",
        logged(f"{R}/MultiStream/performance/run_1", effective_scenario="Offline"),
        f"{R}/MultiStream/performance/run_1/{DETAIL}",
        "MultiStream",
    ),
    Breakage(
        "Offline from Server",
        "open",
        copied(f"{R}/Server/performance/run_1/{DETAIL}", f"{RUN}/{DETAIL}"),
        f"{RUN}/{DETAIL}",
        "must be Offline",
    ),
    Breakage(
        "Server from Offline",
        "open",
        copied(f"{R}/Offline/performance/run_1/{DETAIL}", f"{R}/Server/performance/run_1/{DETAIL}"),
        f"{R}/Server/performance/run_1/{DETAIL}",
        "same log",
    ),
    Breakage(
        "error logged",
        "closed",
        appended(f"{RUN}/{DETAIL}", log_line("error_runtime", "Multiple conf files are used", True)),
        f"{RUN}/{DETAIL}",
        "Multiple conf files",
    ),
    Breakage(
        "error logged in open",
        "open",
        appended(f"{RUN}/{DETAIL}", log_line("error_invalid", "no", True)),
        f"{RUN}/{DETAIL}",
        "logged an error",
    ),
    Breakage("errors counted", "closed", logged(RUN, num_errors=2), f"{RUN}/{DETAIL}", "num_errors is 2"),
    Breakage("errors counted in words", "open", logged(RUN, num_errors="0"), f"{RUN}/{DETAIL}", "num_errors is 0"),
    Breakage("log cut", "closed", cut(f"{RUN}/{DETAIL}", 0.6), f"{RUN}/{DETAIL}", "cut"),
    Breakage("log empty", "closed", written(f"{RUN}/{DETAIL}", ""), f"{RUN}/{DETAIL}", "empty"),
    Breakage("log missing", "closed", gone(f"{RUN}/{DETAIL}"), f"{RUN}/{DETAIL}", "missing"),
    Breakage("both logs missing", "open", gone(RUN), RUN, "missing"),
    Breakage(
        "line broken",
        "closed",
        replaced(f"{RUN}/{DETAIL}", '"value": "PyFastSUT"', '"value": PyFast'),
        f"{RUN}/{DETAIL}",
        "line 2",
    ),
    Breakage(
        "line without metadata",
        "closed",
        appended(f"{RUN}/{DETAIL}", ':::MLLOG {"key": "a", "value": 1}\n'),
        f"{RUN}/{DETAIL}",
        "not written by LoadGen",
    ),
    Breakage(
        "first line foreign",
        "open",
        lambda layout: written(f"{RUN}/{DETAIL}", "hello\n" + (layout.root / RUN / DETAIL).read_text())(layout),
        f"{RUN}/{DETAIL}",
        "line 1",
    ),
    Breakage(
        "log of two tests",
        "closed",
        appended(f"{RUN}/{DETAIL}", log_line("result_validity", "INVALID")),
        f"{RUN}/{DETAIL}",
        "twice",
    ),
    Breakage("summary missing", "closed", gone(f"{RUN}/{SUMMARY}"), f"{RUN}/{SUMMARY}", "missing"),
    Breakage("summary cut", "closed", cut(f"{RUN}/{SUMMARY}", 0.5), f"{RUN}/{SUMMARY}", "does not end"),
    Breakage(
        "summary INVALID",
        "closed",
        replaced(f"{RUN}/{SUMMARY}", "Result is : VALID", "Result is : INVALID"),
        f"{RUN}/{SUMMARY}",
        "INVALID",
    ),
    Breakage(
        "summary of another test",
        "closed",
        replaced(f"{RUN}/{SUMMARY}", "min_duration (ms) : 600000", "min_duration (ms) : 60000"),
        f"{RUN}/{SUMMARY}",
        "min_duration (ms) is 60000 here",
    ),
    Breakage(
        "summary of another score",
        "closed",
        replaced(f"{RUN}/{SUMMARY}", "per second: 1234.56", "per second: 2234.56"),
        f"{RUN}/{SUMMARY}",
        "1234.56 in",
    ),
    Breakage("stray file in run", "closed", written(f"{RUN}/run.json", "{}"), f"{RUN}/run.json", "belong"),
    Breakage(
        "long accuracy log of performance",
        "closed",
        written(f"{RUN}/{ACCURACY}", "[" + " " * 20000 + "]"),
        f"{RUN}/{ACCURACY}",
        "not truncated",
    ),
    Breakage(
        "second run",
        "closed",
        written(f"{R}/Offline/performance/run_2/{DETAIL}", "x"),
        f"{R}/Offline/performance/run_2",
        "belong",
    ),
    Breakage(
        "performance with audit",
        "closed",
        logged(RUN, effective_accuracy_log_rng_seed=720381539243781796),
        f"{RUN}/{DETAIL}",
        "audit.config",
    ),
    # Accuracy
    Breakage(
        "accuracy under target",
        "closed",
        replaced(f"{R}/Offline/accuracy/accuracy.txt", "accuracy=76.456%, good=38228", "accuracy=75.600%, good=37800"),
        f"{R}/Offline/accuracy/accuracy.txt",
        "top-1 is 75.6",
    ),
    Breakage(
        "F1 under target",
        "closed",
        replaced(f"{B}/Offline/accuracy/accuracy.txt", "90.88", "89.96"),
        f"{B}/Offline/accuracy/accuracy.txt",
        "F1 is 89.96",
    ),
    Breakage(
        "F1 just under target",
        "closed",
        replaced(f"{B}/Offline/accuracy/accuracy.txt", "90.88", "89.96525"),
        f"{B}/Offline/accuracy/accuracy.txt",
        "below the closed",
    ),
    Breakage(
        "no hash",
        "closed",
        replaced(f"{B}/Offline/accuracy/accuracy.txt", "hash=", "sha="),
        f"{B}/Offline/accuracy/accuracy.txt",
        "no hash",
    ),
    Breakage(
        "hash not alone",
        "closed",
        replaced(f"{B}/Offline/accuracy/accuracy.txt", "hash=", " hash="),
        f"{B}/Offline/accuracy/accuracy.txt",
        "no hash",
    ),
    Breakage(
        "no score in accuracy.txt",
        "open",
        replaced(f"{B}/Offline/accuracy/accuracy.txt", "f1", "F"),
        f"{B}/Offline/accuracy/accuracy.txt",
        "no score",
    ),
    Breakage(
        "hash behind a separator that ends no line",
        "closed",
        replaced(f"{B}/Offline/accuracy/accuracy.txt", "\nhash=", "\u2028hash="),
        f"{B}/Offline/accuracy/accuracy.txt",
        "no hash",
    ),
    Breakage(
        "another score in a remark",
        "closed",
        appended(f"{R}/Offline/accuracy/accuracy.txt", "accuracy=1.0% of random weights\n"),
        f"{R}/Offline/accuracy/accuracy.txt",
        "line 3",
    ),
    Breakage(
        "two scores",
        "closed",
        appended(f"{B}/Offline/accuracy/accuracy.txt", '{"exact_match": 1.0, "f1": 2.0}\n'),
        f"{B}/Offline/accuracy/accuracy.txt",
        "2 scores",
    ),
    Breakage(
        "counts that do not fit",
        "closed",
        replaced(f"{R}/Offline/accuracy/accuracy.txt", "good=38228", "good=30000"),
        f"{R}/Offline/accuracy/accuracy.txt",
        "is not 76.456 %",
    ),
    Breakage(
        "accuracy.txt missing",
        "closed",
        gone(f"{B}/Offline/accuracy/accuracy.txt"),
        f"{B}/Offline/accuracy/accuracy.txt",
        "missing",
    ),
    Breakage(
        "accuracy.txt empty",
        "open",
        written(f"{B}/Offline/accuracy/accuracy.txt", ""),
        f"{B}/Offline/accuracy/accuracy.txt",
        "empty",
    ),
    Breakage("accuracy run missing", "open", gone(f"{B}/Offline/accuracy"), f"{B}/Offline/accuracy", "missing"),
    Breakage(
        "accuracy log missing",
        "closed",
        gone(f"{B}/Offline/accuracy/{ACCURACY}"),
        f"{B}/Offline/accuracy/{ACCURACY}",
        "missing",
    ),
    Breakage(
        "accuracy log not truncated",
        "closed",
        written(f"{B}/Offline/accuracy/{ACCURACY}", "[" + "0, " * 9000 + "0]"),
        f"{B}/Offline/accuracy/{ACCURACY}",
        "not truncated",
    ),
    Breakage(
        "accuracy log cut",
        "closed",
        cut(f"{B}/Offline/accuracy/{ACCURACY}", 0.5),
        f"{B}/Offline/accuracy/{ACCURACY}",
        "cut",
    ),
    Breakage(
        "accuracy log of another run",
        "closed",
        written(f"{B}/Offline/accuracy/{ACCURACY}", "[]"),
        f"{B}/Offline/accuracy/{ACCURACY}",
        "sha256",
    ),
    Breakage(
        "hash of the truncated log",
        "closed",
        truncated_hash(f"{B}/Offline/accuracy"),
        f"{B}/Offline/accuracy/{ACCURACY}",
        "that of the truncated log",
    ),
    Breakage(
        "hash of another log",
        "closed",
        both(
            copied(f"{R}/Offline/accuracy/accuracy.txt", f"{R}/MultiStream/accuracy/accuracy.txt"),
            replaced(f"{R}/MultiStream/accuracy/{ACCURACY}", '"qsl_idx" : 7,', '"qsl_idx" : 8,'),
        ),
        f"{R}/MultiStream/accuracy/accuracy.txt",
        "the logs differ",
    ),
    Breakage(
        "answers of BERT in ResNet50's folder",
        "open",
        copied(f"{B}/Offline/accuracy/{ACCURACY}", f"{R}/Offline/accuracy/{ACCURACY}"),
        f"{R}/Offline/accuracy/{ACCURACY}",
        "not those of resnet",
    ),
    Breakage(
        "answers of ResNet50 in BERT's folder",
        "open",
        replaced(f"{B}/Offline/accuracy/{ACCURACY}", '"qsl_idx" : 0,', '"qsl_idx" : 10833,'),
        f"{B}/Offline/accuracy/{ACCURACY}",
        "sample 10833",
    ),
    Breakage(
        "classes in BERT's folder",
        "closed",
        written(
            f"{B}/Offline/accuracy/{ACCURACY}",
            "[\n" + ",\n".join(f'{{ "seq_id" : {n}, "qsl_idx" : {n}, "data" : "0000B443" }}' for n in range(9)) + "]\n",
        ),
        f"{B}/Offline/accuracy/{ACCURACY}",
        "not those of bert-99",
    ),
    Breakage(
        "answers of another benchmark in TEST01",
        "closed",
        copied(f"{B}/Offline/TEST01/accuracy/{ACCURACY}", f"{TEST01}/accuracy/{ACCURACY}"),
        f"{TEST01}/accuracy/{ACCURACY}",
        "not those of resnet",
    ),
    Breakage(
        "accuracy detail missing",
        "closed",
        gone(f"{B}/Offline/accuracy/{DETAIL}"),
        f"{B}/Offline/accuracy/{DETAIL}",
        "missing",
    ),
    Breakage(
        "accuracy summary missing",
        "open",
        gone(f"{B}/Offline/accuracy/{SUMMARY}"),
        f"{B}/Offline/accuracy/{SUMMARY}",
        "missing",
    ),
    Breakage(
        "accuracy of few samples",
        "closed",
        logged(f"{B}/Offline/accuracy", qsl_reported_total_count=250, effective_accuracy_sample_count=250),
        f"{B}/Offline/accuracy/{DETAIL}",
        "10833",
    ),
    Breakage(
        "accuracy of few samples in open",
        "open",
        logged(f"{R}/Offline/accuracy", effective_accuracy_sample_count=500),
        f"{R}/Offline/accuracy/{DETAIL}",
        "50000",
    ),
    Breakage(
        "accuracy error logged",
        "closed",
        appended(f"{B}/Offline/accuracy/{DETAIL}", log_line("error_runtime", "oh", True)),
        f"{B}/Offline/accuracy/{DETAIL}",
        "logged an error",
    ),
    Breakage(
        "stray file in accuracy",
        "closed",
        written(f"{B}/Offline/accuracy/notes.txt", "x"),
        f"{B}/Offline/accuracy/notes.txt",
        "belong",
    ),
    Breakage(
        "predictions beside accuracy",
        "open",
        written(f"{B}/Offline/accuracy/results.bin", "x"),
        f"{B}/Offline/accuracy/results.bin",
        "belong",
    ),
    # Compliance
    Breakage("TEST01 missing", "closed", gone(TEST01), TEST01, "requires TEST01"),
    Breakage("TEST04 missing", "closed", gone(TEST04), TEST04, "requires TEST04"),
    Breakage(
        "classic TEST01 missing",
        "classic",
        gone(f"compliance/{SYSTEM}/bert-99/Offline"),
        f"compliance/{SYSTEM}/bert-99/Offline/TEST01",
        "requires TEST01",
    ),
    Breakage(
        "verify_performance missing",
        "closed",
        gone(f"{TEST04}/verify_performance.txt"),
        f"{TEST04}/verify_performance.txt",
        "missing",
    ),
    Breakage(
        "verify_performance fails",
        "closed",
        replaced(f"{TEST04}/verify_performance.txt", "TEST PASS", "TEST FAIL: Test score invalid"),
        f"{TEST04}/verify_performance.txt",
        "TEST PASS",
    ),
    Breakage(
        "verify_accuracy missing",
        "closed",
        gone(f"{TEST01}/verify_accuracy.txt"),
        f"{TEST01}/verify_accuracy.txt",
        "missing",
    ),
    Breakage(
        "verify_accuracy fails",
        "closed",
        replaced(f"{TEST01}/verify_accuracy.txt", "TEST PASS", "TEST FAIL"),
        f"{TEST01}/verify_accuracy.txt",
        "TEST PASS",
    ),
    Breakage(
        "verify_accuracy passes in a sentence",
        "closed",
        replaced(f"{TEST01}/verify_accuracy.txt", "TEST PASS", "this is a TEST PASS"),
        f"{TEST01}/verify_accuracy.txt",
        "TEST PASS",
    ),
    Breakage(
        "nothing compared",
        "closed",
        replaced(f"{TEST01}/verify_accuracy.txt", "qsl_idx_match = 4096", "qsl_idx_match = 0"),
        f"{TEST01}/verify_accuracy.txt",
        "no responses were compared",
    ),
    Breakage(
        "TEST01 accuracy missing", "closed", gone(f"{TEST01}/accuracy"), f"{TEST01}/accuracy", "folder is missing"
    ),
    Breakage(
        "TEST01 accuracy.txt missing",
        "closed",
        gone(f"{TEST01}/accuracy/accuracy.txt"),
        f"{TEST01}/accuracy/accuracy.txt",
        "missing",
    ),
    Breakage(
        "TEST01 with an extra baseline",
        "closed",
        written(f"{TEST01}/accuracy/baseline_accuracy.txt", "accuracy=76.4%\n"),
        f"{TEST01}/accuracy/baseline_accuracy.txt",
        "belong",
    ),
    Breakage(
        "TEST01 scores differ",
        "closed",
        nondeterministic("accuracy=76.456%, good=1, total=1\n", "accuracy=74.000%, good=1, total=1\n"),
        f"{TEST01}/accuracy/compliance_accuracy.txt",
        "differ by",
    ),
    Breakage(
        "TEST01 scores absent",
        "closed",
        nondeterministic("accuracy=76.456%, good=1, total=1\n", "nothing\n"),
        f"{TEST01}/accuracy/compliance_accuracy.txt",
        "one score",
    ),
    Breakage(
        "TEST01 two scores",
        "closed",
        nondeterministic("accuracy=76.456%, good=1, total=1\n", "accuracy=76.4%\naccuracy: 50\n"),
        f"{TEST01}/accuracy/compliance_accuracy.txt",
        "one score",
    ),
    Breakage(
        "TEST01 passes behind a separator",
        "closed",
        replaced(f"{TEST01}/verify_accuracy.txt", "\nTEST PASS", "\u2028TEST PASS"),
        f"{TEST01}/verify_accuracy.txt",
        "TEST PASS",
    ),
    Breakage(
        "TEST01 performance missing",
        "closed",
        gone(f"{TEST01}/performance"),
        f"{TEST01}/performance",
        "folder is missing",
    ),
    Breakage(
        "TEST04 log missing",
        "closed",
        gone(f"{TEST04}/performance/run_1/{DETAIL}"),
        f"{TEST04}/performance/run_1/{DETAIL}",
        "missing",
    ),
    Breakage(
        "TEST04 INVALID",
        "closed",
        logged(f"{TEST04}/performance/run_1", result_validity="INVALID"),
        f"{TEST04}/performance/run_1/{DETAIL}",
        "INVALID",
    ),
    Breakage(
        "TEST01 wrong seed",
        "closed",
        logged(f"{TEST01}/performance/run_1", effective_schedule_rng_seed=5),
        f"{TEST01}/performance/run_1/{DETAIL}",
        "schedule_rng_seed",
    ),
    Breakage(
        "TEST01 short",
        "closed",
        logged(f"{TEST01}/performance/run_1", effective_min_duration_ms=60000),
        f"{TEST01}/performance/run_1/{DETAIL}",
        "600000",
    ),
    Breakage(
        "TEST01 without audit",
        "closed",
        logged(f"{TEST01}/performance/run_1", effective_accuracy_log_rng_seed=0),
        f"{TEST01}/performance/run_1/{DETAIL}",
        "in TEST01",
    ),
    Breakage(
        "TEST04 without audit",
        "closed",
        logged(f"{TEST04}/performance/run_1", effective_performance_issue_same=False),
        f"{TEST04}/performance/run_1/{DETAIL}",
        "in TEST04",
    ),
    Breakage(
        "TEST04 caches",
        "closed",
        logged(f"{TEST04}/performance/run_1", result_samples_per_second=1400),
        f"{TEST04}/performance/run_1/{DETAIL}",
        "faster",
    ),
    Breakage(
        "TEST01 slower",
        "closed",
        logged(f"{TEST01}/performance/run_1", result_samples_per_second=1000),
        f"{TEST01}/performance/run_1/{DETAIL}",
        "may differ by 10%",
    ),
    Breakage(
        "TEST04 stray file",
        "closed",
        written(f"{TEST04}/performance/run_1/audit.config", "x"),
        f"{TEST04}/performance/run_1/audit.config",
        "belong",
    ),
    Breakage("bert with TEST04", "closed", written(f"{B}/Offline/TEST04/a.txt", "x"), f"{B}/Offline/TEST04", "belong"),
    # Files and folders
    Breakage("scenario missing", "closed", gone(f"{R}/MultiStream"), f"{R}/MultiStream", "scenario is missing"),
    Breakage("Server missing for both types", "closed", wide, f"{R}/Server", "scenario is missing"),
    Breakage(
        "scenario not of the benchmark",
        "closed",
        moved(f"{B}/SingleStream", f"{B}/Server"),
        f"{B}/Server",
        "not allowed here",
    ),
    Breakage("scenario upper case", "closed", moved(f"{B}/Offline", f"{B}/OFFLINE"), f"{B}/OFFLINE", "to Offline"),
    Breakage("scenario twice", "closed", twin(f"{B}/Offline", f"{B}/offline"), f"{B}/offline", "same scenario"),
    Breakage(
        "classic measurements lower case",
        "classic",
        moved(f"measurements/{SYSTEM}/bert-99/Offline", f"measurements/{SYSTEM}/bert-99/offline"),
        f"measurements/{SYSTEM}/bert-99/offline",
        "rename it to Offline",
    ),
    # Results inferred from others
    Breakage(
        "inferred without an estimate",
        "closed",
        both(
            logged(f"{R}/SingleStream/performance/run_1", early_stopping_latency_ms=0),
            inferred("SingleStream", "MultiStream"),
        ),
        f"{R}/MultiStream/performance/run_1/{DETAIL}",
        "measure MultiStream",
    ),
    Breakage(
        "inferred from Offline",
        "closed",
        inferred("Offline", "MultiStream"),
        f"{R}/MultiStream/performance/run_1/{DETAIL}",
        "must be MultiStream",
    ),
    Breakage(
        "inferred with tests of its own",
        "closed",
        both(
            copied(f"{R}/SingleStream/performance/run_1/{DETAIL}", f"{R}/MultiStream/performance/run_1/{DETAIL}"),
            copied(f"{R}/SingleStream/performance/run_1/{SUMMARY}", f"{R}/MultiStream/performance/run_1/{SUMMARY}"),
        ),
        f"{R}/MultiStream/TEST01/performance/run_1/{DETAIL}",
        "must be SingleStream",
    ),
    Breakage(
        "inferred for a datacenter",
        "open",
        both(
            system(system_type="datacenter"), logged(f"{B}/Offline/performance/run_1", effective_scenario="MultiStream")
        ),
        f"{B}/Offline/performance/run_1/{DETAIL}",
        "only systems of type edge",
    ),
    Breakage("scenario unknown in open", "open", moved(f"{B}/Offline", f"{B}/Batch"), f"{B}/Batch", "not allowed here"),
    Breakage(
        "benchmark unknown", "closed", moved(B, f"results/{SYSTEM}/bert-98"), f"results/{SYSTEM}/bert-98", "is unknown"
    ),
    Breakage(
        "benchmark unknown in open",
        "open",
        moved(B, f"results/{SYSTEM}/mynet"),
        f"results/{SYSTEM}/mynet",
        "is unknown",
    ),
    Breakage(
        "benchmark mapped wrongly",
        "open",
        both(moved(B, f"results/{SYSTEM}/mynet"), written("model_mapping.json", '{"mynet": "bert"}')),
        "model_mapping.json",
        "not a benchmark of this project",
    ),
    Breakage(
        "name of another benchmark mapped",
        "open",
        both(moved(B, f"results/{SYSTEM}/whisper"), written("model_mapping.json", '{"whisper": "bert-99"}')),
        "model_mapping.json",
        "another benchmark",
    ),
    Breakage(
        "mapping of another benchmark's name",
        "open",
        written("model_mapping.json", '{"efficientnet-lite": "bert-99"}'),
        "model_mapping.json",
        "names resnet50, but is mapped to bert-99",
    ),
    Breakage(
        "mapping of an official name",
        "open",
        written("model_mapping.json", '{"bert-99": "resnet"}'),
        "model_mapping.json",
        "is an official name",
    ),
    Breakage(
        "system name with a comma",
        "open",
        renamed_system("a,b"),
        "results/a,b/bert-99",
        "comma",
    ),
    Breakage("mapping no JSON", "open", written("model_mapping.json", "{"), "model_mapping.json", "not JSON"),
    Breakage("mapping a list", "open", written("model_mapping.json", "[1]"), "model_mapping.json", "a list"),
    Breakage("code missing", "closed", gone("src"), "src/resnet50", "code is missing"),
    Breakage("code of one missing", "closed", gone("src/bert-99"), "src/bert-99", "code is missing"),
    Breakage("classic code in src", "classic", moved("code", "src/all"), "code/resnet50", "code is missing"),
    Breakage("code named as in classic", "closed", moved("src", "code"), "code", "may contain only"),
    Breakage("calibration missing", "closed", gone("documentation"), "documentation/calibration.md", "missing"),
    Breakage(
        "calibration empty",
        "closed",
        written("documentation/calibration.md", ""),
        "documentation/calibration.md",
        "empty",
    ),
    Breakage("classic calibration missing", "classic", gone("calibration.md"), "calibration.md", "missing"),
    Breakage("stray file of submitter", "closed", written("notes.txt", "x"), "notes.txt", "belong"),
    Breakage("stray folder of submitter", "closed", written("extra/notes.txt", "x"), "extra", "may contain only"),
    Breakage("stray file of division", "closed", written("../notes.txt", "x"), "../notes.txt", "submitters"),
    Breakage("stray file of root", "closed", written("../../notes.txt", "x"), "../../notes.txt", "the root"),
    Breakage("archive in root", "closed", written("../../a.tar.gz", "x"), "../../a.tar.gz", "the root"),
    Breakage("division unknown", "closed", written("../../close/A/a.md", "x"), "../../close", "the root"),
    Breakage("stray file of results", "closed", written("results/a.csv", "x"), "results/a.csv", "only folders"),
    Breakage("stray file of a scenario", "closed", written(f"{R}/Offline/x.log", "x"), f"{R}/Offline/x.log", "belong"),
    Breakage(
        "hidden file",
        "closed",
        written("src/resnet50/harness/.DS_Store", "x"),
        "src/resnet50/harness/.DS_Store",
        "hidden",
    ),
    Breakage(".gitkeep", "closed", written(f"{RUN}/.gitkeep", ""), f"{RUN}/.gitkeep", "hidden"),
    Breakage("hidden folder", "open", written("src/.git/config", "x"), "src/.git", "hidden"),
    Breakage("space in a name", "closed", written("src/a b/c.py", "x"), "src/a b", "space"),
    Breakage(
        "cache",
        "closed",
        written("src/resnet50/harness/__pycache__/a.pyc", "x"),
        "src/resnet50/harness/__pycache__",
        "cache",
    ),
    Breakage("empty folder", "closed", folder("src/resnet50/empty"), "src/resnet50/empty", "empty"),
    Breakage("empty system", "closed", folder("results/other"), "results/other", "no results"),
    Breakage(
        "broken link",
        "closed",
        lambda layout: (layout.root / "src/a.py").symlink_to("nowhere"),
        "src/a.py",
        "symbolic link",
    ),
    Breakage(
        "link",
        "closed",
        lambda layout: (layout.root / "src/a.py").symlink_to("resnet50/harness/main.py"),
        "src/a.py",
        "symbolic link",
    ),
    Breakage(
        "huge file",
        "closed",
        lambda layout: (put(layout.root / "src/model.onnx", ""), os.truncate(layout.root / "src/model.onnx", 51 << 20)),
        "src/model.onnx",
        "50 MiB",
    ),
    Breakage("nothing left", "closed", gone("."), "../..", "does not contain <division>"),
    Breakage("results missing", "closed", gone("results"), "results", "there are no results"),
    Breakage(
        "classic measurements without results",
        "classic",
        written(f"measurements/{SYSTEM}/resnet50/Server/user.conf", "x"),
        f"measurements/{SYSTEM}/resnet50/Server",
        "does not belong to any result",
    ),
    # Marks of files that are not for submission
    Breakage(
        "development notice",
        "closed",
        appended(f"{R}/Offline/user.conf", "# Development run: not for submission.\n"),
        f"{R}/Offline/user.conf",
        "not for submission",
    ),
    Breakage(
        "notice file",
        "closed",
        written(f"{RUN}/NOT-FOR-SUBMISSION.txt", "x"),
        f"{RUN}/NOT-FOR-SUBMISSION.txt",
        "not for submission",
    ),
    Breakage(
        "random weights",
        "open",
        appended(f"{B}/Offline/README.md", "Random weights.\n"),
        f"{B}/Offline/README.md",
        "random weights",
    ),
    Breakage("null engine", "open", system(framework="null"), SYSTEM_FILE, "null"),
    Breakage(
        "null engine in a command",
        "open",
        appended(f"{B}/Offline/README.md", "`harness run --engine null`\n"),
        f"{B}/Offline/README.md",
        "engine null",
    ),
    Breakage("null engine in notes", "open", system(sw_notes="the null engine"), SYSTEM_FILE, "null engine"),
    Breakage(
        "stand-in data",
        "open",
        appended(f"{R}/Offline/README.md", "Stand-in images.\n"),
        f"{R}/Offline/README.md",
        "stand-in",
    ),
    Breakage(
        "README to fill",
        "closed",
        appended(f"{R}/Offline/README.md", "FILL IN how\n"),
        f"{R}/Offline/README.md",
        "FILL IN",
    ),
    Breakage("rehearsal", "open", system(sw_notes="REHEARSAL: not for submission"), SYSTEM_FILE, "rehearsal"),
    Breakage("power is no YAML", "open", written(f"systems/{SYSTEM}_power.yaml", "a: ["), POWER, "not YAML"),
    Breakage(
        "power has a tab", "closed", written(f"systems/{SYSTEM}_power.yaml", "node:\n\tPSUs: []"), POWER, "not YAML"
    ),
    Breakage(
        "rehearsal in accuracy.txt",
        "open",
        appended(f"{B}/Offline/accuracy/accuracy.txt", "REHEARSAL: not for submission\n"),
        f"{B}/Offline/accuracy/accuracy.txt",
        "rehearsal",
    ),
]
