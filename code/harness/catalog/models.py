"""Finding a model by its name or by the path of its file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from harness import paths
from harness.catalog import manifests
from harness.catalog.contract import benchmark_class
from harness.catalog.manifests import FetchRecord, Model, ModelEntry, has_random_weights
from harness.errors import ConfigError, did_you_mean
from harness.files.digest import digest_of
from harness.files.disk import readable, user_path
from harness.files.fingerprint import Fingerprint, combined, remembered
from harness.graph import Graph, check_weights, listing, read_graph, read_metadata, weight_files
from harness.host.machine import multiplies_int8
from harness.registry import BENCHMARKS

_AGAIN = paths.advice("fetch the repository again", paths.SETUP)
UNVERIFIED = "not verified: no checksum is published"


@dataclass(frozen=True)
class IdentifiedModel:
    """An ONNX file identified by its hash; everything else in it is read at most once, on first use."""

    file: Fingerprint

    @classmethod
    def of(cls, path: Path) -> IdentifiedModel:
        """Hash the file at a path; raises OSError if it cannot be read."""
        return cls(Fingerprint.of(path))

    @property
    def path(self) -> Path:
        """The path of the file."""
        return self.file.path

    @property
    def sha256(self) -> str:
        """sha256 of the ONNX file alone, without weights in other files, as publishers state it."""
        return self.file.sha256

    @cached_property
    def weights(self) -> dict[str, Fingerprint]:
        """The external files with its weights, by their names relative to its folder.

        Raises:
            ConfigError: this is not an ONNX model, or names a file outside its folder.
            OSError: one cannot be read.
        """
        return {name: Fingerprint.of(self.path.parent / name) for name in weight_files(self.path)}

    @property
    def identity(self) -> str:
        """sha256 of the whole model: of its only file, or over all of its files."""
        return _model_sha256(self.sha256, {name: file.sha256 for name, file in self.weights.items()})

    @cached_property
    def graph(self) -> Graph:
        """Its graph, read with onnx, which is slow to import; ConfigError if it is not an ONNX model."""
        return read_graph(self.path)

    @cached_property
    def metadata(self) -> Mapping[str, str]:
        """Its metadata_props, read without onnx; ConfigError if it is not an ONNX model."""
        return read_metadata(self.path)

    @cached_property
    def md5(self) -> str:
        """Its MD5; the file is read again for it."""
        return _md5(self.path)


@remembered
def _md5(path: Path) -> str:
    return digest_of(path, "md5")


@dataclass(frozen=True)
class KnownModel:
    """A model of the manifests."""

    name: str
    benchmark: str
    entry: ModelEntry

    def model(self, file: IdentifiedModel, record: FetchRecord | None = None) -> Model:
        """This model with ``file`` as its ONNX file; ``record`` is given for fetched models."""
        facts = self.entry.model_dump(include=set(Model.model_fields) - {"sha256"})
        if not multiplies_int8():
            facts["engines"] = self.entry.engines_without_vnni
        unverified = record is not None and self.entry.sha256 is None and record.verified is None
        return Model(
            name=self.name,
            path=file.path,
            benchmark=self.benchmark,
            sha256=_model_sha256(file.sha256, record.data if record else {}),
            remark=UNVERIFIED if unverified else "",
            metadata=dict(file.metadata),
            **facts,
        )


def known_models() -> dict[str, KnownModel]:
    """Every model of the manifests, by name."""
    return {name: KnownModel(name, *found) for name, found in manifests.models().items()}


def find_model(name: str) -> Model:
    """A model by its name, or by the path of an ONNX file, which is recognised by its content.

    Raises:
        ConfigError: the name or file does not exist, it cannot be read, the content of a shipped or fetched file has
            changed, or the graph of a file matches no benchmark.
    """
    return identify_model(name)[0]


@readable()
def identify_model(name: str) -> tuple[Model, IdentifiedModel]:
    """Like `find_model`, but also returns the file that it hashed, for callers that need more of its content."""
    model, file = _identify(name)
    check_weights(file.path)
    files = (file.file, *file.weights.values())
    return model.model_copy(update={"sha256": file.identity, "files": files}), file


def _identify(name: str) -> tuple[Model, IdentifiedModel]:
    known = known_models()
    if name in known:
        entry = known[name].entry
        return _shipped(known[name], entry.file) if entry.file else _fetched(known[name])
    path = user_path(name)
    if path.is_file():
        file = IdentifiedModel.of(_real(path))
        return _known_by_content(file) or _unknown(file), file
    if path.is_dir():
        inside = ", ".join(sorted(entry.name for entry in path.glob("*.onnx"))[:5]) or "it has none"
        raise ConfigError(f"{path} is a folder: give the path of an ONNX file in it ({inside}).")
    if path.suffix == ".onnx" or len(path.parts) > 1:
        raise ConfigError(
            f"there is no model file {path}: give the path of an ONNX file, or a name: {', '.join(known)}."
        )
    raise ConfigError(f"unknown model '{name}': {did_you_mean(name, known)} Or give the path of an ONNX file.")


def _real(path: Path) -> Path:
    """The file behind a link.

    Raises:
        ConfigError: its weights are in other files, which are not next to it.
    """
    real = path.resolve()
    if real.parent != path.parent.resolve() and any(not (real.parent / part).exists() for part in weight_files(real)):
        raise ConfigError(
            f"{path} is a link to another folder, as in a cache of Hugging Face, without its weight files: copy all of "
            "its files into one folder with `cp -L`, and give the path there."
        )
    return real


def _model_sha256(graph: str, weights: Mapping[str, str]) -> str:
    """The sha256 of a model, from those of its ONNX file and of other files with weights by name."""
    return combined([graph, *sorted(weights.items())]) if weights else graph


def model_file(name: str) -> Path:
    """Path of a fetched model."""
    return paths.MODELS_DIR / f"{name}.onnx"


def fetch_record(name: str) -> FetchRecord | None:
    """The record of a fetched model; None if it was not fetched or the record is unreadable."""
    try:
        return FetchRecord.model_validate_json((paths.MODELS_DIR / f"{name}.json").read_bytes())
    except (OSError, ValidationError):
        return None


def how_to_get(name: str, entry: ModelEntry) -> str:
    """How to get a model, as the end of an error message."""
    fetch = f"fetch it with `harness models fetch {name}`, or give the path of its file."
    build = f" Or build it with random weights or a checkpoint: `harness models build {name} --weights random|PATH`."
    rest = f" {entry.source}{build if entry.builder else ''}"
    return (fetch if entry.fetch else "give the path of its file instead.") + rest


def _shipped(known: KnownModel, place: str) -> tuple[Model, IdentifiedModel]:
    path = manifests.folder(known.benchmark) / place
    if not path.is_file():
        raise ConfigError(f"model {known.name} is missing at {path}: {_AGAIN}.")
    file = IdentifiedModel.of(path)
    if file.sha256 != known.entry.sha256:
        raise ConfigError(f"{path} is not the model {known.name} (its sha256 differs): {_AGAIN}.")
    return known.model(file), file


def _fetched(known: KnownModel) -> tuple[Model, IdentifiedModel]:
    name, path = known.name, model_file(known.name)
    if not path.is_file():
        raise ConfigError(f"model {name} is not shipped: {how_to_get(name, known.entry)}")
    record = fetch_record(name)
    if record is None:
        raise ConfigError(
            f"{path} was not fetched, because it has no record beside it: move it elsewhere, then import it with "
            f"`harness models fetch {name} --from PATH`."
        )
    file = IdentifiedModel.of(path)
    wrong = None if file.sha256 == (known.entry.sha256 or record.sha256) else path
    if wrong is None and (part := _foreign_weights(file, record)):
        wrong = path.parent / part
    if wrong:
        raise ConfigError(
            f"{wrong} is not the file fetched as {name} (its sha256 differs): remove {path} and fetch it again with "
            f"`harness models fetch {name}`."
        )
    return known.model(file, record), file


def _foreign_weights(file: IdentifiedModel, record: FetchRecord | None) -> str | None:
    """The first weight file that is missing or was not fetched with the model; None if there is none."""
    expected = record.data if record else {}
    names = sorted({*expected, *weight_files(file.path)})
    if missing := [name for name in names if not (file.path.parent / name).is_file()]:
        return missing[0]
    found = {name: weights.sha256 for name, weights in file.weights.items()}
    return next((name for name in names if found.get(name) != expected.get(name)), None)


def _known_by_content(file: IdentifiedModel) -> Model | None:
    models = known_models().values()
    for known in models:
        record = fetch_record(known.name) if known.entry.file is None else None
        if file.sha256 in (known.entry.sha256, record.sha256 if record else None):
            # Publishers state the sha256 of the ONNX file: other weights next to it make it another model.
            return None if _foreign_weights(file, record) else known.model(file, record)
    # A file made here is not a published model, and the MD5, which takes time, does not cover other files.
    if "tool" in file.metadata or weight_files(file.path):
        return None
    by_md5 = (known for known in models if known.entry.md5 and known.entry.sha256 is None)
    return next((known.model(file) for known in by_md5 if known.entry.md5 == file.md5), None)


def _unknown(file: IdentifiedModel) -> Model:
    path, graph = file.path, file.graph
    name = next((name for name in BENCHMARKS if benchmark_class(name).accepts(graph.inputs)), None)
    if name is None:
        known = ", ".join(BENCHMARKS)
        raise ConfigError(f"{path} matches no known benchmark ({known}): its inputs are {listing(graph.inputs)}.")
    benchmark = benchmark_class(name)
    random = has_random_weights(graph.metadata)
    source = graph.metadata.get("weights", "random weights" if random else "unknown")
    made_of = manifests.models().get(graph.metadata.get("model", ""))
    return Model(
        name=path.stem,
        path=path,
        benchmark=name,
        official_name=made_of[1].official_name if made_of else benchmark.official_name,
        sha256=file.sha256,
        source=source,
        precision=graph.metadata.get("precision", "unknown"),
        retraining=_retraining(graph.metadata),
        input_data_types=", ".join(sorted({str(tensor.dtype) for tensor in graph.inputs})),
        settings={key: graph.metadata[key] for key in benchmark.Settings.model_fields if key in graph.metadata},
        caveat=source if random else "",
        random=random,
        remark=_made_here(graph.metadata),
        metadata=dict(graph.metadata),
    )


def _retraining(metadata: Mapping[str, str]) -> str:
    """Whether training changed the weights: building and compressing in this project do not train."""
    if "training" in metadata:
        return f"Yes: {metadata['training']}"
    return "No" if "tool" in metadata else "unknown"


def _made_here(metadata: Mapping[str, str]) -> str:
    """The remark for a file that was built, compressed or trained here."""
    if has_random_weights(metadata):
        return ""
    if "training" in metadata:
        return f"trained here ({metadata['compression']}; {metadata['training']}), not a published model"
    if "compression" in metadata:
        return f"compressed here ({metadata['compression']}), not a published model"
    return f"built here from {metadata['weights']}, not the published file" if "model" in metadata else ""


def split_engine(text: str) -> tuple[str, str]:
    """The model and the engine in a text like NAME@ENGINE or PATH@ENGINE; the engine is "" if none is named.

    >>> split_engine("small@openvino"), split_engine("me@home/small.onnx")
    (('small', 'openvino'), ('me@home/small.onnx', ''))
    """
    name, at, engine = text.rpartition("@")
    return (name, engine) if at and "/" not in engine else (text, "")
