"""What a scenario is to a run: shapes to prepare, the user.conf key that sizes the test, a scheduler, a result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.engines.base import EngineSettings
from harness.loadgen.logs import Detail
from harness.scheduling.base import Complete, Scheduler
from harness.task.shape import Shape
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


Test = Callable[..., Detail]
"""Runs a short LoadGen test, given fields of its TestSettings by name, and returns its log."""


class Told:
    """What a scenario tells while it gets ready: each call is a sign of progress. Ignores it all by itself."""

    def compiling(self, done: int, total: int) -> None:
        """The next of ``total`` shapes is compiled now, which may take minutes."""

    def ran(self) -> None:
        """A batch was run, or a shape compiled. Called from any thread."""


class Scenario(ABC):
    """One of LoadGen's scenarios, for one SUT and data set."""

    name: ClassVar[str]
    """LoadGen's name."""
    key: ClassVar[str]
    """The key of user.conf that decides how many queries LoadGen prepares or issues a second."""
    paced: ClassVar[bool] = False
    """Whether LoadGen keeps to the rate of ``key`` in accuracy runs, too."""
    one_stream: ClassVar[bool] = False
    """Whether one batch at a time on all cores suits it best, since nothing but latency counts."""
    score: ClassVar[str]
    """The unit of a trial's score."""

    def __init__(self, sut: SUT, costs: np.ndarray, max_cost: int, bound: float) -> None:
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
    def get_ready(self, indices: np.ndarray, told: Told) -> float:
        """Compile and run what the test will run, so that no first time falls into it; ``indices`` are loaded samples.

        Returns:
            The seconds of the slowest batch.
        """

    @abstractmethod
    def estimate(self, indices: np.ndarray, seconds: float, told: Told) -> tuple[float, str]:
        """A value of ``key`` that suits a test of that many seconds, and how it was found, in words."""

    @abstractmethod
    def trial(self, indices: np.ndarray, seconds: float, test: Test, told: Told) -> Trial:
        """How good the settings in force are, measured for about so many seconds."""

    @abstractmethod
    def scheduler(self, complete: Complete) -> Scheduler:
        """What LoadGen issues to."""

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

    def _compile(self, shapes: Sequence[Shape], told: Told, total: int) -> None:
        """Compile shapes, the last of ``total``."""
        for number, shape in enumerate(shapes, start=total - len(shapes)):
            told.compiling(number, total)
            self.sut.prepare(shape)
            told.ran()
