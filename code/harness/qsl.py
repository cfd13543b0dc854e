"""The contract of a data set: LoadGen's query sample library (QSL)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from harness.scheduling.batching import Shape


class SampleLibrary(ABC):
    """Samples by index. In memory is what LoadGen loaded, and nothing else."""

    count: int
    """Samples in the data set."""
    performance_count: int
    """Samples that fit into memory at once."""

    @abstractmethod
    def load(self, indices: Sequence[int]) -> None:
        """Bring samples into memory; not timed by LoadGen."""

    @abstractmethod
    def unload(self, indices: Sequence[int]) -> None:
        """Forget samples."""

    @abstractmethod
    def cost(self, indices: np.ndarray) -> np.ndarray:
        """int64 (n,): what each sample costs, in the unit of `Shape.length`: tokens for BERT, 1 for an image."""

    @abstractmethod
    def collate(self, indices: np.ndarray, shape: Shape) -> Mapping[str, np.ndarray]:
        """The tensors of one batch by role, padded to ``shape``; rows past ``len(indices)`` are padding.

        Raises:
            RunFailed: a sample is asked for that LoadGen has not loaded.
        """
