"""From a user's request to the settings of a run, checked before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, TypeAlias

from harness.catalog import manifests
from harness.catalog.datasets import find_dataset
from harness.catalog.manifests import Model
from harness.catalog.models import find_model
from harness.engines.base import Engine, find_engine
from harness.errors import ConfigError
from harness.loadgen.conf import read_user_conf
from harness.paths import ROOT
from harness.registry import ENGINES, MODES, SCENARIOS, choose
from harness.results.layout import check_checkout
from harness.rules.audits import find_audit
from harness.rules.rehearsal import REHEARSAL_TREE
from harness.scenarios.base import Scenario, find_scenario
from harness.settings import tuned
from harness.settings.fastest import fastest
from harness.settings.options import split
from harness.settings.run import THREADS, RunSettings, cluster_name
from harness.task.base import find_benchmark
from harness.validation import validated

NameOrPath: TypeAlias = Annotated[str, "a name, or the path of a file or folder"]


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """A run as requested by a user; `resolve` fills in what is left open.

    The fields have the names of the options of `harness run`, which are also the keys of run files. None leaves the
    choice to the harness.
    """

    model: NameOrPath | None = None
    engine: str | None = None
    scenario: str = "Offline"
    mode: str = "performance"
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the engine and the benchmark by name, as for `--set`."""
    dataset: NameOrPath | None = None
    samples: int | None = None
    duration: float | None = None
    official: bool = False
    rehearsal: bool = False
    compliance: str | None = None
    """The compliance test to run: TEST01 or TEST04."""
    force: bool = False
    system: str | None = None
    user_conf: Path | None = None
    runs_dir: Path | None = None
    tree: Path | None = None
    cache_dir: Path | None = None
    measurements_dir: Path | None = None
    """The folder of tuned settings; None ignores them."""
    tuned: bool | None = None
    """None: use settings tuned on this machine; True: use settings tuned anywhere; False: use none."""
    shown: str | None = None
    timeline: str | None = None
    profile: bool = False
    stall_timeout: float | None = None
    cluster: NameOrPath | None = None
    cluster_samples: str | None = None


