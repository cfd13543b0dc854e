"""Which official runs make a submission, and why others do not."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.loadgen.logs import read_detail
from harness.paths import ROOT
from harness.results.digests import edited
from harness.results.layout import Scene
from harness.results.record import Record, read_record, reference, unlike
from harness.rules.audits import AUDITS
from harness.rules.rehearsal import REHEARSAL, REHEARSAL_PREFIX
from harness.rules.rounds import ROUNDS, Round, round_of
from harness.submission.description import NUMBERS, describe_machine, init_command, read_system, unfilled
from harness.submission.measurements import (
    MODEL_NOTES,
    ModelNotes,
    contradictions,
    measurements,
    read_model_notes,
    unknown,
)
from harness.submission.recorded import CURE, edited_since
from harness.submission.request import Submission, campaign_command


@dataclass(frozen=True)
class ScenarioRuns:
    """The official runs of one scenario, or those that its result is inferred from."""

    scene: Scene
    """What the result is submitted for."""
    performance: Record
    accuracy: Record
    audits: Mapping[str, Record]
    """The existing compliance tests, by name; empty in the open division."""
    notes: ModelNotes
    origin: Scene | None = None
    """For an inferred result, what was measured."""
    inferred: str | None = None
    """The result with its unit, if another scenario was measured."""

    @property
    def measured(self) -> Scene:
        """What was measured."""
        return self.origin or self.scene

    @property
    def inferred_from(self) -> str | None:
        """The benchmark and scenario that the result is inferred from; None if it was measured itself."""
        return f"{self.origin.benchmark}, {self.origin.scenario}" if self.origin else None

    @property
    def records(self) -> list[Record]:
        """The records of all tests, performance first."""
        return [self.performance, self.accuracy, *self.audits.values()]

    @property
    def values(self) -> dict[str, str]:
        """The measurements."""
        return measurements(self.performance, self.notes)

    @property
    def metric(self) -> str:
        """The result, with its unit."""
        if self.inferred:
            return self.inferred
        metric = self.performance.result.metric
        return "none" if metric.value is None else f"{metric.value:.6g} {metric.unit}"

    @property
    def scores(self) -> str:
        """The accuracy, with its unit."""
        return self.accuracy.result.scores

    @property
    def implementation(self) -> str:
        """The engine: the name of the code's folder and of the measurements file."""
        return self.performance.engine.name


def select_runs(submission: Submission) -> tuple[list[ScenarioRuns], list[str]]:
    """The runs of a submission's systems, and all problems with them, a sentence each.

    Raises:
        ConfigError: a system has no results, or a file cannot be read.
    """
    selected: list[ScenarioRuns] = []
    problems: list[str] = []
    for scene in _scenes(submission):
        folders = _folders(submission, scene)
        records = {test: record for test, folder in folders.items() if (record := read_record(folder)) is not None}
        for test, folder in folders.items():
            problems += _unfit(submission, scene, test, folder, records.get(test))
        for test, record in records.items():
            first = records.get("performance", record)
            problems += _mismatches(test, folders[test], first, record, submission.source.results(scene))
        if "performance" in records and "accuracy" in records:
            path = submission.source.root / "measurements" / scene.system / scene.benchmark / MODEL_NOTES
            performance, accuracy = records.pop("performance"), records.pop("accuracy")
            runs = ScenarioRuns(scene, performance, accuracy, records, read_model_notes(path))
            problems += _undescribed(submission, runs, path)
            selected.append(runs)
    return selected, problems


def _scenes(submission: Submission) -> list[Scene]:
    """The results of the submission's systems."""
    known = submission.source.scenes()
    systems = sorted({scene.system for scene in known})
    for name in submission.systems:
        if name not in systems:
            raise ConfigError(
                f"there are no official results of system {name} in {submission.source.root / 'results'} (systems: "
                f"{', '.join(systems) or 'none'}): make them with `make submission`, or give SYSTEM=."
            )
    return [scene for scene in known if scene.system in submission.systems]


def _folders(submission: Submission, scene: Scene) -> dict[str, Path]:
    """The folder of each test's record, performance first."""
    source = submission.source
    folders = {"performance": source.performance(scene), "accuracy": source.accuracy(scene)}
    if submission.closed:
        folders |= {test: source.compliance(scene, test) / "performance" / "run_1" for test in AUDITS}
    return folders


def _unfit(submission: Submission, scene: Scene, test: str, folder: Path, record: Record | None) -> Iterator[str]:
    """Why a run may not be packaged."""
    if record is None:
        if folder.exists():
            yield f"{folder} has no record (run.json): only runs of this harness can be packaged."
        elif test not in AUDITS:
            yield f"{folder} is missing: do the {test} run with `{campaign_command(scene, submission.rehearsal)}`."
        return
    if not record.valid:
        yield f"{folder} is not a valid run: run it again."
    if record.rehearsal != submission.rehearsal:
        kind = "is a rehearsal" if record.rehearsal else "is a measurement, and this is a rehearsal"
        yield f"{folder} {kind}: the two cannot be packaged together."
    elif not submission.rehearsal and not record.for_submission:
        yield f"{folder} is a development run: repeat it with `harness run --official`."
    if submission.closed and record.nodes:
        yield (
            f"{folder} ran on {len(record.nodes)} nodes, which the closed division cannot have here: on edge systems "
            "it also requires SingleStream, which has one query at a time. Use DIVISION=open."
        )
    for path in edited(record, folder):
        yield f"{path}: {edited_since(path)}. {CURE.capitalize()}."
    if not submission.rehearsal and record.model.caveat:
        yield f"{folder} was made with {record.model.caveat}: it is not a result."


