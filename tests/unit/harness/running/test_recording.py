"""Recording a test: sums, queries, limits, and that no recording error ends the test."""

from __future__ import annotations

import json

import echo
import numpy as np
import pytest
from echo import EchoSut

from harness.results.timeline import FORMAT, TIMELINE, read_timeline
from harness.running import recorder as recording
from harness.running.recorder import Queries, Recorder, read_trace
from harness.scenarios.base import find_scenario
from harness.scheduling.base import Work
from harness.scheduling.batching import DynamicPlanner
from harness.scheduling.cost import CostTable
from harness.scheduling.offline import OfflineScheduler
from harness.scheduling.server import ServerScheduler
from harness.scheduling.stream import StreamScheduler
from harness.task.shape import Shape

TABLE = CostTable({Shape(n, x): 0.01 * n**0.7 * (x / 384) for n in (1, 8) for x in (1, 100, 384)}, fixed=False)


def work(samples: int, rows: int, length: int, arrivals=()) -> Work:
    return Work(list(range(samples)), np.arange(samples), Shape(rows, length), arrivals)


def kept(recorder: Recorder, tmp_path, scenario: str, queries: Queries | None = None):
    recorder.save(tmp_path / TIMELINE, find_scenario(scenario).samples_per_query, queries)
    return read_timeline(tmp_path)


def test_sums_over_batches(tmp_path):
    recorder = Recorder()
    recorder.arrived(100.0)
    recorder.answered(101, 103, work(4, 4, 10), 33)
    recorder.answered(102, 104, work(2, 4, 10), 15)
    recorder.answered(104, 110, work(8, 8, 70_000), 500_000)
    found = kept(recorder, tmp_path, "Offline")
    assert (found.source, found.complete) == ("harness", True)
    assert (found.batches, found.samples, found.queries) == (3, 14, 0)
    assert found.edges[[0, -1]] == pytest.approx([0, 10])
    assert found.done.sum() == pytest.approx(14)
    # Nothing in the first second; eight samples, spread evenly, in the last six.
    assert found.done[found.edges[1:] <= 1].sum() == pytest.approx(0, abs=1e-6)
    assert found.done[found.edges[:-1] >= 4.0 - 1e-9].sum() == pytest.approx(8)
    assert found.shapes.tolist() == [[4, 10, 2, 6, 48, 4], [8, 70_000, 1, 8, 500_000, 6]]
    assert found.sizes.tolist() == [[2, 1], [4, 1], [8, 1]]
    assert np.isnan(found.quantiles).all()
    assert len(found.latency_edges) == 0


def test_server_queries_are_the_samples_of_a_batch(tmp_path):
    recorder = Recorder()
    recorder.answered(2, 3, work(2, 2, 1, [1.5, 1.0]), 2)
    recorder.answered(2, 4, work(1, 1, 1, [1.0]), 1)  # arrived together with another, but is a query of its own
    found = kept(recorder, tmp_path, "Server")
    assert found.queries == 3
    assert found.arrivals.tolist() == [0, 0, 0.5]
    assert sorted(found.latencies.tolist()) == [1.5, 2, 3]
    assert found.latency_counts.sum() == 3


def test_a_multistream_query_ends_with_its_last_batch(tmp_path):
    recorder = Recorder()
    recorder.answered(1, 3, work(3, 3, 1, (1.0,)), 3)
    recorder.answered(1, 2, work(5, 5, 1, (1.0,)), 5)
    recorder.answered(3, 4, work(8, 8, 1, (3.0,)), 8)
    found = kept(recorder, tmp_path, "MultiStream")
    assert (found.queries, found.samples) == (2, 16)
    assert found.latencies.tolist() == [2, 1]


def test_quantiles_of_the_histogram_are_those_of_the_latencies(tmp_path):
    rng = np.random.default_rng(1)
    arrivals = np.sort(rng.uniform(0, 50, 20_000))
    latencies = rng.lognormal(-4, 0.5, 20_000)
    recorder = Recorder()
    for came, took in zip(arrivals.tolist(), latencies.tolist(), strict=True):
        recorder.answered(came, came + took, work(1, 1, 1, (came,)), 1)
    found = kept(recorder, tmp_path, "SingleStream")
    assert found.latency_counts.sum() == 20_000
    assert (found.latency_edges[0], found.latency_edges[-1]) == pytest.approx((latencies.min(), latencies.max()))
    upto = np.cumsum(found.latency_counts)
    for share in (0.5, 0.9, 0.99):
        at = np.searchsorted(upto, share * 20_000)
        assert found.latency_edges[at] <= np.quantile(latencies, share, method="lower")
        assert np.quantile(latencies, share, method="lower") <= found.latency_edges[at + 1]
    worst = np.nanmax(found.quantiles[:, 3])
    assert worst == pytest.approx(latencies.max())
    assert found.done.sum() == pytest.approx(20_000)


