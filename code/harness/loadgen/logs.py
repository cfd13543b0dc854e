"""Reads mlperf_log_detail.txt, LoadGen's log of a test, and explains its verdict."""

import json
import math
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeGuard

from harness.errors import RunFailed
from harness.paths import advice

SUMMARY, DETAIL, ACCURACY, TRACE = (
    "mlperf_log_summary.txt",
    "mlperf_log_detail.txt",
    "mlperf_log_accuracy.json",
    "mlperf_log_trace.json",
)
_TUNE = advice("`make tune SCENARIO=Server`", "`harness tune --scenario Server`")
PARTIAL = "mlperf_log_detail.partial.txt"


@dataclass(frozen=True)
class Detail:
    """The key/value lines of mlperf_log_detail.txt; the last value of a repeated key."""

    values: dict[str, Any]
    errors: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether LoadGen called the performance run VALID and logged no error."""
        return self.values.get("result_validity") == "VALID" and not self.errors

    @property
    def duration(self) -> float | None:
        """Duration of a performance run in seconds; None if the log does not show it."""
        values = self.values
        if "result_samples_per_second" in values:  # Offline: a single query
            latency: float | None = values.get("result_max_latency_ns")
            return latency / 1e9 if latency is not None else None
        queries: int = values.get("result_query_count", 0)
        rate: float | None = values.get(
            "result_completed_samples_per_sec", values.get("result_qps_with_loadgen_overhead")
        )
        if rate:
            return queries / rate
        mean: float | None = values.get("result_mean_query_latency_ns", values.get("result_mean_latency_ns"))
        return queries * mean / 1e9 if mean else None

    @property
    def elapsed(self) -> float | None:
        """Seconds from the first query to the last answer by LoadGen's clock, to a millisecond; None if not logged."""
        try:
            # LoadGen logs both times in UTC, so that a power meter's log can be cut to the test.
            began, ended = (datetime.strptime(self.values[key], _TIME) for key in ("power_begin", "power_end"))
        except (KeyError, TypeError, ValueError):
            return None
        return (ended - began).total_seconds()

    @property
    def latencies(self) -> dict[str, float]:
        """Latencies in milliseconds, by percentile such as "99.00"."""
        # MultiStream also logs the percentiles of its samples, but its result is about queries.
        kind = "per_query_latency" if "result_mean_query_latency_ns" in self.values else "latency"
        found = re.compile(rf"result_([\d.]+)_percentile_{kind}_ns")
        matches = ((found.fullmatch(key), value) for key, value in self.values.items())
        return {match[1]: value / 1e6 for match, value in matches if match}

    @property
    def bound(self) -> float | None:
        """The scenario's latency bound in milliseconds; None if it has none."""
        return self.values.get("effective_target_latency_ns", 0) / 1e6 or None

    def reasons(self, qps_hint: str) -> list[str]:
        """Why a performance run is not valid, in plain words; ``qps_hint`` is the fix for a run that was too short."""
        reasons = [f"LoadGen logged an error: {text}" for text in self.errors]
        if self.values.get("result_validity") == "VALID":
            return reasons
        seconds = self.values.get("effective_min_duration_ms", 0) / 1000
        if not self.values.get("result_min_duration_met", True):
            reasons.append(
                f"it ended after {self.duration:.1f} s instead of at least {seconds:g} s, because LoadGen issued too "
                f"few samples for such a fast system: {qps_hint}"
            )
        if not self.values.get("result_min_queries_met", True):
            reasons.append("fewer queries were completed than the settings require: let the test run longer")
        if not self.values.get("result_perf_constraints_met", True):
            rate = self.values.get("effective_target_qps")
            at = f" at {rate:.6g} queries/s" if rate else ""
            reasons.append(
                f"the latency bound was missed{at}: lower target_qps, or let {_TUNE} find the "
                "highest rate that meets it"
            )
        elif not self.values.get("early_stopping_met", True):
            reasons.append(self._early_stopping())
        return reasons or [str(self.values.get("result_invalid_reason", "LoadGen states no reason")).strip()]

    def _early_stopping(self) -> str:
        """Why the percentile is too uncertain, and what to do; LoadGen's text comes from loadgen/results.cc."""
        found = re.search(r"at least (\d+) (more )?queries", str(self.values.get("early_stopping_result", "")))
        queries = self.values.get("result_query_count", 0)
        needed = int(found[1]) + (queries if found[2] else 0) if found else 0
        if not queries or needed <= queries:
            return "early stopping was not met: the percentile is too uncertain; lower target_qps"
        seconds = math.ceil(1.1 * (self.duration or 0) * needed / queries)
        return (
            f"early stopping was not met: {queries:,} queries were processed, but the percentile needs at least "
            f"{needed:,} to be certain; let the test run for {seconds:,} s or more"
        )


