"""The manifests of each benchmark, models.toml and datasets.toml, and the fields of their entries."""

import tomllib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.errors import ConfigError, did_you_mean
from harness.files.fingerprint import Fingerprint
from harness.registry import BENCHMARKS, LIBRARIES
from harness.validation import first_error


class _ManifestEntry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    file: str | None = None
    """Shipped files: relative to the manifest. Fetched ones: relative to build/data."""


_E = TypeVar("_E", bound=_ManifestEntry)
RANDOM_KEY = "random_weights"
"""The key of a model file's metadata that says whether its weights are random: "yes" or "no"."""


class CompressionRecipe(BaseModel):
    """How a dense model is compressed after it is built; not a recipe of training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sparsity: float = Field(0.0, ge=0, lt=1)
    """Share of weights to prune."""
    block: int = Field(1, ge=1)
    """Number of neighbouring weights pruned together."""
    precision: Literal["fp32", "int8"] = "fp32"


class PublishedResult(BaseModel):
    """A model's published result in MLPerf Inference v3.0, by Neural Magic: Offline, two EPYC 9654 of 96 cores each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    engine: str
    samples_per_second: float
    accuracy: float
    """F1 or top-1, in percent."""
    file: str
    """Size of the gzipped ONNX file."""


class ModelEntry(_ManifestEntry):
    """A table of models.toml."""

    source: str
    """Origin of the weights; for a model that is not shipped, also how to get them."""
    official_name: str
    """The benchmark that results are filed under: bert-99, bert-99.9, resnet50."""
    precision: str
    """Data type of the weights: fp32, int8."""
    input_data_types: str
    """Data types of the graph's inputs."""
    weight_transformations: str
    """Changes to the source's weights, as a submission's measurements must state them; "no" for none."""
    retraining: str = "No"
    """Whether the weights were trained further than the source's, as measurements must state."""
    equivalent: bool = False
    """Whether the model is the reference model, which the closed division requires."""
    settings: dict[str, str | int] = {}
    """Benchmark settings that the model needs, by name; --set overrides them."""
    fetch: tuple[str, ...] = ()
    """Sources that `harness models fetch` tries, in this order: https:// (an ONNX file, or an archive with #member),
    zoo:STUB, hf:OWNER/REPOSITORY/PATH@REVISION."""
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    """MD5 of the ONNX file, if its publisher gives no sha256."""
    size: int | None = None
    """Size of the ONNX file in bytes."""
    builder: str | None = None
    """"module:function" that builds the model's graph: (harness.models.weights.Weights) -> onnx.ModelProto."""
    recipe: CompressionRecipe | None = None
    """How to compress the dense model that ``builder`` builds."""
    engines: tuple[str, ...] = ()
    """Engines for the model, the fastest first, as measured by `python -m benchmarks.engines` on a CPU with VNNI."""
    engines_without_vnni: tuple[str, ...] = ()
    """The same for processors without instructions for 8-bit products, where INT8 gains little."""
    published: PublishedResult | None = None
    """The first published model of a benchmark is the baseline for the others."""

    @field_validator("engines", "engines_without_vnni")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in LIBRARIES:
                raise ValueError(f"unknown engine '{name}': {did_you_mean(name, LIBRARIES)}")
        return names


class DatasetEntry(_ManifestEntry):
    """A table of datasets.toml."""

    kind: Literal["dataset", "vocabulary"] = "dataset"
    urls: tuple[str, ...] = ()
    """URLs for `harness data`; empty if it is shipped next to the manifest or located by ``variable``."""
    variable: str | None = None
    """The environment variable with the path of the user's copy."""
    shipped: str | None = None
    """An identical file that is shipped next to the manifest."""
    size: int | None = None
    samples: int | None = None
    official: bool = False
    """Whether official runs use it."""
    metric: str | None = None
    """The name of scores on this data set, if they are not the benchmark's accuracy."""


class FetchRecord(BaseModel):
    """The record next to a fetched model."""

    model_config = ConfigDict(frozen=True)

    source: str
    time: str
    sha256: str
    size: int
    verified: Literal["sha256", "md5"] | None
    """The published checksum that matched; None if none is published, so that only the graph was checked."""
    data: dict[str, str] = {}
    """Files with weights, relative to the graph's folder, and their sha256."""


