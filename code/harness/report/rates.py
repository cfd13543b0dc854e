"""Rate against latency: the rates that `harness tune` tested for a model in Server, next to the run's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness import paths
from harness.errors import ConfigError
from harness.results.finished import Finished
from harness.settings import tuned
from harness.settings.tuned import Rate, Tuned
from harness.terminal import console

VALID, SHORT, LATE = "VALID", "within the bound, too few queries", "over the bound"
"""The outcomes of a tuning's test."""


@dataclass(frozen=True)
class TunedRates:
    """The rates that one tuning tested, lowest first."""

    tuning: Tuned
    rates: tuple[Rate, ...]

    @property
    def about(self) -> str:
        """The origin of the rates, in a sentence."""
        return (
            f"{len(self.rates)} tests of harness tune with {self.tuning.words()}, {self.tuning.time[:10]}; those over "
            "the bound were cut short"
        )


def rates_of(run: Finished) -> TunedRates | None:
    """The rates of the tuning that the run used, or else of one with the same model, engine, data set and machine.

    None for runs without a bound, and if there is no such tuning.
    """
    if not (run.scenario.paced and run.performance and run.bound_ms):
        return None
    for place in _places(run):
        try:
            found = tuned.read(place)
        except ConfigError as error:
            console.warn(f"skipped: {error}")
            continue
        if found and found.rates and _belongs(found, run):
            return TunedRates(found, tuple(sorted(found.rates, key=lambda rate: (rate.rate, rate.seconds))))
    return None


def _places(run: Finished) -> Iterator[Path]:
    if run.record.tuned:
        yield (paths.ROOT / Path(run.record.tuned).expanduser()).parent
    yield from sorted(paths.ROOT.glob(f"measurements/*/{run.model.official_name}/{run.record.scenario}"))


def _belongs(tuning: Tuned, run: Finished) -> bool:
    record = run.record
    mine = (record.identity.model_sha256, record.identity.engine, record.dataset.name, record.dataset.sha256)
    theirs = (tuning.model_sha256, tuning.engine, tuning.dataset, tuning.dataset_sha256)
    machine = (record.machine.cpu, record.machine.cores) == (tuning.machine.cpu, tuning.machine.cores)
    return mine == theirs and machine and bool(tuning.cluster) == bool(record.nodes)


def rows(run: Finished, found: TunedRates) -> list[list[str]]:
    """A table of the tests, the header first, with the numbers of the plot."""
    head = ["target_qps", "99th percentile", "test", "queries", "result"]
    tests = [
        [f"{each.rate:g}", f"{each.p99_ms:,.2f} ms", f"{each.seconds:g} s", _count(each.queries), verdict(each)]
        for each in found.rates
    ]
    if mine := own(run):
        seconds = "" if run.duration_s is None else f"{run.duration_s:.1f} s"
        count = _count(run.record.result.samples)
        tests.append([f"{mine[0]:g}", f"{mine[1]:,.2f} ms", f"this run, {seconds}", count, run.verdict])
    return [head, *tests]


def own(run: Finished) -> tuple[float, float] | None:
    """The run's own rate in queries/s and 99th percentile in ms; None if it ended before LoadGen had a result."""
    rate, late = run.values.get("effective_target_qps"), run.latency_ms.get("99.00")
    return (float(rate), late) if isinstance(rate, int | float) and late else None


def verdict(rate: Rate) -> str:
    """The outcome of a test."""
    return VALID if rate.valid else SHORT if rate.held else LATE


def _count(number: int | None) -> str:
    return "" if number is None else f"{number:,}"
