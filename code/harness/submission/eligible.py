"""Leaves sound results out of a package if they were not chosen, are incomplete, or only fit the open division."""

import contextlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.catalog.models import find_model, split_engine
from harness.descriptions.description import system_type_of
from harness.descriptions.measurements import MODEL_NOTES, ModelNotes, not_reference
from harness.errors import ConfigError, did_you_mean
from harness.paths import ROOT
from harness.results.layout import Scene
from harness.results.record import Record
from harness.rules.audits import AUDITS
from harness.rules.inference import INFERENCES, LOWER_ACCURACY
from harness.rules.rehearsal import REHEARSAL_PREFIX
from harness.rules.rounds import RULES, round_of_version
from harness.settings.advised import campaign_command
from harness.submission.request import Submission


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

    If results are to be inferred, also those that a named result can be inferred from.

    Raises:
        ConfigError: a named scenario or model has no result, and none that it can be inferred from.
    """
    return _of_scenarios(submission, _of_models(submission, found))


def _of_models(submission: Submission, found: Sequence[Tests]) -> Sequence[Tests]:
    if not submission.models:
        return found
    models = {text: _SubmittedModel(text) for text in submission.models}
    chosen = [tests for tests in found if any(wanted.fits(tests) for wanted in models.values())]
    lower = {LOWER_ACCURACY.get(tests.scene.benchmark) for tests in chosen} - {None} if submission.infer else set()
    for text, wanted in models.items():
        if not any(map(wanted.fits, chosen)) and wanted.filed not in lower:
            known = {record.model.name for tests in found for record in tests.records.values()}
            raise _no_results_error(submission, text, text, known)
    return chosen


def _of_scenarios(submission: Submission, found: Sequence[Tests]) -> list[Tests]:
    named = submission.scenarios
    sources = dict(_sources(submission, found)) if submission.infer else {}
    known = {tests.scene.scenario for tests in found}
    for scenario in named:
        if scenario not in known | {target.scenario for target in sources}:
            models = f"{' and '.join(submission.models)} in " if submission.models else ""
            raise _no_results_error(submission, f"{models}{scenario}", scenario, known)
    kept = {*sources.values()}
    return [tests for tests in found if not named or tests.scene.scenario in named or tests.scene in kept]


def _sources(submission: Submission, found: Sequence[Tests]) -> Iterator[tuple[Scene, Scene]]:
    """The named scenarios that were not measured, each with the result to infer it from: preferably a named one."""
    measured = {tests.scene for tests in found if not any(incomplete(submission, tests))}
    for system, benchmark in sorted({(scene.system, scene.benchmark) for scene in measured}):
        for target in (Scene(system, benchmark, name) for name in submission.scenarios):
            possible = [replace(target, scenario=each.source) for each in INFERENCES if each.target == target.scenario]
            possible.sort(key=lambda scene: scene.scenario not in submission.scenarios)
            source = next((scene for scene in possible if scene in measured), None)
            if source and target not in measured:
                yield target, source


def _no_results_error(submission: Submission, what: str, text: str, known: Iterable[str]) -> ConfigError:
    systems = ", ".join(submission.systems)
    return ConfigError(f"there are no official results of {what} on {systems}: {did_you_mean(text, sorted(known))}")


class _SubmittedModel:
    """A model as given in `Submission.models`."""

    def __init__(self, text: str) -> None:
        self._name, self._engine = split_engine(text)
        self._sha256 = find_model(self._name).sha256 if Path(self._name).expanduser().is_file() else None

    @property
    def filed(self) -> str | None:
        """The benchmark that it is filed under; None if there is no such model here."""
        with contextlib.suppress(ConfigError):
            return find_model(self._name).official_name
        return None

    def fits(self, tests: Tests) -> bool:
        """Whether a test of a result ran that model, on that engine if one is named."""
        return any(map(self._ran, tests.records.values()))

    def _ran(self, record: Record) -> bool:
        same = record.model.sha256 == self._sha256 if self._sha256 else record.model.name == self._name
        return same and self._engine.casefold() in ("", record.identity.engine.casefold())


def incomplete(submission: Submission, tests: Tests) -> Iterator[str]:
    """The tests that a result lacks, one sentence each."""
    scene, command = tests.scene, campaign_command(tests.scene, submission.rehearsal)
    closed = command.replace("make submission", "make submission DIVISION=closed")
    required = RULES[scene.benchmark].tests if scene.benchmark in RULES else ()
    for test, folder in tests.folders.items():
        if folder.exists():
            continue
        if test not in AUDITS:
            yield f"{folder} is missing: do the {test} run with `{command}`."
        elif test in required:
            yield f"{folder} is missing: run {test} with `{closed}`."


def only_open(submission: Submission, tests: Tests, notes: ModelNotes, path: Path) -> Iterator[str]:
    """Why the closed division does not accept a result, one sentence each; ``path`` is that of the ``notes``."""
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
    if round_ and scene.scenario not in (required := round_.required(benchmark, kinds)):
        has = f"only {', '.join(sorted(required))} of {benchmark}" if required else f"no {benchmark}"
        why = f"the closed division of {round_.name} has {has} on systems of type {kinds}"
        yield f"{where}: {why}: {_instead(required)}."
    if not (submission.rehearsal or model.equivalent or notes.equivalent):
        yield f"{where}: {not_reference(model, path)}"


def _instead(required: Container[str]) -> str:
    """The advice for a scenario that the closed division lacks; if that has none, the open one has none either."""
    return "use DIVISION=open" if required else "only systems of type edge, or datacenter,edge, can submit it"


def _description(submission: Submission, system: str) -> Path:
    """The file that shows the type of a system; for a rehearsal that of the real system."""
    if submission.rehearsal:
        return ROOT / "systems" / f"{system.removeprefix(REHEARSAL_PREFIX)}.json"
    return submission.source.system_file(system)


def notes_file(submission: Submission, scene: Scene) -> Path:
    """The file with a person's notes on the model of a result."""
    return submission.source.root / "measurements" / scene.system / scene.benchmark / MODEL_NOTES
