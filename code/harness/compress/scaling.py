"""How the samples of a float input are made of bytes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scaling:
    """How a float32 input is made of bytes: (byte - mean) ÷ deviation, for each place along an axis."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    """Positive."""
    axis: int
    """Of the input, from the front."""
