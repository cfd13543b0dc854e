"""Fetches models into build/models/NAME.onnx: from URLs, Hugging Face, SparseZoo, or the user's copy."""

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from harness import TOOL, paths
from harness.catalog.contract import benchmark_class
from harness.catalog.manifests import FetchRecord, Model, ModelEntry, has_random_weights
from harness.catalog.models import IdentifiedModel, KnownModel, find_model, known_models, model_file
from harness.compress.network import is_quantised
from harness.errors import ConfigError, MissingDependencyError, RunFailed, did_you_mean
from harness.files.digest import sha256_of
from harness.files.disk import remove_left_over, staging, write_text
from harness.files.download import NotDelivered, RemoteFile, download, download_lock
from harness.graph import check_weights, listing, relative
from harness.models.archives import is_archive, unpack
from harness.terminal import console

_ZOO_SECONDS = 900
_ZOO = """
import sys
from sparsezoo import Model
print(Model(sys.argv[1], download_path=sys.argv[2]).onnx_model.path)
"""


class _SourceUnavailable(Exception):
    """The source does not provide the model; the message says why."""


def fetch(name: str, copy: str | None = None) -> Model:
    """Store a known model in build/models, from its sources or the user's ``copy`` (a file, folder or archive).

    An existing file is verified and kept.

    Raises:
        ConfigError: the model is unknown or has no source, or the existing file or the copy is another model.
        RunFailed: no source provided it, or it cannot be stored.
    """
    known = known_models()
    if name not in known:
        raise ConfigError(f"no model '{name}' to fetch: {did_you_mean(name, known)}")
    wanted = known[name]
    if wanted.entry.file:
        raise ConfigError(f"model {name} is shipped with the project: there is nothing to fetch.")
    if copy == "":
        raise ConfigError("--from is empty: give a file, a folder or an archive.")
    if copy is None and not wanted.entry.fetch:
        raise ConfigError(f"no source for {name} is known: {_cure(wanted)}. {wanted.entry.source}")
    target = model_file(name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_left_over(target.parent)
        with download_lock(target):
            if target.exists():
                console.note(f"{target} already exists: verifying it instead of fetching")
                model = find_model(name)
            else:
                model = _take_first(wanted) if copy is None else _take_copy(wanted, copy)
            # The rest of an interrupted download is no longer needed.
            shutil.rmtree(_room(name), ignore_errors=True)
            return model
    except OSError as error:
        raise RunFailed(
            f"{name} cannot be stored in {target.parent}: {error.strerror or error}; free disk space or fix the "
            "folder, and run this command again."
        ) from error


def _take_first(wanted: KnownModel) -> Model:
    """Fetch from the first source that works; if none does, partial downloads are kept, so that they can resume."""
    room = _room(wanted.name)
    room.mkdir(exist_ok=True)
    reasons = []
    for source in wanted.entry.fetch:
        console.note(f"fetching {wanted.name} from {source}")
        try:
            file = _getter(source)(source, wanted, room)
            model = _take(wanted, file, source, file.path.parent)
        except (_SourceUnavailable, ConfigError) as error:
            _discard(room)
            reasons.append(f"{source}: {str(error).replace(f'{room}/', '').rstrip('.')}")
        except NotDelivered as error:
            reasons += error.reasons
        else:
            return model
    if not any(path.suffix == ".part" for path in room.rglob("*")):
        shutil.rmtree(room)
    zoo = any(source.startswith("zoo:") for source in wanted.entry.fetch)
    gone = "SparseZoo has been shut down, so " if zoo else ""
    raise RunFailed(f"{wanted.name} cannot be fetched ({'; '.join(reasons)}): {gone}{_cure(wanted)}.")


def _room(name: str) -> Path:
    """The folder of a download, which is kept after an interruption, so that the next command can resume."""
    return paths.MODELS_DIR / f".{name}.fetch"


def _discard(room: Path) -> None:
    """Remove complete files, which are not the model; another source may resume a partial one."""
    for path in [*room.rglob("*")]:
        if path.is_file() and ".part" not in path.suffixes:
            path.unlink()


def _cure(wanted: KnownModel) -> str:
    name = wanted.name
    copy = f"import your own copy with `harness models fetch {name} --from PATH`"
    build = f", or build it with random weights or from a checkpoint with `harness models build {name} --weights ...`"
    return copy + (build if wanted.entry.builder else "")


def _getter(source: str) -> Callable[[str, KnownModel, Path], IdentifiedModel]:
    """The function that fetches a model from this kind of source into a folder."""
    for prefix, getter in (("https://", _from_web), ("http://", _from_web), ("hf:", _from_hub), ("zoo:", _from_zoo)):
        if source.startswith(prefix):
            return getter
    raise ConfigError("unknown kind of source: write https://..., hf:OWNER/REPOSITORY/PATH@REVISION or zoo:STUB.")


def _from_web(source: str, wanted: KnownModel, room: Path) -> IdentifiedModel:
    name, entry, cure = wanted.name, wanted.entry, _cure(wanted)
    url, _, member = source.partition("#")
    file = _file_name(url)
    if file.endswith(".onnx"):
        # The same name for all mirrors, so that one can resume a download that another began.
        path = room / "model.onnx"
        download(_remote(url, entry), path, description=name, cure=cure)
        return IdentifiedModel.of(path)
    path = download(RemoteFile([url]), room / file, description=name, cure=cure)
    # The archive is kept until the model is stored, so that an interruption does not cost a second download.
    return _unpacked(path, member or None, room)


def _remote(url: str, entry: ModelEntry, authorization: str | None = None) -> RemoteFile:
    """The file of a known model at this URL."""
    return RemoteFile([url], entry.sha256, entry.md5, entry.size, authorization)


def _file_name(url: str) -> str:
    """A safe file name derived from a URL: it cannot lead out of a folder."""
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    return re.sub(r"[^\w.-]|^\.+", "_", name)[-100:] or "model"


def _from_hub(source: str, wanted: KnownModel, room: Path) -> IdentifiedModel:
    place, _, revision = source.removeprefix("hf:").partition("@")
    owner, _, rest = place.partition("/")
    repository, _, file = rest.partition("/")
    if not file:
        raise _SourceUnavailable("write hf:OWNER/REPOSITORY/PATH@REVISION")
    entry, hub = wanted.entry, _Hub(f"{owner}/{repository}", revision or None, room / "hf", wanted)
    path = hub.get(str(relative(Path(source), file)), entry)
    if is_archive(path):
        raise _SourceUnavailable("archives are supported from https:// only")
    found = IdentifiedModel.of(path)
    for beside in found.graph.weight_files:
        hub.get(str(Path(file).parent / relative(path, beside)))
    return found


@dataclass(frozen=True)
class _Hub:
    """Files of a repository on Hugging Face, for ``wanted``, stored in ``folder`` under their paths.

    Its library provides their URLs and the user's token; the transfer has the same limits as every download.
    """

    repository: str
    revision: str | None
    folder: Path
    wanted: KnownModel

    def get(self, path: str, entry: ModelEntry | None = None) -> Path:
        """The file with this path; ``entry`` describes it if it is the model itself."""
        url, authorization = self._request(path)
        file = _remote(url, entry, authorization) if entry else RemoteFile([url], authorization=authorization)
        try:
            return download(file, self.folder / path, description=self.wanted.name, cure=_cure(self.wanted))
        except NotDelivered as error:
            if re.search("HTTP 40[13]", error.reasons[0]):  # Hugging Face answers 401 for unknown repositories
                raise _SourceUnavailable(
                    "the repository does not exist, or requires an account with access (HF_TOKEN)"
                ) from error
            raise

    def _request(self, path: str) -> tuple[str, str | None]:
        """The URL of a file, and the Authorization header."""
        try:
            from huggingface_hub import constants, hf_hub_url
            from huggingface_hub.utils import build_hf_headers
        except ImportError as error:
            raise MissingDependencyError(f"huggingface_hub is not installed ({error})") from error

        if constants.HF_HUB_OFFLINE:
            raise _SourceUnavailable("HF_HUB_OFFLINE is set")
        try:
            url = hf_hub_url(self.repository, path, revision=self.revision)
            return url, build_hf_headers().get("authorization")
        except Exception as error:  # of the underlying libraries, which differ between versions
            raise _SourceUnavailable(str(error).strip().partition("\n")[0] or type(error).__name__) from error


def _from_zoo(source: str, _wanted: KnownModel, room: Path) -> IdentifiedModel:
    """Fetch in a separate process: the package has no timeout, sends statistics, and prints to stdout."""
    if util.find_spec("sparsezoo") is None:
        raise _SourceUnavailable("the package sparsezoo is not installed")
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
        raise _SourceUnavailable(f"no answer within {_ZOO_SECONDS // 60} minutes") from error
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        unreachable = any(word in last for word in ("ConnectionError", "Timeout", "resolve", "Max retries"))
        raise _SourceUnavailable("its server cannot be reached" if unreachable else last[:200] or "the download failed")
    return IdentifiedModel.of(Path(done.stdout.strip().rpartition("\n")[2]))


def _take_copy(wanted: KnownModel, copy: str) -> Model:
    with staging(model_file(wanted.name)) as room:
        path, member = Path(copy).expanduser(), None
        if not path.exists() and "#" in copy:
            place, _, member = copy.rpartition("#")
            path = Path(place).expanduser()
        if not path.exists():
            raise ConfigError(
                f"{path} does not exist: give the path of an ONNX file, or of a folder or archive that contains it."
            )
        if path.is_dir():
            path = _only_model(path, member)
        origin = f"copy of {copy}"
        if is_archive(path):
            file = _unpacked(path, member, room)
            return _take(wanted, file, origin, file.path.parent)
        check_weights(path)
        new = room / f"{wanted.name}.onnx"
        shutil.copyfile(path, new)
        return _take(wanted, IdentifiedModel.of(new), origin, path.parent)


def _only_model(folder: Path, member: str | None) -> Path:
    """The ONNX file of a folder, preferably at its top level."""
    if member:
        path = folder / relative(folder, member)
        if not path.is_file():
            raise ConfigError(f"{path} does not exist: name an ONNX file in {folder}.")
        return path
    found = sorted(folder.glob("*.onnx")) or sorted(folder.rglob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(folder)) for path in found[:10])
        have = f"{len(found)} ONNX files ({names}): give the path of one" if found else "no ONNX file: give another"
        raise ConfigError(f"{folder} contains {have}.")
    return found[0]


