"""Inject faults into real runs, and count those that give a VALID wrong result, a hang, a traceback or a lost run.

    .venv/bin/python tests/faults/count.py [NAME...]

Each fault runs in a process of its own, with the shipped questions and a tiny model of random weights. NAME selects
faults by a part of their name. It prints a line for each failure, then the numbers, and exits with 1 if there was one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "code"), str(HERE)]

import engine  # noqa: E402
import numpy as np  # noqa: E402
import onnx  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

SHIPPED = ROOT / "code" / "bert" / "data"
LIMIT = 60  # seconds after which a run counts as hung
REFUSED, KEPT, EITHER = "refused", "kept", "either"
SCENARIOS = ("Offline", "Server", "SingleStream", "MultiStream")
RATES = {
    "Offline": "target_qps = 4000",
    "Server": "target_qps = 500",
    "SingleStream": "target_latency = 0.5",
    "MultiStream": "target_latency = 4",
}


@dataclass(frozen=True)
class Fault:
    name: str
    expected: str
    """REFUSED: exit code 1, one message, nothing kept. KEPT: the record, score and exit code of a run without a fault.
    EITHER: one of the two."""
    mode: str = "performance"
    scenario: str = "Offline"
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Ended:
    code: int | None
    """None: it hung."""
    said: str
    kept: list[Path]
    records: list[dict]


def faults() -> list[Fault]:
    scenarios = cycle(SCENARIOS)
    found = []

    def add(name: str, expected: str, modes: tuple[str, ...] = ("performance", "accuracy"), **environment: str) -> None:
        for mode in modes:
            scenario = next(scenarios)
            found.append(Fault(f"{name} {mode} {scenario}", expected, mode, scenario, environment))

    invisible = {"zeros", "rows-mixed", "first-batch-for-all", "shared-buffer", "overwritten-later"}
    for name in engine.OUTPUTS:
        for moment in ("warm-up", "test"):
            expected = EITHER if name in invisible or name == "int64" else REFUSED
            modes = ("accuracy",) if name in invisible else ("performance", "accuracy")
            add(f"output {name} {moment}", expected, modes, FAULT=name, MOMENT=moment)
    for name in engine.HARMLESS:
        add(f"output {name}", EITHER, FAULT=name, MOMENT="warm-up")
    for moment in ("warm-up", "test"):
        add(f"input zeroed {moment}", REFUSED, FAULT="input-zeroed", MOMENT=moment)
    files = engine.INPUTS.keys() | engine.UNCHANGED.keys()
    for name in engine.ACTS.keys() - files:
        for moment in ("init", "compile", "warm-up", "test"):
            if name.startswith("logs") and moment != "test":
                continue
            add(f"act {name} {moment}", REFUSED, ("performance",), FAULT=name, MOMENT=moment)
        for moment in ("close", "describe"):
            after = moment == "close" and not name.startswith(("logs", "folder"))  # these strike at the result itself
            add(f"act {name} {moment}", KEPT if after else EITHER, ("performance",), FAULT=name, MOMENT=moment)
    for name in engine.INPUTS:
        add(f"file {name}", REFUSED, FAULT=name, MOMENT="test")
    for name in engine.UNCHANGED:
        add(f"file {name}", KEPT, FAULT=name, MOMENT="test")
    for name in engine.SIDE_EFFECTS:
        for moment in ("init", "test", "close"):
            add(f"side effect {name} {moment}", EITHER, ("accuracy",), FAULT=name, MOMENT=moment)
    for name in engine.DESCRIPTIONS:
        add(f"description {name}", EITHER, ("performance",), FAULT=name, MOMENT="described")
    for name, clock in CLOCKS.items():
        expected = EITHER if "slightly" in name else REFUSED
        for scenario in SCENARIOS:
            environment = {"CLOCK_AFTER": "6", **clock}
            found.append(Fault(f"clock {name} {scenario}", expected, "performance", scenario, environment))
    return found


CLOCKS = {
    "back": {"CLOCK_STEP": "-1.2"},
    "forward": {"CLOCK_STEP": "1.2"},
    "back and forth": {"CLOCK_STEP": "-0.5", "CLOCK_FOR": "0.7"},
    "forth and back": {"CLOCK_STEP": "0.5", "CLOCK_FOR": "0.7"},
    "fast": {"CLOCK_RATE": "1.05"},
    "slow": {"CLOCK_RATE": "0.95"},
    "slightly fast": {"CLOCK_RATE": "1.0005"},
    "slightly back": {"CLOCK_STEP": "-0.0005"},
}


def write_model(path: Path) -> None:
    """A graph with BERT's inputs and outputs that takes a fraction of a millisecond."""
    rng = np.random.default_rng(5)
    weights = {"words": rng.normal(size=(30522, 16)), "ends": rng.normal(size=(16, 2))}
    tensors = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    tensors.append(numpy_helper.from_array(np.array([2]), "axis"))
    nodes = [
        helper.make_node("Gather", ["words", "input_ids"], ["embedded"]),
        helper.make_node("MatMul", ["embedded", "ends"], ["logits"]),
        helper.make_node("Split", ["logits"], ["start", "end"], axis=2),
        helper.make_node("Squeeze", ["start", "axis"], ["start_logits"]),
        helper.make_node("Squeeze", ["end", "axis"], ["end_logits"]),
    ]
    names = ("input_ids", "attention_mask", "token_type_ids")
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["N", "L"]) for name in names]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "L"]) for name in ("start_logits", "end_logits")
    ]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)


