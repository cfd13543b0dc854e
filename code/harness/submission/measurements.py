"""Measurements: model, data types and commands of every scenario, as a submission must document them.

The measurements file, and a README.md with the exact commands, are made from the records of the official runs
(run.json), so that they always match those runs.
"""

import json
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from harness.catalog import manifests
from harness.catalog.manifests import Model
from harness.errors import ConfigError, did_you_mean
from harness.results.layout import CONF, Scene
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
    """Facts that a person adds about a model because its file does not hold them."""

    sha256: str | None = None
    """The model's; None without notes."""
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
    """Where notes contradict the model itself or describe another model, a sentence each."""
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
    return _noted(_stated(record.model) | {"weight_data_types": _weight_data_types(record)}, notes)


def stated(model: Model, notes: ModelNotes) -> dict[str, str]:
    """As `measurements`, but for a model that has not run yet: the data type of the weights is that of its file."""
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


def _weight_data_types(record: Record) -> str:
    """The data type in which weights are computed: an engine may round those that the file holds in FP32."""
    rounded = record.engine.precision not in (None, "f32")
    return str(record.engine.precision) if rounded and record.model.precision == "fp32" else record.model.precision


def unknown(values: Mapping[str, str]) -> list[str]:
    """The fields without a known value."""
    return [name for name, value in values.items() if value == "unknown"]


def unstated(model: Model, fields: Sequence[str], path: Path) -> str:
    """A sentence on fields that the model does not state, and what to write to its notes at ``path``."""
    example = json.dumps({"sha256": model.sha256, **dict.fromkeys(fields, "...")})
    return f"model {model.name} does not state its {', '.join(fields)}: write {example} to {path}."


def not_reference(model: Model, path: Path) -> str:
    """Why the closed division does not accept the model, unless its notes at ``path`` say that it is the reference."""
    example = json.dumps({"sha256": model.sha256, "equivalent": True})
    return (
        f"the closed division accepts only the reference model, and {model.name} is not known to be it: use "
        f"DIVISION=open, or write {example} to {path} if it is."
    )


def readme(scene: Scene, records: Sequence[Record], values: Mapping[str, str], inferred_from: str | None = None) -> str:
    """README.md of a scenario: how each run was made. ``records`` are those of all tests, performance first.

    ``inferred_from`` is what was measured, if the rules let this result be inferred from it.
    """
    record = records[0]
    model, engine, machine = record.model, record.engine, record.machine
    lines = [f"# {scene.benchmark}, {scene.scenario}, on {scene.system}", ""]
    if record.notice:
        lines += [f"**{record.notice}**", ""]
    if inferred_from:
        how = "as MLPerf's rules allow; all logs, settings and commands are those of that result"
        lines += [f"**Inferred from {inferred_from}**, {how}.", ""]
    lines += [
        "## Commands",
        "",
        f"In the code's folder, which also needs {', '.join(_files(record))}:",
        "",
        "```",
        *_first(record),
        *(f".venv/bin/{each.command}" for each in records),
        "```",
        "",
    ]
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


def _first(record: Record) -> list[str]:
    """The commands and variables that a run needs before its own command."""
    entry = manifests.datasets(record.model.benchmark).get(record.dataset.name)
    commands = ["make setup CLUSTER=1" if _cluster(record) else "make setup"]
    if entry and entry.variable:
        commands.append(f"export {entry.variable}=<folder>  # {entry.description}")
    elif entry and entry.urls:
        commands.append("make data")
    if record.model.name in manifests.models() and not _shipped(record):
        commands.append(f".venv/bin/harness models fetch {record.model.name}")
    return commands


def _files(record: Record) -> list[str]:
    """The files that a run's command reads in its working directory."""
    files = [f"`{CONF}` (beside this file; LoadGen read it in the performance run)"]
    model, data = record.model, record.dataset
    if model.name not in manifests.models():
        files.append(f"the model `{model.path.name}` (sha256 {model.sha256})")
    if data.name not in manifests.datasets(model.benchmark):
        files.append(f"the data set `{Path(data.path or data.name).name}` (sha256 {data.sha256})")
    if (cluster := _cluster(record)) and not cluster.startswith("local:"):
        files.append(f"the hosts file `{cluster}` (of your machines)")
    return [*files, *(f"the file of `--set {each}`" for each in _given(record, "--set") if _is_file(each, record))]


def _given(record: Record, option: str) -> list[str]:
    """The values of an option in the command of a run."""
    try:
        words = shlex.split(record.command)
    except ValueError:  # a record that was edited
        words = record.command.split()
    return [value for name, value in pairwise(words) if name == option]


def _cluster(record: Record) -> str:
    """The hosts file of a run, or local:N; "" without a cluster."""
    return next(iter(_given(record, "--cluster")), "")


def _is_file(setting: str, record: Record) -> bool:
    """Whether NAME=VALUE names a file: the identity of the run then holds its sha256."""
    known = {**record.identity.engine_settings, **record.identity.benchmark_settings}
    return re.fullmatch("[0-9a-f]{64}", str(known.get(setting.partition("=")[0]))) is not None


def _shipped(record: Record) -> bool:
    return bool(manifests.models()[record.model.name][1].file)


def calibration(records: Iterable[Record]) -> str:
    """calibration.md: how each model was calibrated and quantised."""
    lines = ["# Calibration", ""]
    for record in {record.model.sha256: record for record in records}.values():
        model, computed = record.model, _weight_data_types(record)
        lines += [f"## {model.official_name}: {model.name}", ""]
        if model.precision in ("fp32", "unknown") and "calibration" not in model.metadata:
            lines += [f"Weights and activations are {computed}; nothing was calibrated.", ""]
            continue
        lines += [
            f"Weights: {model.precision}. {model.weight_transformations}.",
            "",
            *_list(model.metadata),
            "",
        ]
        if "torch" in model.metadata:  # the last step was training; compression keeps "training", and not this
            lines += [
                "Weights are quantised symmetrically, per tensor or per output; activations asymmetrically, with "
                "ranges found while the model was trained in this arithmetic, on the data that its metadata name. "
                "The tool is `code/harness/training`.",
                "",
            ]
        elif "compression" in model.metadata:
            lines += [
                "Weights are quantised symmetrically, per tensor or per output; activations asymmetrically, with "
                "ranges derived from those of the calibration samples in the FP32 model. "
                "The tool is `code/harness/compress`.",
                "",
            ]
    return "\n".join(lines).rstrip() + "\n"


def _list(facts: Mapping[str, object]) -> list[str]:
    return [f"- {key}: {value}" for key, value in facts.items() if value not in (None, "")]
