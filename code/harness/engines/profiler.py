"""The contract of engines that also record the time of each node of the graph."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from harness.engines.base import Array, Engine, Runner
from harness.engines.cores import CoreSettings, StreamLayout


class ProfiledNode(NamedTuple):
    """A node of the graph as the engine runs it, which fuses and inserts some."""

    name: str
    operator: str


class NodeTotal(NamedTuple):
    """A node's time in all batches together."""

    seconds: float
    calls: int


Times = dict[ProfiledNode, NodeTotal]


class Profiler(Engine):
    """An engine for a few batches, one after the other, outside any test: recording slows an engine down.

    It has one stream, with as many threads as each stream of the engine that it stands for.
    """

    layout: StreamLayout
    _batches = 0
    """Number of batches so far."""

    def _counting(self, runner: Runner) -> Runner:
        """The same runner, which also counts its batches."""

        def counted(batch: Mapping[str, Array]) -> Sequence[Array]:
            self._batches += 1
            return runner(batch)

        return counted

    @property
    def threads(self) -> int:
        """Threads of its stream."""
        return self.layout.threads

    @contextmanager
    def recorded(self) -> Iterator[Times]:
        """Record the batches that run in the block; the times are filled in at its end. Use it once only."""
        times: Times = {}
        before = self._before()
        yield times
        times.update(self._since(before))

    @abstractmethod
    def _before(self) -> Mapping[ProfiledNode, NodeTotal]:
        """The times so far; an engine may instead remember its position, and return nothing."""

    @abstractmethod
    def _since(self, before: Mapping[ProfiledNode, NodeTotal]) -> Times:
        """The times since `_before`, which returned ``before``."""


S = TypeVar("S", bound=CoreSettings)


def alone(settings: S) -> S:
    """The settings with one stream, which keeps its number of threads."""
    return settings.model_copy(update={"streams": 1, "instances": 1, "threads": settings.layout().threads})
