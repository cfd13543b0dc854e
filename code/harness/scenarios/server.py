"""Server: samples come one by one at random; the metric is how many a second still meet the latency bound."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from harness.loadgen.logs import Detail
from harness.scenarios.base import Metric, Told
from harness.scenarios.measured import MeasuredScenario
from harness.scheduling.base import Complete
from harness.scheduling.server import ServerScheduler
from harness.scheduling.simulate import server_peak

_CAUTION = 0.5  # of the simulated peak: machines have hiccups that a few seconds of measuring do not show
_MOST = 15_000.0  # queries a second, half of what LoadGen, Python and the scheduler pass on where nothing computes
_LOAD = 0.4  # of what the streams answer one by one, where the simulation finds no rate


class Server(MeasuredScenario):
    """Dynamic batching that knows the bound."""

    name: ClassVar[str] = "Server"
    key: ClassVar[str] = "target_qps"
    paced: ClassVar[bool] = True

    @property
    def limit(self) -> float:
        """Half of the bound: before a batch runs, its samples may have waited for another."""
        return self.bound / 2

    def peak(self, indices: np.ndarray) -> float:
        """Queries a second that a simulation with the measured times answers in time; 0 where it finds no rate."""
        costs = self.sut.qsl.cost(indices)
        return server_peak(self.table, costs, self.sut.engine.streams, self.bound, self.jitter)

    def estimate(self, indices: np.ndarray, seconds: float, told: Told) -> tuple[float, str]:
        """A cautious rate: the highest that is VALID takes a search."""
        peak, milliseconds = self.peak(indices), self.bound * 1000
        if peak:
            return min(_CAUTION * peak, _MOST), (
                f"{_CAUTION:.0%} of the {peak:.4g} a second that the queue answers within {milliseconds:g} ms if "
                "batches take what they took now"
            )
        alone = np.mean([self.table.seconds(1, cost) for cost in self.sut.qsl.cost(indices).tolist()])
        return _LOAD * self.sut.engine.streams / float(alone), (
            f"{_LOAD:.0%} of what the engine answers one by one; a sample takes {1000 * alone:.3g} ms, so that no rate "
            f"seems to hold the bound of {milliseconds:g} ms"
        )

    def scheduler(self, complete: Complete) -> ServerScheduler:
        """The scheduler with its threads."""
        return ServerScheduler(self.sut, self.table, self.bound, complete)

    @classmethod
    def metric(cls, detail: Detail) -> Metric:
        """Completed samples per second."""
        return Metric("throughput", detail.values.get("result_completed_samples_per_sec"), "samples/s")

    @classmethod
    def correction(cls, detail: Detail) -> float | None:
        """The log does not tell which rate would have been VALID."""
        return None
