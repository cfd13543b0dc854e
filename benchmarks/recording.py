"""What it costs a test that its batches and queries are recorded.

    python -m benchmarks.recording [--model M] [--dataset D] [--seconds S] [--pairs N]

Prints, side by side in one run with the null engine, for which nothing but the harness counts:
  Offline: samples/s with recording on ÷ off, all samples in one query;
  Server: queries/s with recording on ÷ off, from LoadGen's Server far above what can be answered;
  a batch: the recorder alone, in microseconds.

A test with a real engine has the same cost a batch and far fewer batches a second. The two sides of a ratio are
measured in turn in one process, and the side that goes first changes from pair to pair.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from rich.table import Table

from benchmarks.common import Ready, apart, spread
from harness import catalog, console
from harness.machine import core_count, cpu_model
from harness.recording import Recorder
from harness.scheduling.base import Work
from harness.scheduling.batching import Shape


def rates(
    model: str, dataset: str | None, scenario: str, seconds: float, pairs: int
) -> list[tuple[float, float, float]]:
    """Pairs of samples/s with and without a recorder, and the samples of a batch; in a process of its own."""
    from harness.loadgen import session

    ready = Ready.make(model, dataset, "null", scenario)

    def test(recorded: bool, **settings: object) -> tuple[float, float]:
        scheduler = ready.scenario.scheduler(session.complete)
        if recorded:
            scheduler.recorder = Recorder()
        detail = ready.short_test(scheduler, **settings)
        counters = scheduler.counters
        return counters.completed / float(detail.duration or 1), counters.completed / counters.batches

    if scenario == "Offline":
        rate, _ = test(False, min_query_count=200_000)
        settings: dict[str, object] = {"min_query_count": int(rate * seconds)}
    else:
        # More than is answered, so that what is answered a second is limited by the harness, not by LoadGen's clock.
        settings = {"min_duration_ms": round(seconds * 1000), "server_target_qps": 100_000}
    rows = []
    for pair in range(pairs):
        sides = (True, False) if pair % 2 else (False, True)
        found = {recorded: test(recorded, **settings) for recorded in sides}
        rows.append((found[True][0], *found[False]))
    return rows


def batch_seconds(samples: int, repeats: int = 200_000) -> float:
    """Seconds that the recorder takes for a batch of so many queries."""
    recorder = Recorder()
    work = Work(list(range(samples)), np.arange(samples), Shape(samples, 384), [0.0] * samples)
    start = time.perf_counter()
    for _ in range(repeats):
        recorder.batch(0.0, 1.0, work, 384)
    return (time.perf_counter() - start) / repeats


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=catalog.default_model())
    parser.add_argument("--dataset", default=None)
    parser.add_argument("--seconds", type=float, default=4, help="about how long each test takes")
    parser.add_argument("--pairs", type=int, default=7)
    args = parser.parse_args()

    table = Table("what", "ratio: median (least - greatest)", "aim", "figures", box=None, pad_edge=False)
    for scenario in ("Offline", "Server"):
        console.note(f"measuring {scenario} ...")
        rows = apart(rates, args.model, args.dataset, scenario, args.seconds, args.pairs)
        on, off, size = (statistics.median(column) for column in zip(*rows, strict=True))
        figures = f"{on:,.0f} and {off:,.0f} samples/s, {size:.1f} a batch"
        table.add_row(f"{scenario}: recorded ÷ not", spread([a / b for a, b, _ in rows]), "0.99", figures)
    alone = " and ".join(f"{batch_seconds(samples) * 1e6:.2f}" for samples in (1, 8))
    table.add_row("a batch of 1 and of 8 queries", "", "", f"{alone} µs")
    console.out.print(f"null engine on {cpu_model()}, {core_count()} cores; each side {args.pairs} times, in turn")
    console.print_table(table)


if __name__ == "__main__":
    main()
