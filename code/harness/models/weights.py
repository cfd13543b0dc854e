"""Where the tensors of a graph that is built come from: random numbers, or a checkpoint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

Draw = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]
"""Draws a tensor of a shape with the statistics that suit its place in the graph."""


class Weights(ABC):
    """Gives a builder its tensors, each once, by the names of the architecture's Hugging Face checkpoint."""

    source: str
    """What the model's metadata say of the weights; it starts with "random" if nothing was learnt."""

    @abstractmethod
    def tensor(self, name: str, shape: tuple[int, ...], draw: Draw) -> np.ndarray:
        """The float32 tensor of that name; ``draw`` is for random weights only.

        Raises:
            ConfigError: the checkpoint has no such tensor, or one of another shape or dtype.
        """

    @abstractmethod
    def finish(self) -> None:
        """Check that nothing was left over.

        Raises:
            ConfigError: the checkpoint has tensors that no part of the graph takes, so it is of another model.
        """


class RandomWeights(Weights):
    """The same seed gives the same tensors, whatever the order in which they are asked for."""

    def __init__(self, seed: int) -> None:
        self.source = f"random weights, seed {seed}"
        self._seed = seed

    def tensor(self, name: str, shape: tuple[int, ...], draw: Draw) -> np.ndarray:
        """Drawn by a generator of its own."""
        generator = np.random.default_rng([self._seed, *name.encode()])
        return draw(generator, shape).astype(np.float32, copy=False)

    def finish(self) -> None:
        """Nothing can be left over."""