def _unpacked(archive: Path, member: str | None, room: Path) -> IdentifiedModel:
    if not is_archive(archive):
        if member:
            raise ConfigError(f"{archive.name} is not a tar or zip archive, so it cannot contain {member}.")
        return IdentifiedModel.of(archive)
    folder = room / "unpacked"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return unpack(archive, member, folder)


def _take(wanted: KnownModel, file: IdentifiedModel, source: str, beside: Path) -> Model:
    """Check a fetched file and store it under the model's name; ``beside`` is the folder of its weight files.

    Raises:
        ConfigError: it is another model.
    """
    name, path = wanted.name, file.path
    verified = _verified(wanted, file)
    _check_graph(wanted, file, verified is not None)
    check_weights(path, beside)
    data = {}
    for part in file.graph.weight_files:
        data[part] = sha256_of(beside / part)
        if (stored := paths.MODELS_DIR / part).exists() and sha256_of(stored) != data[part]:
            raise ConfigError(f"{stored} differs from the file of {name} with the same name: move it elsewhere.")
    record = FetchRecord(
        source=source,
        time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        sha256=file.sha256,
        size=path.stat().st_size,
        verified=verified,
        data=data,
    )
    model = wanted.model(file, record).model_copy(update={"path": model_file(name)})
    # The graph is stored last: until then the model does not exist, even if its other files do.
    for part, checksum in data.items():
        _copy(beside / part, paths.MODELS_DIR / part, checksum)
    write_text(paths.MODELS_DIR / f"{name}.json", record.model_dump_json(indent=2) + "\n")
    with path.open("rb+") as opened:
        os.fsync(opened.fileno())
    path.replace(model_file(name))
    return model


