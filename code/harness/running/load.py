"""The number of queries that LoadGen will generate for a performance test, and the settings that decide it.

LoadGen generates all queries of a test before it issues the first one (loadgen.cc, GenerateQueries). A rate, a duration
or a number of queries that is too large by a few zeros would fill the memory, or make a test that takes years.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError
from harness.host import memory
from harness.loadgen.conf import ConfEntry, UserConf, min_queries
from harness.rules.early_stopping import needed_queries
from harness.scenarios.base import MAX_DEVELOPMENT_SECONDS, Estimate, Scenario
from harness.settings.run import RunSettings
from harness.terminal import console

_MAX_SECONDS = 4e9  # LoadGen counts in 64-bit nanoseconds, and doubles the duration
_TOO_LONG, _HOUR = 100, 3600.0  # a test of over an hour ends at once if it takes this many times as long as requested
_MIN_SHARE_OF_QUERIES = 0.8  # of those expected: random arrivals may bring fewer
_LONG_TEST_FACTOR = 3  # a test that takes this many times as long as requested gets a warning


@dataclass(frozen=True, kw_only=True)
class Load:
    """The settings that decide how many queries LoadGen generates, each with its line of user.conf if it has one."""

    benchmark: str
    scenario: type[Scenario]
    path: Path | None
    """The user.conf."""
    rate: float | None
    """The value of the scenario's key; None if it is not measured yet."""
    rate_line: ConfEntry | None
    seconds: float
    """The minimum duration."""
    default_seconds: float
    """The minimum duration if the user sets none."""
    duration_line: ConfEntry | None
    min_queries: int
    """The minimum number of queries; of samples in a scenario that has one query."""
    min_queries_line: ConfEntry | None
    per_second: float | None = None
    """The expected queries per second, or samples per second if the test has one query; None if unknown."""
    limited: bool = False
    """Whether the user sets the length of the test, which is then not extended."""
    official: bool = False
    """Whether the round or user.conf sets the length: an official run, not a rehearsal."""
    recorded: bool = False
    """Whether the user.conf belongs to a recorded result, which a compliance test repeats, and must not be edited."""

    @classmethod
    def of(cls, settings: RunSettings, conf: UserConf, scenario: type[Scenario], estimated: Estimate | None) -> "Load":
        """The load of a run; ``estimated`` is the measured value of the scenario's key if the user sets none."""

        def line(key: str) -> ConfEntry | None:
            return conf.lookup(settings.model.benchmark, scenario.name, key)

        rate, count, duration = line(scenario.key), line("min_query_count"), line("min_duration")
        if settings.accuracy and scenario.paced:
            rate = None  # an accuracy run uses the highest rate that the engine sustains, not that of the result
        used = duration if duration and not settings.duration else None
        seconds = int(used.value) / 1000 if used else settings.seconds
        value = float(rate.value) if rate else estimated.value if estimated else None
        per_second = scenario.expected(value) if value else None
        if estimated and not rate:
            per_second = estimated.per_second
        # An official run must not end before ten minutes anyway.
        limited = bool(count or settings.duration or (used and not settings.official))
        needed = 1
        if not settings.accuracy:
            # LoadGen's own minimum also applies to rehearsals, however short.
            own = min_queries(settings.model.benchmark, scenario.name) if settings.official else 1
            left_open = 1 if limited or not per_second else _needed(settings, scenario, per_second, seconds)
            needed = max(own, left_open)
        return cls(
            benchmark=settings.model.benchmark,
            scenario=scenario,
            path=conf.path,
            rate=value,
            rate_line=rate,
            seconds=seconds,
            default_seconds=settings.default_seconds,
            duration_line=used,
            min_queries=int(count.value) if count else needed,
            min_queries_line=count,
            per_second=per_second,
            limited=limited,
            official=settings.official and not settings.rehearsal,
            recorded=settings.compliance is not None,
        )

    @property
    def queries(self) -> float:
        """The number of queries, or samples, that LoadGen generates."""
        return max(self.min_queries, self._by_rate(self.seconds))

    @property
    def planned_seconds(self) -> float:
        """The expected duration of the test."""
        if not self.per_second:
            return self.seconds
        queries = self.queries if self.scenario.one_query else self.min_queries
        return max(self.seconds, queries / self.per_second)

    @property
    def length(self) -> str | None:
        """A note on the duration that early stopping requires; None if the user need not know."""
        scenario, percentile, rate = self.scenario, self.scenario.percentile, self.per_second
        if percentile is None or rate is None:
            return None
        needed = needed_queries(percentile, 0 if scenario.paced else 1)
        if max(self.min_queries, rate * self.seconds) >= needed:
            return None if self.min_queries_line else self._prolonged(percentile, rate)
        return (
            f"LoadGen needs at least {needed:,} queries to be sure of the {percentile}th percentile, about "
            f"{_whole_seconds(needed / rate)} at {rate:.3g} queries/s: a test of {span(self.seconds)} will be INVALID"
        )

    def _prolonged(self, percentile: int, rate: float) -> str | None:
        if self.min_queries <= rate * self.seconds:
            return None
        enough, late = self.scenario.enough(rate, math.inf if self.official else MAX_DEVELOPMENT_SECONDS)
        allowed = f" with up to {late} of them late" if self.scenario.paced else ""
        # The round may require more than early stopping does.
        why = (
            f"LoadGen issues at least {self.min_queries:,} queries"
            if self.min_queries > enough
            else f"LoadGen needs {self.min_queries:,} queries to be sure of the {percentile}th percentile{allowed}"
        )
        fixed = self.official or self.limited
        return (
            f"the test takes about {_whole_seconds(self.min_queries / rate)} instead of {self.seconds:g} s: {why}, and "
            f"{rate:.3g} are expected per second" + ("" if fixed else " (--duration or DURATION= sets another length)")
        )

    def check(self) -> None:
        """Check that the queries fit the memory and that the test ends.

        Raises:
            ConfigError: they do not; the message names the setting and its line.
        """
        if self.seconds > _MAX_SECONDS:
            raise ConfigError(f"a test of {span(self.seconds)} would be too long: lower {self._duration()}.")
        self._check_memory()
        if self.scenario.paced and self.rate and self.rate_line:
            gap = 1 / self.rate
            if gap > _TOO_LONG * self.seconds:
                raise ConfigError(
                    f"a query would arrive every {span(gap)} in a test of {span(self.seconds)}: {self._rate()}; "
                    f"{self._delete(self.rate_line)}."
                )
            if self.min_queries_line and (total := self.min_queries * gap) > _LONG_TEST_FACTOR * self.seconds:
                console.note(
                    f"the test takes about {span(total)}: {self._rate()}, and {self._at(self.min_queries_line)} asks "
                    f"for {self.min_queries:,} queries"
                )

    def look(self, total: float, warned: bool) -> str | None:
        """A warning about a test that will take ``total`` seconds; None if not needed, or if already ``warned``.

        Raises:
            ConfigError: the rate in user.conf makes it last far longer than requested.
        """
        by_rate = self._by_rate(self.seconds)
        needed = max(self.seconds, total * self.min_queries / max(self.queries, 1))
        if self.rate_line and self.scenario.one_query and total > max(_TOO_LONG * needed, _HOUR):
            raise ConfigError(
                f"the test would take {span(total)} instead of {span(self.seconds)}: {self._rate()}, but the system "
                f"reaches about {by_rate / total:.3g} {self.scenario.score_unit}; {self._delete(self.rate_line)}."
            )
        # The rate decides the length of the test only if all samples are in one query.
        cause = self.rate_line if self.scenario.one_query and self.min_queries < by_rate else self.min_queries_line
        if warned or cause is None or total <= _LONG_TEST_FACTOR * self.seconds:
            return None
        return (
            f"the test will take about {span(total)} instead of {span(self.seconds)}, since {cause.key} is "
            f"{cause.value} in {self._at(cause)}; to shorten it, press Ctrl-C and {self._delete(cause)}."
        )

    def _by_rate(self, seconds: float) -> float:
        return self.scenario.generated(self.rate, seconds) if self.rate else 0

    def _check_memory(self) -> None:
        size, free = self.scenario.query_bytes, memory.available()
        if free is None or self.queries * size <= free:
            return
        if self.queries == float("inf"):
            raise ConfigError(f"LoadGen would generate queries without end before the test: {self._why_rate(0)}.")
        what = "samples" if self.scenario.one_query else "queries"
        by_count = self.min_queries_line and self.min_queries >= self._by_rate(self.seconds)
        why = self._why_min_queries(free // size) if by_count else self._why_rate(free / size)
        raise ConfigError(
            f"LoadGen would generate {_count(self.queries)} {what} before the test, which need "
            f"{_size(self.queries * size)} of memory, but only {_size(free)} are free: {why}."
        )

    def _why_min_queries(self, fitting: int) -> str:
        assert self.min_queries_line
        return (
            f"min_query_count is {self.min_queries} in {self._at(self.min_queries_line)}; delete the line, or lower it "
            f"to at most {int(0.9 * fitting)}"
        )

    def _why_rate(self, fitting: float) -> str:
        if self.rate_line and self._by_rate(self.default_seconds) > 0.9 * fitting:
            return f"{self._rate()}, for {span(self.seconds)}; {self._delete(self.rate_line)}"
        longest = 0.9 * fitting / self._by_rate(1)
        if self.seconds > longest and self.seconds != self.default_seconds:
            return f"{self._rate()}, for {span(self.seconds)}; lower {self._duration()} to at most {int(longest)} s"
        return f"{self._rate()}, for {span(self.seconds)}; free some memory"

    def _rate(self) -> str:
        key = self.scenario.key
        if self.rate_line:
            return f"{key} is {self.rate_line.value} in {self._at(self.rate_line)}"
        return f"{key} was measured to be {self.rate:.4g}"

    def _duration(self) -> str:
        return f"min_duration in {self._at(self.duration_line)}" if self.duration_line else "--duration (DURATION=)"

    def _delete(self, line: ConfEntry) -> str:
        if self.recorded:
            return "repeat the performance run without that line, then this test"
        measured = "" if line is self.min_queries_line else f", and the harness sets {line.key} by a measurement"
        return f"delete the line{measured}"

    def _at(self, line: ConfEntry | None) -> str:
        return f"line {line.line} of {self.path}" if line else "the round"


def _needed(settings: RunSettings, scenario: type[Scenario], per_second: float, seconds: float) -> int:
    """The queries that early stopping needs in a test whose length the user leaves open; 1 for no minimum."""
    needed, _ = scenario.enough(per_second, math.inf if settings.official else MAX_DEVELOPMENT_SECONDS)
    if settings.official:
        # Ten minutes bring enough queries unless they arrive slowly; for streams, LoadGen sets a minimum itself.
        return needed if scenario.paced and needed > _MIN_SHARE_OF_QUERIES * per_second * seconds else 1
    return needed if needed <= MAX_DEVELOPMENT_SECONDS * per_second else 1


def _whole_seconds(seconds: float) -> str:
    return span(math.ceil(seconds)).replace(".0 s", " s")


def span(seconds: float) -> str:
    """A duration, however long.

    >>> span(20), span(8_000), span(4e7), span(1e18)
    ('20.0 s', '2 h 13 min', '1.27 years', '3.17e+10 years')
    """
    if seconds < 2 * 86_400:
        return console.duration(seconds, 1)
    years = seconds / (365 * 86_400)
    return f"{seconds / 86_400:.0f} days" if years < 1 else f"{years:.3g} years"


def _size(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size < 2**60 else f"{size / 2**30:.3g} GiB"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number < 1e15 else f"{number:.3g}"
