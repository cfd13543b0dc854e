from __future__ import annotations

import json
import random
import re
import struct
import time
from pathlib import Path

import pytest
from audit_logs import write_log, write_run

from harness.cli import app
from harness.compliance.folder import check_subject, verify
from harness.compliance.score import allowed_delta, scorer
from harness.compliance.verify import (
    FAIL,
    PASS,
    baseline_log,
    beyond_the_rules,
    verify_accuracy,
    verify_delta,
    verify_performance,
)
from harness.errors import CheckFailed, ConfigError, HarnessError, RunFailed
from harness.loadgen.accuracy_log import read_entries
from harness.rules.audits import AUDITS, find_audit

RESPONSES = [(index, struct.pack("<ff", index, -index)) for index in range(20)]
OTHER = struct.pack("<ff", 500.5, 1)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return tmp_path / "performance" / "run_1", tmp_path / "TEST" / "performance" / "run_1"


def performance(folders, scenario, reference, score, audit="TEST01", **changes):
    one = write_run(folders[0], scenario, reference)
    return verify_performance(one, write_run(folders[1], scenario, score, audit=audit, **changes), audit)


def accuracy(tmp_path, sampled, responses=RESPONSES, dtype="int32", style="loadgen"):
    one = write_log(tmp_path / "accuracy.json", responses, style)
    return verify_accuracy(one, write_log(tmp_path / "sampled.json", sampled, style), dtype)


def test_audit_config_is_what_the_rules_say():
    assert AUDITS["TEST01"].config == (
        "*.*.mode = 2\n*.*.accuracy_log_rng_seed = 720381539243781796\n*.*.accuracy_log_sampling_target = 4096\n"
    )
    assert AUDITS["TEST04"].config == (
        "*.*.mode = 2\n*.*.performance_issue_unique = 0\n*.*.performance_issue_same = 1\n"
        "*.*.performance_issue_same_index = 3\n"
    )
    assert find_audit("test04") is AUDITS["TEST04"]
    with pytest.raises(ConfigError, match="unknown compliance test 'TEST05': did you mean 'TEST0"):
        find_audit("TEST05")


# Performance


@pytest.mark.parametrize(
    ("scenario", "reference", "score", "passed"),
    [
        ("Offline", 1000, 1100, True),
        ("Offline", 1000, 1100.1, False),
        ("Offline", 1000, 900, True),
        ("Offline", 1000, 899.9, False),
        ("Server", 100, 110.1, False),
        ("SingleStream", 200_000, 240_000, True),
        ("SingleStream", 200_000, 160_000, True),
        ("SingleStream", 200_000, 240_001, False),
        ("SingleStream", 200_001, 221_000, False),
        ("MultiStream", 1_600_000, 1_900_000, True),
        ("MultiStream", 1_600_001, 1_800_000, False),
    ],
)
def test_test01_is_as_fast_as_the_performance_run(folders, scenario, reference, score, passed):
    verdict = performance(folders, scenario, reference, score)
    assert verdict.passed is passed
    assert (PASS in verdict.text.splitlines()) is passed
    assert (FAIL in verdict.text) is not passed
    assert f"Reference score = {float(reference)}\nTest score = {float(score)}\n" in verdict.text


@pytest.mark.parametrize(
    ("scenario", "reference", "score", "passed"),
    [
        ("Offline", 1000, 1099.9, True),
        ("Offline", 1000, 1100, False),  # must be below
        ("Offline", 1000, 1, True),
        ("Server", 100, 109.99, True),
        ("Server", 100, 110.1, False),
        ("SingleStream", 1_000_000, 840_000, True),
        ("SingleStream", 1_000_000, 830_000, False),
        ("SingleStream", 4_999, 4_600, True),  # over 200,000 a second
        ("SingleStream", 4_999, 4_500, False),
        ("MultiStream", 1_000_000, 9_000_000, True),
    ],
)
def test_test04_is_not_faster(folders, scenario, reference, score, passed):
    verdict = performance(folders, scenario, reference, score, "TEST04")
    assert verdict.passed is passed
    assert passed or "it must be below" in verdict.reason


