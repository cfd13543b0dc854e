"""What a training has done so far: part of each checkpoint, and of the report at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Score:
    """A score of the samples that are held back."""

    step: int
    metric: str
    percent: float
    sparsity: float
    loss: float | None = None
    """Mean of the steps before; None before the first."""


@dataclass
class History:
    """What was done so far; part of each checkpoint."""

    step: int = 0
    seconds: float = 0.0
    """In steps, without scores and checkpoints; without the time in which the process was stopped."""
    preparing: float = 0.0
    """Seconds before steps, where masks are chosen and ranges are found."""
    scoring: float = 0.0
    """Seconds of scores."""
    units: int = 0
    """Tokens without padding, or images, that were trained on."""
    peak_bytes: int = 0
    """Most memory that the process has had, on the processor's side."""
    dense: Score | None = None
    """The teacher's score."""
    scores: list[Score] = field(default_factory=list)

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> History:
        """From the dictionary that `asdict` makes."""
        dense = Score(**state["dense"]) if state["dense"] else None
        return cls(**{**state, "dense": dense, "scores": [Score(**each) for each in state["scores"]]})

    @property
    def per_second(self) -> float:
        """Tokens or images per second of `seconds`."""
        return self.units / self.seconds if self.seconds else 0.0
