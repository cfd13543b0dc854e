"""The code of a package: this project, the models in it that ran, and the submitter's own engines."""

import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from harness.catalog.models import IdentifiedModel
from harness.errors import HarnessError
from harness.paths import ROOT
from harness.results.layout import CONF
from harness.submission.select import ScenarioRuns

_PROJECT = ("code", "docs", "tools", "Makefile", "pyproject.toml", "requirements.lock", "requirements-deepsparse.lock",
            "requirements-train.lock", "requirements-cluster.lock", "requirements-parquet.lock",
            "requirements-mlflow.lock", "Containerfile", CONF,
            "LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "submission.md")  # fmt: skip
_GIT_TIMEOUT_S = 60


@dataclass(frozen=True)
class Source:
    """A file of the code."""

    path: Path
    place: Path
    """Relative to the folder of an implementation."""


def project_sources(results: Sequence[ScenarioRuns]) -> list[Source]:
    """The files of this project, without tests, caches, hidden files, and models that did not run."""
    used = {result.performance.model.sha256 for result in results}
    files = [path for name in _PROJECT for path in _files(ROOT / name)]
    idle = {part for path in files if path.suffix == ".onnx" for part in _unused(path, used)}
    return [Source(path, path.relative_to(ROOT)) for path in files if path not in idle]


def _files(top: Path) -> Iterator[Path]:
    for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
        parts = path.relative_to(top.parent).parts
        unwanted = any(p.startswith(".") or p == "__pycache__" or p.endswith(".egg-info") for p in parts)
        if path.is_file() and not path.is_symlink() and not unwanted and path.suffix != ".pyc":
            yield path


def _unused(path: Path, used: set[str | None]) -> list[Path]:
    """The files of a model, with those of its weights, unless it was used."""
    try:
        model = IdentifiedModel.of(path)
        if model.identity in used:
            return []
        return [path, *(path.parent / name for name in model.weights)]
    except (HarnessError, OSError):  # not a model, so none that ran
        return [path]


def untracked(sources: Iterable[Source]) -> list[Path]:
    """The files that git does not track, relative to the project; empty if git is missing or tracks nothing here."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--", *_PROJECT]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_GIT_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    tracked = {*done.stdout.decode("utf-8", "surrogateescape").split("\0")} - {""}
    return [source.place for source in sources if tracked and source.place.as_posix() not in tracked]


def engine_sources(results: Iterable[ScenarioRuns]) -> tuple[list[Source], list[str]]:
    """The code of the submitter's own engines ("module:Class"), for the folder from which the package imports code.

    Returns:
        The files, and a sentence for each engine whose code is not found.
    """
    engines = dict.fromkeys(result.performance.identity.engine for result in results)
    found: list[Source] = []
    missing = []
    for engine in engines:
        if ":" not in engine:
            continue
        top = engine.partition(":")[0].partition(".")[0]
        if place := _place(top):
            files = list(_files(place))
            found += [Source(path, Path("code") / path.relative_to(place.parent)) for path in files]
        else:
            missing.append(
                f"the code of engine {engine} belongs in the package, but module {top} is not found: set PYTHONPATH to "
                "the folder that contains it."
            )
    return [source for source in found if not source.path.is_relative_to(ROOT / "code")], missing


def _place(module: str) -> Path | None:
    """The file or folder of a top-level module, which is not imported."""
    try:
        spec = find_spec(module)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    folder = next(iter(spec.submodule_search_locations or ()), None)
    place = Path(folder or spec.origin or "")
    return place.resolve() if place.is_absolute() and place.exists() else None
