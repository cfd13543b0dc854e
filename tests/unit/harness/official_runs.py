"""Official runs with made-up logs in LoadGen's format, and packages of them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from submission_tree import SCENARIOS, SYSTEM, SYSTEM_JSON, put, put_result

from harness.loadgen.logs import ACCURACY
from harness.results.layout import Classic, Scene
from harness.results.record import reference
from harness.rules.rounds import RULES, find_round
from harness.submission.package import package
from harness.submission.request import PackageRequest

ROOT = Path(__file__).parents[3]


TOP = ("systems", "measurements", "results", "compliance")


MODEL_FACTS = {"input_data_types": "int64", "weight_transformations": "no", "retraining": "No", "precision": "fp32"}


SCENE = Scene(SYSTEM, "resnet50", "Offline")


def record(benchmark: str, mode: str, **changes) -> dict:
    identity = {"model_sha256": "0" * 64, "engine": "deepsparse", "engine_settings": {}, "benchmark_settings": {}}
    return {
        "harness": "0.1.0",
        "scenario": "Offline",
        "mode": "accuracy" if mode == "accuracy" else "performance",
        "audit": mode if mode.startswith("TEST") else None,
        "command": f"harness run --official --mode {mode}",
        "for_submission": True,
        "rehearsal": False,
        "notice": None,
        "valid": True,
        "identity": identity,
        "model": {
            "name": f"{benchmark}-reference",
            "path": "/models/model.onnx",
            "sha256": "0" * 64,
            "official_name": benchmark,
            "benchmark": "resnet50" if benchmark == "resnet50" else "bert",
            "source": "model.onnx",
            "caveat": "",
            "equivalent": True,
            "metadata": {},
            **MODEL_FACTS,
        },
        "engine": {"name": "deepsparse", "version": "1.8.0"},
        "shapes": [[8, 128]],
        "dataset": {"name": "full", "sha256": "1" * 64, "samples_used": RULES[benchmark].samples},
        "machine": {"packages": {"numpy": "1.26"}, "python": "3.11", "os": "Linux", "cpu": "CPU", "cores": 2},
        "loadgen": {"loadgen_version": "6.0.17"},
        "result": {
            "metric": {"name": "throughput", "value": 12.5, "unit": "samples/s"},
            "accuracy": {"F1": 90.88} if mode == "accuracy" else None,
            "samples": 1000,
            "duration_s": 600.0,
        },
        **changes,
    }


def make_runs(root: Path, name: str = "v6.1") -> Classic:
    layout = Classic(root)
    for folder in TOP:  # as in a clone
        put(root / folder / "README.md", (ROOT / folder / "README.md").read_text())
    put(layout.system_file(SYSTEM), json.dumps(SYSTEM_JSON))
    for benchmark, scenarios in SCENARIOS.items():
        for scenario in scenarios:
            scene = Scene(SYSTEM, benchmark, scenario)
            put_result(layout, find_round(name), scene, compliance=True)
            folders = {"performance": layout.performance(scene), "accuracy": layout.accuracy(scene)}
            for test in RULES[benchmark].tests:
                folders[test] = layout.compliance(scene, test) / "performance" / "run_1"
            for folder in folders.values():
                put(folder / "user.conf", "*.Offline.target_qps = 12\n")
            for folder in (layout.accuracy(scene), layout.compliance(scene, "TEST01") / "accuracy"):
                whole(folder)
            for mode, folder in folders.items():
                about = {"reference": reference(layout.results(scene), mode)} if mode.startswith("TEST") else {}
                put(folder / "run.json", json.dumps(record(benchmark, mode, scenario=scenario, **about)))
    for left in layout.root.glob("measurements/*/*/*/*"):
        left.unlink()
    return layout


def whole(folder: Path) -> None:
    """Put a full accuracy log there."""
    log = "[\n" + ",\n".join(f'{{ "seq_id" : {n}, "qsl_idx" : {n}, "data" : "00" }}' for n in range(900)) + "\n]\n"
    put(folder / ACCURACY, log)
    score = (folder / "accuracy.txt").read_text().partition("\n")[0]
    put(folder / "accuracy.txt", f"{score}\nhash={hashlib.sha256(log.encode()).hexdigest()}\n")


def packaged(tree: Classic, output: Path, division: str = "closed", **changes):
    return package(PackageRequest(**wanted(tree, output, division) | changes))


def wanted(tree: Classic, output: Path, division: str = "closed") -> dict:
    return {"division": division, "submitter": "Acme", "systems": [SYSTEM], "tree": tree.root, "output": output}


def change(folder: Path, **changes) -> None:
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