def _copy(source: Path, target: Path, sha256: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with staging(target) as room:
        partial = room / target.name
        shutil.copyfile(source, partial)
        if sha256_of(partial) != sha256:
            raise OSError(errno.EIO, f"the copy of {source.name} differs from it")
        partial.replace(target)


def _verified(wanted: KnownModel, file: IdentifiedModel) -> Literal["sha256", "md5"] | None:
    name, entry, size = wanted.name, wanted.entry, file.path.stat().st_size
    if entry.size is not None and size != entry.size:
        raise ConfigError(f"that is not {name}: it has {size:,} bytes instead of {entry.size:,}.")
    if entry.sha256:
        if file.sha256 != entry.sha256:
            raise ConfigError(f"that is not {name}: its sha256 is {file.sha256} instead of {entry.sha256}.")
        return "sha256"
    if entry.md5:
        if file.md5 != entry.md5:
            raise ConfigError(f"that is not {name}: its md5 is {file.md5} instead of {entry.md5}.")
        return "md5"
    return None


def _check_graph(wanted: KnownModel, file: IdentifiedModel, verified: bool) -> None:
    name, benchmark, graph = wanted.name, wanted.benchmark, file.graph
    if not benchmark_class(benchmark).accepts(graph.inputs):
        raise ConfigError(f"that is not {name}: its inputs are {listing(graph.inputs)}, not those of {benchmark}.")
    if verified:
        return
    weights, tool = graph.metadata.get("weights", ""), graph.metadata.get("tool", "")
    if has_random_weights(graph.metadata) or tool.startswith(TOOL):
        raise ConfigError(
            f"that is not the published {name} but was made by this harness ({weights or tool}): use it by its path."
        )
    integer = is_quantised(graph.operators)
    if integer != (wanted.entry.precision == "int8"):
        raise ConfigError(f"that is not {name}: its weights are {'' if integer else 'not '}int8.")
