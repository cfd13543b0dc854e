"""The result of a compression for each layer and each product of activations."""

from dataclasses import dataclass, field


@dataclass
class LayerReport:
    """The result for a layer."""

    name: str
    weights: int
    zeros: int
    precision: str
    """fp32, int8, or "int8 per output", which has a scale for each output."""
    bytes: int
    error: float | None
    """Root of the squared output error on calibration data, relative to the dense model's outputs and including the
    changes in earlier layers; None if not measured (grouped convolutions)."""

    @property
    def sparsity(self) -> float:
        """Share of zeros."""
        return self.zeros / self.weights


@dataclass
class ProductReport:
    """The result for a matrix product of two activations."""

    name: str
    precision: str
    """fp32 or int8."""
    error: float | None
    """Root of the squared output error in 8 bits on calibration data, relative to the same product in FP32; None if not
    measured."""


@dataclass
class CompressionReport:
    """The result for a model: its linear layers in the order of the graph, then its products of activations."""

    layers: list[LayerReport] = field(default_factory=list)
    products: list[ProductReport] = field(default_factory=list)
    pruned: int = 0
    """Number of pruned layers."""

    @property
    def rounded(self) -> int:
        """Number of quantised layers."""
        return sum(layer.precision != "fp32" for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Share of zeros in the weights of all layers."""
        return sum(layer.zeros for layer in self.layers) / max(sum(layer.weights for layer in self.layers), 1)
