"""Verdicts on the logs of a compliance test, in the form of the official scripts.

The rules are those of run_verification.py (mlcommons/inference, compliance/TEST01 and TEST04); a test that passes here
also passes there. Stricter than there, these are failures: samples that the accuracy run did not answer, LoadGen
errors, a different Server latency bound in TEST04, a missing score, and an audit.config that LoadGen did not read.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import CheckFailed, ConfigError
from harness.loadgen.accuracy_log import counted, read_entries
from harness.loadgen.logs import DETAIL, SUMMARY, read_detail
from harness.rules.audits import AUDITS, Audit
from harness.scenarios.base import Scenario, known_scenario

PASS, FAIL = "TEST PASS", "TEST FAIL"
"""Both official checkers look for these on a line of their own."""
DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "byte": np.dtype("i1"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
}
"""Types of the first element of a response.

The default is int32, which compares the first four bytes of any type, instead of byte as in the official script: the
first byte of small numbers is 0 in float32, so wrong labels would pass. Responses that pass as int32 also pass as byte.
"""


@dataclass(frozen=True)
class Verdict:
    """Whether one part of a test passed."""

    text: str
    """The text of verify_accuracy.txt or verify_performance.txt."""
    passed: bool
    reason: str
    """Why it failed, as one sentence; "" if it passed."""
    differing: bool = False
    """Whether it failed only because responses differ: it can still pass if the scores agree."""


@dataclass(frozen=True)
class _LoggedRun:
    scenario: type[Scenario]
    score: float
    """Samples per second; for streams the latency in nanoseconds (TEST01) or its inverse per second (TEST04)."""
    bound: object
    """The latency bound in nanoseconds, as in the log."""


def verify_performance(reference: Path, test: Path, audit: str = "TEST01") -> Verdict:
    """Whether a test is as fast as the performance run (TEST01) or not faster (TEST04), from two folders of logs.

    TEST01 compares the results in mlperf_log_detail.txt: they may differ by 10 %, or by 20 % for SingleStream up to
    0.2 ms and MultiStream up to 1.6 ms. TEST04 compares those in mlperf_log_summary.txt, with latencies converted to
    rates: the test must be less than 10 % faster. For streams the limit is 20 % up to 200,000 (MultiStream 1,600,000)
    per second, which includes every real system: the official script compares the rate with the limit for latencies.

    Raises:
        ConfigError: a log is missing.
        RunFailed: a log is incomplete.
    """
    rules = AUDITS[audit]
    lines = ["Verifying performance."]
    one, two = _read_run(reference, rules), _read_run(test, rules, tested=True)
    if isinstance(one, str):
        return _verdict(lines, one)
    if isinstance(two, str):
        return _verdict(lines, two)
    if one.scenario != two.scenario:
        names = f"the performance run is {one.scenario.name} and the test is {two.scenario.name}"
        return _verdict(lines, f"{names}: repeat the test.")
    if one.scenario.paced and one.bound != two.bound:
        bounds = f"{one.bound} ns in the performance run and {two.bound} ns in the test"
        return _verdict(lines, f"{one.scenario.name}'s latency bound is {bounds}.")
    lines += [f"Reference score = {one.score}", f"Test score = {two.score}"]
    return _verdict(lines, _compare(one, two, rules))


def beyond_the_rules(reference: Path, test: Path) -> str:
    """Why a stream's result breaks the rules of TEST04 although the official script accepts it; "" if it does not.

    The rules allow 10 % (20 % for short latencies); the script compares rates with the limit for latencies, and so
    allows 20 % for every stream.

    Raises:
        RunFailed: a log is incomplete.
    """
    one, two = (read_detail(folder, "performance").values for folder in (reference, test))
    scenario = known_scenario(one.get("effective_scenario"))
    if scenario is None or not scenario.latency:
        return ""
    before, after = (_number(values.get(scenario.result_key)) for values in (one, two))
    if not before or not after:
        return ""
    allowed, faster = tolerance(scenario, before), speedup(scenario, before, after)
    if faster < allowed:
        return ""
    return f"it is {faster:.1%} faster when one sample is repeated; it must be less than {allowed:.0%}."


def tolerance(scenario: type[Scenario], result: float) -> float:
    """The fraction by which a test may differ from ``result``, the performance run's, in the unit of the log."""
    return 0.20 if result <= scenario.short_ns else 0.10


