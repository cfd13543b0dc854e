"""What a scenario is to a run: shapes to prepare, the user.conf key that sizes the test, a scheduler, a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from harness.engines.base import EngineSettings
from harness.loadgen.logs import Detail
from harness.registry import SCENARIOS, resolve
from harness.scheduling.base import Complete, Observer, Scheduler
from harness.task.shape import Integers, Shape
from harness.task.sut import SUT


@dataclass(frozen=True)
class Metric:
    """The number that a scenario is about, as LoadGen reports it."""

    name: str
    value: float | None
    unit: str

    def __str__(self) -> str:
        """The value with its unit: ``1,234.56 samples/s``."""
        return "none" if self.value is None else f"{self.value:,.2f} {self.unit}"


@dataclass(frozen=True)
class Trial:
    """How good settings are."""

    score: float
    """More is better; 0 where they do not serve at all."""
    value: float
    """Of the scenario's ``key``, that suits the settings."""


class ShortTest(Protocol):
    """Runs a short LoadGen test."""

    def __call__(self, **settings: float) -> Detail:
        """LoadGen's log; ``settings`` are fields of its TestSettings by name."""


class Listener:
    """Hears of progress while a scenario gets ready; this one ignores it."""

    def compiling(self, done: int, total: int) -> None:
        """The next of ``total`` shapes is compiled now, which may take minutes."""

    def ran(self) -> None:
        """A batch was run, or a shape compiled. Called from any thread."""


def find_scenario(name: str) -> type[Scenario]:
    """The scenario of that name.

    Raises:
        ConfigError: there is none; the message gives the nearest.
    """
    return resolve("scenario", SCENARIOS, name, Scenario)  # type: ignore[type-abstract]  # it is only compared with


def known_scenario(name: object) -> type[Scenario] | None:
    """The scenario of exactly that name, as logs and folders have it; None if there is none."""
    return find_scenario(name) if isinstance(name, str) and name in SCENARIOS else None


class Scenario(ABC):
    """One of LoadGen's scenarios, for one SUT and data set."""

    name: ClassVar[str]
    """LoadGen's name."""
    key: ClassVar[str]
    """The key of user.conf that decides how many queries LoadGen prepares or issues a second."""
    paced: ClassVar[bool] = False
    """Whether LoadGen issues queries at the rate of ``key``, in accuracy runs as well: they must be answered within the
    benchmark's latency bound, and the throughput of a VALID run is the rate that was asked for."""
    one_query: ClassVar[bool] = False
    """Whether all samples come in one query: their latencies are then times of waiting for each other, and they may run
    in any order, the longest first."""
    one_stream: ClassVar[bool] = False
    """Whether one batch at a time on all cores suits it best, since nothing but latency counts."""
    score: ClassVar[str]
    """The unit of a trial's score."""
    result: ClassVar[str]
    """The key of the result in mlperf_log_detail.txt: samples per second, or nanoseconds if ``latency``."""
    summary: ClassVar[tuple[str, ...]]
    """The name of the result in mlperf_log_summary.txt: the one of today's LoadGen, then those of older versions."""
    latency: ClassVar[bool] = False
    """Whether the result is a latency, of which less is better."""
    percentile: ClassVar[int | None] = None
    """The percentile of the latency that the result or the bound is about; None if neither is."""
    samples_per_query: ClassVar[int | None] = None
    """None if LoadGen puts all samples into one query."""
    short_ns: ClassVar[int] = 0
    """Results up to this latency may differ by 20 % instead of 10 % in a compliance test (run_verification.py)."""

    def __init__(self, sut: SUT, costs: Integers, max_cost: int, bound: float) -> None:
        """``costs`` is int64 (n,), those of the data set's samples; ``max_cost`` the largest that there can be.

        ``bound`` is the benchmark's Server latency bound in seconds, which only Server has a use for.
        """
        self.sut = sut
        self.costs = costs
        self.max_cost = max_cost
        self.bound = bound
        self.shapes: Sequence[Shape] = ()
        """The shapes that batches have, where they are few."""

    @classmethod
    def engine_settings(cls, settings: EngineSettings, max_cost: int) -> EngineSettings:
        """The engine's settings, with what suits the scenario where the user says nothing."""
        return settings.suited(latency=cls.one_stream, arriving=cls.paced, max_cost=max_cost)

    @abstractmethod
    def get_ready(self, indices: Integers, listener: Listener) -> float:
        """Compile and run what the test will run, so that no first time falls into it; ``indices`` are loaded samples.

        Returns:
            The seconds of the slowest batch.
        """

    @abstractmethod
    def estimate(self, indices: Integers, seconds: float, listener: Listener) -> tuple[float, str]:
        """A value of ``key`` that suits a test of that many seconds, and how it was found, in words."""

    @abstractmethod
    def trial(self, indices: Integers, seconds: float, test: ShortTest, listener: Listener) -> Trial:
        """How good the settings in force are, measured for about so many seconds."""

    def held(self, detail: Detail) -> bool:
        """Whether a test's queries were answered within the latency bound, if the scenario has one."""
        return True

    @abstractmethod
    def scheduler(self, complete: Complete, observer: Observer | None = None) -> Scheduler:
        """What LoadGen issues queries to."""

    @classmethod
    @abstractmethod
    def metric(cls, detail: Detail) -> Metric:
        """The result of a performance run."""

    @classmethod
    @abstractmethod
    def correction(cls, detail: Detail) -> float | None:
        """A better value of ``key`` after a test that was too short, or None where the log does not tell."""

    def describe(self) -> dict[str, object]:
        """How batches are formed, for the record of a run."""
        return {"shapes": [list(shape) for shape in self.shapes]}

    def _compile(self, shapes: Sequence[Shape], listener: Listener, total: int) -> None:
        """Compile shapes, the last of ``total``."""
        for number, shape in enumerate(shapes, start=total - len(shapes)):
            listener.compiling(number, total)
            self.sut.prepare(shape)
            listener.ran()
