"""The models and data sets that the project knows by name: models.toml and datasets.toml of each benchmark."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import ConfigError, did_you_mean
from harness.graph import listing, read_graph, read_metadata
from harness.host.download import digest_of, sha256_of
from harness.registry import BENCHMARKS, resolve

ROOT = Path(__file__).resolve().parents[3]
"""The top of the submission: this repository."""
DATA_DIR = ROOT / "build" / "data"
CACHE_DIR = ROOT / "build" / "cache"
MODELS_DIR = ROOT / "build" / "models"
"""What was fetched, as NAME.onnx beside its record NAME.json, and what was built, under other names."""


UNVERIFIED = "not verified: no checksum is published"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    sha256: str | None = Field(None, pattern="^[0-9a-f]{64}$")
    file: str | None = None
    """Shipped files: relative to the manifest. Fetched ones: relative to build/data."""


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


@contextmanager
def _readable() -> Iterator[None]:
    """Make one sentence of whatever the operating system says when a model or data set is looked at."""
    try:
        yield
    except OSError as error:
        where = str(error.filename or "a file")[:200]
        raise ConfigError(f"{where} cannot be read ({error.strerror}): check the path and its permissions.") from error


@_readable()
def find_model(name: str) -> Model:
    """A model by its name or by the path of an ONNX file, which is known by its content wherever it lies.

    Raises:
        ConfigError: there is no such name or file, it cannot be read, a shipped or fetched file has another content
            than it should, or a file's graph fits no benchmark.
    """
    known = models()
    if name in known:
        owner, entry = known[name]
        if entry.file is None:
            return _fetched_model(name, owner, entry)
        path = folder(owner) / entry.file
        if not path.is_file():
            raise ConfigError(f"model {name} is missing at {path}: fetch the repository again.")
        digest = sha256_of(path)
        if digest != entry.sha256:
            raise ConfigError(f"{path} is not the model {name} (its sha256 differs): fetch the repository again.")
        return _known_model(name, path, owner, entry, digest)
    path = _path(name)
    if path.is_file():
        return _model_at(path.resolve(), known)
    if path.suffix == ".onnx" or len(path.parts) > 1:
        raise ConfigError(f"there is no model file {path}: give the path of an ONNX file, or a name: {_list(known)}.")
    raise ConfigError(f"unknown model '{name}': {did_you_mean(name, known)} Or give the path of an ONNX file.")


def model_file(name: str) -> Path:
    """Where a model of that name is once it was fetched."""
    return MODELS_DIR / f"{name}.onnx"


def fetch_record(name: str) -> FetchRecord | None:
    """What was noted when a model was fetched; None if it was not, or the note is unreadable."""
    try:
        return FetchRecord.model_validate_json((MODELS_DIR / f"{name}.json").read_bytes())
    except (OSError, ValidationError):
        return None


def how_to_get(name: str, entry: ModelEntry) -> str:
    """The end of a message about a model that is not here."""
    fetch = f"fetch it with `harness models fetch {name}`, or give the path of its file."
    build = f" Or build it with random weights or a checkpoint's: `harness models build {name} --weights random|PATH`."
    rest = f" {entry.source}{build if entry.builder else ''}"
    return (fetch if entry.fetch else "give the path of its file instead.") + rest


def _fetched_model(name: str, owner: str, entry: ModelEntry) -> Model:
    path = model_file(name)
    if not path.is_file():
        raise ConfigError(f"model {name} is not shipped: {how_to_get(name, entry)}")
    record = fetch_record(name)
    if record is None:
        raise ConfigError(
            f"{path} was not fetched, for it has no record beside it: move it away, and take it in with "
            f"`harness models fetch {name} --from` and its place."
        )
    digest = sha256_of(path)
    wrong = None if digest == (entry.sha256 or record.sha256) else path
    for file, expected in record.data.items():
        beside = path.parent / file
        if not beside.is_file() or sha256_of(beside) != expected:
            wrong = wrong or beside
    if wrong:
        raise ConfigError(
            f"{wrong} is not what was fetched as {name} (its sha256 differs): remove {path} and fetch it again with "
            f"`harness models fetch {name}`."
        )
    return _known_model(name, path, owner, entry, digest, record)


def _model_at(path: Path, known: dict[str, tuple[str, ModelEntry]]) -> Model:
    digest = sha256_of(path)
    records = {key: fetch_record(key) for key, (_, entry) in known.items() if entry.file is None}
    for key, (owner, entry) in known.items():
        record = records.get(key)
        if digest in (entry.sha256, record.sha256 if record else None):
            return _known_model(key, path, owner, entry, digest, record)
    model = _unknown_model(path, digest)
    if "tool" not in model.metadata:  # what was published is not of our making, and md5 takes its time
        md5 = cache(lambda: digest_of(path, "md5"))
        for key, (owner, entry) in known.items():
            if entry.md5 and entry.sha256 is None and md5() == entry.md5:
                return _known_model(key, path, owner, entry, digest, None)
    return model


def _known_model(
    name: str, path: Path, owner: str, entry: ModelEntry, digest: str, record: FetchRecord | None = None
) -> Model:
    facts = entry.model_dump(include=set(Model.model_fields) - {"sha256"})
    unverified = record is not None and entry.sha256 is None and record.verified is None
    return Model(
        name=name,
        path=path,
        benchmark=owner,
        sha256=digest,
        remark=UNVERIFIED if unverified else "",
        metadata=read_metadata(path),
        **facts,
    )


def _unknown_model(path: Path, digest: str) -> Model:
    graph = read_graph(path)
    for owner in BENCHMARKS:
        benchmark = resolve("benchmark", BENCHMARKS, owner)
        if benchmark.accepts(graph.inputs):
            break
    else:
        raise ConfigError(f"{path} fits none of {_list(BENCHMARKS)}: its inputs are {listing(graph.inputs)}.")
    source = graph.metadata.get("weights", "unknown")
    made_of = models().get(graph.metadata.get("model", ""))
    return Model(
        name=path.stem,
        path=path,
        benchmark=owner,
        official_name=made_of[1].official_name if made_of else benchmark.official_name,
        sha256=digest,
        source=source,
        precision=graph.metadata.get("precision", "unknown"),
        # Nothing that builds or compresses models here trains them.
        retraining="No" if "tool" in graph.metadata else "unknown",
        input_data_types=", ".join(sorted({str(tensor.dtype) for tensor in graph.inputs})),
        settings={key: graph.metadata[key] for key in benchmark.Settings.model_fields if key in graph.metadata},
        caveat=source if source.startswith("random") else "",
        remark=_made_here(graph.metadata),
        metadata=graph.metadata,
    )


def _made_here(metadata: dict[str, str]) -> str:
    """What a file that was built or compressed here is not."""
    if metadata.get("weights", "").startswith("random"):
        return ""
    if "compression" in metadata:
        return f"compressed here ({metadata['compression']}), not a published model"
    return f"built here from {metadata['weights']}, not the published file" if "model" in metadata else ""


@_readable()
def find_dataset(benchmark: str, name: str | None) -> Dataset:
    """A data set by name or path; with None the first of the manifest that is on this machine.

    Raises:
        ConfigError: there is no such name or file, it cannot be read, or it has not been fetched.
    """
    known = {key: entry for key, entry in datasets(benchmark).items() if entry.kind == "dataset"}
    if name is None:
        name = next((key for key, entry in known.items() if _is_there(benchmark, entry)), next(iter(known)))
    if name in known:
        entry = known[name]
        path = location(benchmark, entry)
        if path is None:
            raise ConfigError(f"where data set {name} lies is not known: give its path, or set {entry.variable} to it.")
        if entry.variable and not path.exists():
            raise ConfigError(f"{entry.variable} is {path}, and there is nothing: set it to the place of {name}.")
        if not path.exists():
            raise ConfigError(f"data set {name} is not on this machine: run `make data`, or give the path of a copy.")
        return _dataset(benchmark, name, path, entry)
    path = _path(name)
    if not path.exists():
        raise ConfigError(f"no data set or file '{name}': {did_you_mean(name, known)} Or give the path of a file.")
    return _dataset(benchmark, path.stem, path.resolve(), None)


def _dataset(benchmark: str, name: str, path: Path, entry: DatasetEntry | None) -> Dataset:
    path = resolve("benchmark", BENCHMARKS, benchmark).dataset_file(path)
    digest = sha256_of(path) if path.is_file() else None
    if entry is None:  # a copy of a known data set is that data set
        same = (e for e in datasets(benchmark).values() if e.kind == "dataset" and e.sha256 == digest)
        entry = next(same, None) if digest else None
    elif entry.sha256 and digest != entry.sha256:
        raise ConfigError(f"{path} is not {name} (its sha256 differs): delete it and run `make data`.")
    facts = entry.model_dump(include={"official", "samples", "metric"}) if entry else {}
    return Dataset(name=name, path=path, sha256=digest, **facts)


def location(benchmark: str, entry: DatasetEntry) -> Path | None:
    """Where a data set is, or would be once it is fetched; None where only the user knows and does not say."""
    if entry.variable:
        text = os.environ.get(entry.variable, "").strip()
        return _path(text).absolute() if text else None
    assert entry.file is not None
    return DATA_DIR / entry.file if entry.urls else folder(benchmark) / entry.file


def _is_there(benchmark: str, entry: DatasetEntry) -> bool:
    path = location(benchmark, entry)
    return path is not None and (bool(entry.variable) or path.is_file())


def _percent(share: str) -> str:
    """A share as the metadata tell it ("0.5", "50 %", or any text), in percent; "" for none."""
    try:
        value = float(share.rstrip(" %")) * (1 if "%" in share else 100)
    except ValueError:
        return share
    return f"{value:.3g} %" if value else ""


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~name of a user that there is not
        return Path(text)


def _list(names: dict[str, object]) -> str:
    return ", ".join(names)


def _manifest(path: Path, entry: type[_Entry]) -> dict[str, _Entry]:
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
