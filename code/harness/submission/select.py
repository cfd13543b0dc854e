"""Selects the official runs of a submission, and says why others are not part of it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.checking.recorded import CURE, edited_since
from harness.descriptions.measurements import (
    ModelNotes,
    contradictions,
    measurements,
    read_model_notes,
    unknown,
    unstated,
)
from harness.errors import ConfigError
from harness.loadgen.logs import read_detail
from harness.results.digests import edited
from harness.results.layout import RUN_1, Scene
from harness.results.record import Record, first_difference, read_record, reference
from harness.rules.audits import AUDITS
from harness.rules.rounds import ROUNDS, Round, round_of
from harness.submission.eligible import Tests, choose, incomplete, notes_file, only_open
from harness.submission.request import Submission


@dataclass(frozen=True)
class ScenarioRuns:
    """The official runs of one scenario, or those that its result is inferred from."""

    scene: Scene
    """The scene that the result is submitted for."""
    performance: Record
    accuracy: Record
    audits: Mapping[str, Record]
    """The existing compliance tests, by name; empty in the open division."""
    notes: ModelNotes
    origin: Scene | None = None
    """For an inferred result, the scene that was measured."""
    inferred: str | None = None
    """The result with its unit, if another scenario was measured."""

    @property
    def measured(self) -> Scene:
        """The scene that was measured."""
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


@dataclass
class Selection:
    """The results of a submission's systems, sorted by what happens to them."""

    runs: list[ScenarioRuns] = field(default_factory=list)
    """The results that can be packaged, if there are no problems."""
    left_out: list[str] = field(default_factory=list)
    """The reasons to leave out other results, although nothing is wrong with them, one sentence each."""
    problems: list[str] = field(default_factory=list)
    """The problems, one sentence each."""


def select_runs(submission: Submission) -> Selection:
    """The runs of a submission's systems, without those of scenarios and models that the user did not name.

    Raises:
        ConfigError: a system, scenario or model has no results, or a file cannot be read.
    """
    selection = Selection()
    for tests in choose(submission, [_tests(submission, scene) for scene in _scenes(submission)]):
        _select(submission, tests, selection)
    return selection


def _select(submission: Submission, tests: Tests, selection: Selection) -> None:
    """Add one result to the selection, or say why it is not in it."""
    path = notes_file(submission, tests.scene)
    notes = read_model_notes(path)
    if out := [*incomplete(submission, tests), *only_open(submission, tests, notes, path)]:
        selection.left_out += out
        return
    records = dict(tests.records)
    for test, folder in tests.folders.items():
        selection.problems += _unfit(submission, tests.scene, test, folder, records.get(test))
    for test, record in records.items():
        first = records.get("performance", record)
        results = submission.source.results(tests.scene)
        selection.problems += _mismatches(test, tests.folders[test], first, record, results)
    if "performance" in records and "accuracy" in records:
        runs = ScenarioRuns(tests.scene, records.pop("performance"), records.pop("accuracy"), records, notes)
        selection.problems += _note_problems(runs, path)
        selection.runs.append(runs)


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


def _tests(submission: Submission, scene: Scene) -> Tests:
    source = submission.source
    folders = {"performance": source.performance(scene), "accuracy": source.accuracy(scene)}
    if submission.closed:
        folders |= {test: source.compliance(scene, test) / RUN_1 for test in AUDITS}
    records = {test: record for test, folder in folders.items() if (record := read_record(folder)) is not None}
    return Tests(scene, folders, records)


def _unfit(submission: Submission, scene: Scene, test: str, folder: Path, record: Record | None) -> Iterator[str]:
    """Why a run may not be packaged."""
    if record is None:
        if folder.exists():
            yield f"{folder} has no record (run.json): only runs of this harness can be packaged."
        return
    if (record.scenario, record.test) != (scene.scenario, test):
        yield f"{folder} holds the {record.test} run of {record.scenario}: move it to its own folder."
        return
    if not record.valid:
        yield f"{folder} is not a valid run: run it again."
    if record.rehearsal != submission.rehearsal:
        kind = "is a rehearsal" if record.rehearsal else "is a measurement, but this is a rehearsal"
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
        yield f"{folder} was made with {record.model.caveat}, so it is not a result: move it away."


def _mismatches(test: str, folder: Path, performance: Record, record: Record, results: Path) -> Iterator[str]:
    """Why a run does not match the performance run, or a compliance test the logs in ``results``."""
    if other := performance.identity.difference(record.identity) or first_difference(performance, record):
        yield f"{folder} was run with another {other} than the performance run: repeat one of them."
    if test in AUDITS and record.reference != reference(results, test):
        yield f"{folder} was compared with results that were replaced later: run {test} again."


def _note_problems(runs: ScenarioRuns, path: Path) -> Iterator[str]:
    """The missing or wrong parts of the notes on the model at ``path``."""
    model = runs.performance.model
    yield from (f"{path}: {words}." for words in contradictions(runs.performance, runs.notes))
    if missing := unknown(runs.values):
        yield unstated(model, missing, path)


def round_of_runs(submission: Submission, selected: list[ScenarioRuns]) -> Round:
    """The round whose seeds all runs used.

    Raises:
        ConfigError: a run belongs to another round.
    """
    rounds: dict[Round, Path] = {}
    source = submission.source
    for runs in selected:
        folders = [("performance", source.performance(runs.scene)), ("accuracy", source.accuracy(runs.scene))]
        for test in runs.audits:
            folders.append(("performance", source.compliance(runs.scene, test) / RUN_1))
        for mode, folder in folders:
            found = round_of(read_detail(folder, mode).values)
            if found is None:
                names = ", ".join(each.name for each in ROUNDS)
                raise ConfigError(
                    f"{folder} was run with the seeds of an unknown round (known: {names}): repeat it with the LoadGen "
                    "that `make setup` installs."
                )
            rounds.setdefault(found, folder)
    chosen = submission.round or next(iter(rounds), ROUNDS[-1])
    for found, folder in rounds.items():
        if found != chosen:
            version = ".".join(map(str, chosen.first))
            raise ConfigError(
                f"{folder} was run with the seeds of {found.name}, but a submission to {chosen.name} needs its own: "
                f"install LoadGen {version} or a later version for that round, and run everything again."
            )
    return chosen
