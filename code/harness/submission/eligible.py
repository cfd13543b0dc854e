"""Why a result stays out of a package although nothing is wrong: it was not chosen, is not complete, or is for open."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.catalog.models import find_model
from harness.errors import ConfigError, did_you_mean
from harness.paths import ROOT
from harness.results.layout import Scene
from harness.results.record import Record
from harness.rules.audits import AUDITS
from harness.rules.rehearsal import REHEARSAL_PREFIX
from harness.rules.rounds import RULES, round_of_version
from harness.submission.description import system_type_of
from harness.submission.measurements import MODEL_NOTES, ModelNotes
from harness.submission.request import Submission, campaign_command


@dataclass(frozen=True)
class Tests:
    """The tests of one result."""

    scene: Scene
    folders: Mapping[str, Path]
    """The folder of each test's record, by test, performance first."""
    records: Mapping[str, Record]
    """The records that exist, in the same order."""


def choose(submission: Submission, found: Sequence[Tests]) -> list[Tests]:
    """The results of the scenarios and models that a user named; all if none is named.

    Raises:
        ConfigError: a scenario or model has no result.
    """
    models = [_Wanted(text) for text in submission.models]
    for scenario in submission.scenarios:
        if not any(tests.scene.scenario == scenario for tests in found):
            raise _nothing(submission, scenario, {tests.scene.scenario for tests in found})
    for text, wanted in zip(submission.models, models, strict=True):
        if not any(map(wanted.fits, found)):
            known = {record.model.name for tests in found for record in tests.records.values()}
            raise _nothing(submission, text, known)
    return [
        tests
        for tests in found
        if not submission.scenarios or tests.scene.scenario in submission.scenarios
        if not models or any(wanted.fits(tests) for wanted in models)
    ]


def _nothing(submission: Submission, text: str, known: Iterable[str]) -> ConfigError:
    systems = ", ".join(submission.systems)
    return ConfigError(f"there are no official results of {text} on {systems}: {did_you_mean(text, sorted(known))}")


class _Wanted:
    """A model as `Submission.models` has it."""

    def __init__(self, text: str) -> None:
        name, at, engine = text.rpartition("@")
        self._name, self._engine = (name, engine) if at and "/" not in engine else (text, "")
        self._sha256 = find_model(self._name).sha256 if Path(self._name).expanduser().is_file() else None

    def fits(self, tests: Tests) -> bool:
        """Whether a test of a result ran that model, on that engine if one is named."""
        return any(map(self._ran, tests.records.values()))

    def _ran(self, record: Record) -> bool:
        same = record.model.sha256 == self._sha256 if self._sha256 else record.model.name == self._name
        return same and self._engine.casefold() in ("", record.identity.engine.casefold())


def incomplete(submission: Submission, tests: Tests) -> Iterator[str]:
    """The tests that a result lacks, a sentence each."""
    scene, command = tests.scene, campaign_command(tests.scene, submission.rehearsal)
    closed = command.replace("make submission", "make submission DIVISION=closed")
    required = RULES[scene.benchmark].tests if scene.benchmark in RULES else ()
    for test, folder in tests.folders.items():
        if folder.exists():
            continue
        if test not in AUDITS:
            yield f"{folder} is missing: do the {test} run with `{command}`."
        elif test in required:
            yield f"{folder} is missing: do the test {test} with `{closed}`."


def only_open(submission: Submission, tests: Tests, notes: ModelNotes, path: Path) -> Iterator[str]:
    """Why the closed division does not have such a result, a sentence each; ``path`` is that of the ``notes``."""
    record = next(iter(tests.records.values()), None)
    if record is None or not submission.closed:
        return
    scene, benchmark, model = tests.scene, tests.scene.benchmark, record.model
    where = f"{scene.system}, {benchmark} {scene.scenario}"
    if benchmark not in RULES:
        yield f"{where}: the closed division has only the benchmarks {', '.join(RULES)}: use DIVISION=open."
        return
    round_ = submission.round or round_of_version(str(record.loadgen.get("loadgen_version")))
    kinds = system_type_of(_description(submission, scene.system))
    required = round_.required(benchmark, kinds) if round_ else frozenset()
    if required and scene.scenario not in required:
        has = ", ".join(sorted(required))
        yield (
            f"{where}: the closed division has only {has} of {benchmark} on systems of type {kinds}: use DIVISION=open."
        )
    if not (submission.rehearsal or model.equivalent or notes.equivalent):
        example = json.dumps({"sha256": model.sha256, "equivalent": True})
        yield (
            f"{where}: the closed division accepts only the reference model, and {model.name} is not known to be it: "
            f"use DIVISION=open, or write {example} to {path} if it is."
        )


def _description(submission: Submission, system: str) -> Path:
    """The file that shows the type of a system; for a rehearsal that of the real system."""
    if submission.rehearsal:
        return ROOT / "systems" / f"{system.removeprefix(REHEARSAL_PREFIX)}.json"
    return submission.source.system_file(system)


def notes_file(submission: Submission, scene: Scene) -> Path:
    """The place of a person's notes on the model of a result."""
    return submission.source.root / "measurements" / scene.system / scene.benchmark / MODEL_NOTES