def test_the_file_does_not_grow_with_the_test(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "_MAX_SAVED_ROWS", 100)
    recorder = Recorder()
    for n in range(1000):
        recorder.answered(n, n + 1, work(2, 2, 1, (float(n),)), 2)
        recorder.tick()
    found = kept(recorder, tmp_path, "MultiStream")
    assert (found.batches, found.queries, found.samples) == (1000, 1000, 2000)
    assert {len(x) for x in (found.arrivals, found.latencies, found.cpu)} == {100}
    assert (found.arrivals[0], found.arrivals[-1]) == (0, 999)
    assert found.latency_counts.sum() == 1000


@pytest.mark.parametrize(("name", "limit"), [("_MAX_BATCH_BYTES", 10 * 36), ("_MAX_QUERIES", 10)])
def test_reaching_the_memory_limit_is_recorded(tmp_path, monkeypatch, name, limit):
    monkeypatch.setattr(recording, name, limit)
    recorder = Recorder()
    for n in range(10):
        recorder.answered(n, n + 1, work(1, 1, 1, (float(n),)), 1)
    assert kept(recorder, tmp_path, "SingleStream").complete
    recorder.answered(10, 11, work(1, 1, 1, (10.0,)), 1)
    found = kept(recorder, tmp_path, "SingleStream")
    assert not found.complete
    assert found.batches == found.queries == 10


def test_nothing_is_written_for_a_test_without_a_batch(tmp_path, capsys):
    Recorder().keep(tmp_path, None)
    assert not list(tmp_path.iterdir())
    assert read_timeline(tmp_path) is None


def test_a_batch_that_cannot_be_recorded_is_a_warning(tmp_path, caplog):
    recorder = Recorder()
    recorder.answered(1, 2, work(1, 1, 1), 1)
    recorder.answered(2, 3, work(1, 1, 1), -1)
    recorder.answered(3, 4, work(1, 1, 1), 1)
    recorder.keep(tmp_path, None)
    assert not list(tmp_path.iterdir())
    assert "the timeline of the test could not be saved (error: " in caplog.text


def test_a_full_disk_leaves_no_half_a_file(tmp_path, monkeypatch, caplog):
    def full(path, **arrays):
        path.write_bytes(b"PK")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    recorder = Recorder()
    recorder.answered(1, 2, work(1, 1, 1), 1)
    recorder.keep(tmp_path, None)
    assert not list(tmp_path.iterdir())
    assert "No space left on device" in caplog.text


def test_a_system_without_processor_times(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "reading", lambda: 1 / 0)
    recorder = Recorder()
    recorder.tick()
    recorder.answered(1, 2, work(1, 1, 1), 1)
    assert kept(recorder, tmp_path, "Offline").cores_busy is None


def test_core_use_is_counted_only_during_the_test(tmp_path, monkeypatch):
    times = iter([(9.0, 0.0, 0.0), (10.0, 5.0, 7.0), (12.0, 8.0, 13.0), (30.0, 99.0, 99.0)])
    recorder = Recorder()
    recorder._cpu.extend(times)
    recorder.answered(10, 12, work(1, 1, 1), 1)
    assert kept(recorder, tmp_path, "Offline").cores_busy == pytest.approx((1.5, 3))


def test_a_machine_is_never_less_busy_than_the_run_on_it(tmp_path):
    recorder = Recorder()
    recorder._cpu.extend([(10.0, 5.0, 7.0), (12.0, 5.5, 7.3)])
    recorder.answered(10, 12, work(1, 1, 1), 1)
    assert kept(recorder, tmp_path, "Offline").cores_busy == pytest.approx((0.25, 0.25))


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_a_broken_file_is_none(tmp_path, content, capsys):
    (tmp_path / TIMELINE).write_bytes(content)
    assert read_timeline(tmp_path) is None
    assert f"{TIMELINE} cannot be read" in capsys.readouterr().err


@pytest.mark.slow
def test_a_file_with_a_wrong_byte_is_none_or_complete(tmp_path):
    recorder = Recorder()
    for number in range(50):
        recorder.answered(10 + number, 11 + number, work(1, 1, 1), 1)
    recorder.save(tmp_path / TIMELINE, None)
    whole = (tmp_path / TIMELINE).read_bytes()
    seen = set()
    for at in range(0, len(whole), 23):
        (tmp_path / TIMELINE).write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        seen.add(read_timeline(tmp_path) is None)
    assert True in seen