@pytest.mark.parametrize("audit", AUDITS)
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"validity": "INVALID"}, "is not VALID: repeat it"),
        ({"errors": ["lost a query"]}, "logged an error in .* lost a query"),
        ({"bound": 20_000_000}, "latency bound is 15000000 ns in the performance run and 20000000 ns in the test"),
        ({"score": None}, "has no Server result"),
        ({"score": 100.0, "scenario": "Offline"}, "the performance run is Server and the test is Offline"),
        ({"audit": None}, r"is not a log of TEST0. \(.*\): rerun the test with its audit.config"),
    ],
)
def test_runs_that_cannot_be_compared(folders, audit, changes, reason):
    write_run(folders[0], "Server", 100.0)
    write_run(folders[1], **{"scenario": "Server", "score": 100.0, "audit": audit, **changes})
    verdict = verify_performance(*folders, audit)
    assert not verdict.passed
    assert re.search(reason, verdict.reason)
    assert verdict.text.endswith(f"{FAIL}\n{verdict.reason}\n")
    assert PASS not in verdict.text


def test_an_invalid_performance_run(folders):
    write_run(folders[0], validity="INVALID")
    write_run(folders[1], audit="TEST01")
    assert str(folders[0]) in verify_performance(*folders).reason


def test_missing_and_incomplete_logs(folders):
    write_run(folders[0])
    with pytest.raises(ConfigError, match=r"mlperf_log_detail.txt is missing in .*TEST"):
        verify_performance(*folders)
    detail = write_run(folders[1]) / "mlperf_log_detail.txt"
    detail.write_text(detail.read_text()[:-200])
    with pytest.raises(RunFailed, match="is truncated: "):
        verify_performance(*folders)


# Accuracy


@pytest.mark.parametrize("style", ["loadgen", "line", "pretty"])
def test_equal_responses_pass(tmp_path, style):
    verdict = accuracy(tmp_path, [RESPONSES[n] for n in (3, 7, 3)], style=style)
    assert verdict.passed
    assert verdict.reason == ""
    assert verdict.text == (
        "Verifying accuracy.\nnum_acc_log_entries = 20\nnum_acc_log_duplicate_keys = 0\n"
        "num_acc_log_data_mismatch = 0\nnum_perf_log_entries = 3\nnum_perf_log_qsl_idx_match = 3\n"
        "num_perf_log_data_mismatch = 0\nnum_missing_qsl_idxs = 0\nTEST PASS\n"
    )


@pytest.mark.parametrize(
    ("sampled", "reason", "differing"),
    [
        ([RESPONSES[0], (1, OTHER)], r"1 sampled responses differ from those of the accuracy run \(qsl_idx 1\)", True),
        ([], "has no responses, so nothing was compared", False),
        ([RESPONSES[0], (99, OTHER)], r"samples without a response in .* \(qsl_idx 99\)", False),
        (
            [(1, OTHER), (99, OTHER)],
            r"samples without a response in .* \(qsl_idx 99\); 1 sampled responses differ",
            False,
        ),
        ([(1, "")], "1 sampled responses differ", True),
        ([(1, "0G")], r"1 responses are not int32 \(qsl_idx 1\)", False),
    ],
)
def test_responses_that_fail(tmp_path, sampled, reason, differing):
    verdict = accuracy(tmp_path, sampled)
    assert not verdict.passed
    assert re.search(reason, verdict.reason)
    assert verdict.differing is differing
    assert PASS not in verdict.text


def test_the_first_element_decides(tmp_path):
    one, same_byte = struct.pack("<i", 3), struct.pack("<i", 259)
    assert accuracy(tmp_path, [(0, same_byte)], [(0, one)], "byte").passed
    assert not accuracy(tmp_path, [(0, same_byte)], [(0, one)], "int32").passed
    assert accuracy(tmp_path, [(0, one + same_byte)], [(0, one + one)], "int32").passed
    assert not accuracy(tmp_path, [(0, one)], [(0, one)], "int64").passed  # not a multiple of 8 bytes
    nan = struct.pack("<f", float("nan"))
    assert not accuracy(tmp_path, [(0, nan)], [(0, nan)], "float32").passed
    assert accuracy(tmp_path, [(0, "")], [(0, "")]).passed
    with pytest.raises(ConfigError, match="unknown dtype 'bf16': choose from byte, int32"):
        accuracy(tmp_path, [], [], "bf16")


def test_repeats_in_the_accuracy_log_are_counted_and_the_first_is_compared(tmp_path):
    verdict = accuracy(tmp_path, [RESPONSES[1]], [*RESPONSES, (1, OTHER), RESPONSES[2]])
    assert verdict.passed
    assert "num_acc_log_duplicate_keys = 2\nnum_acc_log_data_mismatch = 1\n" in verdict.text


