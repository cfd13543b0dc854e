"""The progress of a training: part of each checkpoint, and of the report at the end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ValidationScore:
    """The score of a model on the samples held back."""

    step: int
    metric: str
    percent: float
    sparsity: float
    loss: float | None = None
    """Running mean of the loss; None before the first step."""


@dataclass
class History:
    """Steps, times and scores so far."""

    step: int = 0
    seconds: float = 0.0
    """Seconds in steps, without scores and checkpoints, and without those in which the process was stopped."""
    preparing: float = 0.0
    """Seconds of choosing masks and finding ranges, before steps."""
    scoring: float = 0.0
    """Seconds of scores."""
    units: int = 0
    """Tokens without padding, or images, that were trained on."""
    peak_bytes: int = 0
    """Peak memory of the process, without that of a GPU."""
    dense: ValidationScore | None = None
    """The teacher's score."""
    scores: list[ValidationScore] = field(default_factory=list)

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> History:
        """From the dictionary that `asdict` makes."""
        dense = ValidationScore(**state["dense"]) if state["dense"] else None
        return cls(**{**state, "dense": dense, "scores": [ValidationScore(**each) for each in state["scores"]]})

    @property
    def per_second(self) -> float:
        """Tokens or images per second of `seconds`."""
        return self.units / self.seconds if self.seconds else 0.0