@dataclass(frozen=True)
class Unfinished(Detail):
    """A performance run that was stopped before LoadGen had a result."""

    lasted: float
    """Seconds until it was stopped."""

    @property
    def duration(self) -> float:
        """Seconds until it was stopped."""
        return self.lasted


def keep_partial(folder: Path) -> None:
    """Keep the log of an unfinished run under a name that nothing reads as a finished run's log."""
    (folder / DETAIL).rename(folder / PARTIAL)
    for name in (SUMMARY, ACCURACY):
        (folder / name).unlink(missing_ok=True)


_TIME = "%m-%d-%Y %H:%M:%S.%f"
_LAST_KEY = {"performance": "num_errors", "accuracy": "power_end"}
_LAST_ONCE = re.compile(r"result_99\.90_percentile(_per_query)?_latency_ns")
"""The last key of a performance run in logs of LoadGen up to 5.0, which other submitters' results contain."""
_NUMBER = re.compile(r"(effective|result)_.*_(ns|ms|count|qps|overhead|sec|second)|early_stopping_latency_(ss|ms)")
"""Keys whose values are numbers."""


def read_detail(folder: Path, mode: str) -> Detail:
    """Read mlperf_log_detail.txt of a performance or accuracy run.

    Raises:
        RunFailed: it or the summary is missing, damaged, or truncated, for example by a full disk.
    """
    path = folder / DETAIL
    values: dict[str, Any] = {}
    errors = []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        summary = (folder / SUMMARY).read_text(encoding="utf-8", errors="replace").rstrip()
    except OSError as error:
        raise RunFailed(f"LoadGen left no log in {folder}: {error.strerror}.") from error
    for number, line in enumerate(lines, start=1):
        # Like the official checkers, accept other lines anywhere but at the beginning.
        if not line.startswith(":::MLLOG ") and number > 1 and "\0" not in line:
            continue
        try:
            entry = json.loads(line.removeprefix(":::MLLOG "))
            key, value, is_error = entry["key"], entry["value"], entry["metadata"]["is_error"]
        except (KeyError, TypeError, ValueError, RecursionError):
            if number == len(lines):
                break  # the log is truncated: below, its last key is missing
            key = value = None
        if not isinstance(key, str) or (_NUMBER.fullmatch(key) and not is_number(value)):
            raise RunFailed(f"line {number} of {path} is not as LoadGen writes it: the log is damaged; repeat the run.")
        values[key] = value
        if is_error:
            errors.append(f"{key}: {value}")
    if not has_end(values, mode) or "encountered" not in summary.rpartition("\n")[2]:
        raise RunFailed(
            f"the log in {folder} is truncated: LoadGen could not write all of it; check that the disk is not full."
        )
    return Detail(values, tuple(errors))


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a value of a log is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def has_end(values: Mapping[str, Any], mode: str) -> bool:
    """Whether the values of a performance or accuracy run's detail log come from a complete log."""
    if mode == "performance" and re.match(r"[1-4]\.|5\.0", str(values.get("loadgen_version"))):
        return any(key == _LAST_KEY[mode] or _LAST_ONCE.fullmatch(key) for key in values)
    return _LAST_KEY[mode] in values


def check_accuracy_log(path: Path, samples: int) -> None:
    """Check that the accuracy log is complete.

    Raises:
        RunFailed: it cannot be read, or is truncated.
    """
    try:
        with path.open("rb") as log:
            log.seek(0, 2)
            size = log.tell()
            log.seek(max(0, size - 16))
            complete = log.read().rstrip().endswith(b"]")
    except OSError as error:
        raise RunFailed(f"{path} cannot be read: {error.strerror}.") from error
    if not complete or (samples and size < 8):
        raise RunFailed(f"{path} is truncated: LoadGen could not write all of it; check that the disk is not full.")