def test_truncated_logs_are_rejected(tmp_path):
    whole = write_log(tmp_path / "log.json", RESPONSES)
    cut = tmp_path / "cut.json"
    cut.write_bytes(whole.read_bytes()[:400] + b"\n\n...\n\n" + whole.read_bytes()[-400:])
    for pair in ((whole, cut), (cut, whole)):
        with pytest.raises(CheckFailed, match="is truncated for submission: verify before truncation"):
            verify_accuracy(*pair)
    cut.write_text("")
    with pytest.raises(CheckFailed, match="is empty: repeat the run"):
        verify_accuracy(whole, cut)


@pytest.mark.slow
@pytest.mark.parametrize(("entries", "size"), [(50_000, 4), (10_833, 3072)])
def test_large_logs_take_seconds(tmp_path, entries, size):
    rng = random.Random(1)
    responses = [(n, rng.randbytes(size)) for n in range(entries)]
    write_log(tmp_path / "accuracy.json", responses)
    write_log(tmp_path / "sampled.json", rng.choices(responses, k=50_000 if size == 4 else 4096))
    began = time.perf_counter()
    assert verify_accuracy(tmp_path / "accuracy.json", tmp_path / "sampled.json").passed
    assert time.perf_counter() - began < 5


# Responses that are not deterministic


def test_the_baseline_holds_the_sampled_samples_of_the_accuracy_run(tmp_path):
    one = write_log(tmp_path / "a.json", [*RESPONSES, RESPONSES[4]])
    two = write_log(tmp_path / "t.json", [(9, OTHER), (4, OTHER), (9, OTHER)])
    (tmp_path / "b.json").write_text(baseline_log(one, two))
    found = read_entries(tmp_path / "b.json")
    assert [(e["qsl_idx"], e["data"]) for e in found] == [(n, RESPONSES[n][1].hex().upper()) for n in (4, 9, 4)]
    assert len((tmp_path / "b.json").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("baseline", "compliance", "delta", "passed"),
    [
        ("accuracy=76.000%, good=1, total=2", "accuracy=76.750%, good=1, total=2", 1.0, True),
        ("accuracy=76.000%, good=1, total=2", "accuracy=76.780%, good=1, total=2", 1.0, False),
        ('{"exact_match": 83.1, "f1": 90.0}', '{"exact_match": 1.0, "f1": 90.08}', 0.1, True),
        ('{"exact_match": 83.1, "f1": 90.0}', "said first\n{'exact_match': 83.1, 'f1': 90.2}", 0.1, False),
        ("accuracy=0.000%, good=0, total=2", "accuracy=0.000%, good=0, total=2", 1.0, False),
    ],
)
def test_the_delta_of_two_scores(baseline, compliance, delta, passed):
    assert verify_delta(f"{baseline}\nhash=0\n", compliance, delta).passed is passed
    assert verify_delta(compliance, baseline, delta).passed is passed


def test_a_score_of_another_form_has_no_delta():
    with pytest.raises(CheckFailed, match=r"'AUC=0.8' is not an accuracy in the official form"):
        verify_delta("AUC=0.8\n", "AUC=0.8\n", 1)


# The folder


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, Path]:
    reference, folder = tmp_path / "results", tmp_path / "TEST01"
    write_run(reference / "performance" / "run_1")
    write_log(reference / "accuracy" / "mlperf_log_accuracy.json", RESPONSES)
    write_run(folder / "performance" / "run_1", audit="TEST01")
    write_log(folder / "performance" / "run_1" / "mlperf_log_accuracy.json", RESPONSES[:5])
    return reference, folder


def score(log: Path) -> str:
    return f"accuracy={80 + len(read_entries(log)) / 10:.3f}%, good=1, total=1\n"


