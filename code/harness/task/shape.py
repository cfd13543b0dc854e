"""The size of a batch, and the array types that the contracts use."""

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Integers: TypeAlias = NDArray[np.int64]
"""Sample indices, positions or costs."""
Floats: TypeAlias = NDArray[np.float64]
"""Seconds."""
Array: TypeAlias = NDArray[np.generic]
"""A tensor with the graph's dtype."""


class Shape(NamedTuple):
    """The padded size of a batch."""

    batch: int
    """Samples."""
    length: int
    """Cost units per sample: tokens for BERT, 1 for an image."""