def _mismatches(test: str, folder: Path, performance: Record, record: Record, results: Path) -> Iterator[str]:
    """Why a run does not match the performance run, or a compliance test the logs in ``results``."""
    if other := performance.identity.difference(record.identity) or unlike(performance, record):
        yield f"{folder} was run with another {other} than the performance run: repeat one of them."
    if test in AUDITS and record.reference != reference(results, test):
        yield f"{folder} was compared with results that were replaced later: run {test} again."


def _undescribed(submission: Submission, runs: ScenarioRuns, path: Path) -> Iterator[str]:
    """What is missing or wrong in the notes on the model at ``path``."""
    model, benchmark = runs.performance.model, runs.scene.benchmark
    yield from (f"{path}: {words}." for words in contradictions(runs.performance, runs.notes))
    if missing := unknown(runs.values):
        example = json.dumps({"sha256": model.sha256, **dict.fromkeys(missing, "...")})
        yield f"model {model.name} does not state its {', '.join(missing)}: write {example} to {path}."
    if submission.closed and not submission.rehearsal and not (model.equivalent or runs.notes.equivalent):
        example = json.dumps({"sha256": model.sha256, "equivalent": True})
        yield (
            f"{benchmark}: the closed division accepts only the reference model, and {model.name} is not known to be "
            f"it: use DIVISION=open, or write {example} to {path} if it is."
        )


def wrong_nodes(runs: ScenarioRuns, values: Mapping[str, Any], path: Path) -> Iterator[str]:
    """Why a system description does not fit the number of machines that a result was measured on."""
    machines, said = runs.performance.machines or 1, values.get("number_of_nodes")
    if runs.performance.rehearsal or "number_of_nodes" in unfilled(values):
        return
    if int(str(said)) != machines:
        yield (
            f"{path} has number_of_nodes {said}, but {runs.scene.benchmark} {runs.scene.scenario} ran on {machines}: "
            f"correct it, or describe this system under another name."
        )
    for field in ("host_networking", "host_networking_topology"):
        if machines > 1 and str(values.get(field)).startswith("N/A"):
            yield f"{path} has {field} {values[field]}, but {machines} machines are networked: describe how."


def describe_systems(submission: Submission) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The descriptions of a submission's systems, by system, and the fields that they lack, a sentence each.

    Raises:
        ConfigError: one does not exist, or cannot be read.
    """
    described, problems = {}, []
    for name in submission.systems:
        path = submission.source.system_file(name)
        values = _rehearsed_system(name) if submission.rehearsal else _system(path, name)
        described[name] = values | {"division": submission.division, "submitter": submission.submitter}
        if missing := unfilled(described[name]):
            problems.append(f"{path} lacks {', '.join(missing)}: fill it in, or run `{init_command(path)}` first.")
    return described, problems


def _system(path: Path, name: str) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} is missing: create it with `{init_command(path)}`, and fill it in.")
    return read_system(path)


def _rehearsed_system(name: str) -> dict[str, Any]:
    """The description of the real system, else of this machine, marked as a rehearsal."""
    real = ROOT / "systems" / f"{name.removeprefix(REHEARSAL_PREFIX)}.json"
    values = read_system(real) if real.is_file() else describe_machine()
    known = name if "system_name" in unfilled(values) else values["system_name"]
    values |= {"system_name": f"REHEARSAL on {known}", "sw_notes": REHEARSAL}
    defaults = {**dict.fromkeys(NUMBERS, "1"), "status": "available", "system_type": "edge"}
    return values | {field: defaults.get(field, "REHEARSAL") for field in unfilled(values)}


def round_of_runs(submission: Submission, selected: list[ScenarioRuns]) -> Round:
    """The round whose seeds all runs used.

    Raises:
        ConfigError: the runs are of other rounds.
    """
    rounds: dict[Round, Path] = {}
    source = submission.source
    for runs in selected:
        folders = [("performance", source.performance(runs.scene)), ("accuracy", source.accuracy(runs.scene))]
        for test in runs.audits:
            folders.append(("performance", source.compliance(runs.scene, test) / "performance" / "run_1"))
        for mode, folder in folders:
            found = round_of(read_detail(folder, mode).values)
            if found is None:
                names = ", ".join(each.name for each in ROUNDS)
                raise ConfigError(f"{folder} was run with the seeds of an unknown round (known: {names}).")
            rounds.setdefault(found, folder)
    chosen = submission.round or next(iter(rounds), ROUNDS[-1])
    for found, folder in rounds.items():
        if found != chosen:
            version = ".".join(map(str, chosen.first))
            raise ConfigError(
                f"{folder} was run with the seeds of {found.name}, and a submission to {chosen.name} needs its own: "
                f"install LoadGen {version} or a later version for that round, and run everything again."
            )
    return chosen
