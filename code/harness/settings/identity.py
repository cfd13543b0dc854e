"""The identity of a run: its settings, the command that repeats it, and the code that made it."""

import shlex
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from pathlib import Path

from pydantic import BaseModel, JsonValue

from harness.catalog.contract import BenchmarkSettings
from harness.catalog.manifests import folder, models
from harness.files.digest import sha256_of
from harness.files.disk import readable
from harness.files.fingerprint import Fingerprint
from harness.paths import CODE
from harness.registry import BENCHMARKS
from harness.results.layout import CONF
from harness.results.record import Identity
from harness.settings.run import RunSettings


def identity(settings: RunSettings) -> Identity:
    """The identity of a run with these settings."""
    return Identity(
        model_sha256=settings.model.sha256,
        engine=settings.engine,
        engine_settings=_by_content(settings.engine_settings),
        benchmark_settings=_by_content(settings.benchmark_settings),
        duration=settings.duration,
    )


def _by_content(settings: BaseModel) -> dict[str, JsonValue]:
    """Settings by name; files by the sha256 of their content, since the same file may be stored anywhere."""
    values: dict[str, JsonValue] = settings.model_dump(mode="json")
    for name in values:
        path = getattr(settings, name)
        if isinstance(path, Path):
            values[name] = _digest(_files(settings, name, path))
    return values


def _digest(files: tuple[Path, ...]) -> str:
    """sha256 of a file's content, or over those of several; the name of a file that does not exist."""
    found = [sha256_of(file) if file.is_file() else file.name for file in files]
    return found[0] if len(found) == 1 else sha256(repr(found).encode()).hexdigest()


@readable()
def setting_files(settings: RunSettings) -> tuple[Fingerprint, ...]:
    """The files that settings name, such as a vocabulary.

    Raises:
        ConfigError: one cannot be read.
    """
    named = (file for part in (settings.engine_settings, settings.benchmark_settings) for file in _named(part))
    return tuple(Fingerprint.of(file) for file in named if file.is_file())


def _named(settings: BaseModel) -> Iterator[Path]:
    for name in type(settings).model_fields:
        if isinstance(path := getattr(settings, name), Path):
            yield from _files(settings, name, path)


def _files(settings: BaseModel, name: str, path: Path) -> tuple[Path, ...]:
    """The files of a setting; a benchmark knows those that it reads in a folder."""
    return settings.files(name) if isinstance(settings, BenchmarkSettings) else (path,)


def options_to_repeat(settings: RunSettings) -> tuple[dict[str, str | int | float | None], dict[str, object]]:
    """The options of `harness run` that repeat a test, by name, and those of `--set`: all settings in force.

    Paths are those of this machine, but user.conf is the one next to the result.
    """
    known = settings.model.name in models()
    kind = "rehearsal" if settings.rehearsal else "official" if settings.official else None
    given: dict[str, str | int | float | None] = {
        **({kind: True} if kind else {}),
        "model": settings.model.name if known else str(settings.model.path),
        "engine": settings.engine,
        "scenario": settings.scenario,
        "mode": settings.mode,
        "compliance": settings.audit,
        "system": settings.system,
        "dataset": settings.dataset,
        "samples": settings.samples,
        "duration": settings.duration,
        "cluster": settings.cluster,
        "cluster-samples": settings.cluster_samples if settings.cluster else None,
    }
    options: dict[str, object] = {}
    for part in (settings.engine_settings, settings.benchmark_settings):
        for name, value in part.model_dump(mode="json", exclude_unset=True).items():
            options[name] = getattr(part, name) if isinstance(getattr(part, name), Path) else value
    return {**given, "tuned": False, "user-conf": CONF}, options


def command(settings: RunSettings) -> str:
    """The `harness run` command that repeats the test elsewhere: all settings in force, and no path of this machine."""
    given, options = options_to_repeat(settings)
    for name in ("model", "dataset", "cluster"):
        given[name] = Path(value).name if isinstance(value := given[name], str) else None
    words = ["harness", "run"]
    for name, value in given.items():
        if isinstance(value, bool):
            words.append(f"--{name}" if value else f"--no-{name}")
        elif value is not None:
            words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)]
    for name, chosen in options.items():
        text = chosen.name if isinstance(chosen, Path) else str(chosen)
        words += ["--set", f"{name}={text.lower() if isinstance(chosen, bool) else text}"]
    return shlex.join(words)


@cache
def code_digest() -> str:
    """sha256 over the project's own Python and TOML files; an installed package has that of its checkout."""
    tops = [CODE / "harness", *(folder(benchmark).resolve() for benchmark in BENCHMARKS)]
    files = sorted(p for top in tops for p in top.rglob("*") if p.suffix in (".py", ".toml") and not p.is_symlink())
    digests = [(f"code/{p.relative_to(CODE).as_posix()}", sha256_of(p)) for p in files]
    return sha256(repr(digests).encode()).hexdigest()
