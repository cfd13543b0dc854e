"""profile.json: the time of each operator of a run's model on its engine, measured separately from the test."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import ValidationError

from harness.results.parts import Part
from harness.terminal import console

PROFILE = "profile.json"


class OperatorTime(Part):
    """All nodes of one operator."""

    operator: str
    """The engine's name of the operator."""
    ms: float
    """Milliseconds in all its calls."""
    share: float
    """Its share of the time in all nodes, 0 to 1."""
    calls: int


class NodeTime(OperatorTime):
    """One node."""

    node: str
    """Its name in the graph as the engine runs it."""

    @classmethod
    def of(cls, node: str, time: OperatorTime) -> Self:
        """The time of the node with this name."""
        return cls(node=node, operator=time.operator, ms=time.ms, share=time.share, calls=time.calls)


class Profile(Part):
    """The content of profile.json."""

    engine: str
    """Name and version."""
    threads: int
    """Threads of the one stream that was profiled."""
    streams: int
    """Streams of the test, which ran at the same time."""
    batches: list[list[int]]
    """[batch, length] of each, in the order in which they ran."""
    ms: float
    """Milliseconds in all nodes."""
    operators: list[OperatorTime]
    """The most expensive first."""
    nodes: list[NodeTime]
    """The most expensive ones, in order."""

    @property
    def about(self) -> str:
        """How it was measured, in a sentence."""
        others = f"; in the test {self.streams} ran at once" if self.streams > 1 else ""
        return (
            f"{self.engine}, {len(self.batches)} batches like those of the test, run after it by one stream of "
            f"{self.threads} thread{'s' if self.threads > 1 else ''}{others}: {self.ms:,.1f} ms in all nodes"
        )


def read_profile(folder: Path) -> Profile | None:
    """The profile of the run in that folder; None if there is none or, with a warning, if it cannot be read."""
    path = folder / PROFILE
    try:
        return Profile.model_validate_json(path.read_bytes()) if path.exists() else None
    except (OSError, ValidationError) as error:
        console.warn(f"{path} cannot be read ({type(error).__name__}): the run is shown without its profile.")
        return None