def files(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_logs_of_another_test_or_scenario_leave_verdicts_as_they_are(scene):
    reference, folder = scene
    check_subject("TEST01", reference, folder)
    with pytest.raises(ConfigError, match="is not a log of TEST04"):
        check_subject("TEST04", reference, folder)
    with pytest.raises(ConfigError, match="is not a log of TEST01"):
        check_subject("TEST01", folder, reference)
    log = reference / "performance" / "run_1" / "mlperf_log_detail.txt"
    log.write_text(re.sub(r'(effective_scenario", "value": )"\w+"', r'\g<1>"Server"', log.read_text()))
    with pytest.raises(ConfigError, match=r"is a test of .*, but .* has results of Server"):
        check_subject("TEST01", reference, folder)
    log.unlink()
    with pytest.raises(ConfigError, match="is missing in"):
        check_subject("TEST01", reference, folder)


def test_a_deterministic_test01_in_the_official_form(scene):
    reference, folder = scene
    (folder / "accuracy").mkdir()
    for name in (
        "baseline_accuracy.txt",
        "compliance_accuracy.txt",
    ):  # of an earlier attempt: a checker would reject them
        (folder / "accuracy" / name).touch()
    verdicts = verify("test01", reference, folder, score)
    assert (verdicts.passed, verdicts.reasons, verdicts.remarks) == (True, [], ())
    made = files(folder)
    assert [*made] == [
        "accuracy/accuracy.txt",
        "accuracy/mlperf_log_accuracy.json",
        "performance/run_1/mlperf_log_detail.txt",
        "performance/run_1/mlperf_log_summary.txt",
        "verify_accuracy.txt",
        "verify_performance.txt",
    ]
    assert made["accuracy/accuracy.txt"].startswith("accuracy=80.500%")
    assert verify("TEST01", reference, folder, score) == verdicts
    assert files(folder) == made


@pytest.mark.parametrize(("delta", "passed"), [(1.0, True), (0.1, False)])
def test_a_test01_whose_responses_differ(scene, delta, passed):
    reference, folder = scene
    log = folder / "performance" / "run_1" / "mlperf_log_accuracy.json"
    write_log(log, [RESPONSES[0], (1, OTHER), (1, OTHER), RESPONSES[2]])
    verdicts = verify("TEST01", reference, folder, score, delta=delta)  # 80.3 against 80.4
    assert not verdicts.accuracy.passed
    assert verdicts.passed is passed
    assert passed or verdicts.reasons == [
        "the accuracy of the sampled responses differs from its baseline by 0.124 % (limit 0.1 %)."
    ]
    made = files(folder)
    assert FAIL in made["verify_accuracy.txt"].splitlines()
    assert made["accuracy/baseline_accuracy.txt"].startswith("accuracy=80.300%")
    assert (
        made["accuracy/compliance_accuracy.txt"]
        == made["accuracy/accuracy.txt"]
        == score(folder / "accuracy" / "mlperf_log_accuracy.json")
    )
    # Verified again without a data set, the existing scores are used.
    again = verify("TEST01", reference, folder, delta=delta)
    assert (again.passed, again.remarks) == (passed, ())
    assert files(folder) == made


def test_the_scores_of_an_older_log_are_not_used(scene):
    reference, folder = scene
    log = folder / "performance" / "run_1" / "mlperf_log_accuracy.json"
    write_log(log, [(1, OTHER)])
    assert verify("TEST01", reference, folder, score).passed
    settled = folder / "accuracy" / "mlperf_log_accuracy.json"
    log.write_bytes(settled.read_bytes())  # a copy is not another log
    assert verify("TEST01", reference, folder).passed
    write_log(log, [(1, OTHER), (2, OTHER)])
    verdicts = verify("TEST01", reference, folder)
    assert not verdicts.passed
    assert len(verdicts.remarks) == 2
    assert [path.name for path in settled.parent.iterdir()] == [settled.name]


def test_missing_scores_are_reported(scene):
    reference, folder = scene
    verdicts = verify("TEST01", reference, folder)
    assert verdicts.passed
    assert len(verdicts.remarks) == 1
    assert "accuracy.txt is still missing" in verdicts.remarks[0]
    write_log(folder / "accuracy" / "mlperf_log_accuracy.json", [(1, OTHER)])
    verdicts = verify("TEST01", reference, folder)
    assert not verdicts.passed
    assert "differ from those" in verdicts.reasons[0]
    assert "verify with the full data set" in verdicts.remarks[1]


def test_a_slow_test_with_correct_responses_fails_only_for_its_speed(scene):
    reference, folder = scene
    write_run(folder / "performance" / "run_1", score=50, audit="TEST01")
    verdicts = verify("TEST01", reference, folder, score)
    assert verdicts.accuracy.passed
    assert verdicts.reasons == ["the test's score differs from the performance run's by -50.0%; up to 10% is allowed."]


def test_a_truncated_log_leaves_the_folder_unchanged(scene):
    reference, folder = scene
    log = folder / "performance" / "run_1" / "mlperf_log_accuracy.json"
    log.write_text(log.read_text()[:90] + "\n\n...\n\n" + log.read_text()[-90:])
    before = files(folder)
    with pytest.raises(CheckFailed, match="verify before truncation"):
        verify("TEST01", reference, folder, score)
    assert files(folder) == before


def test_test04_needs_no_accuracy(scene):
    reference, folder = scene
    folder = folder.with_name("TEST04")
    write_run(folder / "performance" / "run_1", score=101, audit="TEST04")
    assert verify("TEST04", reference, folder).passed
    assert [*files(folder)][-1] == "verify_performance.txt"
    assert json.dumps(files(folder)).count(PASS) == 1


def test_missing_logs_are_config_errors(scene, tmp_path):
    reference, folder = scene
    with pytest.raises(ConfigError, match=r"mlperf_log_detail.txt is missing in"):
        verify("TEST01", tmp_path, folder)
    (folder / "performance" / "run_1" / "mlperf_log_accuracy.json").unlink()
    with pytest.raises(ConfigError, match=r"mlperf_log_accuracy.json is missing in both .*run_1 and .*accuracy"):
        verify("TEST01", reference, folder)


# The command


def command(*words: object) -> int:
    try:
        return app([str(word) for word in words], standalone_mode=False) or 0
    except HarnessError as error:
        return error.exit_code


def test_the_command_scores_with_the_given_data_set(scene, small_imagenet, tmp_path, capsys):
    reference, folder = scene
    home = tmp_path / "sys" / "resnet50" / "Offline"
    home.parent.mkdir(parents=True)
    reference.rename(home)
    labels = [(n, struct.pack("<f", 100 * n)) for n in range(10)]
    write_log(home / "accuracy" / "mlperf_log_accuracy.json", labels)
    write_log(folder / "performance" / "run_1" / "mlperf_log_accuracy.json", [labels[2], labels[5], labels[2]])
    words = ("compliance", "verify", "TEST01", "--results", home, "--test", folder, "--dataset", small_imagenet)
    assert command(*words) == 0
    assert capsys.readouterr().out == "TEST01 performance: TEST PASS\nTEST01 accuracy: TEST PASS\n"
    assert files(folder)["accuracy/accuracy.txt"].startswith("accuracy=100.000%, good=2, total=2\nhash=")

    wrong = [labels[2], (5, struct.pack("<f", 501)), labels[2]]
    write_log(folder / "performance" / "run_1" / "mlperf_log_accuracy.json", wrong)
    assert command(*words) == 1
    out, err = capsys.readouterr()
    assert out.endswith("TEST01 accuracy: TEST FAIL\nTEST01 accuracy delta: TEST FAIL\n")
    assert err == "error: the accuracy of the sampled responses differs from its baseline by 100.000 % (limit 1 %).\n"

    assert command(*words, "--json") == 1
    printed = json.loads(capsys.readouterr().out)
    assert (printed["test"], printed["passed"]) == ("TEST01", False)
    assert printed["parts"] == {"performance": True, "accuracy": False, "accuracy_delta": False}
    assert [f"error: {reason}\n" for reason in printed["reasons"]] == [err]

    assert command(*words[:5], "--test", tmp_path) == 2
    assert command("compliance", "verify", "TEST02", *words[3:]) == 2


def test_the_allowed_delta():
    assert [allowed_delta(name) for name in ("bert-99", "bert-99.9", "resnet50", "other")] == [1.0, 0.1, 1.0, 0.1]
    assert scorer("dlrm", None) is None


@pytest.mark.parametrize(
    ("scenario", "reference", "score", "said"),
    [
        ("SingleStream", 2_000_000, 1_750_000, "14.3% faster when one sample is repeated; it must be less than 10%"),
        ("SingleStream", 2_000_000, 1_900_000, ""),
        ("SingleStream", 150_000, 130_000, ""),
        ("MultiStream", 5_000_000, 4_500_000, "11.1% faster"),
        ("Offline", 100, 109, ""),
    ],
)
def test_a_stream_that_passes_the_script_but_not_the_rules(tmp_path, scenario, reference, score, said):
    one = write_run(tmp_path / "one", scenario, reference)
    two = write_run(tmp_path / "two", scenario, score, audit="TEST04")
    assert verify_performance(one, two, "TEST04").passed
    reason = beyond_the_rules(one, two)
    assert said in reason
    assert bool(reason) == bool(said)
