"""Where models come from: addresses, Hugging Face, SparseZoo, or the user's copy, into build/models/NAME.onnx."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import util
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from harness import paths
from harness.catalog import manifests
from harness.catalog.manifests import FetchRecord, Model, ModelEntry
from harness.catalog.models import find_model, model_file
from harness.errors import ConfigError, MissingDependencyError, RunFailed, did_you_mean
from harness.graph import Graph, listing, read_graph
from harness.host import console
from harness.host.download import NotDelivered, digest_of, download, locked, sha256_of
from harness.host.files import write_text
from harness.models.archives import is_archive, relative, unpack
from harness.task.base import find_benchmark

_ZOO_SECONDS = 900
_ZOO = """
import sys
from sparsezoo import Model
print(Model(sys.argv[1], download_path=sys.argv[2]).onnx_model.path)
"""
_INTEGER = ("QLinear", "QAttention", "QGemm", "DequantizeLinear", "MatMulInteger", "ConvInteger", "DynamicQuantize")
"""How the names of operators begin that compute with, or read, integer weights."""


class _Gone(Exception):
    """This source does not give the model; the message says why."""


def fetch(name: str, copy: str | None = None) -> Model:
    """Bring a known model into build/models, from its sources or from the user's ``copy``: a file, folder or archive.

    What is there already is verified and left as it is.

    Raises:
        ConfigError: there is no such model, it has no source, or what is there or in the copy is another model.
        RunFailed: no source delivered it, or it cannot be stored.
    """
    known = manifests.models()
    if name not in known:
        raise ConfigError(f"no model '{name}' to fetch: {did_you_mean(name, known)}")
    owner, entry = known[name]
    if entry.file:
        raise ConfigError(f"model {name} is shipped, so that nothing has to be fetched.")
    if copy is None and not entry.fetch:
        raise ConfigError(f"no source of {name} is known: {_cure(name, entry)}. {entry.source}")
    target = model_file(name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target):
            if target.exists():
                console.note(f"{target} is there already: it is verified, and nothing is fetched")
            elif copy is not None:
                _take_copy(name, owner, entry, copy)
            else:
                _take_first(name, owner, entry)
            return find_model(name)
    except OSError as error:
        raise RunFailed(
            f"{name} cannot be stored in {target.parent}: {error.strerror or error}; make room or mend the folder, and "
            "run this again."
        ) from error


def _take_first(name: str, owner: str, entry: ModelEntry) -> None:
    """From the first source that has it. The folder stays until then, so that a download goes on where it broke off."""
    room = paths.MODELS_DIR / f".{name}.fetch"
    room.mkdir(exist_ok=True)
    reasons = []
    for source in entry.fetch:
        console.note(f"{name}: from {source}")
        try:
            path = _getter(source)(source, name, entry, room)
            _take(name, owner, entry, path, source, path.parent)
        except (_Gone, ConfigError) as error:
            _discard(room)
            reasons.append(f"{source}: {str(error).rstrip('.')}")
        except NotDelivered as error:
            reasons += error.reasons
        else:
            shutil.rmtree(room)
            return
    if not any(path.suffix in (".part", ".incomplete") for path in room.rglob("*")):
        shutil.rmtree(room)
    gone = "SparseZoo has been shut down, so " if any(source.startswith("zoo:") for source in entry.fetch) else ""
    raise RunFailed(f"{name} cannot be fetched ({'; '.join(reasons)}): {gone}{_cure(name, entry)}.")


def _discard(room: Path) -> None:
    """Remove what was fetched whole and is not the model; a part of a file another source may go on with."""
    for path in room.iterdir():
        if path.is_file() and ".part" not in path.suffixes:
            path.unlink()


def _cure(name: str, entry: ModelEntry) -> str:
    copy = f"take in a copy that you have with `harness models fetch {name} --from PATH`"
    build = f", or build it with random weights or from a checkpoint with `harness models build {name} --weights ...`"
    return copy + (build if entry.builder else "")


def _getter(source: str) -> Callable[[str, str, ModelEntry, Path], Path]:
    for prefix, getter in (("https://", _from_web), ("http://", _from_web), ("hf:", _from_hub), ("zoo:", _from_zoo)):
        if source.startswith(prefix):
            return getter
    raise ConfigError("that is no source: write https://..., hf:OWNER/REPOSITORY/PATH@REVISION or zoo:STUB.")


def _from_web(source: str, name: str, entry: ModelEntry, room: Path) -> Path:
    url, _, member = source.partition("#")
    file = unquote(Path(urlsplit(url).path).name)
    cure = _cure(name, entry)
    if file.endswith(".onnx"):
        # One name whatever the mirror calls it: what the first began the next goes on with.
        path = room / "model.onnx"
        facts = {"sha256": entry.sha256, "md5": entry.md5, "size": entry.size}
        return download(url, path, **facts, description=name, cure=cure)
    path = download(url, room / (file or "model"), description=name, cure=cure)
    # It stays until the model is taken in: an interruption until then costs no second download.
    return _unpacked(path, member or None, room)


def _from_hub(source: str, name: str, entry: ModelEntry, room: Path) -> Path:
    place, _, revision = source.removeprefix("hf:").partition("@")
    owner, _, rest = place.partition("/")
    repository, _, file = rest.partition("/")
    if not file:
        raise _Gone("write hf:OWNER/REPOSITORY/PATH@REVISION")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            GatedRepoError,
            LocalEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
        from huggingface_hub.utils.logging import set_verbosity_error
    except ImportError as error:
        raise MissingDependencyError(f"huggingface_hub is not installed ({error})") from error

    set_verbosity_error()  # what it would say of each attempt is said once, at the end

    def get(path: str) -> Path:
        try:
            return Path(
                hf_hub_download(f"{owner}/{repository}", path, revision=revision or None, local_dir=room / "hf")
            )
        except LocalEntryNotFoundError as error:
            raise _Gone("Hugging Face cannot be reached") from error
        except GatedRepoError as error:
            raise _Gone("its owner asks for an account that was given access (HF_TOKEN)") from error
        except (EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise _Gone("there is no such file on Hugging Face") from error
        except Exception as error:  # of the many libraries below, which change with its version
            raise _Gone(str(error).strip().partition("\n")[0] or type(error).__name__) from error

    path = get(file)
    if is_archive(path):
        raise _Gone("archives are taken from https:// only")
    for beside in read_graph(path).weight_files:
        get(str(Path(file).parent / relative(path, beside)))
    return path


def _from_zoo(source: str, name: str, entry: ModelEntry, room: Path) -> Path:
    """In a process of its own: the package sets no time limit, sends statistics, and prints what it likes."""
    if util.find_spec("sparsezoo") is None:
        raise _Gone("the package sparsezoo is not installed")
    folder = room / "zoo"
    try:
        done = subprocess.run(
            [sys.executable, "-c", _ZOO, source, str(folder)],
            env={**os.environ, "NM_DISABLE_ANALYTICS": "1"},
            capture_output=True,
            text=True,
            timeout=_ZOO_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise _Gone(f"no answer within {_ZOO_SECONDS // 60} minutes") from error
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        unreachable = any(word in last for word in ("ConnectionError", "Timeout", "resolve", "Max retries"))
        raise _Gone("its server cannot be reached" if unreachable else last[:200] or "it failed")
    return Path(done.stdout.strip().rpartition("\n")[2])


def _take_copy(name: str, owner: str, entry: ModelEntry, copy: str) -> None:
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=paths.MODELS_DIR) as made:
        room = Path(made)
        path, member = Path(copy).expanduser(), None
        if not path.exists() and "#" in copy:
            place, _, member = copy.rpartition("#")
            path = Path(place).expanduser()
        if not path.exists():
            raise ConfigError(
                f"there is no {path}: give the path of an ONNX file, a folder or an archive that holds it."
            )
        if path.is_dir():
            path = _only_model(path, member)
        origin = f"copy of {copy}"
        if is_archive(path):
            path = _unpacked(path, member, room)
            _take(name, owner, entry, path, origin, path.parent)
            return
        new = room / f"{name}.onnx"
        shutil.copyfile(path, new)
        _take(name, owner, entry, new, origin, path.parent)


def _only_model(folder: Path, member: str | None) -> Path:
    """The ONNX file of a folder: the one at its top, else the one below."""
    if member:
        path = folder / relative(folder, member)
        if not path.is_file():
            raise ConfigError(f"there is no {path}: name an ONNX file of {folder}.")
        return path
    found = sorted(folder.glob("*.onnx")) or sorted(folder.rglob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:10])
        have = f"{len(found)} ONNX files ({names}): give the path of one" if found else "no ONNX file: give another"
        raise ConfigError(f"{folder} holds {have}.")
    return found[0]


def _unpacked(archive: Path, member: str | None, room: Path) -> Path:
    if not is_archive(archive):
        if member:
            raise ConfigError(f"{archive.name} is no tar or zip archive, so that it holds no {member}.")
        return archive
    folder = room / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return unpack(archive, member, folder)


def _take(name: str, owner: str, entry: ModelEntry, path: Path, source: str, beside: Path) -> None:
    """Check what came, and give it its name; the files of its weights lie in the folder ``beside``.

    Raises:
        ConfigError: it is another model.
    """
    sha256 = sha256_of(path)
    verified = _verified(name, entry, path, sha256)
    graph = read_graph(path)
    _check_graph(name, owner, entry, graph, verified is not None)
    data = {}
    for file in graph.weight_files:
        part = beside / relative(path, file)
        if not part.is_file():
            raise ConfigError(f"{part} is missing, which holds weights of {name}: put it beside its ONNX file.")
        data[file] = sha256_of(part)
        if (there := paths.MODELS_DIR / file).exists() and sha256_of(there) != data[file]:
            raise ConfigError(f"{there} is in the way of a file of {name}: move it away.")
    record = FetchRecord(
        source=source,
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        sha256=sha256,
        size=path.stat().st_size,
        verified=verified,
        data=data,
    )
    # The model gets its name last: until then it is not there, whatever else is.
    for file in data:
        there = paths.MODELS_DIR / file
        there.parent.mkdir(parents=True, exist_ok=True)
        partial = there.with_name(f".{there.name}.copy")
        try:
            shutil.copyfile(beside / file, partial)
            partial.replace(there)
        finally:  # Ctrl-C, too
            partial.unlink(missing_ok=True)
    write_text(paths.MODELS_DIR / f"{name}.json", record.model_dump_json(indent=2) + "\n")
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    path.replace(model_file(name))


def _verified(name: str, entry: ModelEntry, path: Path, sha256: str) -> Literal["sha256", "md5"] | None:
    size = path.stat().st_size
    if entry.size is not None and size != entry.size:
        raise ConfigError(f"that is not {name}: it has {size:,} bytes instead of {entry.size:,}.")
    if entry.sha256:
        if sha256 != entry.sha256:
            raise ConfigError(f"that is not {name}: its sha256 is {sha256}, and should be {entry.sha256}.")
        return "sha256"
    if entry.md5:
        if (md5 := digest_of(path, "md5")) != entry.md5:
            raise ConfigError(f"that is not {name}: its md5 is {md5}, and should be {entry.md5}.")
        return "md5"
    return None


def _check_graph(name: str, owner: str, entry: ModelEntry, graph: Graph, verified: bool) -> None:
    if not find_benchmark(owner).accepts(graph.inputs):
        raise ConfigError(f"that is not {name}: its inputs are {listing(graph.inputs)}, which do not fit {owner}.")
    if verified:
        return
    weights, tool = graph.metadata.get("weights", ""), graph.metadata.get("tool", "")
    if weights.startswith("random") or tool.startswith("mlperf-cpu-harness"):
        raise ConfigError(
            f"that is not the published {name} but was made by this harness ({weights or tool}): use it by its path."
        )
    integer = any(operator.startswith(_INTEGER) for operator in graph.operators)
    if integer != (entry.precision == "int8"):
        raise ConfigError(f"that is not {name}: its weights are {'' if integer else 'not '}int8.")