def test_a_file_of_another_format_is_none(tmp_path, capsys):
    np.savez(tmp_path / TIMELINE, about=np.array(json.dumps({"format": FORMAT + 1})))
    assert read_timeline(tmp_path) is None
    assert "by another version of the harness" in capsys.readouterr().err


def test_a_file_of_format_1_with_its_arrays_of_batches_is_read(tmp_path):
    recorder = Recorder()
    recorder.answered(10, 12, work(2, 2, 1, (10.0,)), 2)
    now = kept(recorder, tmp_path, "MultiStream")
    with np.load(tmp_path / TIMELINE) as file:
        arrays = dict(file)
    arrays["about"] = np.array(json.dumps({**json.loads(str(arrays["about"])), "format": 1}))
    rows = {
        "batch_start": np.zeros(1),
        "batch_seconds": np.ones(1, np.float32),
        "batch_shape": np.ones((1, 4), np.uint32),
    }
    np.savez_compressed(tmp_path / TIMELINE, **arrays, **rows)
    then = read_timeline(tmp_path)
    assert (then.source, then.batches, then.samples, then.queries) == ("harness", 1, 2, 1)
    assert then.done.tolist() == now.done.tolist()


def sample(query: int, arrived_us: float, took_ns: int) -> str:
    event = {"name": "Sample", "cat": "default", "ph": "b", "ts": arrived_us}
    event["args"] = {"query_seq": query, "complete_ns": took_ns}
    return json.dumps(event, separators=(",", ":")) + ",\n"


def test_a_trace_is_read_by_query_whatever_its_order_and_end(tmp_path):
    path = tmp_path / "trace.json"
    lines = [sample(1, 3e6, 10**9), sample(0, 2e6, 10**9), sample(0, 2e6, 3 * 10**9), '{"name":"Other"},\n']
    path.write_text('{"traceEvents":[\n' + "".join(lines) + sample(2, 4e6, 10)[:-25])
    found = read_trace(path)
    assert found.arrivals.tolist() == [2, 3]
    assert found.latencies.tolist() == [3, 1]


def test_the_trace_replaces_the_recorded_queries(tmp_path):
    recorder = Recorder()
    recorder.answered(101, 102, work(1, 1, 1, [100.0]), 1)
    recorder.answered(102, 103, work(1, 1, 1, [100.5]), 1)
    found = kept(recorder, tmp_path, "Server", Queries(np.array([7.0, 7.4]), np.array([2.25, 2.75])))
    assert found.source == "loadgen"
    assert found.arrivals == pytest.approx([0, 0.4])
    assert found.latencies.tolist() == [2.25, 2.75]


def test_a_trace_without_a_sample_leaves_the_recorded_ones(tmp_path):
    trace = tmp_path / "trace.json"
    trace.write_text('{"traceEvents":[\n')
    recorder = Recorder()
    recorder.answered(1, 2, work(1, 1, 1, [1.0]), 1)
    recorder.keep(tmp_path, 1, trace)
    found = read_timeline(tmp_path)
    assert (found.source, found.queries) == ("harness", 1)


SCHEDULERS = {
    "Offline": lambda *to: OfflineScheduler(EchoSut(2), DynamicPlanner(4, 2000), *to),
    "Server": lambda *to: ServerScheduler(EchoSut(2), TABLE, 0.13, *to),
    "SingleStream": lambda *to: StreamScheduler(EchoSut(1), TABLE, *to),
    "MultiStream": lambda *to: StreamScheduler(EchoSut(2), TABLE, *to),
}


@pytest.mark.parametrize("scenario", SCHEDULERS)
@pytest.mark.parametrize("broken", [False, True])
def test_every_scheduler_reports_all_batches_and_survives_a_broken_recorder(tmp_path, scenario, broken):
    recorder = Recorder()
    if broken:
        recorder._batches = None
    size = {"Offline": 200, "MultiStream": 8}.get(scenario, 1)
    queries = [[(size * n + k) % 500 for k in range(size)] for n in range(1 if scenario == "Offline" else 25)]

    scheduler, answers, _ = echo.serve(lambda complete: SCHEDULERS[scenario](complete, recorder), queries)
    assert scheduler.failure is None
    assert len(answers) == size * len(queries)
    recorder.keep(tmp_path, find_scenario(scenario).samples_per_query)
    found = read_timeline(tmp_path)
    if broken:
        assert found is None
        return
    counters = scheduler.counters
    assert (found.samples, found.batches) == (counters.completed, counters.batches)
    assert found.queries == (0 if scenario == "Offline" else len(queries))
    assert found.shapes[:, 4].sum() == counters.done_cost
    assert (found.shapes[:, 0] * found.shapes[:, 1] * found.shapes[:, 2]).sum() == counters.padded
