"""The search for Server's rate: the highest that LoadGen calls VALID."""

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from harness.files.disk import write_text
from harness.host.supervise import Heartbeat
from harness.preparing.prepared import Prepared
from harness.rules.early_stopping import needed_queries
from harness.scenarios.base import ShortTest
from harness.scheduling.peak import highest_passing
from harness.settings.run import RunSettings
from harness.settings.tuned import Rate
from harness.terminal import console
from harness.tuning.child import get_quietly_ready
from harness.tuning.journal import TuningJournal

_PRECISION, _TESTS = 0.02, 14  # of the search with short tests
_FACTOR = 0.94  # from an unconfirmed rate to the next
_MAX_CONFIRMATIONS = 8


@dataclass(frozen=True, kw_only=True)
class RateRequest:
    """Where a search for the rate starts, and how long its tests take."""

    guess: float
    """The first rate, in queries/s."""
    seconds: float
    """Of a test that only compares the 99th percentile with the bound."""
    confirm: float
    """Minimum seconds of a test that LoadGen must call VALID."""


class RateSearch:
    """Tests of one prepared system at different rates; those that the journal holds are not made again."""

    def __init__(self, ready: Prepared, journal: TuningJournal) -> None:
        self._ready, self._scenario, self._journal = ready, ready.scenario, journal
        self._tests = Counter[str]()

    def find(self, request: RateRequest) -> Rate | None:
        """The highest rate that passes short tests and is then confirmed; None if none is confirmed."""
        rate = highest_passing(
            lambda rate: self._test(rate, request.seconds).held, request.guess, _PRECISION, _TESTS, retest=True
        )
        return self._confirmed(rate, request.confirm)

    def _confirmed(self, rate: float, seconds: float) -> Rate | None:
        """The first rate, from ``rate`` downwards, that a test of at least ``seconds`` confirms."""
        enough = 1.1 * needed_queries(self._scenario.percentile, 1)  # with fewer, no rate is low enough to be VALID
        for _ in range(_MAX_CONFIRMATIONS):
            if not rate:
                break
            outcome = self._test(rate, max(seconds, math.ceil(enough / rate)))
            if outcome.valid:
                return outcome
            if outcome.held:
                console.note("too few queries to be sure; lowering the rate")
            else:
                console.note("not VALID; lowering the rate")
                # The throughput of an overloaded system shows how much too high the rate was.
                rate = min(rate, outcome.samples_per_second or rate)
            rate *= _FACTOR
        return None

    def _test(self, rate: float, seconds: float) -> Rate:
        name = f"rate {rate:.4g} for {seconds:g} s"
        self._tests[name] += 1
        if self._tests[name] > 1:
            name += f", test {self._tests[name]}"
        if name not in self._journal.rates:
            self._journal.rates[name] = self._measured(float(f"{rate:.4g}"), seconds)
            self._journal.save()
        tested = self._journal.rates[name]
        console.note(
            f"target_qps {tested.rate:g} for {seconds:g} s: 99th percentile {tested.p99_ms:.4g} ms, bound "
            f"{self._scenario.bound * 1000:g} ms"
        )
        return tested

    def _measured(self, rate: float, seconds: float) -> Rate:
        detail = self._ready.short_test(ShortTest(rate=rate, seconds=seconds))
        return Rate(
            rate=rate,
            seconds=seconds,
            held=self._scenario.meets_bound(detail),
            valid=detail.valid,
            p99_ms=detail.latencies["99.00"],
            samples_per_second=self._scenario.metric(detail).value,
            queries=detail.values.get("result_query_count"),
        )


def find_rate(
    settings: RunSettings, request: RateRequest, journal: TuningJournal, result: Path, heartbeat: Heartbeat
) -> int:
    """Search in a child process, and write the `Rate` to ``result``; the exit code is 1 if none was confirmed."""
    found = RateSearch(get_quietly_ready(settings, result, heartbeat), journal).find(request)
    if found is None:
        console.error("no rate was confirmed: a longer test (--confirm-seconds) gives LoadGen more queries to be sure.")
        return 1
    write_text(result, found.model_dump_json())
    return 0