def speedup(scenario: type[Scenario], before: float, after: float) -> float:
    """The fraction by which the result ``after`` is faster than ``before``; negative if it is slower."""
    return (before / after if scenario.latency else after / before) - 1


def _compare(one: _LoggedRun, two: _LoggedRun, audit: Audit) -> str:
    """Why the test's score differs too much from the performance run's; "" if it does not."""
    threshold = tolerance(one.scenario, one.score)
    change = f"{two.score / one.score - 1:+.1%}" if one.score else "not comparable"
    if audit.finds_caching:
        if two.score < one.score * (1 + threshold):
            return ""
        return f"the test's score differs from the performance run's by {change}; it must be below {threshold:+.0%}."
    if one.score * (1 - threshold) <= two.score <= one.score * (1 + threshold):
        return ""
    return f"the test's score differs from the performance run's by {change}; up to {threshold:.0%} is allowed."


def _read_run(folder: Path, audit: Audit, tested: bool = False) -> _LoggedRun | str:
    """The run in a folder of logs, or why it cannot be compared."""
    for file in (DETAIL, SUMMARY):
        if not (folder / file).is_file():
            raise ConfigError(f"{file} is missing in {folder}: pass the folder that contains performance/run_1.")
    detail = read_detail(folder, "performance")
    values = detail.values
    summary = (folder / SUMMARY).read_text(encoding="utf-8", errors="replace")
    if values.get("result_validity") != "VALID" or re.search(r"^Result is\s*: INVALID", summary, re.MULTILINE):
        return f"the run in {folder} is not VALID: repeat it."
    if detail.errors:
        return f"LoadGen logged an error in {folder} ({detail.errors[0]}): repeat the run."
    name = values.get("effective_scenario")
    scenario = known_scenario(name)
    score = None
    if scenario:
        score = _summary_rate(summary, scenario) if audit.finds_caching else _number(values.get(scenario.result_key))
    if scenario is None or score is None:
        return f"the log in {folder} has no {name} result: repeat the run."
    if tested and (unread := audit.unread(values)):
        return f"{folder} is not a log of {audit.name} ({unread}): rerun the test with its audit.config."
    return _LoggedRun(scenario, score, values.get("effective_target_latency_ns"))


def _summary_rate(summary: str, scenario: type[Scenario]) -> float | None:
    """The result in mlperf_log_summary.txt, per second, with a latency inverted; None if it is missing."""
    names = "|".join(re.escape(name) for name in scenario.summary_names)
    found = re.findall(rf"^ *(?:{names}).*?: (\S+)", summary, re.MULTILINE)
    score = _number(found[-1]) if found else None
    return 1e9 / score if score and scenario.latency else score


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class _ResponseComparison:
    """The sampled responses of TEST01 compared with those of the accuracy run; lists contain sample indices."""

    matched: int
    """The number of responses to samples that the accuracy run also answered."""
    missing: list[int]
    """Samples that the accuracy run did not answer."""
    differing: list[int]
    broken: list[int]
    """Samples whose response is not hexadecimal or not a multiple of the element size."""