def resolve(request: RunRequest) -> RunSettings:
    """The settings of the requested run.

    Raises:
        ConfigError: a name is unknown, a value is wrong, or two settings contradict each other.
    """
    scenario = choose("scenario", SCENARIOS, request.scenario)
    mode = choose("mode", MODES, request.mode)
    model = find_model(request.model or manifests.default_model())
    chosen = _chosen(request, model, scenario)
    engine = find_engine(chosen.engine)
    benchmark = find_benchmark(model.benchmark)
    try:
        engine_settings, benchmark_settings = split(chosen.options, engine, benchmark, model.settings)
    except ConfigError as error:
        if chosen.tuned is None:
            raise
        split(request.options, engine, benchmark, model.settings)  # reports a mistake in the user's own options as such
        raise ConfigError(
            f"{chosen.tuned} cannot be used ({str(error).rstrip('.')}): tune again, or delete it."
        ) from error
    audit = find_audit(request.compliance).name if request.compliance else None
    _check(request, mode, audit)
    if request.profile:
        _check_profile(request, mode, engine)
    if request.cluster:
        _check_cluster(request, find_scenario(scenario))
    official = request.official or request.rehearsal
    if official and not request.rehearsal:
        _check_official(engine, model)
    read_user_conf(chosen.user_conf)  # a mistake in it is reported before anything runs
    asked = {
        each.name: getattr(request, each.name) for each in fields(request) if each.name in RunSettings.model_fields
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if request.rehearsal:
        given.setdefault("tree", REHEARSAL_TREE)
    return validated(
        RunSettings,
        {
            **given,
            "model": model,
            "engine": chosen.engine,
            "engine_choice": chosen.why,
            "engine_settings": engine_settings,
            "benchmark_settings": benchmark_settings,
            "scenario": scenario,
            "mode": mode,
            "official": official,
            "audit": audit,
            "user_conf": chosen.user_conf,
            "tuned": chosen.tuned,
            "remarks": chosen.remarks,
        },
    )


@dataclass(frozen=True)
class _ResolvedSettings:
    """Engine, options and user.conf: the user's, else the tuned ones, else the defaults."""

    engine: str
    options: Mapping[str, str]
    user_conf: Path | None
    why: str | None = None
    """How the engine was chosen; None if the user named it."""
    tuned: Path | None = None
    """The file that the tuned settings were read from."""
    remarks: tuple[str, ...] = ()


def _chosen(request: RunRequest, model: Model, scenario: str) -> _ResolvedSettings:
    engine = choose("engine", ENGINES, request.engine) if request.engine else None
    if not request.measurements_dir or request.tuned is False:
        return _without_tuning(request, model, engine)
    place = tuned.folder(request.measurements_dir, request.system, model.official_name, scenario)
    record, remark = _tuned(place, model, engine, request)
    if record is None:
        plain = _without_tuning(request, model, engine)
        return replace(plain, remarks=(remark, *plain.remarks)) if remark else plain
    options = tuned.merged(request.options, record)
    remark = f"{remark}: {record.engine}, {tuned.words(options)}"
    conf = request.user_conf or default_conf()
    why = _why_rate_unusable(record, model.benchmark, options, request.dataset, request.samples)
    official = request.official or request.rehearsal
    if official and find_scenario(scenario).one_query and _rate_unedited(place, record, model.benchmark):
        why = why or "an official run measures its own, so that it takes no longer than necessary"
    if why:
        remark += f"; its {record.key} is not used, since {why}"
    else:
        conf = request.user_conf or place / tuned.CONF
    chosen = None if engine else f"tuned for {model.name} in {scenario}"
    return _ResolvedSettings(record.engine, options, conf, chosen, place / tuned.FILE, (remark,))


def _without_tuning(request: RunRequest, model: Model, engine: str | None) -> _ResolvedSettings:
    """The user's engine and options, else the fastest engine that is installed for the model."""
    conf = request.user_conf or default_conf()
    if engine:
        return _ResolvedSettings(engine, request.options, conf)
    found = fastest(model)
    return _ResolvedSettings(found.engine, request.options, conf, found.why, remarks=(str(found),))


def _check(request: RunRequest, mode: str, audit: str | None) -> None:
    """Reject requests that contradict themselves.

    Raises:
        ConfigError: two options contradict each other.
    """
    official = request.official or request.rehearsal
    if official:
        check_checkout("an official run or a rehearsal")
    if audit and mode != "performance":
        raise ConfigError(f"{audit} repeats an official performance run: omit --mode {mode}.")
    if audit and not official:
        raise ConfigError(f"{audit} repeats an official performance run: pass --official as well.")
    if request.rehearsal and (request.duration or 1) < 1:
        raise ConfigError(f"--duration {request.duration:g} is too short for a rehearsal: use at least 1 second.")
    if official and request.timeline == "loadgen":
        raise ConfigError("an official run has no trace: omit --timeline loadgen.")
    shortened = {"samples": request.samples, "duration": None if request.rehearsal else request.duration}
    for name, value in shortened.items():
        if official and value is not None:
            raise ConfigError(f"an official run covers everything that the rules require: omit --{name}.")


def _check_profile(request: RunRequest, mode: str, engine: type[Engine]) -> None:
    """Reject runs that leave no profile.

    Raises:
        ConfigError: the engine has none, or the run no batches to repeat.
    """
    engine.profiler()
    if mode != "performance":
        raise ConfigError("--profile needs a performance run: omit --profile or --mode accuracy.")
    if request.timeline == "off":
        raise ConfigError("--profile needs the timeline: omit --profile or --timeline off.")
    if request.cluster:
        raise ConfigError("--profile works on one machine only: omit --cluster, and run it on one of the nodes.")


def _check_cluster(request: RunRequest, scenario: type[Scenario]) -> None:
    """Reject runs that several nodes cannot, or must not, do together.

    Raises:
        ConfigError: the scenario has one query at a time, or the result would not be one of a cluster.
    """
    assert request.cluster
    if scenario.latency:
        raise ConfigError(
            f"{scenario.name} has one query at a time, which several nodes answer no faster than one: choose Offline "
            "or Server, or omit --cluster."
        )
    if request.official and request.cluster.startswith(THREADS):
        raise ConfigError(f"{THREADS}N only imitates nodes, so it cannot give an official result: give a hosts file.")


def _check_official(engine: type[Engine], model: Model) -> None:
    if not engine.computes:
        raise ConfigError(f"the {engine.name} engine computes nothing, so it cannot give an official result.")
    if model.caveat:
        raise ConfigError(f"{model.path} has {model.caveat}, so it cannot give an official result.")


def default_conf() -> Path | None:
    """The project's user.conf; None if there is none."""
    path = ROOT / "user.conf"
    return path if path.is_file() else None


def _tuned(place: Path, model: Model, engine: str | None, request: RunRequest) -> tuple[tuned.Tuned | None, str | None]:
    """The tuned settings in a folder if they are to be used, and a remark for the user."""
    use, cluster = request.tuned, cluster_name(request.cluster)
    record = tuned.read(place)
    if record is None:
        if use:
            raise ConfigError(f"there are no tuned settings in {place}: create them with `harness tune`.")
        return None, None
    mismatch = record.mismatch(model.sha256, engine, cluster)
    other_machine = mismatch is not None and record.mismatch(model.sha256, engine, cluster, anywhere=True) is None
    if mismatch and not (use and other_machine):
        if use:
            raise ConfigError(f"the settings in {place} {mismatch}.")
        return None, f"the settings in {place} {mismatch}; they are not used."
    where = f"on another machine ({record.machine})" if mismatch else "here"
    return record, f"using the settings in {place}, tuned {where}"


def _why_rate_unusable(
    record: tuned.Tuned, benchmark: str, options: Mapping[str, str], dataset: str | None, samples: int | None
) -> str | None:
    """Why a run cannot use the tuned rate, although it uses the engine's settings; None if it can."""
    found = find_dataset(benchmark, dataset)
    if (found.name, found.sha256, samples) != (record.dataset, record.dataset_sha256, record.samples):
        return f"it was found with {'the first samples of ' if record.samples else ''}data set {record.dataset}"
    if options != record.options:
        return "it was found with other options"
    if tuned.digest(default_conf()) != record.base_conf:
        return "user.conf has changed since"
    return None


def _rate_unedited(place: Path, record: tuned.Tuned, benchmark: str) -> bool:
    """Whether user.conf still has the value that tuning found, unedited."""
    line = read_user_conf(place / tuned.CONF).lookup(benchmark, record.scenario, record.key)
    return line is not None and float(line.value) == float(f"{record.value:.6g}")
