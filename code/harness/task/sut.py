"""The contract of a model: the model-specific part of LoadGen's system under test (SUT)."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.engines.base import Engine, Runner, Signature, engine_errors
from harness.engines.outputs import checked_outputs
from harness.errors import RunFailed
from harness.task.qsl import SampleLibrary
from harness.task.shape import Array, Integers, Shape


@dataclass(frozen=True)
class Responses:
    """Response bytes of one batch: for each sample, in batch order, its part of a buffer."""

    offsets: Integers
    """(n,): the first byte of each response."""
    sizes: Integers
    """(n,): bytes of each response."""
    buffer: Array
    """C-contiguous; LoadGen copies from it inside `QuerySamplesComplete`."""


class SUT(ABC):
    """Turns sample indices into the engine's input tensors, and the engine's outputs into response bytes."""

    unit: ClassVar[str]
    """The unit of `Shape.length`, in the plural: tokens, images."""
    static: Shape = Shape(0, 0)
    """Sizes that the graph fixes and the engine cannot change; 0 where any size works."""

    def __init__(self, engine: Engine, qsl: SampleLibrary) -> None:
        self.engine = engine
        self.qsl = qsl
        self._runners: dict[Shape, Runner] = {}
        self._dtypes = {tensor.name: tensor.dtype for tensor in engine.outputs}

    @abstractmethod
    def signature(self, shape: Shape) -> Signature:
        """The tensors of a batch with that shape, under the graph's names."""

    @abstractmethod
    def feed(self, tensors: Mapping[str, Array]) -> Mapping[str, Array]:
        """The QSL's tensors under the graph's names, in the graph's dtypes."""

    @abstractmethod
    def encode(self, outputs: Sequence[Array], indices: Integers) -> Responses:
        """Exactly the bytes that the official accuracy script reads, one response per index."""

    def prepare(self, shape: Shape) -> None:
        """Compile for this shape, so that nothing is compiled while LoadGen's clock runs."""
        doing = f"to compile {self.engine.model} for {tuple(shape)}"
        with engine_errors(self.engine.name, doing, self.engine.alternative):
            self._runners[shape] = self.engine.compile(self.signature(shape))

    def runner(self, shape: Shape) -> Runner:
        """The function that runs a batch with that shape.

        Raises:
            RunFailed: the engine compiles its shapes, and this one was not prepared.
        """
        if shape not in self._runners:
            if self.engine.fixed_shapes:
                raise RunFailed(f"no engine was compiled for {shape}; this is a bug in the harness.")
            self.prepare(shape)
        return self._runners[shape]

    @property
    def prepared(self) -> Collection[Shape]:
        """Shapes that were compiled or have run."""
        return self._runners.keys()

    def values(self, outputs: Sequence[Array], indices: Integers) -> list[Array]:
        """Values of each sample for comparing two engines, float (k,); empty if the outputs cannot be compared."""
        return []

    def answer(self, indices: Integers, shape: Shape) -> Responses:
        """Run one batch; raises the errors of `outputs`."""
        return self.encode(self.outputs(indices, shape), indices)

    def outputs(self, indices: Integers, shape: Shape) -> Sequence[Array]:
        """The engine's outputs of one batch, checked.

        Raises:
            EngineError: the engine raised, or returned invalid outputs.
            RunFailed: a sample is not loaded.
        """
        return self.checked(self.run(indices, shape), shape)

    def run(self, indices: Integers, shape: Shape) -> Sequence[Array]:
        """The engine's unchecked outputs of one batch; its inputs are read-only, since some are the QSL's own memory.

        Raises:
            EngineError: the engine raised.
            RunFailed: a sample is not loaded.
        """
        runner = self.runner(shape)
        batch = self.feed(self.qsl.collate(indices, shape))
        for array in batch.values():
            array.flags.writeable = False
        with engine_errors(self.engine.name, "to run a batch"):
            return runner(batch)

    def checked(self, outputs: Sequence[Array], shape: Shape) -> Sequence[Array]:
        """The outputs of `run`, if they are valid: see `checked_outputs`."""
        return checked_outputs(self.engine.name, outputs, self.signature(shape), self._dtypes)
