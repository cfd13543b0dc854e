"""run.json of official runs: what was run, how, and on what. Measurements are made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import ConfigError
from harness.submission.layout import RUN

if TYPE_CHECKING:
    from harness.config import RunSettings

Record = dict[str, Any]

_WORDS = {
    "model_sha256": "model",
    "engine": "engine",
    "engine_settings": "setting of the engine",
    "benchmark_settings": "setting of the benchmark",
}


def identity(settings: RunSettings) -> dict[str, Any]:
    """What the runs of a scenario have in common: the rules forbid another system in accuracy than in performance."""
    values = {
        "model_sha256": settings.model.sha256,
        "engine": settings.engine,
        "engine_settings": settings.engine_settings.model_dump(mode="json"),
        "benchmark_settings": settings.benchmark_settings.model_dump(mode="json"),
    }
    return json.loads(json.dumps(values))


def read_record(folder: Path) -> Record | None:
    """The record in a folder of logs; None where there is none.

    Raises:
        ConfigError: it cannot be read.
    """
    path = folder / RUN
    try:
        record = json.loads(path.read_bytes()) if path.exists() else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): move the result away, and run it again.") from error
    if record is not None and not (isinstance(record, dict) and _WORDS.keys() <= record.get("identity", {}).keys()):
        raise ConfigError(f"{path} is no record of this harness: move the result away, and run it again.")
    return record


def difference(record: Record, other: dict[str, Any]) -> str | None:
    """What a run has another of than ``other``, an `identity`, in words; None if they agree."""
    return next((words for key, words in _WORDS.items() if record["identity"][key] != other[key]), None)
