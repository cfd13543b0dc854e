"""The parts of LoadGen's logs that the compliance tests read, rendered from a few values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.rules.audits import AUDITS

KEYS = {
    "Offline": "result_samples_per_second",
    "Server": "result_completed_samples_per_sec",
    "SingleStream": "early_stopping_latency_ss",
    "MultiStream": "early_stopping_latency_ms",
}
_LINES = {
    "Offline": "Samples per second: {}",
    "Server": "Completed samples per second    : {}",
    "SingleStream": " * Early stopping 90.0th percentile estimate: {}",
    "MultiStream": " * Early stopping 99.0th percentile estimate: {}",
}


def write_run(
    folder: Path,
    scenario: str = "Offline",
    score: float | None = 100.0,
    *,
    audit: str | None = None,
    validity: str = "VALID",
    errors: Sequence[str] = (),
    bound: int = 15_000_000,
    **changes: Any,
) -> Path:
    """A performance run's summary and detail; ``changes`` are additional values of the detail log."""
    values: dict[str, Any] = {
        "loadgen_version": "6.0.17",
        "effective_scenario": scenario,
        "effective_target_latency_ns": bound if scenario == "Server" else 0,
        "effective_accuracy_log_rng_seed": 0,
        "effective_performance_issue_unique": False,
        "effective_performance_issue_same": False,
        **(AUDITS[audit].effective if audit else {}),
        "result_validity": validity,
        **({KEYS[scenario]: score} if score is not None else {}),
        **changes,
    }
    lines = [_line(key, value) for key, value in values.items()]
    lines += [_line("error_runtime", text, True) for text in errors]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mlperf_log_detail.txt").write_text("".join([*lines, _line("num_errors", len(errors))]))
    rate = scenario in ("Offline", "Server")
    early = "" if rate or score is None else f"Early Stopping Result:\n{_LINES[scenario].format(score)}\n"
    (folder / "mlperf_log_summary.txt").write_text(
        f"{'=' * 48}\nMLPerf Results Summary\n{'=' * 48}\nSUT name : sut\nScenario : {scenario}\n"
        f"Mode     : PerformanceOnly\n{_LINES[scenario].format(score) if rate and score is not None else ''}\n"
        f"Result is : {validity}\n{early}\ntarget_latency (ns): {values['effective_target_latency_ns']}\n"
        + (f"{len(errors)} ERRORS encountered. See detailed log.\n" if errors else "No errors encountered.\n")
    )
    return folder


def write_log(path: Path, responses: Sequence[tuple[int, bytes | str]], style: str = "loadgen") -> Path:
    """An accuracy log in LoadGen's form, on one line, or pretty-printed."""
    entries: list[Mapping[str, Any]] = [
        {"seq_id": n, "qsl_idx": index, "data": data if isinstance(data, str) else data.hex().upper()}
        for n, (index, data) in enumerate(responses)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    if style == "loadgen":
        rows = [f'{{ "seq_id" : {e["seq_id"]}, "qsl_idx" : {e["qsl_idx"]}, "data" : "{e["data"]}" }}' for e in entries]
        path.write_text("[\n" + ",\n".join(rows) + "\n]\n")
    else:
        path.write_text(json.dumps(entries, indent=4 if style == "pretty" else None))
    return path


def _line(key: str, value: Any, error: bool = False) -> str:
    entry = {"key": key, "value": value, "time_ms": 1.0, "metadata": {"is_error": error, "is_warning": False}}
    return f":::MLLOG {json.dumps(entry)}\n"
