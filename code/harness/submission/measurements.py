"""Measurements: what was run, on what and how, as a submission has to say it for every scenario.

The measurements file, and a README.md with the exact commands, are made from the records of the official runs
(run.json), so that they cannot say anything else than what was run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from harness.errors import ConfigError, did_you_mean
from harness.results.layout import Scene
from harness.results.record import Record

FIELDS = (
    "input_data_types",
    "retraining",
    "starting_weights_filename",
    "weight_data_types",
    "weight_transformations",
)
"""What a measurements file must have, none of it empty (official checker, SYSTEM_IMP_REQUIRED_FILES)."""
EQUIVALENT = "equivalent"
TOLD = "model.json"
"""measurements/<system>/<benchmark>/model.json: what a person says of a model that says too little itself."""


def read_told(path: Path) -> dict[str, Any]:
    """What a person says of a model: values of `FIELDS`, and ``equivalent`` for the closed division; empty if nothing.

    Raises:
        ConfigError: the file is no JSON object of such values.
    """
    try:
        told = json.loads(path.read_text("utf-8")) if path.exists() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from error
    if not isinstance(told, dict):
        raise ConfigError(f'{path} must hold a JSON object, such as {{"weight_transformations": "no"}}.')
    for key, value in told.items():
        if key not in (*FIELDS, EQUIVALENT, "sha256"):
            raise ConfigError(f"{path} has an unknown field '{key}': {did_you_mean(key, (*FIELDS, EQUIVALENT))}")
        if key != EQUIVALENT and not (isinstance(value, str) and value.strip() and value.isprintable()):
            raise ConfigError(f'{path}: {key} must be a text that is not empty; for nothing write "No".')
        if key == EQUIVALENT and not isinstance(value, bool):
            raise ConfigError(f"{path}: {EQUIVALENT} must be true or false.")
    if told and "sha256" not in told:
        raise ConfigError(f"{path} must say which model it is about: add its sha256 (harness models show).")
    return told


def contradictions(record: Record, told: Mapping[str, Any]) -> list[str]:
    """What a person says otherwise than the model itself, or of another model; a sentence each."""
    model = record.model
    if told and told["sha256"] != model.sha256:
        return [f"it is about the model {str(told['sha256'])[:12]}..., and {model.name} is {str(model.sha256)[:12]}..."]
    facts = measurements(record, {})
    return [
        f"{field} is {facts[field]!r} by the model, and {told[field]!r} there"
        for field in FIELDS
        if field in told and facts[field] not in ("unknown", told[field])
    ]


def measurements(record: Record, told: Mapping[str, Any]) -> dict[str, str]:
    """The measurements of a performance run, in the order of `FIELDS`; what is not known is "unknown"."""
    model = record.model
    facts = model.metadata
    transformations = model.weight_transformations
    if transformations == "unknown" and "compression" in facts:
        transformations = facts["compression"]
        if facts.get("calibration"):
            transformations += f", calibrated with {facts['calibration']}"
    elif transformations == "unknown" and "tool" in facts:
        transformations = "No"  # built here, and nothing else was done
    values = {
        "input_data_types": model.input_data_types,
        "retraining": model.retraining,
        "starting_weights_filename": model.source,
        "weight_data_types": model.precision,
        "weight_transformations": transformations,
    }
    return {field: str(told.get(field) or values[field] or "unknown") for field in FIELDS}


def unknown(values: Mapping[str, str]) -> list[str]:
    """The fields that nobody told."""
    return [field for field, value in values.items() if value == "unknown"]


def readme(scene: Scene, records: Mapping[str, Record], values: Mapping[str, str]) -> str:
    """README.md of a scenario, in Markdown: how each run was made. ``records`` are by test, performance first."""
    record = records["performance"]
    model, engine, machine = record.model, record.engine, record.machine
    lines = [f"# {scene.benchmark}, {scene.scenario}, on {scene.system}", ""]
    if record.notice:
        lines += [f"**{record.notice}**", ""]
    lines += [
        "## Commands",
        "",
        "From the folder of the code, after `make setup`, and `make data` for SQuAD:",
        "",
        "```",
    ]
    lines += [f".venv/bin/{each.command}" for each in records.values()]
    lines += ["```", "", "`user.conf` beside this file is the one that LoadGen read in the performance run.", ""]
    lines += ["## Model", ""]
    lines += _list({"name": model.name, "sha256": model.sha256, **{k.replace("_", " "): v for k, v in values.items()}})
    lines += _list({f"of the file: {key}": value for key, value in model.metadata.items()})
    lines += ["", "## Engine", ""]
    lines += _list(
        {key.replace("_", " "): value for key, value in engine.model_dump(mode="json", exclude_unset=True).items()}
    )
    if shapes := record.shapes:
        lines += _list({"shapes (batch, length)": ", ".join(f"{batch} x {length}" for batch, length in shapes)})
    lines += ["", "## Data", ""]
    data = record.dataset
    lines += _list({"name": data.name, "sha256": data.sha256, "samples": data.samples_used})
    lines += ["", "## Software and machine", ""]
    packages = ", ".join(f"{name} {version}" for name, version in sorted(machine.packages.items()))
    lines += _list(
        {
            "harness": record.harness,
            "Python": machine.python,
            "packages": packages,
            "LoadGen": record.loadgen.get("loadgen_version"),
            "operating system": machine.os,
            "processor": f"{machine.cpu}, {machine.cores} cores",
        }
    )
    return "\n".join(lines) + "\n"


def calibration(records: Iterable[Record]) -> str:
    """calibration.md: how each model came to its numbers, in Markdown."""
    lines = ["# Calibration", ""]
    for model in {record.model.sha256: record.model for record in records}.values():
        lines += [f"## {model.official_name}: {model.name}", ""]
        if model.precision in ("fp32", "unknown") and "calibration" not in model.metadata:
            lines += [f"Weights and activations are {model.precision}; nothing was calibrated.", ""]
            continue
        lines += [
            f"Weights: {model.precision}. {model.weight_transformations}.",
            "",
            *_list(model.metadata),
            "",
        ]
        if "compression" in model.metadata:
            lines += [
                "Weights are quantised symmetrically, per tensor; activations asymmetrically, with ranges that come "
                "from those of the calibration samples in the FP32 model. `code/harness/compress` is what did it.",
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def _list(facts: Mapping[str, Any]) -> list[str]:
    return [f"- {key}: {value}" for key, value in facts.items() if value not in (None, "")]
