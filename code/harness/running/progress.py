"""The progress of a test as shown: how much is done, the rate, the latency, and the time left."""

from dataclasses import dataclass, field

from harness.running.load import Load
from harness.running.recorder import Recorder
from harness.scheduling.base import Counters
from harness.terminal import console
from harness.terminal.pace import Pace

_RATE_AFTER = 0.5  # seconds until a rate is meaningful


@dataclass(frozen=True)
class View:
    """The progress at one moment."""

    facts: tuple[str, ...]
    fraction: float
    """0 to 1: of the planned time if the clock decides when the test ends, otherwise of the work."""
    left: float | None
    """Seconds; None while unknown."""


@dataclass(frozen=True)
class ProgressText:
    """Describes the progress of one test."""

    load: Load
    accuracy: bool
    samples: int
    """The samples of an accuracy run, which LoadGen issues in several queries; 0 for a performance run."""
    cost: int
    """The cost of these samples."""
    unit: str
    """The unit of the cost: tokens, images."""
    bound: float | None
    """The latency bound in seconds, if the scenario has one."""
    recorder: Recorder | None
    """Knows the latencies so far."""
    _pace: Pace = field(default_factory=lambda: Pace(0.0))
    """The progress of a test with a known number of samples, by the seconds since its first query."""

    def view(self, counters: Counters, now: float, over: bool = False) -> View:
        """The progress ``now``, in seconds of time.perf_counter(); ``over`` once the test has ended."""
        elapsed = now - counters.began
        timed = not (self.accuracy or self.load.scenario.one_query) and self.load.per_second
        return self._timed(counters, elapsed, over) if timed else self._counted(counters, elapsed)

    def _timed(self, counters: Counters, elapsed: float, over: bool) -> View:
        """A test that the clock ends: queries come until the minimum duration and number are both reached."""
        load, scenario = self.load, self.load.scenario
        queries = counters.completed // (scenario.samples_per_query or 1)
        measured = queries / elapsed if elapsed >= _RATE_AFTER else 0.0
        # Server's queries come at LoadGen's rate; those of a stream as fast as they are answered.
        rate = load.rate if scenario.paced and load.rate else measured or load.per_second or 0.0
        # Count the queries still to come: random arrivals may be ahead of their rate, or behind it.
        come = counters.issued if scenario.paced else counters.completed
        missing = max(load.min_queries - come // (scenario.samples_per_query or 1), 0)
        needed = missing / rate if rate else 0.0
        if missing and counters.ended and not scenario.paced:  # a part of the next query is done
            needed -= min(elapsed - (counters.ended - counters.began), needed / missing)
        left = max(load.seconds - elapsed, needed)
        lasts = max(elapsed + left, 1e-9)
        if scenario.paced and measured:  # waiting queries are answered after the last one has arrived
            left = max(left, (counters.issued - counters.completed) / measured)
        fraction = 1.0 if over else max(0.0, min(elapsed / lasts, 0.99))
        facts = [f"{console.duration(min(elapsed, lasts))} of {console.duration(lasts)} ({int(100 * fraction)} %)"]
        facts.append(console.quantity(queries, "queries"))
        if measured:
            facts.append(console.quantity(measured, "queries", per_second=True))
        if late := self._latency():
            facts.append(late)
        return View(tuple(facts), fraction, left if left > 0 and not over else None)

    def _latency(self) -> str:
        """The scenario's percentile so far, against its bound; "" while unknown."""
        percentile = self.load.scenario.percentile
        seconds = self.recorder.latency(percentile) if percentile and self.recorder else None
        if seconds is None:
            return ""
        allowed = f" of {self.bound * 1000:g} ms allowed" if self.bound else ""
        ms = seconds * 1000
        return f"{percentile}th percentile {f'{ms:,.0f}' if ms >= 100 else f'{ms:.3g}'} ms{allowed}"

    def _counted(self, counters: Counters, elapsed: float) -> View:
        """A test of a known number of samples. Long samples run first, so tokens show how much is done."""
        samples, cost = max(counters.issued, self.samples), max(counters.real, self.cost)
        share = counters.done_cost / cost if cost else 0.0
        done, total = counters.completed, samples
        facts = [f"{console.quantity(done, 'samples')} ({int(100 * share)} %)"]
        if done != total:
            facts = [f"{done:,} of {console.quantity(total, 'samples')} ({int(100 * share)} %)"]
        rates = [(done, "samples")]
        if cost != samples:
            count = console.quantity(cost, self.unit)
            facts = [f"{counters.done_cost:,} of {count} ({int(100 * share)} %)", facts[0].rpartition(" (")[0]]
            rates.insert(0, (counters.done_cost, self.unit))
        if elapsed >= _RATE_AFTER and done:
            facts += [console.quantity(each / elapsed, unit, per_second=True) for each, unit in rates]
        return View(tuple(facts), share, self._left(counters, elapsed, share, cost) if done < total else None)

    def _left(self, counters: Counters, elapsed: float, share: float, cost: int) -> float | None:
        """Seconds left, by the measured times of the remaining batches if they are known; None while unknown."""
        if elapsed < _RATE_AFTER or not counters.batches:
            return None
        last = 0.0
        if counters.planned_seconds and counters.done_seconds:
            slower = counters.busy_seconds / counters.done_seconds
            now = counters.began + elapsed
            running = [(now - start, slower * expected) for start, expected in list(counters.running.values())]
            begun = sum(min(since, lasts) for since, lasts in running) / slower
            share = min((counters.done_seconds + begun) / counters.planned_seconds, 1.0) * counters.real / cost
            # At the end, some streams are idle while others finish their last batch.
            last = max((lasts - since for since, lasts in running), default=0.0)
        self._pace.note(elapsed, share)
        left = self._pace.left(elapsed, 1.0)
        return None if left is None else max(left, last)
