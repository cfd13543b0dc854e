"""run.json of official runs: what was run, how, and on what. Measurements are made from it."""

from __future__ import annotations

import json
import shlex
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.catalog.manifests import models
from harness.errors import ConfigError
from harness.host.download import sha256_of
from harness.loadgen.logs import ACCURACY, DETAIL
from harness.paths import ROOT
from harness.results.layout import CONF, RUN

if TYPE_CHECKING:
    from harness.running.settings import RunSettings

Record = dict[str, Any]


class _Part(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _Identity(_Part):
    model_sha256: str | None
    engine: str
    engine_settings: dict[str, Any]
    benchmark_settings: dict[str, Any]


class _Model(_Part):
    name: str
    path: str
    sha256: str | None
    benchmark: str
    official_name: str
    source: str
    precision: str
    input_data_types: str
    weight_transformations: str
    retraining: str
    equivalent: bool
    settings: dict[str, str | int] = {}
    caveat: str
    remark: str = ""
    metadata: dict[str, str]


class _Named(_Part):
    name: str


class _Dataset(_Named):
    sha256: str | None
    samples_used: int


class _Machine(_Part):
    packages: dict[str, str]
    python: str
    os: str
    cpu: str
    cores: int
    memory_bytes: int | None = None


class _Metric(_Part):
    name: str
    value: float | None
    unit: str


class _Result(_Part):
    metric: _Metric
    accuracy: dict[str, float] | None
    accuracy_scope: str | None = None
    latency_ms: dict[str, float] | None = None
    samples: int
    batches: int | None = None
    cost: int | None = None
    cost_unit: str = ""
    padded_to_real: float | None = None
    duration_s: float | None


class _Agreement(_Part):
    differences: list[Annotated[list[float], Field(min_length=3, max_length=3)]] = []  # batch, length, difference


class _Form(_Part):
    """What a record must hold so that measurements and reports can be made from it."""

    harness: str
    time: str = ""
    command: str
    scenario: str
    mode: Literal["performance", "accuracy"]
    audit: str | None
    valid: bool
    for_submission: bool
    rehearsal: bool
    notice: str | None
    identity: _Identity
    model: _Model
    engine: _Named
    benchmark_settings: dict[str, Any] | None = None
    shapes: list[list[int]] | None = None
    dataset: _Dataset
    machine: _Machine
    loadgen: dict[str, Any]
    result: _Result
    agreement: _Agreement | None = None
    reasons: list[str] | None = None


_WORDS = {
    "model_sha256": "model",
    "engine": "engine",
    "engine_settings": "setting of the engine",
    "benchmark_settings": "setting of the benchmark",
    "duration": "duration",
}


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


def unlike(one: Record, other: Record) -> str | None:
    """What two runs of one result differ in beside their `identity` and may not, in words; None if they agree."""
    facts = {
        "data set": lambda r: r["dataset"]["sha256"],
        "processor": lambda r: (r["machine"]["cpu"], r["machine"]["cores"]),
        "version of the engine": lambda r: r["engine"].get("version"),
        "version of a package": lambda r: r["machine"]["packages"],
        "code of the harness": lambda r: r.get("code"),
    }
    return next((words for words, of in facts.items() if of(one) != of(other)), None)


@cache
def code_digest() -> str:
    """sha256 over the project's own code, as far as it is text."""
    files = sorted(p for p in (ROOT / "code").rglob("*") if p.suffix in (".py", ".toml") and not p.is_symlink())
    told = [(p.relative_to(ROOT).as_posix(), sha256_of(p)) for p in files]
    return sha256(repr(told).encode()).hexdigest()


def reference(results: Path, test: str) -> dict[str, str]:
    """sha256 of the logs of a scenario's results that a compliance test is compared with; without those that miss."""
    files = {"performance": results / "performance" / "run_1" / DETAIL}
    if test == "TEST01":
        files["accuracy"] = results / "accuracy" / ACCURACY
    return {name: sha256_of(path) for name, path in files.items() if path.is_file()}


def read_record(folder: Path) -> Record | None:
    """The record in a folder of logs; None where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / RUN
    try:
        record = json.loads(path.read_bytes()) if path.exists() else None
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): move the result away, and run it again.") from error
    if record is None:
        return None
    try:
        _Form.model_validate(record)
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the whole"
        raise ConfigError(
            f"{path} is no record of this harness, or an older one's ({where}): move the result away, and run it again."
        ) from None
    return record


def difference(record: Record, other: dict[str, Any]) -> str | None:
    """What a run has another of than ``other``, an `identity`, in words; None if they agree."""
    return next((words for key, words in _WORDS.items() if record["identity"].get(key) != other.get(key)), None)
