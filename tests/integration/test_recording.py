"""The recorded batches and queries of a run against LoadGen's counts."""

from __future__ import annotations

import numpy as np
import pytest

from harness.loadgen.logs import TRACE, read_detail
from harness.results.timeline import TIMELINE, read_timeline

SCENARIOS = ["Offline", "Server", "SingleStream", "MultiStream"]


def queries_of(detail) -> int:
    return 1 if detail.values["effective_scenario"] == "Offline" else detail.values["result_query_count"]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("source", ["harness", "loadgen"])
def test_a_timeline_counts_what_loadgen_counts(harness, scenario, source):
    arguments = ("--engine", "null", "--set", "delay_us=2000", "--duration", "1")
    run = harness.run("--scenario", scenario, *arguments, "--timeline", source)
    assert run.code in (0, 1), run.err  # such a short MultiStream run is INVALID
    assert "could not be saved" not in run.err
    assert not (run.folder / TRACE).exists()
    found, result = read_timeline(run.folder), run.record["result"]
    detail = read_detail(run.folder, "performance")
    assert (found.source, found.complete) == (source, True)
    assert (found.samples, found.batches) == (result["samples"], result["batches"])
    assert found.shapes[:, 4].sum() == result["cost"]
    assert found.edges[-1] == pytest.approx(result["loadgen_s"], rel=0.2)
    if scenario == "Offline" and source == "harness":
        assert found.queries == 0  # all of them arrived at once
        return
    assert found.queries == queries_of(detail)
    upto = np.cumsum(found.latency_counts)
    for percentile in ("50.00", "90.00", "99.00") if scenario != "Offline" else ():
        at = np.searchsorted(upto, float(percentile) / 100 * found.queries)
        low, high = found.latency_edges[at : at + 2]
        # A millisecond for the delay between the harness's clock and LoadGen's on a busy machine; none with the trace.
        width, slack = high - low, 0.001 if source == "harness" and percentile == "50.00" else 0
        if source == "loadgen" or slack:
            assert low - width - slack <= detail.latencies[percentile] / 1000 <= high + width + slack, percentile


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_accuracy_run_has_a_timeline(harness, scenario):
    run = harness.run("--engine", "null", "--scenario", scenario, "--mode", "accuracy")
    assert run.code == 0, run.err
    found = read_timeline(run.folder)
    assert found.samples == run.record["result"]["samples"]
    assert found.batches == run.record["result"]["batches"]


def test_timeline_off_keeps_no_timeline(harness):
    run = harness.run("--engine", "null", "--duration", "1", "--timeline", "off")
    assert run.code == 0, run.err
    assert not (run.folder / TIMELINE).exists()


def test_an_official_run_rejects_a_trace(harness):
    run = harness.run("--engine", "null", "--official", "--timeline", "loadgen")
    assert run.code == 2
    assert "an official run has no trace" in run.err
