"""Our verdicts against those of the official run_verification.py, if INFERENCE_REPO names a checkout."""

from __future__ import annotations

import logging
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from audit_logs import write_log, write_run

from harness.compliance.folder import verify
from harness.compliance.verify import DTYPES, PASS, verify_accuracy, verify_performance
from harness.errors import HarnessError
from harness.rules.audits import AUDITS

SCENARIOS = ("Offline", "Server", "SingleStream", "MultiStream")
STYLES = ("loadgen", "line", "pretty")


@pytest.fixture(scope="module")
def compliance() -> Path:
    named = os.environ.get("INFERENCE_REPO")
    if not named:
        pytest.skip("INFERENCE_REPO does not name a checkout of mlcommons/inference")
    folder = Path(named).absolute() / "compliance"
    assert folder.is_dir(), f"INFERENCE_REPO={named} is not a checkout of mlcommons/inference"
    return folder


def official(compliance: Path, name: str, room: Path, dtype: str = "byte") -> dict[str, bool]:
    """The verdicts that run_verification.py reaches, by file."""
    options = ["-r", room / "results", "-c", room / "test", "-o", room / "out"]
    options += ["--dtype", dtype] if name == "TEST01" else []
    script = compliance / name / "run_verification.py"
    ran = subprocess.run([sys.executable, script, *options], cwd=room, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    files = ("verify_accuracy.txt", "verify_performance.txt") if name == "TEST01" else ("verify_performance.txt",)
    return {file: PASS in (room / "out" / name / file).read_text() for file in files}


def ours(name: str, room: Path, dtype: str = "byte") -> dict[str, bool]:
    def judged(judge, *args) -> bool:
        try:
            return judge(*args).passed
        except HarnessError:
            return False

    reference = room / "results"
    verdicts = {
        "verify_performance.txt": judged(verify_performance, reference / "performance/run_1", room / "test", name)
    }
    if name == "TEST01":
        logs = [folder / "mlperf_log_accuracy.json" for folder in (reference / "accuracy", room / "test")]
        verdicts["verify_accuracy.txt"] = judged(verify_accuracy, *logs, dtype)
    return verdicts


def scores(rng: random.Random, scenario: str) -> tuple[float, float]:
    """The scores of a performance run and of a test: random, or just above or below a bound, as LoadGen prints them."""
    bound = {"SingleStream": 200_000, "MultiStream": 1_600_000}.get(scenario)
    reference = rng.choice(
        [rng.uniform(1, 1e4), rng.uniform(1e4, 1e7), *([bound, bound + 1, bound - 1] if bound else [])]
    )
    if bound and rng.random() < 0.2:
        reference = rng.choice([5000, 4999, 625, 624])  # where TEST04's rate passes the bound
    edge = rng.choice([0.8, 0.9, 1.0, 1.1, 1.2, 1 / 1.1, 1 / 1.2])
    step = rng.choice([-1, 0, 0, 1])
    if bound:
        return round(reference), max(1, round(round(reference) * edge) + step)
    digits = rng.choice([0, 1, 2, 4])
    reference = round(reference, digits) or 1.0
    return reference, float(f"{round(reference * edge, digits) + step * 10**-digits:.6g}")


def render(rng: random.Random, name: str, room: Path, dtype: str) -> None:
    scenario = rng.choice(SCENARIOS)
    reference, score = scores(rng, scenario)
    write_run(room / "results" / "performance" / "run_1", scenario, reference, validity=_validity(rng))
    other = rng.choice([s for s in SCENARIOS if s != scenario]) if rng.random() < 0.05 else scenario
    errors = ["a query was lost"] if name == "TEST01" and rng.random() < 0.05 else []
    bound = 20_000_000 if name == "TEST01" and rng.random() < 0.1 else 15_000_000
    write_run(room / "test", other, score, audit=name, validity=_validity(rng), errors=errors, bound=bound)
    if name == "TEST01":
        _render_logs(rng, room, dtype)


def _validity(rng: random.Random) -> str:
    return "INVALID" if rng.random() < 0.04 else "VALID"


def _render_logs(rng: random.Random, room: Path, dtype: str) -> None:
    count, style, rows = rng.choice([1, 20, 300]), rng.choice(STYLES), rng.choice([1, 2, 12])
    code = {"byte": "f", "int32": "i", "int64": "q", "float32": "f"}[dtype]

    def response() -> bytes:
        values = [rng.randrange(-1, 1001) if code in "iq" else rng.uniform(-9, 9) for _ in range(rows)]
        return struct.pack(f"<{rows}{code}", *values)

    known = [(index, response()) for index in range(count)]
    known += rng.choices(known, k=rng.choice([0, 0, 5]))
    rng.shuffle(known)
    sampled = rng.choices(known, k=rng.choice([0, 1, 40, 40, 200]))
    fault = rng.choice(["", "", "", "first", "later", "empty", "odd", "hex", "all missing", "nan"])
    if sampled and fault:
        at = rng.randrange(len(sampled))
        index, data = sampled[at]
        item = DTYPES[dtype].itemsize
        changed = {
            "first": bytes([data[0] ^ 1]) + data[1:],
            "later": data[:-1] + bytes([data[-1] ^ 1]) if rows > 1 else data,
            "empty": b"",
            "odd": data + b"\x00",
            "hex": "0G",
            "nan": b"\x00\x00\xc0\x7f" * (len(data) // 4),
        }
        if fault == "all missing":  # with some missing, the official script passes and ours does not
            sampled = [(count + place, d) for place, (_, d) in enumerate(sampled)]
        else:
            sampled[at] = (index, changed[fault])
        if fault == "nan":
            known = [(i, changed["nan"] if i == index else d) for i, d in known]
        assert item <= len(data)
    write_log(room / "results" / "accuracy" / "mlperf_log_accuracy.json", known, style)
    write_log(room / "test" / "mlperf_log_accuracy.json", sampled, rng.choice([style, "loadgen"]))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", AUDITS)
def test_verdicts_equal_those_of_the_official_scripts(compliance, tmp_path, name):
    pairs = int(os.environ.get("INFERENCE_PAIRS", "40"))
    rng, seen = random.Random(7), {}
    for number in range(pairs):
        room, dtype = tmp_path / str(number), rng.choice([*DTYPES])
        render(rng, name, room, dtype)
        theirs, mine = official(compliance, name, room, dtype), ours(name, room, dtype)
        assert mine == theirs, f"pair {number} with {dtype} in {room}"
        for file, passed in theirs.items():
            seen.setdefault(file, []).append(passed)
    for file, passes in seen.items():
        print(f"{name} {file}: {len(passes)} pairs, {sum(passes)} passed")
        assert 0 < sum(passes) < len(passes)


def test_cases_that_only_the_official_scripts_pass(compliance, tmp_path):
    """Cases where ours is stricter on purpose: each of these passes there."""

    def room(name: str) -> Path:
        made = tmp_path / name
        write_run(made / "results" / "performance" / "run_1", "Server", 100.0)
        write_log(made / "results" / "accuracy" / "mlperf_log_accuracy.json", [(0, b"abcd"), (1, b"efgh")])
        write_log(made / "test" / "mlperf_log_accuracy.json", [(0, b"abcd")])
        return made

    # A sample that is missing in the accuracy run is counted, and from then on compared with itself.
    for name, sampled in {"some": [(0, b"abcd"), (2, b"efgh")], "all-repeated": [(2, b"efgh"), (2, b"efgh")]}.items():
        made = room(name)
        write_run(made / "test", "Server", 100.0, audit="TEST01")
        write_log(made / "test" / "mlperf_log_accuracy.json", sampled)
        assert official(compliance, "TEST01", made)["verify_accuracy.txt"]
        assert not ours("TEST01", made)["verify_accuracy.txt"]
    for name, changes in {
        "bound": {"bound": 20_000_000},
        "errors": {"errors": ["a query was lost"]},
        "no-score": {"score": None},
        "no-audit": {"audit": None},
    }.items():
        made = room(name)
        write_run(made / "test", "Server", **{"score": 100.0, "audit": "TEST04", **changes})
        assert official(compliance, "TEST04", made) == {"verify_performance.txt": True}
        assert ours("TEST04", made) == {"verify_performance.txt": False}


@pytest.mark.parametrize("differing", [False, True])
@pytest.mark.parametrize(("benchmark", "official_name"), [("resnet50", "resnet"), ("bert-99", "bert-99")])
def test_both_checkers_accept_the_folder(compliance, tmp_path, monkeypatch, benchmark, official_name, differing):
    monkeypatch.syspath_prepend(str(compliance.parent / "tools" / "submission"))
    old = pytest.importorskip("submission_checker_old")
    checks = pytest.importorskip("submission_checker.checks.compliance_check")
    configuration = pytest.importorskip("submission_checker.configuration.configuration")

    reference, folder = tmp_path / "results", tmp_path / "TEST01"
    write_run(reference / "performance" / "run_1")
    known = [(n, struct.pack("<f", n)) for n in range(10)]
    write_log(reference / "accuracy" / "mlperf_log_accuracy.json", known)
    write_run(folder / "performance" / "run_1", audit="TEST01")
    sampled = [known[3], (4, b"abcd"), known[3]] if differing else [known[3]]
    write_log(folder / "performance" / "run_1" / "mlperf_log_accuracy.json", sampled)
    forms = {
        "resnet50": "accuracy={:.3f}%, good=1, total=1\nhash=0\n",
        "bert-99": '{{"exact_match": 80.0, "f1": {}}}\nhash=0\n',
    }
    for lost, passed in ((0.9, True), (1.1, False)):

        def score(log: Path, lost: float = lost) -> str:
            tested = log.is_relative_to(folder)
            return forms[benchmark].format(90 - 0.9 * lost if tested else 90.0)

        verdicts = verify("TEST01", reference, folder, score)
        passed = passed or not differing
        assert verdicts.passed is passed
        monkeypatch.chdir(tmp_path)
        assert old.check_compliance_perf_dir("TEST01")
        assert old.check_compliance_acc_dir("TEST01", official_name, old.Config("v6.1", {})) is passed

        check = checks.ComplianceCheck.__new__(checks.ComplianceCheck)
        check.log, check.path, check.division, check.scenario = logging.getLogger(), "", "closed", "Offline"
        check.config, check.model = configuration.Config("v6.1", {}), official_name
        check.compliance_dir, check.test_list = str(tmp_path), ["TEST01"]
        lines = (folder / "verify_accuracy.txt").read_text().splitlines()
        check.submission_logs = type("Logs", (), {"loader_data": {"TEST01_acc_result": lines}})
        assert check.dir_exists_check()
        assert check.compliance_performance_check()
        assert check.accuracy_check() is passed
