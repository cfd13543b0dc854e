"""Server: samples come one by one at random; the metric is how many a second still meet the latency bound."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from harness.loadgen.logs import Detail
from harness.scenarios.base import Metric
from harness.scenarios.measured import MeasuredScenario
from harness.scheduling.base import Complete
from harness.scheduling.server import ServerScheduler

_LOAD = 0.4  # of what the streams answer one by one: low enough for random arrivals to meet most bounds


class Server(MeasuredScenario):
    """Dynamic batching that knows the bound."""

    name: ClassVar[str] = "Server"
    key: ClassVar[str] = "target_qps"
    paced: ClassVar[bool] = True

    def estimate(self, indices: np.ndarray, seconds: float) -> tuple[float, str]:
        """A cautious rate: the highest that is VALID takes a search."""
        table = self.table
        alone = np.mean([table.seconds(1, int(cost)) for cost in self.sut.qsl.cost(indices)])
        rate = _LOAD * self.sut.engine.streams / float(alone)
        return rate, f"{_LOAD:.0%} of what the engine answers one by one"

    def scheduler(self, complete: Complete, bound: float) -> ServerScheduler:
        """The scheduler with its threads."""
        return ServerScheduler(self.sut, self.table, bound, complete)

    @classmethod
    def metric(cls, detail: Detail) -> Metric:
        """Completed samples per second."""
        return Metric("throughput", detail.values.get("result_completed_samples_per_sec"), "samples/s")

    @classmethod
    def correction(cls, detail: Detail) -> float | None:
        """The log does not tell which rate would have been VALID."""
        return None
