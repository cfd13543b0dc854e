"""README.md of a result, with the exact commands, and calibration.md: made from the records of the official runs."""

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from harness.catalog import manifests
from harness.descriptions.measurements import weight_data_types
from harness.results.layout import CONF, Scene
from harness.results.record import Record


def readme(scene: Scene, records: Sequence[Record], values: Mapping[str, str], inferred_from: str | None = None) -> str:
    """README.md of a scenario: how each run was made. ``records`` are those of all tests, performance first.

    ``inferred_from`` names the measured result, if this one was inferred from it.
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
        model, computed = record.model, weight_data_types(record)
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
