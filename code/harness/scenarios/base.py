"""The contract of a scenario: its shapes, the user.conf key that sizes the test, its scheduler and its result."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.engines.base import EngineSettings
from harness.loadgen.logs import Detail
from harness.registry import SCENARIOS, resolve
from harness.scheduling.base import Complete, Observer, Scheduler
from harness.scheduling.compiling import CompileBudget
from harness.scheduling.limits import LimitChoice, Limits
from harness.task.shape import Integers, Shape
from harness.task.sut import SUT

MAX_DEVELOPMENT_SECONDS = 900.0
"""Maximum seconds to which a development run is prolonged."""


@dataclass(frozen=True)
class Metric:
    """The metric of a scenario, as LoadGen reports it."""

    name: str
    value: float | None
    unit: str

    def __str__(self) -> str:
        """The value with its unit: ``1,234.56 samples/s``."""
        return "none" if self.value is None else f"{self.value:,.2f} {self.unit}"


@dataclass(frozen=True)
class Trial:
    """The measured quality of settings."""

    score: float
    """Higher is better; 0 if the settings are unusable."""
    value: float
    """The value of the scenario's ``key`` for these settings."""


@dataclass(frozen=True)
class Estimate:
    """A measured value of a scenario's ``key``."""

    value: float
    how: str
    """How it was found, as a phrase for messages."""
    per_second: float
    """Expected queries/s, or samples/s if all samples are in one query."""
    remark: str = ""
    """A remark for the user; "" for none."""


@dataclass(frozen=True)
class ShortTest:
    """LoadGen's settings for a short test; None keeps LoadGen's default."""

    rate: float | None = None
    """Arrival rate in queries/s in Server; expected samples/s in Offline."""
    latency: float | None = None
    """Expected milliseconds per query in SingleStream and MultiStream."""
    seconds: float = 0.0
    """Minimum duration."""
    queries: int = 1
    """Minimum number of queries; in Offline, of samples."""
    max_queries: int | None = None
    """Maximum number of queries."""


@dataclass(frozen=True)
class StreamChoice:
    """The number of streams that was chosen for a latency bound."""

    streams: int
    why: str
    """The reason, as a clause without a full stop."""


@dataclass(frozen=True)
class BatchFacts:
    """How a scenario forms its batches."""

    shapes: Sequence[Shape] = ()
    streams: StreamChoice | None = None
    limits: LimitChoice | None = None
    seconds: Mapping[Shape, float] | None = None
    """The median of the measured seconds by shape, in scenarios that measure them."""

    @property
    def words(self) -> str:
        """Streams and shapes in one line."""
        times = self.seconds or {}
        each = [f"{s.batch} x {s.length}" + (f" in {times[s]:.3g} s" if s in times else "") for s in self.shapes]
        chosen = [f"streams {self.streams.streams}, since {self.streams.why}"] if self.streams else []
        return "; ".join([*chosen, ", ".join(each) or "of any shape"])


RunShortTest = Callable[[ShortTest], Detail]
"""Runs such a test, and returns LoadGen's log."""


class Listener:
    """Receives progress while a scenario prepares; this class ignores it."""

    def compiling(self, done: int, total: int) -> None:
        """``done`` of ``total`` shapes are compiled; the next one may take minutes."""

    def ran(self) -> None:
        """A batch ran or a shape was compiled. Called from any thread."""


def find_scenario(name: str) -> type[Scenario]:
    """The scenario with that name.

    Raises:
        ConfigError: the name is unknown; the message suggests the nearest.
    """
    return resolve("scenario", SCENARIOS, name, Scenario)  # type: ignore[type-abstract]  # used only in issubclass()


def known_scenario(name: object) -> type[Scenario] | None:
    """The scenario with exactly that name, as in logs and folders; None if there is none."""
    return find_scenario(name) if isinstance(name, str) and name in SCENARIOS else None


@dataclass(frozen=True)
class WarmUp:
    """Limits on what a scenario compiles and measures before the test."""

    compile_seconds: float = math.inf
    """Approximate limit, in seconds, on compiling shapes, unless the user sets their number."""
    limits: Limits | None = None
    """The batch limits of an earlier run for the same result; None to choose them."""
    pilots: bool = True
    """Whether an estimated rate is checked before the test, in scenarios with a latency bound."""


FULL_WARM_UP = WarmUp()


