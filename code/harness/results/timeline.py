"""timeline.npz, which records when batches and queries ran in a test, read back for reports."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.terminal import console

TIMELINE = "timeline.npz"
FORMAT = 2
_DROPPED = ("batch_start", "batch_seconds", "batch_shape")  # arrays of format 1 that nothing read


@dataclass(frozen=True)
class Timeline:
    """The content of timeline.npz. Times are seconds from the first query."""

    source: str
    """The source of the queries' times: harness or loadgen."""
    complete: bool
    """Whether every batch was recorded."""
    samples: int
    batches: int
    queries: int
    edges: NDArray[np.float64]
    """(n + 1,): the edges of the time bins."""
    done: NDArray[np.float64]
    """(n,): samples answered in each bin; a batch is spread evenly over its running time."""
    quantiles: NDArray[np.float64]
    """(n, 4): median, 90th and 99th percentile and maximum latency of the queries that arrived in each bin, or NaN."""
    shapes: NDArray[np.float64]
    """(k, 6): for each shape its rows and length, and the total batches, samples, cost and seconds."""
    sizes: NDArray[np.int64]
    """(k, 2): samples per batch, and the number of batches of that size."""
    arrivals: NDArray[np.float64]
    """(q,): the arrival of each query in an evenly spaced selection, in order."""
    latencies: NDArray[np.float32]
    """(q,): the latency of each of these queries."""
    latency_edges: NDArray[np.float64]
    """(h + 1,): seconds; empty if there are no queries."""
    latency_counts: NDArray[np.int64]
    """(h,): the number of queries in each bin."""
    cpu: NDArray[np.float64]
    """(t, 3): time, and the processor seconds used until then by this process and by all processes on its CPUs."""
    done_cost: NDArray[np.float64] | None = None
    """(n,): cost units answered in each bin, without padding; None in files of older versions."""

    @property
    def cores_busy(self) -> tuple[float, float] | None:
        """The mean number of busy cores, for the process and for the machine; None if unknown."""
        inside = self.cpu[(self.cpu[:, 0] >= 0) & (self.cpu[:, 0] <= self.edges[-1])]
        if len(inside) < 2 or inside[-1, 0] <= inside[0, 0]:
            return None
        process, machine = (inside[-1, 1:] - inside[0, 1:]) / (inside[-1, 0] - inside[0, 0])
        # The machine's counter is coarser: for a mostly idle run, it may show less than the run's own.
        return float(process), float(max(process, machine))


def read_timeline(folder: Path) -> Timeline | None:
    """The timeline of the run in that folder; None if there is none or, with a warning, if it cannot be read."""
    path = folder / TIMELINE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        if about.pop("format") in (1, FORMAT):
            return Timeline(**about, **{name: array for name, array in arrays.items() if name not in _DROPPED})
        console.warn(f"{path} was written by another version of the harness: the run is shown without its timeline.")
    except Exception as error:  # noqa: BLE001  zlib, zipfile, tokenize: each raises its own errors for wrong bytes
        console.warn(f"{path} cannot be read ({type(error).__name__}): the run is shown without its timeline.")
    return None
