"""The manifests of each benchmark, models.toml and datasets.toml, and what their entries hold."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import ConfigError
from harness.registry import BENCHMARKS


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    file: str | None = None
    """Shipped files: relative to the manifest. Fetched ones: relative to build/data."""


_E = TypeVar("_E", bound=_Entry)


class Recipe(BaseModel):
    """What is done to a dense graph once it is built."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sparsity: float = Field(0.0, ge=0, lt=1)
    """Share of the weights that are pruned."""
    block: int = Field(1, ge=1)
    """Weights that are pruned together."""
    precision: Literal["fp32", "int8"] = "fp32"


class Published(BaseModel):
    """What Neural Magic published of a model in MLPerf Inference v3.0: Offline, two EPYC 9654 of 96 cores each."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    engine: str
    samples_per_second: float
    accuracy: float
    """F1 or top-1, in percent."""
    file: str
    """Size of the ONNX file, after gzip."""


class ModelEntry(_Entry):
    """A table of models.toml."""

    source: str
    """Where the weights come from; of a model that is not shipped, how to get them."""
    official_name: str
    """The benchmark that results are filed under: bert-99, bert-99.9, resnet50."""
    precision: str
    """Of the weights: fp32, int8."""
    input_data_types: str
    """Of the tensors that the graph takes."""
    weight_transformations: str
    """What was done to the source's weights, as a submission's measurements have to say; "no" for nothing."""
    retraining: str = "No"
    """Whether the weights were trained any further than the source's, as measurements have to say."""
    equivalent: bool = False
    """Whether the model is the reference's, so that the closed division takes it."""
    settings: dict[str, str | int] = {}
    """Settings of the benchmark that the model needs, by name; --set overrides them."""
    fetch: tuple[str, ...] = ()
    """Where `harness models fetch` looks, in this order: https:// (an ONNX file or an archive, with #member), zoo:STUB,
    hf:OWNER/REPOSITORY/PATH@REVISION."""
    md5: str | None = Field(None, pattern="^[0-9a-f]{32}$")
    """Of the ONNX file, where its publisher tells no sha256."""
    size: int | None = None
    """Of the ONNX file, in bytes."""
    builder: str | None = None
    """"module:function" that builds the model's graph: (harness.models.weights.Weights) -> onnx.ModelProto."""
    recipe: Recipe | None = None
    """Of a compressed model: ``builder`` builds the dense one."""
    published: Published | None = None
    """The first one of a benchmark is the baseline of the others."""


class DatasetEntry(_Entry):
    """A table of datasets.toml."""

    kind: Literal["dataset", "vocabulary"] = "dataset"
    urls: tuple[str, ...] = ()
    """Where `harness data` fetches it; none: it is shipped beside the manifest, or ``variable`` names its place."""
    variable: str | None = None
    """The environment variable that holds the path of the user's copy."""
    shipped: str | None = None
    """The same bytes, shipped beside the manifest."""
    size: int | None = None
    samples: int | None = None
    official: bool = False
    """Whether official runs use it."""
    metric: str | None = None
    """What a score on it is called, where it is not accuracy."""


class FetchRecord(BaseModel):
    """What is kept beside a model that was fetched."""

    model_config = ConfigDict(frozen=True)

    source: str
    time: str
    sha256: str
    size: int
    verified: Literal["sha256", "md5"] | None
    """By which published checksum; None: none is published, and nothing but the graph was looked at."""
    data: dict[str, str] = {}
    """Files of weights beside the graph, relative to its folder, and their sha256."""


class Model(BaseModel):
    """A model that was found."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    benchmark: str
    official_name: str
    sha256: str | None
    source: str = "unknown"
    precision: str = "unknown"
    input_data_types: str = "unknown"
    weight_transformations: str = "unknown"
    retraining: str = "unknown"
    equivalent: bool = False
    settings: dict[str, str | int] = {}
    caveat: str = ""
    """What everything made with it has to say, such as "random weights"; it then has no official result."""
    remark: str = ""
    """What everything made with it has to say, official results, too."""
    metadata: dict[str, str] = {}
    """What the file says of itself: architecture, weights, sparsity, block, precision, calibration, tool."""

    @property
    def title(self) -> str:
        """The name, and in words what was done to the model if its file says so."""
        weights = self.metadata.get("weights", "")
        words = [weights] if weights.startswith("random") else []
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
    """A data set that was found."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    sha256: str | None
    official: bool = False
    samples: int | None = None
    metric: str | None = None


def folder(benchmark: str) -> Path:
    """The package of a benchmark, which holds its manifests."""
    package = BENCHMARKS[benchmark].partition(".")[0]
    return Path(import_module(package).__path__[0])


def models() -> dict[str, tuple[str, ModelEntry]]:
    """Every known model: {name: (benchmark, entry)}."""
    return {
        name: (benchmark, entry)
        for benchmark in BENCHMARKS
        for name, entry in _manifest(folder(benchmark) / "models.toml", ModelEntry).items()
    }


def published() -> dict[str, tuple[str, Published]]:
    """The models of the published table, in its order: {name: (benchmark, what was published)}."""
    return {name: (benchmark, entry.published) for name, (benchmark, entry) in models().items() if entry.published}


def default_model() -> str:
    """The first model of the first benchmark."""
    return next(iter(models()))


def datasets(benchmark: str) -> dict[str, DatasetEntry]:
    """The data sets and other files of a benchmark, those that are preferred first."""
    return _manifest(folder(benchmark) / "datasets.toml", DatasetEntry)


def _percent(share: str) -> str:
    """A share as the metadata tell it ("0.5", "50 %", or any text), in percent; "" for none."""
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
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}, {error.title} '{where}': {first['msg']}.") from error
