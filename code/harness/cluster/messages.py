"""The messages between the driver, where LoadGen runs, and the nodes, where engines run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.graph import Tensor
from harness.results.parts import RecordedConversion, RecordedEngine, RecordedMachine
from harness.scenarios.base import BatchFacts, Estimate
from harness.task.shape import Array, Integers

DATA, INDICES = "data", "indices"
"""The payload of parcels: the samples themselves, or only their indices, for nodes that hold the data set."""


@dataclass(frozen=True)
class NodeRequest:
    """The driver's request that a node prepares a test."""

    settings: bytes
    """The run's settings, pickled; only the function ``prepare`` reads them."""
    prepare: str
    """The function that makes the `Node`, as "module:function": a `node.Prepare`."""
    samples: str = DATA
    """`DATA` or `INDICES`."""
    files: tuple[tuple[str, Path, str], ...] = ()
    """The files that a node needs: name, path on the driver's machine, sha256."""


@dataclass(frozen=True)
class Parcel:
    """Samples for one node to answer."""

    number: int
    """Counts from 0 in each test; exactly one `Answers` with this number answers the parcel."""
    ids: NDArray[np.uint64]
    """(n,): LoadGen's query ids."""
    indices: Integers
    """(n,): the samples' indices in the data set."""
    samples: Mapping[str, Array] | None
    """The result of `SampleLibrary.pack` for them; None if only indices are sent."""


@dataclass(frozen=True)
class Answers:
    """The responses to one parcel."""

    number: int
    """The number of the parcel."""
    ids: NDArray[np.uint64]
    """(n,): the ids of the parcel, in any order."""
    offsets: Integers
    """(n + 1,): the response to ``ids[i]`` is ``buffer[offsets[i] : offsets[i + 1]]``."""
    buffer: NDArray[np.uint8]
    """(bytes,): all responses, one after the other."""
    batches: int
    """Batches computed for this parcel."""
    padded: int
    """Cost units that the engine computed for it, including padding."""
    done_cost: int
    """Cost units of its samples."""
    cpu_seconds: float = 0.0
    """CPU time that the node's process has used in this test, measured at most half a second ago."""


@dataclass(frozen=True)
class NodeReady:
    """The report of a node that is warmed up."""

    name: str
    """Its name in messages."""
    host: str
    streams: int
    parallel: int
    """Streams that compute at once."""
    rate: float
    """For comparing nodes only: cost units/s (Offline), or streams ÷ mean seconds of a single sample (Server)."""
    estimate: Estimate
    """The node's own estimate, in samples/s (Offline) or queries/s (Server)."""
    peak: float
    """Queries/s that Server's queue simulation found; 0 in other scenarios."""
    slowest: float
    """Seconds of the slowest batch in its warm-up."""
    largest: int
    """Samples of its largest batch."""
    inputs: Sequence[Tensor]
    """The inputs of its engine: the driver opens the data set in the form that they need."""
    outputs: Sequence[Tensor]
    model_sha256: str
    code: str
    """The digest of the project's code."""
    versions: Mapping[str, str]
    machine: RecordedMachine
    engine: RecordedEngine
    batches: BatchFacts = field(default_factory=BatchFacts)
    """`Scenario.describe`."""
    converted: RecordedConversion | None = None
    """The file that its engine read in place of the model's, if any."""
    data: str = ""
    """sha256 of the data set that it opened."""
    round_trip: float = 0.0
    """Seconds from sending an empty parcel to its answer, measured by the driver; 0 if not measured."""
