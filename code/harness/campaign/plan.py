"""The tests that a campaign runs, with their settings."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness import paths
from harness.campaign.campaign import Campaign
from harness.campaign.foreseen import foreseen, rules_of
from harness.campaign.steps import EventLog, InferredResult, Step
from harness.catalog import manifests
from harness.catalog.manifests import Model
from harness.catalog.models import find_model, split_engine
from harness.errors import ConfigError, did_you_mean
from harness.registry import MODES, SCENARIOS, choose
from harness.rules.audits import AUDITS
from harness.rules.inference import LOWER_ACCURACY, Inference, inferable, may_infer
from harness.rules.rounds import DIVISIONS, RULES, SYSTEM_TYPES, installed_round
from harness.settings.request import RunRequest, resolve


@dataclass(frozen=True, kw_only=True)
class CampaignRequest:
    """A user's request for a campaign."""

    run: RunRequest
    """The options common to all tests."""
    models: Sequence[str] = ()
    """Each ``NAME`` or ``NAME@ENGINE``; by default the default model."""
    division: str
    system_type: str
    scenarios: Sequence[str] = ()
    """By default those that the closed division requires for the benchmark on systems of this type."""
    only_compliance: bool = False
    infer: bool = False
    """Whether to leave out tests whose results the rules let a submitter infer from those of others."""
    retry: bool = False
    """Whether to repeat tests that failed."""
    folder: Path = paths.ROOT / "build" / "campaign"
    """The folder of event logs and locks."""
    as_json: bool = False

    @property
    def closed(self) -> bool:
        """Whether the rules of the closed division apply, compliance tests included."""
        return self.division == "closed"


@dataclass(frozen=True)
class _PlannedModel:
    """A model of a campaign."""

    model: Model
    run: RunRequest
    """The request of its runs, without scenario and test."""
    benchmark: str
    """The benchmark of `RULES` whose rules apply."""


def plan(request: CampaignRequest) -> Campaign:
    """The campaign for a request.

    Raises:
        ConfigError: a name is wrong, the round has no scenarios for the system, or two models would share a folder.
    """
    if request.division not in DIVISIONS:
        raise ConfigError(f"unknown division '{request.division}': {did_you_mean(request.division, DIVISIONS)}")
    if request.system_type not in SYSTEM_TYPES:
        raise ConfigError(
            f"unknown system type '{request.system_type}': {did_you_mean(request.system_type, SYSTEM_TYPES)}"
        )
    steps: list[Step] = []
    inferred: list[InferredResult] = []
    for entry in _entries(request):
        scenarios = _scenarios(request, entry)
        unmeasured = _to_infer(request, entry, scenarios)
        for scenario in scenarios:
            if scenario not in unmeasured:
                steps += _steps(request, entry, scenario)
        scene = steps[-1].settings.scene
        inferred += [
            InferredResult(replace(scene, scenario=name), replace(scene, scenario=how.source))
            for name, how in unmeasured.items()
        ]
    if request.infer:
        inferred += _lower_accuracy(steps, inferred)
    system = steps[0].settings.scene.system
    if request.only_compliance:
        steps = [step for step in steps if step.settings.audit]
        lacks = []
    else:
        lacks = foreseen(steps, request.system_type, request.closed, [each.scene for each in inferred])
    events = EventLog(request.folder / f"{system}.jsonl")
    return Campaign(
        steps, events, request.folder, request.retry, request.as_json, inferred=tuple(inferred), lacks=tuple(lacks)
    )


def _entries(request: CampaignRequest) -> list[_PlannedModel]:
    """The models, without those whose results are inferred from another model's."""
    entries: dict[str, _PlannedModel] = {}
    for text in request.models or ("",):
        entry = _entry(request, text)
        name, filed = entry.model.name, entry.model.official_name
        if filed in entries:
            owner = entries[filed].model.name
            raise ConfigError(f"{owner} and {name} are both filed under {filed}: give each its own --system.")
        entries[filed] = entry
    lower = {LOWER_ACCURACY.get(filed) for filed in entries} if request.infer else set()
    return [entry for filed, entry in entries.items() if filed not in lower]


def _entry(request: CampaignRequest, text: str) -> _PlannedModel:
    name, engine = split_engine(text)
    model = find_model(name or manifests.default_model())
    if request.closed and model.official_name not in RULES:
        raise ConfigError(
            f"{model.name} is filed under {model.official_name}, but the closed division has only {', '.join(RULES)}: "
            f"{_in_open(request)}."
        )
    run = replace(request.run, model=name or None, engine=engine or request.run.engine)
    return _PlannedModel(model, run, rules_of(model))


def _in_open(request: CampaignRequest) -> str:
    """The advice for a model that only the open division accepts."""
    if request.only_compliance:
        return "run no compliance test: the open division needs none"
    return "use --division open"


def _scenarios(request: CampaignRequest, entry: _PlannedModel) -> list[str]:
    round_ = installed_round()
    required = round_.required(entry.benchmark, request.system_type)
    if request.scenarios:
        return list(dict.fromkeys(choose("scenario", SCENARIOS, scenario) for scenario in request.scenarios))
    if not required:
        raise ConfigError(
            f"{round_.name} has no {entry.benchmark} on systems of type {request.system_type}: use --system-type edge."
        )
    return [scenario for scenario in SCENARIOS if scenario in required]


def _to_infer(request: CampaignRequest, entry: _PlannedModel, scenarios: Sequence[str]) -> dict[str, Inference]:
    """The scenarios whose results are inferred from those of the others, if the user requests it.

    Raises:
        ConfigError: the rules do not allow it for a system of this type.
    """
    if not request.infer:
        return {}
    if not may_infer(request.system_type):
        raise ConfigError(
            f"results may be inferred only for systems of type edge, not {request.system_type}: omit --infer (INFER=)."
        )
    return inferable(scenarios, installed_round().required(entry.benchmark, request.system_type))


def _lower_accuracy(steps: Sequence[Step], inferred: Sequence[InferredResult]) -> Iterator[InferredResult]:
    """The results that also count for a benchmark with a lower accuracy target."""
    measured = {step.settings.scene: step.settings.scene for step in steps}
    for scene, origin in (measured | {each.scene: each.origin for each in inferred}).items():
        if low := LOWER_ACCURACY.get(scene.benchmark):
            yield InferredResult(replace(scene, benchmark=low), origin)


def _steps(request: CampaignRequest, entry: _PlannedModel, scenario: str) -> list[Step]:
    """The tests of one scenario in running order."""
    run = replace(entry.run, scenario=scenario)
    official = {mode: Step(resolve(replace(run, mode=mode))) for mode in MODES}
    tests = RULES[entry.benchmark].tests if request.closed else ()
    audits = [
        Step(resolve(replace(run, compliance=test)), [official[each] for each in AUDITS[test].references])
        for test in tests
    ]
    return [*official.values(), *audits]
