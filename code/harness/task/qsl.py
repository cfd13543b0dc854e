"""The contract of a data set: LoadGen's query sample library (QSL)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from harness.errors import RunFailed
from harness.host.fingerprint import Fingerprint
from harness.task.shape import Array, Integers, Shape


class SampleLibrary(ABC):
    """Samples by index. Only samples that LoadGen loaded are in memory."""

    def __init__(self, count: int, performance_count: int) -> None:
        self.count = count
        """Number of samples in the data set."""
        self.performance_count = min(count, performance_count)
        """Number of samples that fit into memory at once."""
        self.files: Sequence[Fingerprint] = ()
        """Files that hold a sample each, as they were read; empty if `Dataset.files` hold all samples."""
        self._row = np.full(count, -1, dtype=np.int64)

    def load(self, indices: Sequence[int] | Integers) -> None:
        """Bring samples into memory, ready to run; the rules do not time this step."""
        self._keep(np.union1d(self._loaded(), np.asarray(indices, dtype=np.int64)))

    def unload(self, indices: Sequence[int] | Integers) -> None:
        """Drop samples and free their memory."""
        self._keep(np.setdiff1d(self._loaded(), np.asarray(indices, dtype=np.int64)))

    @property
    def loaded(self) -> int:
        """Number of samples in memory."""
        return len(self._loaded())

    def rows(self, indices: Integers) -> Integers:
        """int64 (n,): the row of each sample among those in memory, which are in ascending order of index.

        Raises:
            RunFailed: LoadGen has not loaded one of them.
        """
        rows: Integers = self._row[indices]
        if len(rows) and rows.min() < 0:
            raise RunFailed(f"sample {int(indices[int(rows.argmin())])} was issued but is not loaded.")
        return rows

    def arrange(self, indices: Integers) -> Integers:
        """int64 (n,): the positions of a query's samples in the preferred running order, for queries that allow any."""
        return np.arange(len(indices))

    @abstractmethod
    def cost(self, indices: Integers) -> Integers:
        """int64 (n,): the cost of each sample in the unit of `Shape.length`: tokens for BERT, 1 for an image."""

    @abstractmethod
    def collate(self, indices: Integers, shape: Shape) -> Mapping[str, Array]:
        """The tensors of one batch by role, padded to ``shape``; rows past ``len(indices)`` are padding.

        Raises:
            RunFailed: LoadGen has not loaded one of the samples.
        """

    @abstractmethod
    def hold(self, indices: Integers) -> None:
        """Hold exactly these samples (ascending, each once) in memory, in this order."""

    def _keep(self, indices: Integers) -> None:
        self._row[:] = -1
        self.hold(indices)
        self._row[indices] = np.arange(len(indices))

    def _loaded(self) -> Integers:
        return np.flatnonzero(self._row >= 0)
