"""What the logs of a compliance test must show, and the words for it in the form of the official scripts.

The rules are those of run_verification.py (mlcommons/inference, compliance/TEST01 and TEST04); a test that passes here
passes there. Stricter than there: samples that the accuracy run did not answer, LoadGen errors, a Server latency bound
that differs in TEST04, a score that is missing, and an audit.config that was not read are failures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import CheckFailed, ConfigError
from harness.loadgen.accuracy_log import read_entries, tell
from harness.loadgen.logs import DETAIL, SUMMARY, read_detail
from harness.rules.audits import AUDITS, Audit
from harness.scenarios.bridge import RESULT_KEYS

PASS, FAIL = "TEST PASS", "TEST FAIL"
"""What both official checkers look for, on a line of its own."""
DTYPES: Mapping[str, np.dtype] = {
    "byte": np.dtype("i1"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
}
"""What the first element of a response may be read as.

The default is int32, which compares the first four bytes of any type, and not byte as in the official script: the first
byte of small numbers is 0 in float32, so that wrong labels would pass. What passes as int32 passes as byte, too.
"""

_SUMMARY_SCORES = {
    "Offline": re.compile(r"^Samples per second.*?: (\S+)", re.MULTILINE),
    "Server": re.compile(r"^Completed samples per second.*?: (\S+)", re.MULTILINE),
    "SingleStream": re.compile(r"Early stopping (?:90th|90\.0th|99\.9th) percentile estimate: (\S+)"),
    "MultiStream": re.compile(r"Early stopping (?:99th|99\.0th) percentile estimate: (\S+)"),
}
_THRESHOLD, _LOOSE = 0.10, 0.20
_SHORT_NS = {"SingleStream": 200_000, "MultiStream": 1_600_000}


@dataclass(frozen=True)
class Verdict:
    """Whether a part of a test was passed."""

    text: str
    """What verify_accuracy.txt or verify_performance.txt holds."""
    passed: bool
    reason: str
    """Why not, as one sentence; "" if passed."""
    differing: bool = False
    """Whether it failed for nothing but responses that differ, which equal scores can make good."""


@dataclass(frozen=True)
class _Run:
    scenario: str
    score: float | None
    """Samples per second, or of streams the latency in nanoseconds (TEST01) or its inverse (TEST04)."""
    bound: Any
    problem: str


def verify_performance(reference: Path, test: Path, audit: str = "TEST01") -> Verdict:
    """Whether a test is as fast as the performance run (TEST01), or not faster (TEST04); each a folder of logs.

    TEST01 compares the scores of mlperf_log_detail.txt: 10 % in both directions, 20 % for SingleStream up to 0.2 ms and
    MultiStream up to 1.6 ms. TEST04 compares those of mlperf_log_summary.txt, with latencies turned into rates:
    at most 10 % faster. For streams that is 20 % up to 200,000 a second (MultiStream 1,600,000), which is any: the
    official script compares the rate with the bound that was meant for the latency.

    Raises:
        ConfigError: a log is not there.
        RunFailed: a log is cut short.
    """
    rules = AUDITS[audit]
    one, two = _read_run(reference, rules), _read_run(test, rules, tested=True)
    lines = ["Verifying performance."]
    reason = one.problem or two.problem
    if not reason and one.scenario != two.scenario:
        reason = f"the performance run is {one.scenario} and the test is {two.scenario}: repeat the test."
    if not reason and one.scenario == "Server" and one.bound != two.bound:
        reason = f"Server's latency bound is {one.bound} ns in the performance run and {two.bound} ns in the test."
    if not reason:
        assert one.score is not None
        assert two.score is not None
        lines += [f"Reference score = {one.score}", f"Test score = {two.score}"]
        reason = _compare(one, two, rules)
    return _verdict(lines, reason)


def beyond_the_rules(reference: Path, test: Path) -> str:
    """Why a stream that passes TEST04's script is faster than the rules allow, 10 % (20 % where latencies are short).

    The script compares rates with the bound that was meant for latencies, and so allows every stream 20 %.

    Raises:
        RunFailed: a log is cut short.
    """
    one, two = (read_detail(folder, "performance").values for folder in (reference, test))
    scenario = one.get("effective_scenario")
    before, after = (_number(values.get(RESULT_KEYS.get(scenario, ""))) for values in (one, two))
    if scenario not in _SHORT_NS or not before or not after:
        return ""
    allowed = _LOOSE if before <= _SHORT_NS[scenario] else _THRESHOLD
    faster = before / after - 1
    if faster < allowed:
        return ""
    return f"with one sample again and again it is {faster:.1%} faster, and below {allowed:.0%} is allowed."


def _compare(one: _Run, two: _Run, audit: Audit) -> str:
    assert one.score is not None
    assert two.score is not None
    threshold = _LOOSE if one.score <= _SHORT_NS.get(one.scenario, -1) else _THRESHOLD
    change = f"{two.score / one.score - 1:+.1%}" if one.score else "not comparable"
    if audit.name == "TEST04":
        if two.score < one.score * (1 + threshold):
            return ""
        return f"the test's score is {change} against the performance run's, and below {threshold:+.0%} is allowed."
    if one.score * (1 - threshold) <= two.score <= one.score * (1 + threshold):
        return ""
    return f"the test's score is {change} against the performance run's, and {threshold:.0%} either way is allowed."


def _read_run(folder: Path, audit: Audit, tested: bool = False) -> _Run:
    for name in (DETAIL, SUMMARY):
        if not (folder / name).is_file():
            raise ConfigError(f"there is no {name} in {folder}: give the folder that holds performance/run_1.")
    detail = read_detail(folder, "performance")
    values = detail.values
    scenario = str(values.get("effective_scenario"))
    rates = audit.name == "TEST04"
    summary = (folder / SUMMARY).read_text(encoding="utf-8", errors="replace")
    score = _summary_score(summary, scenario) if rates else _number(values.get(RESULT_KEYS.get(scenario, "")))
    problem = ""
    if values.get("result_validity") != "VALID" or re.search(r"^Result is\s*: INVALID", summary, re.MULTILINE):
        problem = f"the run in {folder} is not VALID: repeat it."
    elif detail.errors:
        problem = f"LoadGen logged an error in {folder} ({detail.errors[0]}): repeat the run."
    elif score is None:
        problem = f"the log in {folder} holds no score of {scenario}: repeat the run."
    elif tested and (unread := audit.unread(values)):
        problem = f"{folder} is no log of {audit.name}, {unread}: run it again with its audit.config."
    return _Run(scenario, score, values.get("effective_target_latency_ns"), problem)


def _summary_score(summary: str, scenario: str) -> float | None:
    found = _SUMMARY_SCORES[scenario].findall(summary) if scenario in _SUMMARY_SCORES else []
    score = _number(found[-1]) if found else None
    if score and scenario in _SHORT_NS:
        return 1e9 / score
    return score


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def verify_accuracy(accuracy_log: Path, test_log: Path, dtype: str = "int32") -> Verdict:
    """Whether the sampled responses of TEST01 are those of the accuracy run, by their first element of ``dtype``.

    Raises:
        ConfigError: a log is not there, or it is none.
        CheckFailed: a log is damaged or truncated.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"no such dtype '{dtype}': choose from {', '.join(DTYPES)}.")
    kind = DTYPES[dtype]
    accuracy, sampled = _entries(accuracy_log), _entries(test_log)
    known: dict[int, str] = {}
    repeats = contradictions = 0
    for entry in accuracy:
        index, data = entry["qsl_idx"], entry["data"]
        if index in known:
            repeats += 1
            contradictions += known[index] != data
        else:
            known[index] = data
    missing, differing, broken, matched = [], [], [], 0
    elements: dict[int, Any] = {}
    for entry in sampled:
        index = entry["qsl_idx"]
        if index not in known:
            missing.append(index)
            continue
        matched += 1
        try:
            if index not in elements:
                elements[index] = _first(known[index], kind)
            if _first(entry["data"], kind) != elements[index]:
                differing.append(index)
        except ValueError:
            broken.append(index)
    lines = [
        "Verifying accuracy.",
        f"num_acc_log_entries = {len(accuracy)}",
        f"num_acc_log_duplicate_keys = {repeats}",
        f"num_acc_log_data_mismatch = {contradictions}",
        f"num_perf_log_entries = {len(sampled)}",
        f"num_perf_log_qsl_idx_match = {matched}",
        f"num_perf_log_data_mismatch = {len(differing) + len(broken)}",
        f"num_missing_qsl_idxs = {len(missing)}",
    ]
    if not sampled:
        reason = f"{test_log} holds no response, so that nothing was compared: run the test with its audit.config."
        return _verdict(lines, reason)
    problems = {
        f"sampled responses are to samples that {accuracy_log} does not answer": missing,
        f"responses are no {dtype}": broken,
    }
    told = [tell(what, where) for what, where in problems.items() if where]
    if differing:
        told.append(tell("sampled responses differ from those of the accuracy run", differing))
    verdict = _verdict(lines, f"{'; '.join(told)}." if told else "")
    return Verdict(verdict.text, verdict.passed, verdict.reason, bool(differing) and not missing and not broken)


