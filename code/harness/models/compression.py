"""Compresses a model file with calibration data; the new file's metadata describes the compression."""

import gzip
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from onnx import ModelProto, helper
from rich.table import Table

from harness import TOOL, __version__, paths
from harness.catalog import manifests
from harness.catalog.models import find_model
from harness.compress.compress import CompressSettings, check, compress
from harness.compress.effort import shown_by
from harness.compress.folding import read_network
from harness.compress.network import Network, is_quantised
from harness.compress.report import CompressionReport
from harness.compress.scaling import Scaling
from harness.errors import ConfigError
from harness.files.disk import check_writable, remove_left_over, write_bytes, write_text
from harness.graph import listing, read_graph
from harness.models.calibration import Calibration, calibration, check_calibration
from harness.models.made import check_output, check_replaceable
from harness.task.base import Benchmark
from harness.terminal.progress import Progress, working

TRAINED = ("training", "recipe", "recipe_sha256", "training_data")
"""Metadata on how training changed the weights; later steps keep it."""
REPORT = ".compression.json"
"""Suffix of the report's file name, in place of the model's ".onnx"."""


@dataclass(frozen=True)
class Compressed:
    """A compressed model's file."""

    path: Path
    report: CompressionReport
    dense_bytes: int
    bytes: int
    zipped_bytes: int
    """Size after gzip, which stores zeros in almost no space."""


def compress_file(
    name: str,
    output: Path,
    settings: CompressSettings,
    dataset: str | None,
    samples: int,
    options: Mapping[str, str] | None = None,
) -> Compressed:
    """Compress a model, given by name or path, into ``output``, and write the report next to it.

    ``options`` are benchmark settings that the file does not contain; they become part of its metadata.

    Raises:
        ConfigError: the model does not exist or is already compressed, the data does not match it, the settings name an
            engine or an input type without INT8, or an input type that the model cannot have, or ``output`` is a file
            that this tool did not make.
    """
    if settings.engine and settings.precision != "int8":
        raise ConfigError(f"--for {settings.engine} needs --precision int8: FP32 is the same for every engine.")
    if settings.input and settings.precision != "int8":
        raise ConfigError(f"--input {settings.input} needs --precision int8: other models keep their input.")
    output = output.absolute()
    check_output(output)
    remove_left_over(paths.MODELS_DIR)
    model = find_model(name)
    if options:
        model = model.model_copy(update={"settings": {**model.settings, **options}})
    benchmark, _ = check_calibration(model, dataset, samples)
    if output.resolve() == model.path.resolve():
        raise ConfigError(f"{output} is the input model: choose another file name for the compressed one.")
    check_replaceable(output)
    if not settings.sparsity and settings.precision == "fp32":
        raise ConfigError("nothing to do: give --sparsity, --precision int8, or both.")
    network = read_network(model.path)
    check_dense(model.path, network)
    check(Network(network), settings)
    check_writable(output)
    scalings = _scalings(settings, benchmark, model.path)
    data = calibration(model, model.path, dataset, samples)
    return compress_model(network, facts_of(model), output, settings, data, model.path.stat().st_size, scalings)


def check_dense(path: Path, network: ModelProto) -> None:
    """Check that a model can be compressed or trained.

    Raises:
        ConfigError: it has no FP32 layers, or is already quantised.
    """
    if not Network(network).layers or is_quantised(node.op_type for node in network.graph.node):
        raise ConfigError(f"{path} has no FP32 layers or is already quantised: give the dense FP32 model.")


def _scalings(settings: CompressSettings, benchmark: Benchmark, path: Path) -> Mapping[str, Scaling]:
    """The inputs that become uint8, with their scaling."""
    if settings.precision != "int8" or settings.input == "float32":
        return {}
    inputs = read_graph(path).inputs
    found = benchmark.scalings(inputs, path)
    if settings.input and not found:
        raise ConfigError(
            f"--input {settings.input}: the model's inputs ({listing(inputs)}) are not images in float32: leave it out."
        )
    return found


def facts_of(model: manifests.Model) -> dict[str, str]:
    """The metadata that a compressed or trained model inherits from its source model."""
    metadata = model.metadata
    weights = model.source if model.source != "unknown" else f"unknown ({model.path.name}, {(model.sha256 or '')[:16]})"
    settings = {key: str(value) for key, value in model.settings.items()}
    inherited = ("architecture", "model", manifests.RANDOM_KEY, *TRAINED)
    taken: dict[str, str] = {key: metadata[key] for key in inherited if key in metadata}
    if model.name in manifests.models():
        taken["model"] = model.name
    return {**settings, **taken, "weights": metadata.get("weights", weights)}


def compress_model(
    network: ModelProto,
    facts: dict[str, str],
    output: Path,
    settings: CompressSettings,
    data: Calibration,
    dense_bytes: int,
    scalings: Mapping[str, Scaling] | None = None,
) -> Compressed:
    """Compress a folded graph and write it with its metadata and its report; inputs in ``scalings`` become uint8."""
    with Progress("compressing", unit="layers") as bar:
        model, report = compress(network, data.feeds, settings, shown_by(bar), scalings)
    if settings.precision == "int8" and not report.rounded:
        raise ConfigError("no layer could be quantised to 8 bits: raise --tolerance.")
    done = {
        "precision": settings.precision,
        "calibration": data.description,
        "compression": f"{settings.method}, one shot" if settings.sparsity else "one shot",
        "tool": f"{TOOL} {__version__}",
    }
    if settings.precision == "int8":
        done["engine_form"] = settings.engine_form
    if settings.sparsity:
        done |= {"sparsity": f"{settings.sparsity:g}", "block": str(settings.block), "zeros": f"{report.sparsity:.4f}"}
    helper.set_model_props(model, {**facts, **done})
    with working("writing the model"):
        content = model.SerializeToString(deterministic=True)
        zipped = len(gzip.compress(content, compresslevel=6, mtime=0))
    write_bytes(output, content)
    compressed = Compressed(output, report, dense_bytes, len(content), zipped)
    write_text(
        output.with_suffix(REPORT), json.dumps(summary(compressed, settings, {**facts, **done}), indent=2) + "\n"
    )
    return compressed


def summary(compressed: Compressed, settings: CompressSettings, facts: dict[str, str]) -> dict[str, object]:
    """The report in its JSON form."""
    return {
        "model": compressed.path.name,
        "settings": settings.model_dump(),
        "metadata": facts,
        "bytes": {"dense": compressed.dense_bytes, "compressed": compressed.bytes, "gzip": compressed.zipped_bytes},
        "sparsity": compressed.report.sparsity,
        "layers": [asdict(layer) | {"sparsity": layer.sparsity} for layer in compressed.report.layers],
        "products": [asdict(product) for product in compressed.report.products],
    }


def table(report: CompressionReport) -> Table:
    """A row for each layer, and for each product of activations, which has no weights."""
    rows = Table("layer", "weights", "zeros", "precision", "size", "output error", box=None, pad_edge=False)
    for layer in report.layers:
        error = "not measured" if layer.error is None else f"{layer.error:.2%}"
        size = f"{layer.bytes / 2**20:.2f} MiB"
        rows.add_row(layer.name, f"{layer.weights:,}", f"{layer.sparsity:.1%}", layer.precision, size, error)
    for product in report.products:
        error = "not measured" if product.error is None else f"{product.error:.2%}"
        rows.add_row(product.name, "-", "-", product.precision, "-", error)
    return rows
