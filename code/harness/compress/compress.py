"""Compresses a model layer by layer: prune, quantise to 8 bits, and write it in operators that the engines run fast."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from pydantic import BaseModel, ConfigDict, Field

from harness.compress import prune, rounding
from harness.compress.effort import LAYER_COST, Effort, OnLayer
from harness.compress.inputs import byte_ranges, take_bytes
from harness.compress.network import Feed, Layer, Network, Walk, groups
from harness.compress.plan import Plan
from harness.compress.products import Product, choose_ranges, products
from harness.compress.prune import Statistics
from harness.compress.quantise import ENCODERS, EngineForm, quantise
from harness.compress.ranges import REACHES, Range, observe
from harness.compress.report import CompressionReport, LayerReport, ProductReport
from harness.compress.rounding import Rounded
from harness.compress.scaling import Scaling
from harness.errors import ConfigError

_MAX_POSITIONS = 2048
"""Maximum output positions of a convolution to use per batch, spread evenly: neighbours give nearly the same data."""
_TRIED_ROWS = 4096
"""Rows of a layer's input used to try ranges."""
_PROBE_SAMPLES = 32
"""Samples used to measure the model's own outputs."""
TOLERANCE = 0.05
"""Relative output error above which a quantised layer gets more scales, or stays in FP32."""
_ATTENTION_FACTOR = 2
"""Factor on the tolerance for the product of attention weights and values, whose errors are diluted by the residual
connection that follows. MiniLM for DeepSparse, queries times keys in 8 bits: F1 64.9 with all six of these products in
8 bits (errors up to 6.1 %), 64.4 with the three within the tolerance, 64.5 with all attention in FP32, 66.2
uncompressed."""


