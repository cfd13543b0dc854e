"""What the logs of a compliance test must show, and the words for it in the form of the official scripts.

The rules are those of run_verification.py (mlcommons/inference, compliance/TEST01 and TEST04); a test that passes here
passes there. Stricter than there: samples that the accuracy run did not answer, LoadGen errors, a Server latency bound
that differs in TEST04, a score that is missing, and an audit.config that was not read are failures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import CheckFailed, ConfigError
from harness.loadgen.accuracy_log import read_entries, tell
from harness.loadgen.logs import DETAIL, SUMMARY, read_detail
from harness.rules.audits import AUDITS, Audit
from harness.scenarios.base import Scenario, known_scenario

PASS, FAIL = "TEST PASS", "TEST FAIL"
"""What both official checkers look for, on a line of its own."""
DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "byte": np.dtype("i1"),
    "int32": np.dtype("<i4"),
    "int64": np.dtype("<i8"),
    "float32": np.dtype("<f4"),
}
"""What the first element of a response may be read as.

The default is int32, which compares the first four bytes of any type, and not byte as in the official script: the first
byte of small numbers is 0 in float32, so that wrong labels would pass. What passes as int32 passes as byte, too.
"""


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
    scenario: type[Scenario]
    score: float
    """Samples per second, or of streams the latency in nanoseconds (TEST01) or its inverse (TEST04)."""
    bound: object
    """Nanoseconds."""


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
    """Why a stream that passes TEST04's script is faster than the rules allow, 10 % (20 % where latencies are short).

    The script compares rates with the bound that was meant for latencies, and so allows every stream 20 %.

    Raises:
        RunFailed: a log is cut short.
    """
    one, two = (read_detail(folder, "performance").values for folder in (reference, test))
    scenario = known_scenario(one.get("effective_scenario"))
    if scenario is None or not scenario.latency:
        return ""
    before, after = (_number(values.get(scenario.result)) for values in (one, two))
    if not before or not after:
        return ""
    allowed, faster = tolerance(scenario, before), speedup(scenario, before, after)
    if faster < allowed:
        return ""
    return f"with one sample again and again it is {faster:.1%} faster, and below {allowed:.0%} is allowed."


def tolerance(scenario: type[Scenario], result: float) -> float:
    """The share by which the result of a test may differ from that of the performance run, ``result``."""
    return 0.20 if result <= scenario.short_ns else 0.10


def speedup(scenario: type[Scenario], before: float, after: float) -> float:
    """By which share the second of two results is faster than the first; negative if it is slower."""
    return (before / after if scenario.latency else after / before) - 1


def _compare(one: _Run, two: _Run, audit: Audit) -> str:
    """Why the test's score does not fit the performance run's; "" if it does."""
    threshold = tolerance(one.scenario, one.score)
    change = f"{two.score / one.score - 1:+.1%}" if one.score else "not comparable"
    if audit.finds_caching:
        if two.score < one.score * (1 + threshold):
            return ""
        return f"the test's score is {change} against the performance run's, and below {threshold:+.0%} is allowed."
    if one.score * (1 - threshold) <= two.score <= one.score * (1 + threshold):
        return ""
    return f"the test's score is {change} against the performance run's, and {threshold:.0%} either way is allowed."


def _read_run(folder: Path, audit: Audit, tested: bool = False) -> _Run | str:
    """A run, or why it cannot be compared."""
    for file in (DETAIL, SUMMARY):
        if not (folder / file).is_file():
            raise ConfigError(f"there is no {file} in {folder}: give the folder that holds performance/run_1.")
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
        score = _summary_rate(summary, scenario) if audit.finds_caching else _number(values.get(scenario.result))
    if scenario is None or score is None:
        return f"the log in {folder} holds no score of {name}: repeat the run."
    if tested and (unread := audit.unread(values)):
        return f"{folder} is no log of {audit.name}, {unread}: run it again with its audit.config."
    return _Run(scenario, score, values.get("effective_target_latency_ns"))


def _summary_rate(summary: str, scenario: type[Scenario]) -> float | None:
    """The result in mlperf_log_summary.txt, a latency as its inverse; None if it is not there."""
    names = "|".join(re.escape(name) for name in scenario.summary)
    found = re.findall(rf"^ *(?:{names}).*?: (\S+)", summary, re.MULTILINE)
    score = _number(found[-1]) if found else None
    return 1e9 / score if score and scenario.latency else score


def _number(value: object) -> float | None:
    try:
        return float(value) if isinstance(value, int | float | str) else None
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True)
class _Comparison:
    """The sampled responses of TEST01 beside those of the accuracy run; lists hold sample indices."""

    matched: int
    """Sampled responses to samples that the accuracy run answers."""
    missing: list[int]
    """Samples that it does not answer."""
    differing: list[int]
    broken: list[int]
    """Whose response is not hexadecimal, or no multiple of an element."""


def verify_accuracy(accuracy_log: Path, test_log: Path, dtype: str = "int32") -> Verdict:
    """Whether the sampled responses of TEST01 are those of the accuracy run, by their first element of ``dtype``.

    Raises:
        ConfigError: a log is not there, or it is none.
        CheckFailed: a log is damaged or truncated.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"no such dtype '{dtype}': choose from {', '.join(DTYPES)}.")
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
        reason = f"{test_log} holds no response, so that nothing was compared: run the test with its audit.config."
        return _verdict(lines, reason)
    problems = {
        f"sampled responses are to samples that {accuracy_log} does not answer": found.missing,
        f"responses are no {dtype}": found.broken,
        "sampled responses differ from those of the accuracy run": found.differing,
    }
    reasons = [tell(what, where) for what, where in problems.items() if where]
    only_differing = bool(found.differing) and not found.missing and not found.broken
    return _verdict(lines, f"{'; '.join(reasons)}." if reasons else "", only_differing)


def _compare_responses(
    known: Mapping[int, str], sampled: Iterable[Mapping[str, Any]], kind: np.dtype[np.generic]
) -> _Comparison:
    """``known`` are the responses of the accuracy run, by sample."""
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
    return _Comparison(matched, missing, differing, broken)


def _entries(log: Path) -> list[dict[str, Any]]:
    return read_entries(log, repeat="repeat the run", untruncated="verify before truncation")


def _first(data: str, kind: np.dtype[np.generic]) -> np.generic | None:
    """The first element; None where there is no byte. ValueError: not hexadecimal, or no multiple of an element."""
    raw = bytes.fromhex(data)
    if len(raw) % kind.itemsize:
        raise ValueError(f"{len(raw)} bytes")
    first: np.generic | None = np.frombuffer(raw, kind, 1)[0] if raw else None
    return first


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


def _verdict(lines: list[str], reason: str, differing: bool = False) -> Verdict:
    ending = [FAIL, reason] if reason else [PASS]
    return Verdict("\n".join([*lines, *ending]) + "\n", not reason, reason, differing)
