"""Results that the rules let a submitter infer from other results instead of measuring them.

The official preprocess_submission.py copies the measured result's whole folder to the inferred one; both official
checkers then see from the log's scenario that the result was inferred, and compute it as here (mlcommons/inference,
submission_checker/checks/performance_check.py, `get_inferred_result`). Only systems of type edge may do so.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Inference:
    """A scenario whose result the rules let a submitter infer from that of another one."""

    source: str
    """The scenario that was measured, as in its log."""
    target: str
    """The scenario that the result is submitted for."""
    key: str
    """The key of the source's log that the result is computed from; a number greater than 0."""
    result: Callable[[float], float]
    """Converts that number to the target's own result: samples per second, or nanoseconds."""


_SAMPLES_PER_QUERY = 8  # of MultiStream
INFERENCES = (
    Inference("MultiStream", "Offline", "result_mean_query_latency_ns", lambda mean: _SAMPLES_PER_QUERY * 1e9 / mean),
    Inference("SingleStream", "Offline", "result_qps_without_loadgen_overhead", lambda rate: rate),
    Inference("SingleStream", "MultiStream", "early_stopping_latency_ms", lambda latency: _SAMPLES_PER_QUERY * latency),
)
"""For each target, the better source comes first."""

LOWER_ACCURACY: Mapping[str, str] = {"bert-99.9": "bert-99"}
"""Benchmarks whose results also count for one with a lower accuracy target."""


def find_inference(source: object, target: str) -> Inference | None:
    """How a result of ``target`` follows from a log of ``source``; None if the rules do not allow it.

    >>> find_inference("SingleStream", "Offline").key, find_inference("Server", "Offline")
    ('result_qps_without_loadgen_overhead', None)
    """
    return next((each for each in INFERENCES if (each.source, each.target) == (source, target)), None)


def inferable(scenarios: Iterable[str], required: Container[str]) -> dict[str, Inference]:
    """The scenarios that need no test of their own, each with its inference from one of the others.

    Only ``required`` ones: other results are not inferred.

    >>> [(name, how.source) for name, how in inferable(("SingleStream", "MultiStream", "Offline"), {"Offline"}).items()]
    [('Offline', 'MultiStream')]
    """
    given = set(scenarios)
    targets = {each.target for each in INFERENCES if each.target in required and {each.source, each.target} <= given}
    found: dict[str, Inference] = {}
    for each in INFERENCES:
        if each.target in targets and each.source in given - targets:
            found.setdefault(each.target, each)
    return found


def may_infer(system_type: object) -> bool:
    """Whether results may be inferred for systems of that type."""
    return isinstance(system_type, str) and "edge" in system_type.split(",")
