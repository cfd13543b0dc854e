"""Finds, before the tests of a campaign run, what would keep `harness package` from accepting their results."""

from collections.abc import Iterable, Iterator, Sequence

from harness.campaign.steps import Step
from harness.catalog.manifests import Model
from harness.descriptions.description import (
    FRAMEWORKS,
    description_file,
    init_command,
    machines_of,
    read_system,
    unfilled,
)
from harness.descriptions.measurements import MODEL_NOTES, not_reference, read_model_notes, stated, unknown, unstated
from harness.host.machine import package_version
from harness.machines.hosts import read as read_hosts
from harness.registry import SCENARIOS
from harness.results.layout import RUN, Classic, Scene
from harness.rules.inference import inferable, may_infer
from harness.rules.rounds import RULES, installed_round
from harness.settings.run import RunSettings
from harness.submission.systems import other_versions, wrong_nodes
from harness.task.base import find_benchmark


def rules_of(model: Model) -> str:
    """The benchmark of `RULES` whose rules apply to a model."""
    return model.official_name if model.official_name in RULES else find_benchmark(model.benchmark).official_name


def foreseen(steps: Sequence[Step], system_type: str, closed: bool, inferred: Iterable[Scene] = ()) -> list[str]:
    """Things that a person must still do before results of these tests can be packaged, one sentence each.

    ``inferred`` are the results to infer from those of the tests.

    Raises:
        ConfigError: a system description, or notes on a model, cannot be read.
    """
    scenes = list(dict.fromkeys((*(step.settings.scene for step in steps), *inferred)))
    found = [*_unknown(steps, system_type), *(_scenarios(steps, scenes, system_type) if closed else ())]
    if not steps[0].settings.rehearsal:
        found += _system([step.settings for step in steps], system_type)
    for settings in {step.settings.scene.benchmark: step.settings for step in steps}.values():
        found += _model(settings, closed)
    return found


def _unknown(steps: Sequence[Step], system_type: str) -> Iterator[str]:
    """Benchmarks that neither division has on systems of this type."""
    round_ = installed_round()
    for benchmark, model in {step.settings.scene.benchmark: step.settings.model for step in steps}.items():
        if not round_.required(rules_of(model), system_type):
            yield (
                f"{benchmark}: {round_.name} does not have it on systems of type {system_type}, so no division accepts "
                "a result: submit it for systems of type edge, or datacenter,edge."
            )


def _scenarios(steps: Sequence[Step], scenes: Sequence[Scene], system_type: str) -> Iterator[str]:
    """Unmeasured scenarios that the closed division requires, and planned ones that it does not have."""
    kinds = f"systems of type {system_type}"
    for settings in {step.settings.scene.benchmark: step.settings for step in steps}.values():
        system, benchmark = settings.scene.system, settings.scene.benchmark
        if not (required := installed_round().required(rules_of(settings.model), system_type)):
            continue
        tree = Classic(settings.tree)
        measured = {name for name in SCENARIOS if (tree.performance(Scene(system, benchmark, name)) / RUN).is_file()}
        planned = {scene.scenario for scene in scenes if scene.benchmark == benchmark}
        if extra := sorted(planned - required):
            yield (
                f"{benchmark}: the closed division does not have {' and '.join(extra)} on {kinds}, so "
                f"{_pronoun(extra)} cannot be packaged there."
            )
        if missing := sorted(required - planned - measured):
            infer = inferable(planned | measured | required, required) if may_infer(system_type) else {}
            inferred = [name for name in missing if name in infer and infer[name].source in planned | measured]
            hint = f"; INFER=1 (--infer) infers {' and '.join(inferred)} instead" if inferred else ""
            yield (
                f"{benchmark}: the closed division also requires {' and '.join(missing)} on {kinds}: add "
                f"{_pronoun(missing)} to SCENARIOS (--scenario){hint}."
            )


def _pronoun(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _system(tests: Sequence[RunSettings], system_type: str) -> Iterator[str]:
    path = description_file(tests[0].tree / "systems", tests[0].scene.system)
    if not path.is_file():
        yield f"{path} is missing: create it with `{init_command(path)}`, and fill in the fields that it lists."
        return
    values = read_system(path)
    if missing := unfilled(values):
        yield f"{path} lacks {', '.join(missing)}: fill it in."
    if "system_type" not in missing and values["system_type"] != system_type:
        yield f"{path} has system_type {values['system_type']}, but these tests are for {system_type}: correct one."
    yield from other_versions(str(values.get("framework") or ""), _engines(tests), path)
    machines = _machines(tests[0])
    if machines:
        yield from wrong_nodes(values, machines, "these tests run", path)


def _engines(tests: Sequence[RunSettings]) -> dict[str, list[str]]:
    """The installed version of each engine of the tests that has a name in `FRAMEWORKS`, by that name."""
    versions = {name: package_version(name) for name in dict.fromkeys(each.engine for each in tests)}
    return {FRAMEWORKS[name]: [version] for name, version in versions.items() if version and name in FRAMEWORKS}


def _machines(settings: RunSettings) -> int | None:
    """The number of machines that the tests run on; None if only the running cluster knows it."""
    if settings.cluster is None:
        return 1
    given = machines_of(read_hosts(settings.cluster)).get("number_of_nodes")
    return int(given) if given else None


def _model(settings: RunSettings, closed: bool) -> Iterator[str]:
    """Facts that the measurements need but a model's file does not contain, so that a person must write them."""
    model, scene = settings.model, settings.scene
    path = settings.tree / "measurements" / scene.system / scene.benchmark / MODEL_NOTES
    notes = read_model_notes(path)
    if notes.sha256 and notes.sha256 != model.sha256:
        yield f"{path} describes another model than {model.name}: correct it, or remove it."
        return
    if missing := unknown(stated(model, notes)):
        yield unstated(model, missing, path)
    if closed and not settings.rehearsal and not (model.equivalent or notes.equivalent):
        yield f"{scene.benchmark}: {not_reference(model, path)}"
