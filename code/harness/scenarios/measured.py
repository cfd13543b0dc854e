"""Scenarios that form batches while queries arrive, based on the measured time of each shape."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cached_property

import numpy as np

from harness.errors import ConfigError
from harness.host.usage import CoreMeter, CoreUse
from harness.scenarios.base import FULL_WARM_UP, BatchFacts, Listener, Scenario, WarmUp
from harness.scheduling.cost import CostTable, fitting, measure_shapes, probes, shapes_to_measure
from harness.task.shape import Floats, Integers, Shape
from harness.task.sut import SUT

_MAX_COST_OF_ANOTHER_SAMPLE = 0.75  # as a fraction of the first's: otherwise compiling batches does not pay
_SHAPES_WITHOUT_COMPILING = 12  # to measure where none has to be compiled


class MeasuredScenario(Scenario):
    """Measures its shapes in the warm-up, and has a `CostTable` afterwards."""

    def __init__(self, sut: SUT, costs: Integers, max_cost: int, bound: float, warm_up: WarmUp = FULL_WARM_UP) -> None:
        super().__init__(sut, costs, max_cost, bound, warm_up)
        settings = sut.engine.settings
        self._fixed = sut.engine.fixed_shapes or bool(sut.static.batch or sut.static.length)
        # If a query's latency counts, no batch spans queries.
        within = self.samples_per_query if self.latency else None
        self._largest = min(settings.max_batch, within or settings.max_batch)
        if sut.static.length and costs.max() > sut.static.length:
            raise ConfigError(
                f"a sample of length {costs.max()} does not fit the model's graph, whose length is fixed at "
                f"{sut.static.length}: use a model with longer inputs, or a data set with shorter samples."
            )
        self.times: dict[Shape, Floats] = {}
        """Measured seconds, float64 (n,), by shape."""
        self.use: CoreUse | None = None
        """How busy the cores were while the times were measured."""

    @property
    def limit(self) -> float | None:
        """The maximum seconds of a batch; None if there is no limit."""
        return None

    def get_ready(self, indices: Integers, listener: Listener) -> float:
        """Run each shape several times on all streams, and record the times."""
        fixed, budget = self.sut.engine.fixed_shapes, self._budget()
        fits: Callable[[Shape], bool] = lambda shape: True  # noqa: E731
        count = budget.shapes if fixed else _SHAPES_WITHOUT_COMPILING
        few: list[Shape] = []
        if count > 2:
            few = probes(self.sut, self.costs, self._largest)
            few = few if self.limit is not None else few[-1:]  # the largest shape is always measured
            for shape in few if fixed else ():
                self._compile(shape, listener, budget)
        if few and self.limit is not None:
            probed = _medians(measure_shapes(self.sut, few, indices, listener.ran))
            fits = fitting(probed, self.limit, _MAX_COST_OF_ANOTHER_SAMPLE if fixed else float("inf"))
        if fixed:
            count = budget.shapes  # more accurate now that the probes are compiled
        shapes = shapes_to_measure(self.sut, self.costs, count, self._largest, fits)
        for shape in shapes if fixed else ():
            if shape not in few:
                self._compile(shape, listener, budget)
        with CoreMeter() as meter:
            self.times = measure_shapes(self.sut, shapes, indices, listener.ran)
        self.use = meter.use
        self.shapes = tuple(sorted(shapes))
        return max(float(times.max()) for times in self.times.values())

    @cached_property
    def table(self) -> CostTable:
        """The table of the measured times."""
        return CostTable(_medians(self.times), fixed=self._fixed, max_tokens=self.sut.engine.settings.max_tokens)

    @property
    def jitter(self) -> Floats:
        """float64 (n,): measured seconds ÷ the median of their shape.

        Without the largest 5 %: a few measurements do not show how often rare hiccups occur.
        """
        ratios = np.sort(np.concatenate([times / np.median(times) for times in self.times.values()]))
        return ratios[: max(1, int(0.95 * len(ratios)))]

    def describe(self) -> BatchFacts:
        """The shapes and the median of their measured seconds."""
        return replace(super().describe(), seconds=_medians(self.times))


def _medians(times: Mapping[Shape, Floats]) -> dict[Shape, float]:
    return {shape: float(np.median(seconds)) for shape, seconds in times.items()}
