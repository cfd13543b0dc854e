"""What a run is known by: its identity, the command that repeats it, and the code that made it."""

from __future__ import annotations

import json
import shlex
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from harness.catalog.manifests import models
from harness.host.download import sha256_of
from harness.paths import ROOT
from harness.results.layout import CONF

if TYPE_CHECKING:
    from harness.running.settings import RunSettings


def identity(settings: RunSettings) -> dict[str, Any]:
    """What the runs of a scenario have in common: the rules forbid another system in accuracy than in performance."""
    values = {
        "model_sha256": settings.model.sha256,
        "engine": settings.engine,
        "engine_settings": _told(settings.engine_settings),
        "benchmark_settings": _told(settings.benchmark_settings),
        "duration": settings.duration,
    }
    return json.loads(json.dumps(values))


def _told(settings: BaseModel) -> dict[str, Any]:
    """Settings by their values, files by their content, wherever they lie."""
    values = settings.model_dump(mode="json")
    for name in values:
        path = getattr(settings, name)
        if isinstance(path, Path):
            values[name] = sha256_of(path) if path.is_file() else path.name
    return values


def command(settings: RunSettings) -> str:
    """The `harness run` that makes the same test elsewhere: every setting in force, and no place of this machine.

    The user.conf is the one that lies beside a result.
    """
    words = ["harness", "run", "--rehearsal" if settings.rehearsal else "--official"] if settings.official else []
    words = words or ["harness", "run"]
    known = settings.model.name in models()
    values = {
        "model": settings.model.name if known else settings.model.path.name,
        "engine": settings.engine,
        "scenario": settings.scenario,
        "mode": settings.mode,
        "compliance": settings.audit,
        "system": settings.system,
        "dataset": Path(settings.dataset).name if settings.dataset else None,
        "samples": settings.samples,
        "duration": settings.duration,
    }
    for name, value in values.items():
        words += [f"--{name}", f"{value:g}" if isinstance(value, float) else str(value)] if value is not None else []
    for part in (settings.engine_settings, settings.benchmark_settings):
        for name, value in part.model_dump(mode="json", exclude_unset=True).items():
            said = Path(value).name if isinstance(getattr(part, name), Path) else value
            words += ["--set", f"{name}={str(said).lower() if isinstance(said, bool) else said}"]
    return shlex.join([*words, "--no-tuned", "--user-conf", CONF])


@cache
def code_digest() -> str:
    """sha256 over the project's own code, as far as it is text."""
    files = sorted(p for p in (ROOT / "code").rglob("*") if p.suffix in (".py", ".toml") and not p.is_symlink())
    told = [(p.relative_to(ROOT).as_posix(), sha256_of(p)) for p in files]
    return sha256(repr(told).encode()).hexdigest()