class Model(BaseModel):
    """A model on this machine."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    benchmark: str
    official_name: str
    sha256: str | None
    """The sha256 of the ONNX file, or over it and the files with its weights."""
    files: tuple[Fingerprint, ...] = Field((), exclude=True, repr=False)
    """Its files, as hashed."""
    source: str = "unknown"
    precision: str = "unknown"
    input_data_types: str = "unknown"
    weight_transformations: str = "unknown"
    retraining: str = "unknown"
    equivalent: bool = False
    settings: dict[str, str | int] = {}
    engines: tuple[str, ...] = Field((), exclude=True, repr=False)
    """Engines for the model, the fastest on this kind of processor first; empty if they were not measured."""
    caveat: str = ""
    """Caveat that every result must show, such as "random weights"; rules out official results."""
    random: bool = False
    """Whether its weights are random."""
    remark: str = ""
    """Remark that every result must show, including official ones."""
    metadata: dict[str, str] = {}
    """The file's own metadata: architecture, weights, sparsity, block, precision, calibration, tool."""

    @property
    def title(self) -> str:
        """The name and, if the metadata shows it, how the model was changed."""
        words = [self.metadata.get("weights", "random weights")] if self.random else []
        done = []
        sparsity = _percent(self.metadata.get("sparsity", ""))
        if sparsity:
            block = self.metadata.get("block", "")
            done.append(
                f"{sparsity} sparse" + (f" in blocks of {block}" if block not in ("", "0", "1", "none") else "")
            )
        if self.metadata.get("calibration"):
            done.append(f"calibrated with {self.metadata['calibration']}")
        words += [self.precision, *done] if done else []
        return f"{self.name} ({', '.join(words)})" if words else self.name


class Dataset(BaseModel):
    """A data set on this machine."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    sha256: str | None
    files: tuple[Fingerprint, ...] = Field((), exclude=True, repr=False)
    """The files that determine the order and labels of its samples, as hashed."""
    official: bool = False
    samples: int | None = None
    metric: str | None = None


def folder(benchmark: str) -> Path:
    """The package folder of a benchmark, with its manifests."""
    package = BENCHMARKS[benchmark].partition(".")[0]
    return Path(import_module(package).__path__[0])


def models() -> dict[str, tuple[str, ModelEntry]]:
    """Every known model: {name: (benchmark, entry)}."""
    return {
        name: (benchmark, entry)
        for benchmark in BENCHMARKS
        for name, entry in _manifest(folder(benchmark) / "models.toml", ModelEntry).items()
    }


def published() -> dict[str, tuple[str, PublishedResult]]:
    """The models of the published table, in its order: {name: (benchmark, published result)}."""
    return {name: (benchmark, entry.published) for name, (benchmark, entry) in models().items() if entry.published}


def default_model() -> str:
    """The first model of the first benchmark."""
    return next(iter(models()))


def datasets(benchmark: str) -> dict[str, DatasetEntry]:
    """The data sets and other files of a benchmark, in order of preference."""
    return _manifest(folder(benchmark) / "datasets.toml", DatasetEntry)


def has_random_weights(metadata: Mapping[str, str]) -> bool:
    """Whether a model file's ``metadata`` say that its weights are random."""
    # Files of version 0.2 and earlier, and those of other tools, lack the key and only say it in words.
    words = "yes" if metadata.get("weights", "").startswith("random") else "no"
    return metadata.get(RANDOM_KEY, words) == "yes"


def _percent(share: str) -> str:
    """A share from the metadata ("0.5", "50 %", or any text) in percent; "" for zero or none."""
    try:
        value = float(share.rstrip(" %")) * (1 if "%" in share else 100)
    except ValueError:
        return share
    return f"{value:.3g} %" if value else ""


def _manifest(path: Path, entry: type[_E]) -> dict[str, _E]:
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
        return {name: entry.model_validate(table) for name, table in tables.items()}
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check its permissions.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    except ValidationError as error:
        first = first_error(error)
        raise ConfigError(f"{path}, {error.title} '{first.where}': {first.message}.") from error
