"""The progress of a compression, by work done: layers take milliseconds to minutes, so their number says little."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness.compress.network import Feed, Layer, Network
from harness.compress.prune import FITS_OF_LOSSES, FITS_OF_PRUNING
from harness.compress.ranges import REACHES
from harness.terminal.progress import Progress

OnLayer = Callable[[int, int, float], None]
"""Called with the number of layers done, the total, and the share of the work done (0 to 1)."""
_INVERSE_COST = 8
"""Cost of a float64 inverse, in units of one product of two float32 matrices of that size."""
_ROUNDING_COST = 12
"""Cost of rounding the columns of a block one by one, in multiplications per weight and column."""
_TRIED_ROWS = 4096
"""Rows of a layer's input on which ranges are tried."""
_PROBE_COST = 0.35
"""Cost of a multiplication when the engine runs the model on probes, relative to one in a layer's statistics. Measured
on MiniLM, where measuring a layer takes 0.7 times as long as pruning and rounding it."""
LAYER_COST = 2e8
"""Fixed cost of a layer, however small, in multiplications."""


class Effort:
    """Estimates the multiplications that each layer takes, and adds up those that are done."""

    def __init__(self, network: Network, feeds: Sequence[Feed], places: int, probes: int, progress: OnLayer) -> None:
        """``places`` is the number of rows per batch of a convolution, ``probes`` that of samples in `measuring`."""
        self._network, self._progress = network, progress
        self._places = places * len(feeds)
        self._rows = sum(_rows(feed) for feed in feeds)
        self._probed = self._rows * min(probes / max(sum(len(next(iter(feed.values()))) for feed in feeds), 1), 1.0)
        self._later: dict[str, int] = {}
        """Number of weights in a layer and all later ones."""
        weights = 0
        for layer in reversed(network.layers):
            weights += network.matrix(layer).size
            self._later[layer.output] = weights
        self._layers = 0
        self._done, self._spent = 0, 0.0
        self._cost = 0.0

    def plan(self, count: int, cost: float) -> None:
        """Add work of ``count`` layers."""
        self._layers += count
        self._cost += cost

    def add_done(self, count: int, cost: float) -> None:
        """Count work as done and report it; `end` reports the last layer, once the final work is done too."""
        self._done += count
        self._spent += cost
        if self._done < self._layers:
            self.report()

    def report(self) -> None:
        """Report what is done so far."""
        self._progress(self._done, self._layers, min(self._spent / max(self._cost, 1.0), 1.0))

    def end(self) -> None:
        """Report that all is done."""
        self._progress(self._layers, self._layers, 1.0)

    def measuring(self, layer: Layer) -> float:
        """Multiplications that find a layer's losses at increasing sparsity, and the model's outputs at one of them."""
        outputs = _PROBE_COST * self._probed * self._later[layer.output]
        return self._statistics(layer) + self._fits(layer, FITS_OF_LOSSES) + outputs

    def compressing(self, layer: Layer, *, pruned: bool, second_order: bool, rounded: bool) -> float:
        """Multiplications that prune a layer, round it, and measure its error."""
        outputs, inputs = self._network.matrix(layer).shape
        cost = 2 * self._statistics(layer)  # once more for its error
        if pruned and second_order:
            cost += self._fits(layer, FITS_OF_PRUNING)
        if rounded and second_order:
            cost += _INVERSE_COST * inputs**3 + outputs * inputs * (
                _ROUNDING_COST * inputs + 2 * len(REACHES) * _TRIED_ROWS
            )
        return cost

    def _statistics(self, layer: Layer) -> float:
        outputs, inputs = self._network.matrix(layer).shape
        rows = self._places if layer.node.op_type == "Conv" else self._rows
        return LAYER_COST + float(rows) * inputs * (inputs + 2 * outputs)

    def _fits(self, layer: Layer, iterations: int) -> float:
        outputs, inputs = self._network.matrix(layer).shape
        return _INVERSE_COST * float(inputs) ** 3 + float(iterations) * outputs * inputs**2


def shown_by(bar: Progress) -> OnLayer:
    """A callback that shows a compression's progress on a bar."""
    return lambda done, total, share: bar.update(done=done, total=total, share=share)


def _rows(feed: Feed) -> int:
    """Rows of a batch: its samples, or their tokens for a (samples, tokens) input."""
    shape = next(iter(feed.values())).shape
    return shape[0] * (shape[1] if len(shape) == 2 else 1)
