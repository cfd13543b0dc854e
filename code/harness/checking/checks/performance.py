"""The performance run of a result, and the checks that it shares with the compliance runs."""

from dataclasses import replace
from datetime import datetime

from harness.checking.checks.log import AGAIN, Log, check_summary, check_test, read_log
from harness.checking.checks.subject import Result
from harness.checking.tree import Findings, Problem, Tree, contents
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY, TRACE
from harness.rules.inference import may_infer
from harness.rules.limits import LARGEST_ACCURACY_LOG, MIN_DURATION_MS
from harness.rules.rounds import Rules
from harness.scenarios.base import Scenario

EXTRA = (TRACE, "results.json")
"""Files next to LoadGen's logs that both official checkers allow."""
_NO_AUDIT = {
    "effective_accuracy_log_rng_seed": 0,
    "effective_accuracy_log_probability": 0,
    "effective_accuracy_log_sampling_target": 0,
    "effective_performance_issue_unique": 0,
    "effective_performance_issue_same": 0,
}


def check_performance(result: Result) -> Findings[Log | None]:
    """The performance run; returns its log."""
    tree, cure = result.tree, "run the performance test and package it again"
    parent = f"{result.folder}/performance"
    yield from contents(tree, parent, folders=("run_1",), cure=cure)
    if tree.kind(f"{parent}/run_1") != "folder":
        return None
    log = yield from check_run(result, f"{parent}/run_1")
    if log is not None:
        yield from _inferred(result, log)
        for key, value in _NO_AUDIT.items():
            cure = "only compliance tests set it: rerun without an audit.config in the working directory"
            yield from log.expect(key, log.values.get(key) == value, f"{value}", cure)
    return log


def check_run(result: Result, folder: str) -> Findings[Log | None]:
    """The logs of a test in performance mode, with or without audit settings; returns the detail log."""
    tree, name = result.tree, result.measured
    yield from contents(tree, folder, files=(SUMMARY, DETAIL), allowed=(ACCURACY, *EXTRA), cure=AGAIN)
    yield from check_truncated(tree, f"{folder}/{ACCURACY}")
    log = None
    if tree.kind(f"{folder}/{DETAIL}") == "file":
        log = yield from read_log(tree, folder)
    if tree.kind(f"{folder}/{SUMMARY}") == "file":
        yield from check_summary(tree, folder, log, name, "PerformanceOnly")
    if log is not None:
        yield from check_test(log, "PerformanceOnly", name, result.package.round)
        yield from _valid(log, result.scenario)
        yield from _unlimited(log)
        for problem in _long_enough(log):
            yield replace(problem, stand_in=result.rehearsed)
        if result.rules:
            yield from _sizes(log, result.scenario, result.rules)
    return log


def _inferred(result: Result, log: Log) -> Findings[None]:
    """An inferred result needs a system type that allows inference, and a log that shows its value."""
    inference = result.inference
    if inference is None:
        return
    if not may_infer(result.system_type):
        what = f"{result.filed} is inferred from {inference.source}, which only systems of type edge may do"
        yield Problem(log.path, what, f"measure {result.filed}")
        return
    value = log.number(inference.key)
    wanted = f"a number greater than 0: {result.filed} is inferred from it"
    cure = f"let the {inference.source} test run longer, or measure {result.filed}"
    yield from log.expect(inference.key, value is not None and value > 0, wanted, cure)


def check_truncated(tree: Tree, path: str) -> Findings[None]:
    """An accuracy log must be truncated to `LARGEST_ACCURACY_LOG` bytes or less."""
    entry = tree.entries.get(path)
    if entry and entry.kind == "file" and entry.size > LARGEST_ACCURACY_LOG:
        what = f"it is not truncated: {entry.size} bytes (limit {LARGEST_ACCURACY_LOG})"
        yield Problem(path, what, "package it again")


def _valid(log: Log, scenario: type[Scenario] | None) -> Findings[None]:
    validity = log.values.get("result_validity")
    if validity == "INVALID":
        yield Problem(log.path, "the result is INVALID", "rerun the test until LoadGen reports VALID")
    else:
        yield from log.expect("result_validity", validity == "VALID", "VALID")
    constraints = ("result_perf_constraints_met",) if scenario and scenario.paced else ()
    for key in ("result_min_duration_met", "result_min_queries_met", "early_stopping_met", *constraints):
        yield from log.expect(key, log.values.get(key) is True, "true")
    if scenario:
        score = log.number(scenario.result_key)
        yield from log.expect(scenario.result_key, score is not None and score > 0, "a number greater than 0")
    yield from log.at_least("result_query_count", 1)


def _unlimited(log: Log) -> Findings[None]:
    for key in ("effective_max_duration_ms", "effective_max_query_count"):
        yield from log.expect(key, log.number(key) == 0, "0", "remove the limit from user.conf and rerun the test")


def _long_enough(log: Log) -> Findings[None]:
    minutes = "an official run takes at least 10 minutes: rerun it with `harness run --official`"
    yield from log.at_least("effective_min_duration_ms", MIN_DURATION_MS, minutes)
    moments = []
    for key in ("power_begin", "power_end"):
        try:
            moments.append(datetime.strptime(str(log.values.get(key)), "%m-%d-%Y %H:%M:%S.%f"))
        except ValueError:
            yield from log.expect(key, False, "a date and a time")
    if len(moments) == 2:
        seconds = (moments[1] - moments[0]).total_seconds()
        if seconds < MIN_DURATION_MS / 1000 - 1:  # the clock may have been adjusted slightly
            yield Problem(log.path, f"the test took only {seconds:.1f} s (power_begin to power_end)", minutes)


def _sizes(log: Log, scenario: type[Scenario] | None, rules: Rules) -> Findings[None]:
    full = "use the full data set"
    yield from log.expect(
        "qsl_reported_total_count",
        log.number("qsl_reported_total_count") == rules.samples,
        f"{rules.samples}, the full data set",
        full,
    )
    yield from log.at_least("effective_performance_sample_count", rules.performance_samples, full)
    yield from log.at_least("effective_min_query_count", 1)
    if scenario is None:
        return
    if scenario.samples_per_query is not None:
        yield from log.is_number("effective_samples_per_query", scenario.samples_per_query)
    if scenario.percentile is not None:
        yield from log.is_number("effective_target_latency_percentile", scenario.percentile / 100)
    if scenario.one_query:
        more = f"raise *.{scenario.name}.{scenario.key} in user.conf and rerun the test"
        yield from log.at_least("effective_samples_per_query", rules.offline_samples, more)
    if scenario.paced:
        bound, nanoseconds = rules.server_latency_ms, log.number("effective_target_latency_ns")
        good = nanoseconds is not None and 0 < nanoseconds <= (bound or float("inf")) * 1e6
        wanted = f"{bound * 1e6:.0f} or less" if bound else "a number greater than 0"
        yield from log.expect("effective_target_latency_ns", good, wanted)
