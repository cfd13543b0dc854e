"""The models and data sets that the project knows by name: models.toml and datasets.toml of each benchmark."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.download import sha256_of
from harness.errors import ConfigError, did_you_mean
from harness.registry import BENCHMARKS, resolve

ROOT = Path(__file__).resolve().parents[2]
"""The top of the submission: this repository."""
DATA_DIR = ROOT / "build" / "data"
CACHE_DIR = ROOT / "build" / "cache"


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    description: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    file: str
    """Shipped files: relative to the manifest. Fetched ones: relative to build/data."""


class ModelEntry(_Entry):
    """A table of models.toml."""

    precision: str
    weights: str
    official_name: str
    """The benchmark that results are filed under: bert-99, bert-99.9, resnet50."""


class DatasetEntry(_Entry):
    """A table of datasets.toml."""

    kind: Literal["dataset", "vocabulary"] = "dataset"
    urls: tuple[str, ...] = ()
    """Where `harness data` fetches it; none: it is shipped beside the manifest."""
    shipped: str | None = None
    """The same bytes, shipped beside the manifest."""
    size: int | None = None
    samples: int | None = None
    official: bool = False
    """Whether official runs use it."""


class Model(BaseModel):
    """A model that was found."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    benchmark: str
    official_name: str
    sha256: str
    precision: str = "unknown"
    weights: str = "unknown"
    description: str = ""


class Dataset(BaseModel):
    """A data set that was found."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: Path
    sha256: str
    official: bool = False
    samples: int | None = None


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


def datasets(benchmark: str) -> dict[str, DatasetEntry]:
    """The data sets and other files of a benchmark, those that are preferred first."""
    return _manifest(folder(benchmark) / "datasets.toml", DatasetEntry)


def find_model(name: str, benchmark: str | None = None) -> Model:
    """A model by its name or by the path of an ONNX file.

    Raises:
        ConfigError: there is no such name or file, or a shipped file has another content than it should.
    """
    known = models()
    if name in known:
        owner, entry = known[name]
        path = folder(owner) / entry.file
        if not path.is_file():
            raise ConfigError(f"model {name} is missing at {path}: fetch the repository again.")
        if sha256_of(path) != entry.sha256:
            raise ConfigError(f"{path} is not the model {name} (its sha256 differs): fetch the repository again.")
        return Model(name=name, path=path, benchmark=owner, **entry.model_dump(exclude={"file"}))
    path = _path(name)
    if path.is_file():
        owner = benchmark or next(iter(BENCHMARKS))
        return Model(
            name=path.stem,
            path=path.resolve(),
            benchmark=owner,
            official_name=resolve("benchmark", BENCHMARKS, owner).official_name,
            sha256=sha256_of(path),
            description="named by its path",
        )
    if path.suffix == ".onnx" or len(path.parts) > 1:
        raise ConfigError(f"there is no model file {path}: give the path of an ONNX file, or a name: {_list(known)}.")
    raise ConfigError(f"unknown model '{name}': {did_you_mean(name, known)} Or give the path of an ONNX file.")


def find_dataset(benchmark: str, name: str | None) -> Dataset:
    """A data set by name or path; with None the first of the manifest that is on this machine.

    Raises:
        ConfigError: there is no such name or file, or it has not been fetched.
    """
    known = {key: entry for key, entry in datasets(benchmark).items() if entry.kind == "dataset"}
    if name is None:
        name = next((key for key, entry in known.items() if location(benchmark, entry).is_file()), next(iter(known)))
    if name in known:
        entry = known[name]
        path = location(benchmark, entry)
        if not path.is_file():
            raise ConfigError(f"data set {name} is not on this machine: run `make data`, or give the path of a copy.")
        digest = sha256_of(path)
        if digest != entry.sha256:
            raise ConfigError(f"{path} is not {name} (its sha256 differs): delete it and run `make data`.")
        return Dataset(name=name, path=path, sha256=digest, official=entry.official, samples=entry.samples)
    path = _path(name)
    if not path.exists():
        raise ConfigError(f"no data set or file '{name}': {did_you_mean(name, known)} Or give the path of a file.")
    if not path.is_file():
        raise ConfigError(f"{path} is no file; give the path of a data set.")
    digest = sha256_of(path)
    same = next((entry for entry in known.values() if entry.sha256 == digest), None)
    return Dataset(
        name=path.stem,
        path=path.resolve(),
        sha256=digest,
        official=same.official if same else False,
        samples=same.samples if same else None,
    )


def location(benchmark: str, entry: DatasetEntry) -> Path:
    """Where a data set is, or would be once it is fetched."""
    return DATA_DIR / entry.file if entry.urls else folder(benchmark) / entry.file


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