def run(fault: Fault, library: Path) -> Ended:
    folder = Path(tempfile.mkdtemp(prefix="fault-"))
    try:
        return _run(fault, library, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(fault: Fault, library: Path, folder: Path) -> Ended:
    runs = folder / "runs"
    model, data = folder / "model.onnx", folder / "dev.json"
    vocab = folder / "vocab.txt"
    for source, copy in (("sample-v1.1.json", data), ("vocab.txt", vocab)):
        shutil.copy(SHIPPED / source, copy)
    write_model(model)
    conf = folder / "user.conf"
    conf.write_text(f"*.{fault.scenario}.{RATES[fault.scenario]}\n")
    command = [sys.executable, "-m", "harness.cli", "run", "--runs-dir", runs, "--user-conf", conf, "--model", model]
    command += ["--dataset", data, "--set", f"vocab={vocab}", "--samples", "24", "--scenario", fault.scenario]
    # The clock changes some seconds after the process began, whenever its test begins.
    duration = "8" if "CLOCK_AFTER" in fault.environment else "2"
    command += ["--mode", fault.mode, "--duration", duration, "--stall-timeout", "6", "--no-tuned"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'code'}:{HERE}", "RUNS": str(runs), **fault.environment}
    environment |= {"MODEL_FILE": str(model), "DATASET_FILE": str(data), "VOCAB_FILE": str(vocab)}
    environment["AFTER"] = "8" if fault.mode == "accuracy" else "300"
    if "FAULT" in fault.environment:
        command += ["--engine", "engine:Faulty", "--set", "max_batch=2"]
    else:
        command += ["--engine", "onnxruntime"]
        environment["LD_PRELOAD"] = str(library)
    process = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=folder, env=environment, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=LIMIT)
        code: int | None = process.returncode
    except subprocess.TimeoutExpired:
        code = None
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
    kept = sorted(runs.iterdir()) if runs.exists() else []
    records = [json.loads(path.read_text()) for path in runs.glob("*/run.json")] if runs.exists() else []
    return Ended(code, (out + err).decode(errors="replace"), kept, records)


def score(record: dict) -> str:
    return json.dumps(record["accuracy"], sort_keys=True) if record.get("accuracy") else ""


def wrong(fault: Fault, ended: Ended, right: str) -> str:
    """What is wrong with the run's end; "" if nothing is."""
    if ended.code is None:
        return "hung"
    if "Traceback" in ended.said:
        return "traceback"
    valid = [record for record in ended.records if record["valid"]]
    if ended.code == 0 and not valid:
        return "exit code 0 without a valid result"
    if valid and fault.expected == REFUSED:
        return "VALID and wrong"
    if (
        valid
        and fault.mode == "accuracy"
        and score(valid[0]) != right
        and "differs from ONNX Runtime" not in ended.said
    ):
        return "VALID with another score and no warning"
    if not ended.records and fault.expected == KEPT:
        return "lost"
    if not valid and "error:" not in ended.said and "INVALID" not in ended.said:
        return "no message"
    if valid and ended.code != 0:
        return f"kept, but exit code {ended.code}"
    if not valid and ended.kept and ended.code != 0 and not ended.records:
        return f"left behind: {', '.join(path.name for path in ended.kept)}"
    return ""


def main(names: list[str]) -> int:
    library = Path(tempfile.mkdtemp(prefix="fault-")) / "clock.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-o", library, HERE / "clock.c", "-ldl"], check=True)
    sound = run(Fault("none", KEPT, "accuracy", environment={"FAULT": "nothing"}), library)
    if not sound.records:
        sys.exit(f"the run without a fault failed: {sound.said}")
    right = score(sound.records[0])
    chosen = [fault for fault in faults() if not names or any(name in fault.name for name in names)]
    results: Counter[str] = Counter()
    begun = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        for fault, ended in zip(chosen, pool.map(lambda fault: run(fault, library), chosen), strict=True):
            problem = wrong(fault, ended, right)
            if "VERBOSE" in os.environ:
                print(fault.name, ended.code, ended.said)
            results[problem.split(":")[0]] += 1
            if problem:
                last = re.sub(r"\s+", " ", ended.said.strip())[-200:]
                print(f"{fault.name}: {problem} (exit code {ended.code}): {last}", flush=True)
    held = results.pop("", 0)
    print(f"{len(chosen)} faults in {time.monotonic() - begun:.0f} s: {held} held; {dict(results) or 'no failures'}")
    return 1 if results else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
