"""What the driver, where LoadGen runs, and the nodes, where engines run, send each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from harness.graph import Tensor
from harness.scenarios.base import Estimate
from harness.task.shape import Array, Integers

DATA, INDICES = "data", "indices"
"""What of the samples travels: the samples themselves, or their numbers, to nodes that hold the data set."""


@dataclass(frozen=True)
class NodeRequest:
    """What a node prepares."""

    settings: bytes
    """The run's settings, pickled; only `prepare` reads them."""
    prepare: str
    """The function that makes the `Node`, as "module:function": a `node.Prepare`."""
    samples: str = DATA
    """`DATA` or `INDICES`."""
    files: tuple[tuple[str, Path, str], ...] = ()
    """The files that a node needs: name, path on the driver's machine, sha256."""


@dataclass(frozen=True)
class Parcel:
    """Samples that one node shall answer."""

    number: int
    """Counts from 0 in each test; every parcel is answered by exactly one `Answers` of its number."""
    ids: NDArray[np.uint64]
    """(n,): LoadGen's query ids."""
    indices: Integers
    """(n,): sample numbers of the data set."""
    samples: Mapping[str, Array] | None
    """What `SampleLibrary.pack` made of them; None where only the indices travel."""


@dataclass(frozen=True)
class Answers:
    """The responses to one parcel."""

    number: int
    """The parcel's."""
    ids: NDArray[np.uint64]
    """(n,): the parcel's, in any order."""
    offsets: Integers
    """(n + 1,): the response to ``ids[i]`` is ``buffer[offsets[i] : offsets[i + 1]]``."""
    buffer: NDArray[np.uint8]
    batches: int
    """Batches that were computed for this parcel."""
    padded: int
    """Cost units that the engine computed for it, including padding."""
    done_cost: int
    """Cost units of its samples."""
    cpu_seconds: float = 0.0
    """CPU time that the node's process has used since its test began, as of half a second ago at most."""


@dataclass(frozen=True)
class NodeReady:
    """What a node says once it is warm."""

    name: str
    """What messages call it."""
    host: str
    streams: int
    parallel: int
    """Streams that compute at once."""
    rate: float
    """Only to compare nodes: cost units/s (Offline), or streams ÷ mean seconds of a sample alone (Server)."""
    estimate: Estimate
    """Its own scenario's, in samples/s or queries/s."""
    peak: float
    """Queries/s that the simulation of Server found; 0 in other scenarios."""
    slowest: float
    """Seconds of the slowest batch in its warm-up."""
    largest: int
    """Samples of its largest batch."""
    inputs: Sequence[Tensor]
    """Its engine's, so that the driver opens the data set in the form that they need."""
    outputs: Sequence[Tensor]
    model_sha256: str
    code: str
    """The digest of the project's code."""
    versions: Mapping[str, str]
    machine: Mapping[str, JsonValue]
    engine: Mapping[str, object]
    """`Engine.describe`."""
    scenario: Mapping[str, object]
    """`Scenario.describe`."""
    data: str = ""
    """sha256 over the data set that it opened."""
    round_trip: float = 0.0
    """Seconds of a parcel without samples, there and back, as the driver measured; 0 if it did not."""