class Scenario(ABC):
    """One of LoadGen's scenarios, for one SUT and data set."""

    name: ClassVar[str]
    """LoadGen's name."""
    key: ClassVar[str]
    """The key of user.conf that sets how many queries LoadGen prepares or issues per second."""
    paced: ClassVar[bool] = False
    """Whether LoadGen issues queries at the rate of ``key``, also in accuracy runs: they must be answered within the
    benchmark's latency bound, and the throughput of a VALID run is the requested rate."""
    one_query: ClassVar[bool] = False
    """Whether all samples arrive in one query: they may then run in any order, such as the longest first, and their
    latencies only show how long they waited for each other."""
    one_stream: ClassVar[bool] = False
    """Whether one batch at a time, on all cores, suits the scenario best, since only latency counts."""
    score_unit: ClassVar[str]
    """The unit of a trial's score."""
    result_key: ClassVar[str]
    """The key of the result in mlperf_log_detail.txt: samples per second, or nanoseconds if ``latency``."""
    summary_names: ClassVar[tuple[str, ...]]
    """Names of the result in mlperf_log_summary.txt: the current LoadGen's, then those of older versions."""
    latency: ClassVar[bool] = False
    """Whether the result is a latency, where lower is better."""
    percentile: ClassVar[int | None] = None
    """The latency percentile of the result or the bound; None if neither is a latency."""
    samples_per_query: ClassVar[int | None] = None
    """None if LoadGen puts all samples into one query."""
    query_bytes: ClassVar[int]
    """Measured bytes of memory that LoadGen and the harness need for each query that `generated` counts."""
    suffers: ClassVar[str] = "the result is worse than this machine can do"
    """The effect of other processes on the result, as a clause for messages."""
    short_ns: ClassVar[int] = 0
    """Results up to this latency may deviate by 20 % instead of 10 % in a compliance test (run_verification.py)."""

    def __init__(self, sut: SUT, costs: Integers, max_cost: int, bound: float, warm_up: WarmUp = FULL_WARM_UP) -> None:
        """``costs`` is int64 (n,), the costs of the data set's samples; ``max_cost`` is the largest possible cost.

        ``bound`` is the benchmark's Server latency bound in seconds; only Server uses it.
        """
        self.sut = sut
        self.costs = costs
        self.max_cost = max_cost
        self.bound = bound
        self.warm_up = warm_up
        self.shapes: Sequence[Shape] = ()
        """The shapes of the batches, if there are few."""
        self.streams_why: str | None = None
        """Why the engine has that many streams; None if the user chose them, or the scenario has no bound."""
        self.choice: LimitChoice | None = None
        """The batch limits that were measured to be best; None if the user or the graph fixed them."""

    @classmethod
    def engine_settings(cls, settings: EngineSettings, max_cost: int) -> EngineSettings:
        """The engine's settings, with values that suit the scenario where the user set none."""
        return settings.suited(latency=cls.one_stream, arriving=cls.paced, max_cost=max_cost)

    @classmethod
    @abstractmethod
    def generated(cls, value: float, seconds: float) -> float:
        """The queries, or samples if all are in one, that LoadGen generates for ``seconds`` if `key` is ``value``.

        Infinity if it would never finish: it rounds intervals to whole nanoseconds, and 0 is endless (loadgen.cc,
        GenerateQueries; test_settings_internal.cc).
        """

    def slowness(self, indices: Integers, listener: Listener) -> tuple[float, str]:
        """A stream's time for one sample ÷ the time allowed, and the same in words; above 1 is too slow for the bound.

        0 for a scenario without a bound.
        """
        return 0.0, ""

    @abstractmethod
    def get_ready(self, indices: Integers, listener: Listener) -> float:
        """Compile and warm up whatever is slow when it runs first; ``indices`` are loaded samples.

        Returns:
            Seconds of the slowest batch.
        """

    @classmethod
    @abstractmethod
    def expected(cls, value: float) -> float:
        """Expected queries/s, or samples/s if all are in one query, if ``value`` is the right one for the system."""

    @classmethod
    def enough(cls, per_second: float, longest: float = MAX_DEVELOPMENT_SECONDS) -> tuple[int, int]:
        """The queries that satisfy LoadGen's early stopping, and how many of them may exceed the percentile.

        A test of ``per_second`` queries need not be longer than ``longest`` seconds. (1, 0) for a scenario without a
        percentile.
        """
        return 1, 0

    @abstractmethod
    def estimate(self, indices: Integers, seconds: float, listener: Listener) -> Estimate:
        """Measure a value of ``key`` for a test of at least ``seconds``."""

    def fastest(self, indices: Integers, listener: Listener) -> Estimate:
        """The value of ``key`` with which an accuracy run ends soonest: its latencies do not count."""
        return self.estimate(indices, 0.0, listener)

    def peak(self, indices: Integers) -> float:
        """Queries/s that a simulation with the measured times answers within the bound; 0 for none."""
        return 0.0

    def pace(self, indices: Integers, found: Estimate) -> float:
        """This machine's rate, for dividing work among several; by default in cost units/s, from ``found``."""
        return found.per_second * float(self.sut.qsl.cost(indices).mean())

    @abstractmethod
    def trial(self, indices: Integers, seconds: float, test: RunShortTest, listener: Listener) -> Trial:
        """Measure the quality of the current settings for about ``seconds``."""

    def lower(self, indices: Integers, reached: float) -> float | None:
        """A lower value of `key` after an overload that completed ``reached`` queries/s; None if unknown."""
        return None

    def meets_bound(self, detail: Detail) -> bool:
        """Whether a test met the latency bound, if the scenario has one."""
        return True

    @abstractmethod
    def scheduler(self, complete: Complete, observer: Observer | None = None) -> Scheduler:
        """The scheduler that LoadGen issues queries to."""

    @classmethod
    @abstractmethod
    def metric(cls, detail: Detail) -> Metric:
        """The result of a performance run."""

    @classmethod
    @abstractmethod
    def correction(cls, detail: Detail) -> float | None:
        """A better value of ``key`` after a test that was too short; None if the log does not show one."""

    def describe(self) -> BatchFacts:
        """How batches are formed, for a run's record."""
        why = self.streams_why
        streams = None if why is None else StreamChoice(self.sut.engine.streams, why)
        return BatchFacts(self.shapes, streams, self.choice)

    def _budget(self, max_shapes: int | None = None) -> CompileBudget:
        """The budget of shapes to compile: at most ``max_shapes``, and at most the engine's own limit."""
        engine = self.sut.engine
        count = engine.shape_budget if max_shapes is None else min(max_shapes, engine.shape_budget)
        return CompileBudget(count, math.inf if engine.exact_shapes else self.warm_up.compile_seconds)

    def _compile(self, shape: Shape, listener: Listener, budget: CompileBudget) -> None:
        """Compile a shape and count it in the budget, unless it is compiled already."""
        if shape in self.sut.prepared:
            return
        listener.compiling(budget.compiled, max(budget.shapes, budget.compiled + 1))
        start = time.perf_counter()
        self.sut.prepare(shape)
        budget.took(time.perf_counter() - start)
        listener.ran()
