"""What timeline.npz holds: when batches and queries ran in a test, read back for reports."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.host import console

TIMELINE = "timeline.npz"


@dataclass(frozen=True)
class Timeline:
    """What timeline.npz holds. Times are seconds from the first query; arrays are float64 unless told otherwise."""

    source: str
    """Who told the times of queries: harness or loadgen."""
    complete: bool
    """Whether every batch was recorded."""
    samples: int
    batches: int
    queries: int
    edges: NDArray[np.float64]
    """(n + 1,): the bins of time."""
    done: NDArray[np.float64]
    """(n,): samples answered in each bin; a batch counts evenly over the time that it ran."""
    quantiles: NDArray[np.float64]
    """(n, 4): median, 90th, 99th percentile and greatest latency of the queries that came in each bin, NaN if none."""
    shapes: NDArray[np.float64]
    """(k, 6): rows, length, batches, samples, cost and seconds of each shape."""
    sizes: NDArray[np.int64]
    """int64 (k, 2): samples of a batch, and batches of that size."""
    batch_start: NDArray[np.float64]
    """(m,): of batches chosen evenly, as the next two."""
    batch_seconds: NDArray[np.float32]
    """(m,)."""
    batch_shape: NDArray[np.uint32]
    """uint32 (m, 4): samples, rows, length and cost."""
    arrivals: NDArray[np.float64]
    """(q,): of queries chosen evenly, in order."""
    latencies: NDArray[np.float32]
    """float32 (q,): seconds."""
    latency_edges: NDArray[np.float64]
    """(h + 1,): seconds, empty without queries."""
    latency_counts: NDArray[np.int64]
    """(h,): queries."""
    cpu: NDArray[np.float64]
    """(t, 3): time, and seconds of processor time of this process and of the machine until then."""

    @property
    def cores_busy(self) -> tuple[float, float] | None:
        """Cores that were at work on average, those of the process and of the whole machine; None if not known."""
        inside = self.cpu[(self.cpu[:, 0] >= 0) & (self.cpu[:, 0] <= self.edges[-1])]
        if len(inside) < 2 or inside[-1, 0] <= inside[0, 0]:
            return None
        process, machine = (inside[-1, 1:] - inside[0, 1:]) / (inside[-1, 0] - inside[0, 0])
        # The machine's clock is the coarser one: of a run that is mostly idle, it may count less than the run's own.
        return float(process), float(max(process, machine))


def read_timeline(folder: Path) -> Timeline | None:
    """What was recorded of the run in that folder; None where nothing was, or, with a warning, it cannot be read."""
    path = folder / TIMELINE
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        about = json.loads(str(arrays.pop("about")))
        if about.pop("format") == 1:
            return Timeline(**about, **arrays)
        console.warn(f"{path} is of another version of the harness: the run is shown without its timeline.")
    except Exception as error:  # noqa: BLE001  zlib, zipfile, tokenize: each raises its own where bytes are wrong
        console.warn(f"{path} cannot be read ({type(error).__name__}): the run is shown without its timeline.")
    return None
