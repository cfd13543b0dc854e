"""Scenarios in which batches are put together while queries come, by what each shape was measured to take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from harness.errors import ConfigError
from harness.scenarios.base import Scenario
from harness.scheduling.batching import Shape
from harness.scheduling.cost import CostTable, measure_shapes, shapes_to_measure
from harness.sut import SUT

_ANY_SHAPE_BUDGET = 12  # shapes that are measured where none has to be compiled


class MeasuredScenario(Scenario):
    """Measures its shapes in the warm-up, and has a `CostTable` from then on."""

    most: ClassVar[int | None] = None
    """Samples that a query has at most, None where batches span queries."""

    def __init__(self, sut: SUT, costs: np.ndarray, max_cost: int) -> None:
        super().__init__(sut, costs, max_cost)
        settings = sut.engine.settings
        self._fixed = sut.engine.fixed_shapes or bool(sut.static.batch or sut.static.length)
        budget = settings.shapes if sut.engine.fixed_shapes else _ANY_SHAPE_BUDGET
        largest = min(settings.max_batch, self.most or settings.max_batch)
        self.shapes = shapes_to_measure(sut, costs, budget, largest)
        longest = max(shape.length for shape in self.shapes)
        if costs.max() > longest:
            raise ConfigError(f"a sample of {costs.max()} does not fit the model's graph, which fixes {longest}.")
        self.seconds: dict[Shape, float] = {}

    @property
    def compiled(self) -> Sequence[Shape]:
        """All that are measured, if the engine compiles them."""
        return self.shapes if self._fixed else ()

    def warm_up(self, indices: np.ndarray, on_batch: Callable[[], None] = lambda: None) -> float:
        """Run each shape several times on every stream, and keep the times."""
        self.seconds = measure_shapes(self.sut, self.shapes, indices, on_batch)
        return max(self.seconds.values())

    @property
    def table(self) -> CostTable:
        """From the measured times."""
        return CostTable(self.seconds, fixed=self._fixed)

    def describe(self) -> dict[str, object]:
        """The shapes with their measured seconds."""
        return {**super().describe(), "measured_seconds": [[*shape, took] for shape, took in self.seconds.items()]}
