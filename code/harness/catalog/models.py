"""The models and data sets that the project knows by name: models.toml and datasets.toml of each benchmark."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import ValidationError

from harness import paths
from harness.catalog import manifests
from harness.catalog.manifests import FetchRecord, Model, ModelEntry
from harness.errors import ConfigError, did_you_mean
from harness.graph import listing, read_graph, read_metadata
from harness.host.download import digest_of, sha256_of
from harness.host.files import readable, user_path
from harness.registry import BENCHMARKS, load

UNVERIFIED = "not verified: no checksum is published"


@readable()
def find_model(name: str) -> Model:
    """A model by its name or by the path of an ONNX file, which is known by its content wherever it lies.

    Raises:
        ConfigError: there is no such name or file, it cannot be read, a shipped or fetched file has another content
            than it should, or a file's graph fits no benchmark.
    """
    known = manifests.models()
    if name in known:
        owner, entry = known[name]
        if entry.file is None:
            return _fetched_model(name, owner, entry)
        path = manifests.folder(owner) / entry.file
        if not path.is_file():
            raise ConfigError(f"model {name} is missing at {path}: fetch the repository again.")
        digest = sha256_of(path)
        if digest != entry.sha256:
            raise ConfigError(f"{path} is not the model {name} (its sha256 differs): fetch the repository again.")
        return _known_model(name, path, owner, entry, digest)
    path = user_path(name)
    if path.is_file():
        return _model_at(path.resolve(), known)
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
        benchmark = load("benchmark", BENCHMARKS, owner)
        if benchmark.accepts(graph.inputs):
            break
    else:
        raise ConfigError(f"{path} fits none of {', '.join(BENCHMARKS)}: its inputs are {listing(graph.inputs)}.")
    source = graph.metadata.get("weights", "unknown")
    made_of = manifests.models().get(graph.metadata.get("model", ""))
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
