"""The models that the project knows by name, and those that it is given as files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from harness import paths
from harness.catalog import manifests
from harness.catalog.benchmark import benchmark_class
from harness.catalog.manifests import FetchRecord, Model, ModelEntry
from harness.errors import ConfigError, did_you_mean
from harness.graph import Graph, listing, read_graph, read_metadata
from harness.host.download import digest_of, sha256_of
from harness.host.files import readable, user_path
from harness.registry import BENCHMARKS

UNVERIFIED = "not verified: no checksum is published"


@dataclass(frozen=True)
class Identified:
    """An ONNX file whose content is known; what else it says is read once, when somebody asks for it."""

    path: Path
    sha256: str

    @classmethod
    def of(cls, path: Path) -> Identified:
        """The file at a path; OSError where it cannot be read."""
        return cls(path, sha256_of(path))

    @cached_property
    def graph(self) -> Graph:
        """Its graph, for which onnx is imported, which is slow; ConfigError if it is no ONNX model."""
        return read_graph(self.path)

    @cached_property
    def metadata(self) -> dict[str, str]:
        """Its metadata_props, for which onnx is not needed; ConfigError if it is no ONNX model."""
        return read_metadata(self.path)

    @cached_property
    def md5(self) -> str:
        """Its md5: all of the file is read again."""
        return digest_of(self.path, "md5")


@dataclass(frozen=True)
class KnownModel:
    """A table of models.toml with its name and its benchmark's."""

    name: str
    benchmark: str
    entry: ModelEntry

    def model(self, file: Identified, record: FetchRecord | None = None) -> Model:
        """This model as ``file``; ``record`` is that of a model which was fetched."""
        facts = self.entry.model_dump(include=set(Model.model_fields) - {"sha256"})
        unverified = record is not None and self.entry.sha256 is None and record.verified is None
        return Model(
            name=self.name,
            path=file.path,
            benchmark=self.benchmark,
            sha256=file.sha256,
            remark=UNVERIFIED if unverified else "",
            metadata=file.metadata,
            **facts,
        )


def known_models() -> dict[str, KnownModel]:
    """Every model of the manifests, by its name."""
    return {name: KnownModel(name, *found) for name, found in manifests.models().items()}


def find_model(name: str) -> Model:
    """A model by its name or by the path of an ONNX file, which is known by its content wherever it lies.

    Raises:
        ConfigError: there is no such name or file, it cannot be read, a shipped or fetched file has another content
            than it should, or a file's graph fits no benchmark.
    """
    return identify_model(name)[0]


@readable()
def identify_model(name: str) -> tuple[Model, Identified]:
    """`find_model`, with the file that was hashed for it, for those who read on in it."""
    known = known_models()
    if name in known:
        entry = known[name].entry
        return _shipped(known[name], entry.file) if entry.file else _fetched(known[name])
    path = user_path(name)
    if path.is_file():
        file = Identified.of(path.resolve())
        return _known_by_content(file) or _unknown(file), file
    if path.suffix == ".onnx" or len(path.parts) > 1:
        raise ConfigError(
            f"there is no model file {path}: give the path of an ONNX file, or a name: {', '.join(known)}."
        )
    raise ConfigError(f"unknown model '{name}': {did_you_mean(name, known)} Or give the path of an ONNX file.")


def model_file(name: str) -> Path:
    """Where a model of that name is once it was fetched."""
    return paths.MODELS_DIR / f"{name}.onnx"


def fetch_record(name: str) -> FetchRecord | None:
    """What was noted when a model was fetched; None if it was not, or the note is unreadable."""
    try:
        return FetchRecord.model_validate_json((paths.MODELS_DIR / f"{name}.json").read_bytes())
    except (OSError, ValidationError):
        return None


def how_to_get(name: str, entry: ModelEntry) -> str:
    """The end of a message about a model that is not here."""
    fetch = f"fetch it with `harness models fetch {name}`, or give the path of its file."
    build = f" Or build it with random weights or a checkpoint's: `harness models build {name} --weights random|PATH`."
    rest = f" {entry.source}{build if entry.builder else ''}"
    return (fetch if entry.fetch else "give the path of its file instead.") + rest


def _shipped(known: KnownModel, place: str) -> tuple[Model, Identified]:
    path = manifests.folder(known.benchmark) / place
    if not path.is_file():
        raise ConfigError(f"model {known.name} is missing at {path}: fetch the repository again.")
    file = Identified.of(path)
    if file.sha256 != known.entry.sha256:
        raise ConfigError(f"{path} is not the model {known.name} (its sha256 differs): fetch the repository again.")
    return known.model(file), file


def _fetched(known: KnownModel) -> tuple[Model, Identified]:
    name, path = known.name, model_file(known.name)
    if not path.is_file():
        raise ConfigError(f"model {name} is not shipped: {how_to_get(name, known.entry)}")
    record = fetch_record(name)
    if record is None:
        raise ConfigError(
            f"{path} was not fetched, for it has no record beside it: move it away, and take it in with "
            f"`harness models fetch {name} --from` and its place."
        )
    file = Identified.of(path)
    wrong = None if file.sha256 == (known.entry.sha256 or record.sha256) else path
    for part, expected in record.data.items():
        beside = path.parent / part
        if not beside.is_file() or sha256_of(beside) != expected:
            wrong = wrong or beside
    if wrong:
        raise ConfigError(
            f"{wrong} is not what was fetched as {name} (its sha256 differs): remove {path} and fetch it again with "
            f"`harness models fetch {name}`."
        )
    return known.model(file, record), file


def _known_by_content(file: Identified) -> Model | None:
    models = known_models().values()
    for known in models:
        record = fetch_record(known.name) if known.entry.file is None else None
        if file.sha256 in (known.entry.sha256, record.sha256 if record else None):
            return known.model(file, record)
    if "tool" in file.metadata:  # what was published is not of our making, and md5 takes its time
        return None
    by_md5 = (known for known in models if known.entry.md5 and known.entry.sha256 is None)
    return next((known.model(file) for known in by_md5 if known.entry.md5 == file.md5), None)


def _unknown(file: Identified) -> Model:
    path, graph = file.path, file.graph
    name = next((name for name in BENCHMARKS if benchmark_class(name).accepts(graph.inputs)), None)
    if name is None:
        raise ConfigError(f"{path} fits none of {', '.join(BENCHMARKS)}: its inputs are {listing(graph.inputs)}.")
    benchmark = benchmark_class(name)
    source = graph.metadata.get("weights", "unknown")
    made_of = manifests.models().get(graph.metadata.get("model", ""))
    return Model(
        name=path.stem,
        path=path,
        benchmark=name,
        official_name=made_of[1].official_name if made_of else benchmark.official_name,
        sha256=file.sha256,
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
