"""Which official runs make a submission, and what keeps them out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.loadgen.logs import read_detail
from harness.paths import ROOT
from harness.results.layout import Classic, Layout, Scene
from harness.results.record import Record, read_record, reference, unlike
from harness.rules.audits import AUDITS
from harness.rules.rehearsal import REHEARSAL, REHEARSAL_PREFIX
from harness.rules.rounds import ROUNDS, Round, find_round, round_of
from harness.submission import description as system
from harness.submission import measurements


@dataclass(frozen=True)
class Result:
    """The runs of one scenario."""

    scene: Scene
    records: dict[str, Record]
    """By test: performance, accuracy, and TEST01 and TEST04 where they were made."""
    told: dict[str, Any]
    """What a person says of the model."""

    @property
    def values(self) -> dict[str, str]:
        """The measurements."""
        return measurements.measurements(self.records["performance"], self.told)

    @property
    def performance(self) -> str:
        """The result, with its unit."""
        metric = self.records["performance"].result.metric
        return f"{metric.value:.6g} {metric.unit}"

    @property
    def accuracy(self) -> str:
        """The scores."""
        return self.records["accuracy"].result.scores

    @property
    def implementation(self) -> str:
        """What the code's folder and the measurements file are named after: the engine."""
        return self.records["performance"].engine.name


def _results(source: Classic, systems: list[str], division: str, rehearsal: bool) -> tuple[list[Result], list[str]]:
    """The runs of these systems, and what keeps them out of a submission, a sentence each."""
    scenes = [scene for scene in source.scenes() if scene.system in systems]
    for name in systems:
        if not any(scene.system == name for scene in scenes):
            there = ", ".join(sorted({scene.system for scene in source.scenes()})) or "none"
            raise ConfigError(
                f"there are no official results of system {name} in {source.root / 'results'} (there are: {there}): "
                "make them with `make submission`, or give SYSTEM=."
            )
    results, problems = [], []
    for scene in scenes:
        records: dict[str, Record] = {}
        folders = {"performance": source.performance(scene), "accuracy": source.accuracy(scene)}
        if division == "closed":
            folders |= {test: source.compliance(scene, test) / "performance" / "run_1" for test in AUDITS}
        for test, folder in folders.items():
            record = read_record(folder)
            if record is not None:
                records[test] = record
                problems += _unfit(folder, record, rehearsal)
            elif folder.exists():
                problems.append(f"{folder} has no record (run.json): only runs of this harness can be packaged.")
            elif not test.startswith("TEST"):
                problems.append(f"{folder} is missing: make {scene.scenario}'s {test} run with `make submission`.")
        for test, record in records.items():
            first = records.get("performance", record)
            if other := first.identity.difference(record.identity) or unlike(first, record):
                problems.append(
                    f"{folders[test]} was run with another {other} than the performance run: run one of them again."
                )
            if test.startswith("TEST") and record.reference != reference(source.results(scene), test):
                problems.append(
                    f"{folders[test]} was compared with results that have been replaced since: run {test} again."
                )
        if not {"performance", "accuracy"} <= records.keys():
            continue
        told_at = source.root / "measurements" / scene.system / scene.benchmark / measurements.TOLD
        told = measurements.read_told(told_at)
        problems += [f"{told_at}: {words}." for words in measurements.contradictions(records["performance"], told)]
        result = Result(scene, records, told)
        problems += _untold(result, told_at)
        if division == "closed":
            problems += _not_closed(result, told_at, rehearsal)
        results.append(result)
    return results, problems


def _system(path: Path, name: str, rehearsal: bool) -> dict[str, Any]:
    """A system description; of a rehearsal that of the real system, or what this machine tells, marked as what it is.

    Raises:
        ConfigError: it cannot be read, or there is none.
    """
    if not rehearsal:
        if not path.is_file():
            raise ConfigError(f"{path} is missing: make it with `harness system init --system {name}`, and fill it in.")
        return system.read_system(path)
    real = ROOT / "systems" / f"{name.removeprefix(REHEARSAL_PREFIX)}.json"
    values = system.read_system(real) if real.is_file() else system.describe_machine()
    known = name if "system_name" in system.unfilled(values) else values["system_name"]
    values |= {"system_name": f"REHEARSAL on {known}", "sw_notes": REHEARSAL}
    defaults = {"status": "available", "system_type": "edge"}
    for field in system.unfilled(values):
        values[field] = defaults.get(field, "REHEARSAL")
    return values


def _unfit(folder: Path, record: Record, rehearsal: bool) -> Iterator[str]:
    """Why a run may not be packaged."""
    if not record.valid:
        yield f"{folder} is no valid run: run it again."
    if record.rehearsal != rehearsal:
        kind = "is a rehearsal" if record.rehearsal else "is a measurement, and this a rehearsal"
        yield f"{folder} {kind}: the two are never packaged together."
    elif not rehearsal and not record.for_submission:
        yield f"{folder} is a development run: run it with --official."
    if not rehearsal and record.model.caveat:
        yield f"{folder} was made with {record.model.caveat}: it is no result."


def _untold(result: Result, path: Path) -> Iterator[str]:
    missing = measurements.unknown(result.values)
    if missing:
        model = result.records["performance"].model
        example = json.dumps({"sha256": model.sha256, **dict.fromkeys(missing, "...")})
        name = model.name
        yield f"model {name} does not tell its {', '.join(missing)}: write {example} to {path}."


def _not_closed(result: Result, path: Path, rehearsal: bool) -> Iterator[str]:
    """Why a result does not belong into the closed division."""
    model = result.records["performance"].model
    if not rehearsal and not (model.equivalent or result.told.get(measurements.EQUIVALENT)):
        yield (
            f"{result.scene.benchmark}: the closed division takes the reference model only, and {model.name} is not "
            f'known to be that: use DIVISION=open, or write {{"{measurements.EQUIVALENT}": true}} to {path} if it is.'
        )


def _round(source: Layout, results: list[Result], wanted: str | None) -> Round:
    """The round whose seeds all runs have.

    Raises:
        ConfigError: the runs are of other rounds.
    """
    rounds: dict[Round, Path] = {}
    for result in results:
        folders = [("performance", source.performance(result.scene)), ("accuracy", source.accuracy(result.scene))]
        folders += [
            ("performance", source.compliance(result.scene, test) / "performance" / "run_1")
            for test in result.records
            if test.startswith("TEST")
        ]
        for mode, folder in folders:
            values = read_detail(folder, mode).values
            found = round_of(values)
            if found is None:
                raise ConfigError(f"{folder} was run with seeds of no round that is known ({_names()}).")
            rounds.setdefault(found, folder)
    chosen = find_round(wanted) if wanted else next(iter(rounds), ROUNDS[-1])
    for found, folder in rounds.items():
        if found != chosen:
            version = ".".join(map(str, chosen.first))
            raise ConfigError(
                f"{folder} was run with the seeds of {found.name}, and a submission to {chosen.name} needs its own: "
                f"install LoadGen {version} or a later one of that round, and run everything again."
            )
    return chosen


def _names() -> str:
    return ", ".join(each.name for each in ROUNDS)