def verify_accuracy(accuracy_log: Path, test_log: Path, dtype: str = "int32") -> Verdict:
    """Whether the first elements, read as ``dtype``, of TEST01's responses equal those of the accuracy run.

    Raises:
        ConfigError: the dtype is unknown, or a log is missing or is not an accuracy log.
        CheckFailed: a log is damaged or truncated.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"unknown dtype '{dtype}': choose from {', '.join(DTYPES)}.")
    accuracy, sampled = _entries(accuracy_log), _entries(test_log)
    known: dict[int, str] = {}
    for entry in accuracy:
        known.setdefault(entry["qsl_idx"], entry["data"])
    found = _compare_responses(known, sampled, DTYPES[dtype])
    lines = [
        "Verifying accuracy.",
        f"num_acc_log_entries = {len(accuracy)}",
        f"num_acc_log_duplicate_keys = {len(accuracy) - len(known)}",
        f"num_acc_log_data_mismatch = {sum(known[entry['qsl_idx']] != entry['data'] for entry in accuracy)}",
        f"num_perf_log_entries = {len(sampled)}",
        f"num_perf_log_qsl_idx_match = {found.matched}",
        f"num_perf_log_data_mismatch = {len(found.differing) + len(found.broken)}",
        f"num_missing_qsl_idxs = {len(found.missing)}",
    ]
    if not sampled:
        reason = f"{test_log} has no responses, so nothing was compared: rerun the test with its audit.config."
        return _verdict(lines, reason)
    problems = {
        f"sampled responses are to samples without a response in {accuracy_log}": found.missing,
        f"responses are not {dtype}": found.broken,
        "sampled responses differ from those of the accuracy run": found.differing,
    }
    reasons = [counted(what, where) for what, where in problems.items() if where]
    only_differing = bool(found.differing) and not found.missing and not found.broken
    return _verdict(lines, f"{'; '.join(reasons)}." if reasons else "", only_differing)


def _compare_responses(
    known: Mapping[int, str], sampled: Iterable[Mapping[str, Any]], kind: np.dtype[np.generic]
) -> _ResponseComparison:
    """Compare entries of TEST01's log with ``known``, the responses of the accuracy run by sample."""
    matched, missing, differing, broken = 0, [], [], []
    elements: dict[int, np.generic | None] = {}
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
    return _ResponseComparison(matched, missing, differing, broken)


def _entries(log: Path) -> list[dict[str, Any]]:
    return read_entries(log, repeat="repeat the run", untruncated="verify before truncation")


def _first(data: str, kind: np.dtype[np.generic]) -> np.generic | None:
    """The first element; None if empty. ValueError: not hexadecimal or not a multiple of the element size."""
    raw = bytes.fromhex(data)
    if len(raw) % kind.itemsize:
        raise ValueError(f"{len(raw)} bytes")
    first: np.generic | None = np.frombuffer(raw, kind, 1)[0] if raw else None
    return first


def baseline_log(accuracy_log: Path, test_log: Path) -> str:
    """The accuracy run's log, reduced to the samples in TEST01's log.

    Raises:
        ConfigError: a log is missing or is not an accuracy log.
        CheckFailed: a log is damaged or truncated.
    """
    wanted = {entry["qsl_idx"] for entry in _entries(test_log)}
    kept = [json.dumps(entry) for entry in _entries(accuracy_log) if entry["qsl_idx"] in wanted]
    return "[\n" + ",\n".join(kept) + "\n]\n"


def verify_delta(baseline: str, compliance: str, delta: float) -> Verdict:
    """Whether the scores in two texts of accuracy.txt differ by at most ``delta`` percent.

    Raises:
        CheckFailed: a text has no score in the official form.
    """
    one, two = _score(baseline), _score(compliance)
    lines = [f"Baseline accuracy = {one}", f"Compliance accuracy = {two}"]
    if not one or not two:
        return _verdict(lines, "the accuracy of the sampled responses, or of their baseline, is 0.")
    found = abs(1 - one / two) * 100
    cause = f"the accuracy of the sampled responses differs from its baseline by {found:.3f} % (limit {delta:g} %)."
    return _verdict(lines, "" if found <= delta else cause)


_OFFICIAL = re.compile(r"^(?:accuracy=([\d.]+)|\{[\"']exact_match[\"']:\s*[\d.]+,\s*[\"']f1[\"']:\s*([\d.]+)\})", re.M)


def _score(text: str) -> float:
    found = _OFFICIAL.findall(text)
    if not found:
        start = text.partition("\n")[0]
        raise CheckFailed(
            f"'{start}' is not an accuracy in the official form: score the logs with the official metric."
        )
    return float("".join(found[-1]))


def _verdict(lines: list[str], reason: str, differing: bool = False) -> Verdict:
    ending = [FAIL, reason] if reason else [PASS]
    return Verdict("\n".join([*lines, *ending]) + "\n", not reason, reason, differing)