def _entries(log: Path) -> list[dict[str, Any]]:
    return read_entries(log, repeat="repeat the run", untruncated="verify before truncation")


def _first(data: str, kind: np.dtype) -> Any:
    """The first element; None where there is no byte. ValueError: not hexadecimal, or no multiple of an element."""
    raw = bytes.fromhex(data)
    if len(raw) % kind.itemsize:
        raise ValueError(f"{len(raw)} bytes")
    return np.frombuffer(raw, kind, 1)[0] if raw else None


def baseline_log(accuracy_log: Path, test_log: Path) -> str:
    """The accuracy run's log, cut down to the samples that TEST01 sampled.

    Raises:
        ConfigError: a log is not there, or it is none.
        CheckFailed: a log is damaged or truncated.
    """
    wanted = {entry["qsl_idx"] for entry in _entries(test_log)}
    kept = [json.dumps(entry) for entry in _entries(accuracy_log) if entry["qsl_idx"] in wanted]
    return "[\n" + ",\n".join(kept) + "\n]\n"


def verify_delta(baseline: str, compliance: str, delta: float) -> Verdict:
    """Whether two scores, each the text of an accuracy.txt, differ by at most ``delta`` percent.

    Raises:
        CheckFailed: a text holds no score in the official form.
    """
    one, two = _score(baseline), _score(compliance)
    lines = [f"Baseline accuracy = {one}", f"Compliance accuracy = {two}"]
    if not one or not two:
        return _verdict(lines, "the accuracy of the sampled responses, or that of its baseline, is 0.")
    found = abs(1 - one / two) * 100
    cause = f"the accuracy of the sampled responses is {found:.3f} % off its baseline, and {delta:g} % is allowed."
    return _verdict(lines, "" if found <= delta else cause)


_OFFICIAL = re.compile(r"^(?:accuracy=([\d.]+)|\{[\"']exact_match[\"']:\s*[\d.]+,\s*[\"']f1[\"']:\s*([\d.]+)\})", re.M)


def _score(text: str) -> float:
    found = _OFFICIAL.findall(text)
    if not found:
        start = text.partition("\n")[0]
        raise CheckFailed(f"'{start}' is no accuracy in the official form: score the logs with the official metric.")
    return float("".join(found[-1]))


def _verdict(lines: list[str], reason: str) -> Verdict:
    ending = [FAIL, reason] if reason else [PASS]
    return Verdict("\n".join([*lines, *ending]) + "\n", not reason, reason)
