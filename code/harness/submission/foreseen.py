"""What a package of a campaign's results will lack, found before the tests run: `harness package` refuses it later."""

import json
from collections.abc import Iterable, Iterator, Sequence

from harness.catalog.manifests import Model
from harness.paths import ROOT
from harness.registry import SCENARIOS
from harness.results.layout import RUN, Classic, Scene
from harness.rules.inference import may_infer, needless
from harness.rules.rounds import RULES, installed_round
from harness.running.settings import RunSettings
from harness.submission.description import description_file, init_command, read_system, unfilled
from harness.submission.measurements import MODEL_NOTES, read_model_notes, stated, unknown
from harness.submission.steps import Step
from harness.task.base import find_benchmark


def rules_of(model: Model) -> str:
    """The benchmark of `RULES` whose rules apply to a model."""
    return model.official_name if model.official_name in RULES else find_benchmark(model.benchmark).official_name


def foreseen(steps: Sequence[Step], system_type: str, closed: bool, inferred: Iterable[Scene] = ()) -> list[str]:
    """What a person must still do before results of these tests can be packaged, a sentence each.

    ``inferred`` are results that follow from the tests.

    Raises:
        ConfigError: a system description, or notes on a model, cannot be read.
    """
    scenes = list(dict.fromkeys((*(step.settings.scene for step in steps), *inferred)))
    found = list(_scenarios(steps, scenes, system_type)) if closed else []
    first = steps[0].settings
    if not first.rehearsal:
        found += _system(first.scene.system, system_type)
    for settings in {step.settings.scene.benchmark: step.settings for step in steps}.values():
        found += _model(settings, closed)
    return found


def _scenarios(steps: Sequence[Step], scenes: Sequence[Scene], system_type: str) -> Iterator[str]:
    """Scenarios that the closed division requires and nobody measures, and those that it does not have."""
    kinds = f"systems of type {system_type}"
    for settings in {step.settings.scene.benchmark: step.settings for step in steps}.values():
        system, benchmark = settings.scene.system, settings.scene.benchmark
        required = installed_round().required(rules_of(settings.model), system_type)
        tree = Classic(settings.tree)
        measured = {name for name in SCENARIOS if (tree.performance(Scene(system, benchmark, name)) / RUN).is_file()}
        planned = {scene.scenario for scene in scenes if scene.benchmark == benchmark}
        if extra := sorted(planned - required):
            yield (
                f"{benchmark}: the closed division does not have {' and '.join(extra)} on {kinds}, so {_it(extra)} "
                "cannot be packaged there."
            )
        if missing := sorted(required - planned - measured):
            infer = needless(planned | measured | required, required) if may_infer(system_type) else {}
            easy = [name for name in missing if name in infer and infer[name].source in planned | measured]
            hint = f"; INFER=1 (--infer) infers {' and '.join(easy)} instead" if easy else ""
            yield (
                f"{benchmark}: the closed division also requires {' and '.join(missing)} on {kinds}: add "
                f"{_it(missing)} to SCENARIOS (--scenario){hint}."
            )


def _it(names: Sequence[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _system(system: str, system_type: str) -> Iterator[str]:
    path = description_file(ROOT / "systems", system)
    if not path.is_file():
        yield f"{path} is missing: create it with `{init_command(path)}`, and fill in the fields that it lists."
        return
    values = read_system(path)
    if missing := unfilled(values):
        yield f"{path} lacks {', '.join(missing)}: fill it in."
    if "system_type" not in missing and values["system_type"] != system_type:
        yield f"{path} has system_type {values['system_type']}, but these tests are for {system_type}: correct one."


def _model(settings: RunSettings, closed: bool) -> Iterator[str]:
    """The facts of the measurements that a model's file does not hold, and a person must write."""
    model, scene = settings.model, settings.scene
    path = settings.tree / "measurements" / scene.system / scene.benchmark / MODEL_NOTES
    notes = read_model_notes(path)
    if notes.sha256 and notes.sha256 != model.sha256:
        yield f"{path} describes another model than {model.name}: correct it, or remove it."
        return
    if missing := unknown(stated(model, notes)):
        example = json.dumps({"sha256": model.sha256, **dict.fromkeys(missing, "...")})
        yield f"model {model.name} does not state its {', '.join(missing)}: write {example} to {path}."
    if closed and not settings.rehearsal and not (model.equivalent or notes.equivalent):
        example = json.dumps({"sha256": model.sha256, "equivalent": True})
        yield (
            f"{scene.benchmark}: the closed division accepts only the reference model, and {model.name} is not known "
            f"to be it: use DIVISION=open, or write {example} to {path} if it is."
        )
