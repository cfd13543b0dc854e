"""`harness package --infer`: results that the rules let a submitter infer instead of measuring them.

It does what the official preprocess_submission.py does, except that folders keep LoadGen's names of scenarios, and that
each README.md says what the result was inferred from.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from harness.errors import ConfigError
from harness.loadgen.logs import read_detail
from harness.results.layout import Scene
from harness.rules.inference import INFERENCES, LOWER_ACCURACY, Inference, may_infer
from harness.rules.rounds import RULES, Round, recognise
from harness.scenarios.base import find_scenario
from harness.submission.request import Submission
from harness.submission.select import ScenarioRuns
from harness.terminal import console


def infer(
    submission: Submission, round_: Round, measured: Sequence[ScenarioRuns], systems: Mapping[str, Mapping[str, object]]
) -> list[ScenarioRuns]:
    """The measured results, and those inferred from them; ``systems`` are the descriptions.

    If a user named scenarios, only the results of those.

    Raises:
        ConfigError: a named scenario was not measured, and cannot be inferred.
    """
    found = list(measured)
    for system, benchmark in dict.fromkeys((runs.scene.system, runs.scene.benchmark) for runs in measured):
        kinds = systems[system].get("system_type")
        mine = {r.scene.scenario: r for r in measured if (r.scene.system, r.scene.benchmark) == (system, benchmark)}
        official = _official(next(iter(mine.values())))
        if isinstance(kinds, str) and may_infer(kinds):
            found += _scenarios(submission, mine, _targets(submission, round_.required(official, kinds)))
        elif any(_wanted(mine, _targets(submission, round_.required(official, "edge")))):
            console.warn(
                f"no scenario of {benchmark} is inferred for {system}: its system_type is {kinds}, and the rules "
                "require edge."
            )
    found += _lower_accuracy(found)
    if len(found) == len(measured):
        console.note("nothing was inferred: each result that could be was measured, or its source is missing.")
    return _named(submission, found)


def _targets(submission: Submission, required: frozenset[str]) -> frozenset[str]:
    """The scenarios that may be inferred."""
    return required.intersection(submission.scenarios) if submission.scenarios else required


def _named(submission: Submission, found: list[ScenarioRuns]) -> list[ScenarioRuns]:
    """The results of the scenarios that a user named; all if none is named.

    Raises:
        ConfigError: a named scenario was not measured, and cannot be inferred.
    """
    if not submission.scenarios:
        return found
    known = [scene for scene in submission.source.scenes() if scene.system in submission.systems]
    existing = {scene.scenario for scene in (*known, *(runs.scene for runs in found))}
    if missing := [name for name in submission.scenarios if name not in existing]:
        systems = ", ".join(submission.systems)
        raise ConfigError(
            f"{' and '.join(missing)} was not measured on {systems}, and cannot be inferred: measure it, or omit it."
        )
    return [runs for runs in found if runs.scene.scenario in submission.scenarios]


def _official(runs: ScenarioRuns) -> str:
    """The official name of the benchmark."""
    name = runs.scene.benchmark
    known = name if name in RULES else recognise(name)
    return known or next(each for each, rules in RULES.items() if rules.model == runs.performance.model.benchmark)


def _scenarios(
    submission: Submission, mine: Mapping[str, ScenarioRuns], required: frozenset[str]
) -> Iterator[ScenarioRuns]:
    """The required scenarios of one benchmark that were not measured, each from its best source."""
    for inference in _wanted(mine, required):
        if result := _from(submission, mine[inference.source], inference):
            yield result


def _wanted(mine: Mapping[str, ScenarioRuns], required: frozenset[str]) -> Iterator[Inference]:
    """The inferences that give the required but unmeasured scenarios of one benchmark."""
    done = set(mine)
    for inference in INFERENCES:
        if inference.source in mine and inference.target in required - done:
            done.add(inference.target)
            yield inference


def _from(submission: Submission, source: ScenarioRuns, inference: Inference) -> ScenarioRuns | None:
    """The inferred result; None if the log does not show it."""
    folder = submission.source.performance(source.scene)
    detail = read_detail(folder, "performance")
    value = detail.values.get(inference.key)
    if not value:
        console.warn(
            f"{inference.target} cannot be inferred from {folder}: {inference.key} is {value}. Let the "
            f"{inference.source} test run longer, or measure {inference.target}."
        )
        return None
    target = find_scenario(inference.target)
    metric = target.metric(replace(detail, values={target.result_key: inference.result(value)}))
    scene = replace(source.scene, scenario=inference.target)
    return replace(source, scene=scene, inferred=f"{metric.value:.6g} {metric.unit}", origin=source.scene)


def _lower_accuracy(results: Sequence[ScenarioRuns]) -> Iterator[ScenarioRuns]:
    """The results of a benchmark as those of the one with a lower accuracy target, if that has none of its own."""
    present = {(runs.scene.system, runs.scene.benchmark) for runs in results}
    for runs in results:
        scene, low = runs.scene, LOWER_ACCURACY.get(runs.scene.benchmark)
        if low and (scene.system, low) not in present:
            yield replace(runs, scene=Scene(scene.system, low, scene.scenario), origin=runs.measured)
