"""The contract of a data set: LoadGen's query sample library (QSL)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from harness.errors import RunFailed
from harness.files.fingerprint import Fingerprint
from harness.task.shape import Array, Integers, Shape

_Scalar = TypeVar("_Scalar", bound=np.generic)


class SampleLibrary(ABC):
    """Samples by index. Only those that LoadGen loaded are in memory."""

    def __init__(self, count: int, performance_count: int) -> None:
        self.count = count
        """Number of samples in the data set."""
        self.performance_count = min(count, performance_count)
        """Number of samples that fit into memory at once."""
        self.files: Sequence[Fingerprint] = ()
        """The files with one sample each, as they were read; empty if `Dataset.files` hold all samples."""
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

    def hold_as_sent(self) -> None:  # noqa: B027  most samples are sent as they are held
        """From the next `load` on, hold samples as they are sent to other machines; `collate` must not be called."""

    @abstractmethod
    def pack(self, indices: Integers) -> Mapping[str, Array]:
        """These samples in the form that is sent to another machine, in this order; arrays may be read-only slices.

        The arrays must not change afterwards, even if the samples are unloaded.

        Raises:
            RunFailed: LoadGen has not loaded one of the samples.
        """

    @abstractmethod
    def carrier(self, places: int) -> "Carrier":
        """An empty library for samples that `pack` made of this data set on another machine."""

    @abstractmethod
    def hold(self, indices: Integers) -> None:
        """Hold exactly these samples (ascending, each once) in memory, in this order."""

    def _keep(self, indices: Integers) -> None:
        self._row[:] = -1
        self.hold(indices)
        self._row[indices] = np.arange(len(indices))

    def _loaded(self) -> Integers:
        return np.flatnonzero(self._row >= 0)


class Carrier(SampleLibrary):
    """A library of numbered places for samples from another machine; a place takes the role of a sample's index."""

    def __init__(self, places: int) -> None:
        super().__init__(places, places)

    def put(self, places: Integers, packed: Mapping[str, Array]) -> None:
        """Fill these places, int64 (n,), with n samples; they may have held others before."""
        self._row[places] = -1
        self._fill(places, packed)
        self._row[places] = places

    def grow(self, places: int) -> None:
        """Grow to ``places`` places; filled ones keep their samples, even for threads reading them at that moment."""
        self._extend(places)
        rows = np.full(places, -1, dtype=np.int64)
        rows[: self.count] = self._row
        self._row, self.count, self.performance_count = rows, places, places

    def hold(self, indices: Integers) -> None:
        """Never called: samples arrive through `put`."""
        raise RunFailed("samples that come from another machine cannot be loaded here; this is a bug in the harness.")

    def pack(self, indices: Integers) -> Mapping[str, Array]:
        """Never called: samples are not sent on."""
        raise RunFailed("samples that come from another machine do not travel further; this is a bug in the harness.")

    def carrier(self, places: int) -> "Carrier":
        """Never called."""
        raise RunFailed("a carrier has no data set; this is a bug in the harness.")

    @abstractmethod
    def _fill(self, places: Integers, packed: Mapping[str, Array]) -> None:
        """Write the packed samples to these places."""

    @abstractmethod
    def _extend(self, places: int) -> None:
        """Make room for ``places``, which is more than before."""


def extended(array: NDArray[_Scalar], rows: int) -> NDArray[_Scalar]:
    """A copy with ``rows`` rows; new ones are uninitialised."""
    made = np.empty((rows, *array.shape[1:]), array.dtype)
    made[: len(array)] = array
    return made
