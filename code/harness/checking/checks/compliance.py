"""The compliance tests: TEST01 compares responses and speed, TEST04 detects caching."""

import re

from harness.checking.checks.accuracy import FORMS, check_scores
from harness.checking.checks.answers import check_answers
from harness.checking.checks.log import Log
from harness.checking.checks.performance import EXTRA, check_run
from harness.checking.checks.subject import Result
from harness.checking.tree import Findings, Problem, Tree, contents, lines_of, read_text
from harness.compliance.verify import FAIL, PASS, speedup, tolerance
from harness.loadgen.logs import ACCURACY
from harness.results.layout import BASELINE, COMPLIANCE, SCORES, VERIFY_ACCURACY, VERIFY_PERFORMANCE
from harness.rules.audits import Audit


def check_compliance(result: Result, reference: Log | None) -> Findings[None]:
    """All compliance tests of a result; ``reference`` is the log of its performance run."""
    for audit in result.tests():
        cure = f"run and verify {audit.name}, then package it again"
        folder = result.test(audit.name)
        if result.tree.kind(folder) == "folder":
            yield from _test(result, audit, reference, cure)
        else:
            yield Problem(folder, f"the closed division requires {audit.name}", cure)


def _test(result: Result, audit: Audit, reference: Log | None, cure: str) -> Findings[None]:
    tree, folder = result.tree, result.test(audit.name)
    verdicts = (VERIFY_ACCURACY, VERIFY_PERFORMANCE) if audit.accuracy else (VERIFY_PERFORMANCE,)
    yield from contents(tree, folder, files=verdicts, folders=audit.references, cure=cure)
    log = None
    if tree.kind(f"{folder}/performance") == "folder":
        yield from contents(tree, f"{folder}/performance", folders=("run_1",), cure=cure)
    if tree.kind(f"{folder}/performance/run_1") == "folder":
        log = yield from check_run(result, f"{folder}/performance/run_1")
    if log is not None:
        for key, value in audit.effective.items():
            yield from log.expect(key, log.values.get(key) == value, f"{value} in {audit.name}", cure)
        if reference is not None:
            yield from _speed(result, audit, reference, log)
    yield from _passed(tree, f"{folder}/{VERIFY_PERFORMANCE}", cure)
    if audit.accuracy:
        yield from _responses(result, folder, cure)


def _passed(tree: Tree, path: str, cure: str) -> Findings[None]:
    """If the file exists, its verdict must be a pass."""
    text = (yield from read_text(tree, path, cure)) if tree.kind(path) == "file" else None
    if text is not None and not _verdict(text):
        yield Problem(path, f"it does not have {PASS} on a line of its own", cure)


def _verdict(text: str) -> bool:
    return PASS in (line.strip() for line in lines_of(text)) and FAIL not in text


def _speed(result: Result, audit: Audit, reference: Log, log: Log) -> Findings[None]:
    """Compare the results of both runs, regardless of verify_performance.txt.

    For streams this is stricter than TEST04's script, which compares rates with a limit meant for latencies.
    """
    scenario = result.scenario
    if scenario is None:
        return
    before, after = reference.number(scenario.result_key), log.number(scenario.result_key)
    if before is None or after is None or before <= 0 or after <= 0:
        return
    if scenario.paced and not audit.finds_caching:
        key = "effective_target_latency_ns"
        yield from log.expect(key, log.number(key) == reference.number(key), "that of the performance run")
    allowed, ratio, faster = tolerance(scenario, before), after / before, speedup(scenario, before, after)
    if audit.finds_caching and faster >= allowed:
        what = f"it is {faster:.1%} faster when one sample is repeated (limit {allowed:.0%}): are responses cached?"
        yield Problem(log.path, what, "compute every response, and rerun both tests")
    elif not audit.finds_caching and not 1 - allowed <= ratio <= 1 + allowed:
        what = f"its result is {ratio:.1%} of the performance run's, and may differ by {allowed:.0%}"
        yield Problem(log.path, what, "rerun both tests on an otherwise idle machine")


def _responses(result: Result, folder: str, cure: str) -> Findings[None]:
    """The sampled responses of TEST01 must equal those of the accuracy run, or have nearly the same score."""
    tree, accuracy, path = result.tree, f"{folder}/accuracy", f"{folder}/{VERIFY_ACCURACY}"
    text = (yield from read_text(tree, path, cure)) if tree.kind(path) == "file" else None
    passed = text is not None and _verdict(text)
    compared = re.search(r"num_perf_log_qsl_idx_match\s*=\s*(\d{1,18})", text or "")
    if passed and compared and int(compared[1]) == 0:
        yield Problem(path, "no responses were compared", cure)
    differing = re.search(r"num_perf_log_data_mismatch\s*=\s*(\d{1,18})", text or "")
    if passed and differing and int(differing[1]) > 0:
        yield Problem(path, f"it has {PASS} although {int(differing[1])} responses differ", cure)
    if tree.kind(accuracy) != "folder":
        return
    both = () if passed else (BASELINE, COMPLIANCE)
    if not passed and text is not None and any(tree.kind(f"{accuracy}/{name}") is None for name in both):
        yield Problem(path, f"it does not have {PASS}, and {BASELINE} or {COMPLIANCE} is missing", cure)
    yield from contents(tree, accuracy, files=(ACCURACY, SCORES, *both), allowed=EXTRA, cure=cure)
    yield from check_scores(tree, accuracy, FORMS[result.rules.metric] if result.rules else None, sampled=True)
    yield from check_answers(tree, f"{accuracy}/{ACCURACY}", result.rules)
    if not passed:
        yield from _scores_agree(result, accuracy, cure)


def _scores_agree(result: Result, folder: str, cure: str) -> Findings[None]:
    scores: list[float] = []
    if result.rules is None:
        return
    for name in (BASELINE, COMPLIANCE):
        path = f"{folder}/{name}"
        if result.tree.kind(path) != "file":
            return
        text = yield from read_text(result.tree, path, cure)
        lines = [line for line in lines_of(text or "") if line.startswith(("accuracy", "{"))]
        found = [FORMS[result.rules.metric].start.match(line) for line in lines]
        numbers = [_number(match["score"]) if match else None for match in found]
        if len(numbers) != 1 or not numbers[0]:
            yield Problem(path, "it does not have exactly one score greater than 0", cure)
            return
        scores.append(numbers[0])
    delta = abs(1 - scores[0] / scores[1]) * 100
    if delta > result.rules.delta:
        what = f"the scores differ by {delta:.3g} % (limit {result.rules.delta:g} %)"
        yield Problem(f"{folder}/{COMPLIANCE}", what, cure)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