class CompressSettings(BaseModel):
    """How to compress a model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sparsity: float = Field(default=0.0, ge=0, lt=1, description="share of the inner layers' weights to set to 0")
    block: int = Field(default=1, ge=1, le=64, description="neighbouring inputs to prune together")
    precision: Literal["fp32", "int8"] = Field(
        default="fp32", description="of weights and activations of linear layers"
    )
    method: Literal["second-order", "magnitude"] = Field(
        default="second-order", description="how to choose the weights"
    )
    keep: tuple[str, ...] = Field(default=(), description="patterns of layers to leave unchanged")
    tolerance: float = Field(
        default=TOLERANCE,
        gt=0,
        description="maximum relative output error of an 8-bit product; twice that for attention weights times values",
    )
    engine: EngineForm | None = Field(
        default=None, description="engine whose 8-bit operators to write; default: the best for such a model"
    )
    input: Literal["uint8", "float32"] | None = Field(
        default=None,
        description="how the graph takes images, as pixels or normalised; default: uint8 for 8-bit classifiers",
    )

    @property
    def engine_form(self) -> EngineForm:
        """The engine whose 8-bit operators the file has: by default DeepSparse if sparse, OpenVINO if dense."""
        return self.engine or ("deepsparse" if self.sparsity else "openvino")


def compress(
    model: ModelProto,
    feeds: Sequence[Feed],
    settings: CompressSettings,
    progress: OnLayer = lambda done, total, share: None,
    scalings: Mapping[str, Scaling] | None = None,
) -> tuple[ModelProto, CompressionReport]:
    """A compressed copy of a folded model (`folding.read_network`), and a report on each layer.

    ``feeds`` is calibration data: for each batch a dictionary of tensors by the names of the graph's inputs. Layers are
    compressed in the order of the graph; each is fitted to its outputs in the dense model, given the inputs that the
    compressed layers before it produce. Layers that read the graph's input or produce its output are not pruned.
    The float32 inputs in ``scalings`` become uint8 if any layer is quantised; ``feeds`` still hold them as float32.
    """
    return _Compression(model, feeds, settings, scalings or {}).run(progress)


def check(network: Network, settings: CompressSettings) -> None:
    """Check that these settings change this network, before calibration data is prepared.

    Raises:
        ConfigError: they change nothing, or a pattern matches no layer.
    """
    for pattern in settings.keep:
        known = [layer.name for layer in network.layers] + [product.name for product in products(network)]
        if not any(fnmatchcase(name, pattern) for name in known):
            names = ", ".join(layer.name for layer in network.layers[:4])
            raise ConfigError(f"--keep {pattern} matches no layer: give names or patterns such as {names}, ...")
    if settings.sparsity and not _prunable(network, settings):
        raise ConfigError("no layer can be pruned: --keep or --block excludes all of them; exclude fewer.")
    if settings.precision == "int8" and all(_kept(layer, settings) for layer in network.layers):
        raise ConfigError("no layer can be quantised to 8 bits: --keep excludes all of them; exclude fewer.")


def _kept(layer: Layer | Product, settings: CompressSettings) -> bool:
    return any(fnmatchcase(layer.name, pattern) for pattern in settings.keep)


def _prunable(network: Network, settings: CompressSettings) -> list[Layer]:
    inner = [layer for layer in network.inner() if not _kept(layer, settings)]
    return [layer for layer in inner if network.matrix(layer).shape[1] >= settings.block]


class _Compression:
    def __init__(
        self, model: ModelProto, feeds: Sequence[Feed], settings: CompressSettings, scalings: Mapping[str, Scaling]
    ) -> None:
        self._feeds, self._settings, self._scalings = feeds, settings, scalings
        self._second_order = settings.method == "second-order"
        self._dense, self._network = Network(model), Network(ModelProto.FromString(model.SerializeToString()))
        pruned = _prunable(self._network, settings) if settings.sparsity else []
        self._sparsity = {layer.output: settings.sparsity for layer in pruned}
        self._rounded: dict[str, Rounded] = {}
        self._ranges: dict[str, Range] = {}
        self._errors: dict[str, float] = {}
        self._products: set[str] = set()
        self._opset = model.opset_import[0].version

    def run(self, progress: OnLayer) -> tuple[ModelProto, CompressionReport]:
        """Compress layer by layer, then write the result."""
        network = self._network
        work = [layer for layer in network.layers if not _kept(layer, self._settings)]
        effort = Effort(network, self._feeds, _MAX_POSITIONS, _PROBE_SAMPLES, progress)
        steps: list[tuple[int, list[Layer] | Product]] = [*groups(work, network.nodes), *self._multiplied()]
        costs = [self._cost(item, effort) for _, item in steps]
        for (_, item), cost in zip(steps, costs, strict=True):
            effort.plan(_count(item), cost)
        if self._sparsity and self._second_order:
            self._allocate(effort)
        walks = Walk(self._dense, self._feeds), Walk(network, self._feeds)
        effort.report()
        for (position, item), cost in sorted(zip(steps, costs, strict=True), key=lambda each: each[0][0]):
            for walk in walks:
                walk.advance(position)
            if isinstance(item, Product):
                self._multiply(item, walks[1])
            else:
                self._compress(item, *walks)
            effort.add_done(_count(item), cost)
        report = self._report()
        result = network.model
        if self._rounded:
            exact = byte_ranges(network, self._scalings)
            self._ranges |= exact
            plan = Plan(network, self._rounded, self._ranges, self._products, given={*self._scalings} & {*exact})
            self._ranges |= observe(network, plan.needed() - set(self._ranges), self._feeds)
            result = quantise(plan, self._settings.engine_form)
            take_bytes(result, {name: each for name, each in self._scalings.items() if name not in exact})
        effort.end()
        return result, report

    def _cost(self, item: Sequence[Layer] | Product, effort: Effort) -> float:
        if isinstance(item, Product):
            return LAYER_COST
        how = {"second_order": self._second_order, "rounded": self._settings.precision == "int8"}
        return sum(effort.compressing(layer, pruned=layer.output in self._sparsity, **how) for layer in item)

    def _allocate(self, effort: Effort) -> None:
        """Choose a sparsity for each layer by its sensitivity, so that the average is the requested one.

        The layer's own outputs show how its loss grows with sparsity, the model's outputs how much that loss matters:
        early layers of a network may matter a hundred times as much as its last ones.
        """
        layers = [layer for layer in self._dense.layers if layer.output in self._sparsity]
        costs = {layer.output: effort.measuring(layer) for layer in layers}
        effort.plan(len(layers), sum(costs.values()))
        effort.report()
        walk = Walk(self._dense, self._feeds)
        batches = self._probes()
        expected = walk.outputs(batches, {})
        curves, sizes = {}, {}
        for position, members in groups(layers, self._dense.nodes):
            walk.advance(position)
            for layer in members:
                weight = self._dense.matrix(layer)
                sizes[layer.output] = weight.size
                statistics = self._statistics(layer, walk, walk)
                trial = prune.losses(weight, statistics, self._settings.block, self._settings.sparsity)
                changed = self._dense.changed(layer, trial.weight, statistics.bias(trial.weight))
                harm = _distance(walk.outputs(batches, changed), expected)
                curves[layer.output] = trial.curve if harm is None else trial.scaled(harm)
                effort.add_done(1, costs[layer.output])
        self._sparsity = prune.allocate(curves, sizes, self._settings.sparsity)

    def _probes(self) -> list[int]:
        """Numbers of batches with about `_PROBE_SAMPLES` samples in total, spread over all batches."""
        sizes = [len(next(iter(feed.values()))) for feed in self._feeds]
        count = min(max(round(len(sizes) * _PROBE_SAMPLES / sum(sizes)), 1), len(sizes))
        return sorted({round(number) for number in np.linspace(0, len(sizes) - 1, count)})

    def _compress(self, layers: Sequence[Layer], dense: Walk, compressed: Walk) -> None:
        """Compress layers that read the same tensor."""
        network, integer = self._network, self._settings.precision == "int8"
        known: dict[str, Statistics] = {}
        for layer in layers:
            weight = network.matrix(layer)
            if layer.groups > 1:
                if integer:
                    self._set(layer, rounding.keep_sums(weight))
                continue
            statistics = known[layer.output] = self._statistics(layer, dense, compressed)
            if layer.output in self._sparsity:
                self._set(layer, self._prune(weight, statistics, self._sparsity[layer.output]))
        layers = [layer for layer in layers if layer.output in known]
        matrices = [layer for layer in layers if layer.node.op_type != "Conv"]
        span, harms = self._round_inputs(matrices, compressed) if integer and matrices else (None, {})
        for layer in layers:
            statistics, harm = known[layer.output], harms.get(layer.output, 0.0)
            if integer and harm <= self._settings.tolerance:
                self._set(layer, self._round(layer, network.matrix(layer), statistics))
                if span is not None and layer.output in self._rounded:  # an FP32 layer sets no range for other readers
                    self._ranges[layer.source] = span
            if self._second_order:
                network.shift(layer, statistics.bias(network.matrix(layer)))
            error = self._error(layer, dense, compressed)
            self._errors[layer.output] = float(np.hypot(error, harm)) if layer.output in self._rounded else error

    def _multiplied(self) -> list[tuple[int, Product]]:
        """The products of activations to be tried in 8 bits, with the numbers of their nodes."""
        if self._settings.precision != "int8":
            return []
        number = {id(node): index for index, node in enumerate(self._network.nodes)}
        return [(number[id(p.node)], p) for p in products(self._network) if not _kept(p, self._settings)]

    def _multiply(self, product: Product, compressed: Walk) -> None:
        """Quantise a product of activations if its output stays within the tolerance."""
        chosen = choose_ranges(product, compressed.values, self._ranges)
        if chosen is None:
            return
        spans, self._errors[product.output] = chosen
        if self._errors[product.output] <= (_ATTENTION_FACTOR if product.weighted else 1) * self._settings.tolerance:
            self._products.add(product.output)
            self._ranges |= spans

    def _statistics(self, layer: Layer, dense: Walk, compressed: Walk) -> Statistics:
        original = self._dense.matrix(layer)
        gram = np.zeros((original.shape[1],) * 2, np.float32)
        target, energy = np.zeros_like(original), 0.0
        inputs, outputs = np.zeros(original.shape[1], np.float64), np.zeros(original.shape[0], np.float64)
        count = 0
        added = self._network.added(layer) if self._second_order and self._network.bias(layer) else None
        for values, changed in zip(dense.values, compressed.values, strict=True):
            before, x = self._rows(layer, values), self._rows(layer, changed)
            y = before @ original.T
            energy += float(np.vdot(y, y))
            # The layer can also compensate for changes in what is added to its outputs.
            if added is not None and added in values:
                lost = self._places(layer, _floats(values[added])) - self._places(layer, _floats(changed[added]))
                y += lost if lost.shape == y.shape else 0  # a tensor that is broadcast has another shape
            gram += x.T @ x
            target += y.T @ x
            inputs += x.sum(axis=0, dtype=np.float64)
            outputs += y.sum(axis=0, dtype=np.float64)
            count += len(x)
        means = (inputs / count).astype(np.float32), (outputs / count).astype(np.float32)
        if self._second_order and self._network.bias(layer):
            gram -= count * np.outer(means[0], means[0])
            target -= count * np.outer(means[1], means[0])
        return Statistics(gram, target, energy, *means).damped(original)

    def _error(self, layer: Layer, dense: Walk, compressed: Walk) -> float:
        """Root of the squared output difference relative to the dense outputs: a norm ratio."""
        original, weight = self._dense.matrix(layer), self._network.matrix(layer)
        shift = self._network.shifted(layer)
        lost = energy = 0.0
        for values, changed in zip(dense.values, compressed.values, strict=True):
            y = self._rows(layer, values) @ original.T
            difference = self._rows(layer, changed) @ weight.T + shift - y
            lost += float(np.vdot(difference, difference))
            energy += float(np.vdot(y, y))
        return float((lost / max(energy, 1e-30)) ** 0.5)

    def _rows(self, layer: Layer, values: Feed) -> NDArray[np.float32]:
        return layer.rows(_floats(values[layer.source]), self._network.kernel(layer), _MAX_POSITIONS)

    def _places(self, layer: Layer, value: NDArray[np.float32]) -> NDArray[np.float32]:
        """A tensor in the shape of the layer's outputs, as (places, outputs), at the places of `_rows`."""
        if not self._network.kernel(layer):
            return value.reshape(-1, value.shape[-1])
        rows = np.moveaxis(value, 1, -1).reshape(-1, value.shape[1])
        return rows[:: max(1, len(rows) // _MAX_POSITIONS)]

    def _prune(self, weight: NDArray[np.float32], statistics: Statistics, sparsity: float) -> NDArray[np.float32]:
        if not self._second_order:
            return prune.magnitude(weight, sparsity, self._settings.block)
        return prune.second_order(weight, statistics, sparsity, self._settings.block)

    def _round(
        self, layer: Layer, weight: NDArray[np.float32], statistics: Statistics
    ) -> Rounded | NDArray[np.float32]:
        def integers(per_output: bool) -> Rounded:
            if self._second_order:
                return rounding.second_order(weight, statistics, per_output=per_output)
            return rounding.nearest(weight, per_output=per_output)

        for per_output in (False, True) if self._scales(layer) else (False,):
            rounded = integers(per_output)
            if layer.node.op_type == "Conv" or self._harm(statistics, rounded, weight) <= self._settings.tolerance:
                return rounded
        return weight

    def _scales(self, layer: Layer) -> bool:
        """Whether the layer may have a scale for each output.

        A convolution has one scale: DeepSparse is slow with more, and without VNNI ONNX Runtime's sums of weights that
        all reach their largest integer overflow 16 bits (top-1 of EfficientNet 86.2 instead of 89.2).
        """
        axes: bool = self._opset >= ENCODERS[self._settings.engine_form].min_opset_of_axes
        return axes and layer.node.op_type != "Conv"

    @staticmethod
    def _harm(statistics: Statistics, rounded: Rounded, weight: NDArray[np.float32]) -> float:
        return float(max(statistics.loss(rounded.weight) - statistics.loss(weight), 0.0) ** 0.5)

    def _round_inputs(self, layers: Sequence[Layer], compressed: Walk) -> tuple[Range, dict[str, float]]:
        """Find the range of these layers' input that changes their outputs least, and measure that change."""
        batches = [self._rows(layers[0], values) for values in compressed.values]
        low, high = min(float(rows.min()) for rows in batches), max(float(rows.max()) for rows in batches)
        step = max(1, sum(map(len, batches)) // _TRIED_ROWS)
        rows = np.concatenate([rows[::step] for rows in batches])
        weights = [self._network.matrix(layer) for layer in layers]
        norms = [np.linalg.norm(rows @ weight.T) or 1e-30 for weight in weights]

        def harms(span: Range) -> list[float]:
            lost = span.rounded(rows) - rows
            return [float(np.linalg.norm(lost @ weight.T) / norm) for weight, norm in zip(weights, norms, strict=True)]

        def best(spans: Iterable[Range]) -> Range:
            return min(spans, key=lambda span: sum(harm**2 for harm in harms(span)))

        span = self._ranges.get(layers[0].source)  # a product of activations may read the same tensor
        if span is None:
            top = best(Range.of(low, high * reach) for reach in REACHES)
            span = best(Range.of(low * reach, top.high) for reach in REACHES) if low < 0 else top
        return span, {layer.output: harm for layer, harm in zip(layers, harms(span), strict=True)}

    def _set(self, layer: Layer, weight: Rounded | NDArray[np.float32]) -> None:
        if isinstance(weight, Rounded):
            self._rounded[layer.output] = weight
            weight = weight.weight
        self._network.replace(layer, weight)

    def _report(self) -> CompressionReport:
        report = CompressionReport(pruned=len(self._sparsity))
        for layer in self._network.layers:
            weight, rounded = self._network.matrix(layer), self._rounded.get(layer.output)
            precision = "fp32" if rounded is None else "int8 per output" if rounded.per_output else "int8"
            size = weight.size * 4 if rounded is None else weight.size + rounded.scale.size * 4
            zeros = weight.size - int(np.count_nonzero(weight))
            error = self._errors.get(layer.output, None if layer.groups > 1 else 0.0)
            report.layers.append(LayerReport(layer.name, weight.size, zeros, precision, size, error))
        for product in products(self._network):
            precision = "int8" if product.output in self._products else "fp32"
            report.products.append(ProductReport(product.name, precision, self._errors.get(product.output)))
        return report


def _count(item: Sequence[Layer] | Product) -> int:
    return 1 if isinstance(item, Product) else len(item)


def _floats(value: NDArray[np.generic]) -> NDArray[np.float32]:
    """A layer's input or output, which is float32."""
    return value.astype(np.float32, copy=False)


_Outputs = Sequence[Sequence[NDArray[np.generic]]]


def _distance(found: _Outputs, expected: _Outputs) -> float | None:
    """Squared difference of a model's outputs relative to the expected ones, over all batches, averaged over outputs.

    None if the model has no floating-point outputs.
    """
    parts = []
    for new, old in zip(zip(*found, strict=True), zip(*expected, strict=True), strict=True):
        lost = sum(_energy(np.subtract(a, b)) for a, b in zip(new, old, strict=True))
        parts.append(lost / max(sum(map(_energy, old)), 1e-30))
    return float(np.mean(parts)) if parts else None


def _energy(values: NDArray[np.generic]) -> float:
    return float(np.square(values, dtype=np.float64).sum())
