"""How a float input is computed from bytes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scaling:
    """How a float32 input is computed from bytes: (byte - mean) ÷ deviation, for each channel."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    """Positive."""
    axis: int
    """The channel axis of the input, counted from the front."""
