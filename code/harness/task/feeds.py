"""Feeds a graph with samples of a data set without running it, for calibration and training."""

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from harness.engines.base import Engine, EngineSettings, Runner, Signature
from harness.graph import read_graph
from harness.task.shape import Array, Integers, Shape
from harness.task.sut import SUT


class GraphOnly(Engine):
    """An engine that only shows a SUT the inputs and outputs of a graph; runs nothing."""

    name: ClassVar[str] = "graph"
    Settings: ClassVar[type[EngineSettings]] = EngineSettings

    def __init__(self, model: Path) -> None:
        super().__init__(model, EngineSettings.model_validate({}))
        graph = read_graph(model)
        self.inputs, self.outputs = graph.inputs, graph.outputs

    def compile(self, signature: Signature) -> Runner:
        """Never called."""
        raise AssertionError("this engine only shows a graph's tensors")


def feed(sut: SUT, indices: Integers) -> Mapping[str, Array]:
    """The graph's inputs for these samples, by name, padded to the longest, or to the length that the graph fixes.

    The arrays may be read-only slices of the QSL's memory.

    Raises:
        RunFailed: a sample is not loaded.
    """
    length = sut.static.length or int(sut.qsl.cost(indices).max())
    return sut.feed(sut.qsl.collate(indices, Shape(len(indices), length)))
