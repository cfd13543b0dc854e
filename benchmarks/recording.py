"""The cost of recording a test's batches and queries.

    python -m benchmarks.recording [--model M] [--engine E] [--dataset D] [--seconds S] [--pairs N]

Prints samples/s with recording on ÷ off for all four scenarios, side by side in one run. The default is the null
engine, which answers immediately: only the harness's own work remains, and Server's queries arrive far faster than they
can be answered. With a real engine the cost per query is the same, but disappears in the engine's noise.

The two sides of a ratio are measured alternately in one process: without, with, with, without.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import replace

from rich.table import Table

from benchmarks.common import apart, command, prepare_test, spread
from harness.catalog import manifests
from harness.host.machine import core_count, cpu_model
from harness.registry import SCENARIOS
from harness.running.recorder import Recorder
from harness.scenarios.base import ShortTest
from harness.terminal import console


def rates(
    model: str, dataset: str | None, engine: str, scenario: str, seconds: float, pairs: int
) -> list[tuple[float, float, float]]:
    """Pairs of samples/s with and without a recorder, and the samples per batch; runs in a separate process."""
    from harness.preparing import session

    ready = prepare_test(model, dataset, engine, scenario)

    def test(recorded: bool, settings: ShortTest) -> tuple[float, float]:
        scheduler = ready.scenario.scheduler(session.complete, Recorder() if recorded else None)
        detail = ready.short_test(settings, scheduler)
        counters = scheduler.counters
        return counters.completed / float(detail.duration or 1), counters.completed / counters.batches

    # The first test finds the rate and absorbs one-time costs. Tests have a fixed number of queries, so that LoadGen's
    # clock does not end them; Server's queries arrive faster than they are answered.
    per_query = ready.scenario.samples_per_query or 1
    fast = ShortTest(rate=100_000 if ready.scenario.paced else None)
    rate, _ = test(False, replace(fast, queries=100 if engine != "null" else 50_000))
    settings = replace(fast, queries=max(10, int(rate * seconds / per_query)))
    rows = []
    for pair in range(pairs):
        sides = (True, False) if pair % 2 else (False, True)
        found = {recorded: test(recorded, settings) for recorded in sides}
        rows.append((found[True][0], *found[False]))
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=manifests.default_model())
    parser.add_argument("--engine", default="null")
    parser.add_argument("--dataset", default=None)
    parser.add_argument("--seconds", type=float, default=4, help="approximate length of each test")
    parser.add_argument("--pairs", type=int, default=7)
    args = parser.parse_args()

    table = Table("recorded ÷ not", "median (min - max)", "target", "figures", box=None, pad_edge=False)
    for scenario in SCENARIOS:
        console.note(f"measuring {scenario} ...")
        rows = apart(rates, args.model, args.dataset, args.engine, scenario, args.seconds, args.pairs)
        on, off, size = (statistics.median(column) for column in zip(*rows, strict=True))
        figures = f"{on:,.0f} and {off:,.0f} samples/s, {size:.1f} per batch"
        table.add_row(scenario, spread([a / b for a, b, _ in rows]), "0.99", figures)
    console.out.print(
        f"{args.model} on {args.engine}, {cpu_model()}, {core_count()} cores; each side {args.pairs} times, alternately"
    )
    console.print_table(table)


if __name__ == "__main__":
    command(main)
