"""The contract of a data set: LoadGen's query sample library (QSL)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from harness.errors import RunFailed
from harness.task.shape import Array, Integers, Shape


class SampleLibrary(ABC):
    """Samples by index. In memory is what LoadGen loaded, and nothing else."""

    def __init__(self, count: int, performance_count: int) -> None:
        self.count = count
        """Samples in the data set."""
        self.performance_count = min(count, performance_count)
        """Samples that fit into memory at once."""
        self._row = np.full(count, -1, dtype=np.int64)

    def load(self, indices: Sequence[int] | Integers) -> None:
        """Bring samples into memory, ready to be run (which the rules count as untimed)."""
        self._keep(np.union1d(self._loaded(), np.asarray(indices, dtype=np.int64)))

    def unload(self, indices: Sequence[int] | Integers) -> None:
        """Forget samples and free their memory."""
        self._keep(np.setdiff1d(self._loaded(), np.asarray(indices, dtype=np.int64)))

    @property
    def loaded(self) -> int:
        """Samples in memory now."""
        return len(self._loaded())

    def rows(self, indices: Integers) -> Integers:
        """int64 (n,): where each sample stands among those in memory, which are in ascending order of their index.

        Raises:
            RunFailed: LoadGen has not loaded one of them.
        """
        rows: Integers = self._row[indices]
        if len(rows) and rows.min() < 0:
            raise RunFailed(f"sample {int(indices[int(rows.argmin())])} was issued but is not loaded.")
        return rows

    def arrange(self, indices: Integers) -> Integers:
        """int64 (n,): the positions of a query's samples in the order that is best to run them in, if it is free."""
        return np.arange(len(indices))

    @abstractmethod
    def cost(self, indices: Integers) -> Integers:
        """int64 (n,): what each sample costs, in the unit of `Shape.length`: tokens for BERT, 1 for an image."""

    @abstractmethod
    def collate(self, indices: Integers, shape: Shape) -> Mapping[str, Array]:
        """The tensors of one batch by role, padded to ``shape``; rows past ``len(indices)`` are padding.

        Raises:
            RunFailed: a sample is asked for that LoadGen has not loaded.
        """

    @abstractmethod
    def hold(self, indices: Integers) -> None:
        """Have exactly these samples (ascending, each once) in memory, in this order."""

    def _keep(self, indices: Integers) -> None:
        self._row[:] = -1
        self.hold(indices)
        self._row[indices] = np.arange(len(indices))

    def _loaded(self) -> Integers:
        return np.flatnonzero(self._row >= 0)
