"""The compliance tests: TEST01 compares responses and speed, TEST04 finds a system that caches."""

from __future__ import annotations

import re

from harness.loadgen.logs import ACCURACY
from harness.results.layout import VERIFY_ACCURACY, VERIFY_PERFORMANCE
from harness.scenarios.bridge import RESULT_KEYS
from harness.submission.checks.accuracy import SCORES, check_scores
from harness.submission.checks.log import Log
from harness.submission.checks.performance import check_run
from harness.submission.checks.subject import Result
from harness.submission.tree import Findings, Problem, Tree, contents, lines_of, read_text

PASS = "TEST PASS"
BASELINE, COMPLIANCE = "baseline_accuracy.txt", "compliance_accuracy.txt"
_AUDIT = {
    "TEST01": {
        "effective_accuracy_log_rng_seed": 720381539243781796,
        "effective_accuracy_log_sampling_target": 4096,
        "effective_performance_issue_unique": False,
        "effective_performance_issue_same": False,
    },
    "TEST04": {
        "effective_accuracy_log_rng_seed": 0,
        "effective_performance_issue_unique": False,
        "effective_performance_issue_same": True,
        "effective_performance_issue_same_index": 3,
    },
}
"""What each test's audit.config makes of LoadGen's settings."""
_FAST_NS = {"SingleStream": 200_000, "MultiStream": 1_600_000}
"""Latencies up to which a test may differ by 20 % instead of 10 %. TEST04's official script compares them with rates,
and so lets every stream be 20 % faster; its rules say 10 %."""
_METRIC = {
    "acc": re.compile(r"accuracy=([\d.]{1,30})"),
    "F1": re.compile(r'\{"exact_match": [\d.]{1,30}, "f1": ([\d.]{1,30})\}'),
}


def check_compliance(result: Result, reference: Log | None) -> Findings[None]:
    """Every compliance test of a result; ``reference`` is the log of its performance run."""
    for test in result.tests():
        folder, tree = result.test(test), result.tree
        cure = f"run {test}, verify it, and package it again"
        if tree.kind(folder) != "folder":
            yield Problem(folder, f"the closed division demands {test}", cure)
            continue
        verdicts = (VERIFY_ACCURACY, VERIFY_PERFORMANCE) if test == "TEST01" else (VERIFY_PERFORMANCE,)
        folders = ("performance", "accuracy") if test == "TEST01" else ("performance",)
        yield from contents(tree, folder, files=verdicts, folders=folders, cure=cure)
        log = None
        if tree.kind(f"{folder}/performance") == "folder":
            yield from contents(tree, f"{folder}/performance", folders=("run_1",), cure=cure)
        if tree.kind(f"{folder}/performance/run_1") == "folder":
            log = yield from check_run(result, f"{folder}/performance/run_1")
        if log is not None:
            for key, value in _AUDIT[test].items():
                yield from log.expect(key, log.values.get(key) == value, f"{value} in {test}", cure)
            if reference is not None:
                yield from _speed(test, reference, log, result.scene.scenario)
        yield from _passed(tree, f"{folder}/{VERIFY_PERFORMANCE}", cure)
        if test == "TEST01":
            yield from _responses(result, folder, cure)


def _passed(tree: Tree, path: str, cure: str) -> Findings[bool | None]:
    """A verdict that must be there and pass; returns whether it does."""
    if tree.kind(path) != "file":
        return None
    text = yield from read_text(tree, path, cure)
    passed = text is not None and _verdict(text)
    if text is not None and not passed:
        yield Problem(path, f"it does not say {PASS} on a line of its own", cure)
    return passed


def _verdict(text: str) -> bool:
    return PASS in (line.strip() for line in lines_of(text)) and "TEST FAIL" not in text


def _speed(test: str, reference: Log, log: Log, scenario: str) -> Findings[None]:
    """The scores of both runs, whatever the verdict's file says."""
    before, after = (found.number(RESULT_KEYS.get(scenario, "")) for found in (reference, log))
    if before is None or after is None or before <= 0 or after <= 0:
        return
    if scenario == "Server" and test == "TEST01":
        key = "effective_target_latency_ns"
        yield from log.expect(key, log.number(key) == reference.number(key), "that of the performance run")
    tolerance = 0.2 if before <= _FAST_NS.get(scenario, 0) else 0.1
    ratio = after / before
    if test == "TEST04":
        faster = (1 / ratio if scenario in _FAST_NS else ratio) - 1
        if faster >= tolerance:
            what = (
                f"with one sample again and again it is {faster:.1%} faster, of {tolerance:.0%} allowed: does it cache?"
            )
            yield Problem(log.path, what, "answer every query anew, and run both tests again")
    elif not 1 - tolerance <= ratio <= 1 + tolerance:
        what = f"its score is {ratio:.1%} of the performance run's, and may differ by {tolerance:.0%}"
        yield Problem(log.path, what, "run both tests again on a machine that does nothing else")


def _responses(result: Result, folder: str, cure: str) -> Findings[None]:
    """TEST01: the sampled responses are those of the accuracy run, or the scores of both are near each other."""
    tree, accuracy, path = result.tree, f"{folder}/accuracy", f"{folder}/{VERIFY_ACCURACY}"
    text = (yield from read_text(tree, path, cure)) if tree.kind(path) == "file" else None
    passed = text is not None and _verdict(text)
    compared = re.search(r"num_perf_log_qsl_idx_match\s*=\s*(\d{1,18})", text or "")
    if passed and compared and int(compared[1]) == 0:
        yield Problem(path, "not one response was compared", cure)
    missing = re.search(r"num_perf_log_data_mismatch\s*=\s*(\d{1,18})", text or "")
    if passed and missing and int(missing[1]) > 0:
        yield Problem(path, f"it passes although {int(missing[1])} responses differ", cure)
    if tree.kind(accuracy) != "folder":
        return
    both = () if passed else (BASELINE, COMPLIANCE)
    if not passed and text is not None and any(tree.kind(f"{accuracy}/{name}") is None for name in both):
        yield Problem(path, f"it does not say {PASS}, and the accuracy of both runs is not there instead", cure)
    yield from contents(tree, accuracy, files=(ACCURACY, SCORES, *both), cure=cure)
    yield from check_scores(tree, accuracy, result.rules.metric if result.rules else None, sampled=True)
    if not passed:
        yield from _near(result, accuracy, cure)


def _near(result: Result, folder: str, cure: str) -> Findings[None]:
    scores = []
    if result.rules is None:
        return
    for name in (BASELINE, COMPLIANCE):
        path = f"{folder}/{name}"
        if result.tree.kind(path) != "file":
            return
        text = yield from read_text(result.tree, path, cure)
        lines = [line for line in lines_of(text or "") if line.startswith(("accuracy", "{"))]
        found = [_METRIC[result.rules.metric].match(line) for line in lines]
        numbers = [_number(match[1]) if match else None for match in found]
        if len(numbers) != 1 or not numbers[0]:
            yield Problem(path, "it does not hold one score greater than 0", cure)
            return
        scores.append(numbers[0])
    delta = abs(1 - scores[0] / scores[1]) * 100
    if delta > result.rules.delta:
        what = f"the scores differ by {delta:.3g} %, of {result.rules.delta:g} % allowed"
        yield Problem(f"{folder}/{COMPLIANCE}", what, cure)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
