"""The padded size of a batch."""

from __future__ import annotations

from typing import NamedTuple


class Shape(NamedTuple):
    """The padded size of a batch."""

    batch: int
    length: int
