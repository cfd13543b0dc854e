"""Measurements: the data types and the origin of a model, as a submission must state them.

They come from the records of the official runs (run.json), so that they always match those runs, and from a person's
notes on the model.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.catalog.manifests import Model
from harness.errors import ConfigError, did_you_mean
from harness.results.record import Record

FIELDS = (
    "input_data_types",
    "retraining",
    "starting_weights_filename",
    "weight_data_types",
    "weight_transformations",
)
"""The fields of a measurements file, none of them empty (official checker, SYSTEM_IMP_REQUIRED_FILES)."""
MODEL_NOTES = "model.json"
"""measurements/<system>/<benchmark>/model.json holds `ModelNotes`."""


@dataclass(frozen=True)
class ModelNotes:
    """Facts that a person adds about a model because its file does not contain them."""

    sha256: str | None = None
    """The model's sha256; None without notes."""
    equivalent: bool = False
    """Whether it is the reference model, so that the closed division accepts it."""
    fields: Mapping[str, str] = field(default_factory=dict)
    """Values of some `FIELDS`."""


def read_model_notes(path: Path) -> ModelNotes:
    """The notes in that file; empty ones if it does not exist.

    Raises:
        ConfigError: the file is not a JSON object of notes.
    """
    try:
        values = json.loads(path.read_text("utf-8-sig")) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read ({error}): fix it, or remove it.") from error
    if not isinstance(values, dict):
        raise ConfigError(f'{path} must hold a JSON object, such as {{"weight_transformations": "no"}}.')
    for key, value in values.items():
        if key not in (*FIELDS, "equivalent", "sha256"):
            raise ConfigError(f"{path} has an unknown field '{key}': {did_you_mean(key, (*FIELDS, 'equivalent'))}")
        if key != "equivalent" and not (isinstance(value, str) and value.strip() and value.isprintable()):
            raise ConfigError(f'{path}: {key} must be text that is not empty; write "No" for none.')
        if key == "equivalent" and not isinstance(value, bool):
            raise ConfigError(f"{path}: equivalent must be true or false.")
    if values and "sha256" not in values:
        raise ConfigError(f"{path} must name the model that it describes: add its sha256 (harness models show).")
    return ModelNotes(values.pop("sha256", None), values.pop("equivalent", False), values)


def contradictions(record: Record, notes: ModelNotes) -> list[str]:
    """How notes contradict the model itself or describe another model, one sentence each."""
    model = record.model
    if notes.sha256 and notes.sha256 != model.sha256:
        return [f"it describes the model {notes.sha256[:12]}..., but {model.name} is {str(model.sha256)[:12]}..."]
    facts = measurements(record, ModelNotes())
    return [
        f"{name} is {facts[name]!r} in the model, but {notes.fields[name]!r} there"
        for name in FIELDS
        if name in notes.fields and facts[name] not in ("unknown", notes.fields[name])
    ]


def measurements(record: Record, notes: ModelNotes) -> dict[str, str]:
    """The measurements of a performance run, in the order of `FIELDS`; "unknown" where a value is missing."""
    return _noted(_stated(record.model) | {"weight_data_types": weight_data_types(record)}, notes)


def stated(model: Model, notes: ModelNotes) -> dict[str, str]:
    """Like `measurements`, but for a model that has not run yet: the data type of the weights is that of its file."""
    return _noted(_stated(model), notes)


def _noted(values: Mapping[str, str], notes: ModelNotes) -> dict[str, str]:
    return {name: notes.fields.get(name) or values[name] or "unknown" for name in FIELDS}


def _stated(model: Model) -> dict[str, str]:
    """The fields that a model's manifest or file states."""
    facts = model.metadata
    transformations = model.weight_transformations
    if transformations == "unknown" and "compression" in facts:
        transformations = facts["compression"]
        if facts.get("calibration"):
            transformations += f", calibrated with {facts['calibration']}"
    elif transformations == "unknown" and "tool" in facts:
        transformations = "No"  # built here and not changed
    return {
        "input_data_types": model.input_data_types,
        "retraining": model.retraining,
        "starting_weights_filename": model.source,
        "weight_data_types": model.precision,
        "weight_transformations": transformations,
    }


def weight_data_types(record: Record) -> str:
    """The data type of the weights as computed: an engine may round weights that the file stores in FP32."""
    rounded = record.engine.precision not in (None, "f32")
    return str(record.engine.precision) if rounded and record.model.precision == "fp32" else record.model.precision


def unknown(values: Mapping[str, str]) -> list[str]:
    """The fields without a known value."""
    return [name for name, value in values.items() if value == "unknown"]


def unstated(model: Model, fields: Sequence[str], path: Path) -> str:
    """A message about fields that the model does not state, with the text for its notes at ``path``."""
    example = json.dumps({"sha256": model.sha256, **dict.fromkeys(fields, "...")})
    return f"model {model.name} does not state its {', '.join(fields)}: write {example} to {path}."


def not_reference(model: Model, path: Path) -> str:
    """Why the closed division does not accept the model, unless its notes at ``path`` say that it is the reference."""
    example = json.dumps({"sha256": model.sha256, "equivalent": True})
    return (
        f"the closed division accepts only the reference model, and {model.name} is not known to be it: use "
        f"DIVISION=open, or write {example} to {path} if it is."
    )
