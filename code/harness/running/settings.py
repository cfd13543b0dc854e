"""The settings of a run, checked before anything is loaded."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.catalog.datasets import find_dataset
from harness.catalog.manifests import Model, default_model
from harness.catalog.models import find_model
from harness.engines.base import Engine
from harness.errors import ConfigError, did_you_mean
from harness.host.machine import default_system_name
from harness.paths import ROOT
from harness.registry import BENCHMARKS, ENGINES, MODES, SCENARIOS, choose, default_engine, resolve
from harness.results.layout import Classic, Scene
from harness.rules.audits import find_audit
from harness.rules.rehearsal import NOTICE, REHEARSAL, REHEARSAL_PREFIX, REHEARSAL_TREE
from harness.running import tuned


class RunSettings(BaseModel):
    """Everything that decides what a run does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Model
    engine: str
    engine_settings: Any
    benchmark_settings: Any
    scenario: str
    mode: str
    dataset: str | None = None
    samples: int | None = Field(None, ge=1)
    duration: float | None = Field(
        None, ge=0.1, allow_inf_nan=False, description="seconds of a development run or rehearsal"
    )
    official: bool = False
    """Whether the rules' sizes and durations apply; in rehearsals, too."""
    rehearsal: bool = False
    """Whether stand-ins for data, engine and weights are fine, and everything says so."""
    audit: str | None = None
    """The compliance test that this run is, TEST01 or TEST04; ``mode`` is then performance."""
    force: bool = False
    system: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    user_conf: Path | None = None
    runs_dir: Path = ROOT / "build" / "runs"
    tree: Path = ROOT
    """The folder whose results/ and compliance/ official runs go to."""
    cache_dir: Path = ROOT / "build" / "cache"
    tuned: Path | None = None
    """The file that engine, options and user.conf were taken from, where they were tuned."""
    remarks: tuple[str, ...] = ()
    """What the user should hear before the run."""
    shown: Literal["table", "json", "nothing"] = "table"
    """How the result is printed."""
    timeline: Literal["harness", "loadgen", "off"] = "harness"
    """Who records when queries and batches ran, for reports."""
    stall_timeout: float = Field(
        120.0, gt=0, allow_inf_nan=False, description="seconds without a completed batch that end a run"
    )

    @property
    def notices(self) -> list[str]:
        """What everything that the run prints or writes has to say."""
        notices = [REHEARSAL] if self.rehearsal else [] if self.official else [NOTICE]
        said = [words for words in (self.model.caveat, self.model.remark) if words]
        return [*notices, f"Model {self.model.name}: {', '.join(said)}."] if said else notices

    @property
    def scene(self) -> Scene:
        """What the run is a result of."""
        system = self.system or default_system_name()
        if self.rehearsal and not system.startswith(REHEARSAL_PREFIX):
            system = REHEARSAL_PREFIX + system
        return Scene(system, self.model.official_name, self.scenario)

    @property
    def target(self) -> Path | None:
        """The folder that the logs go to once they are valid: below results/ or compliance/; None in development."""
        if not self.official:
            return None
        layout = Classic(self.tree)
        if self.audit:
            return layout.compliance(self.scene, self.audit)
        return layout.performance(self.scene) if self.mode == "performance" else layout.accuracy(self.scene)


def make_settings(
    *,
    model: str | None,
    engine: str | None,
    scenario: str,
    mode: str,
    options: Mapping[str, str],
    measurements: Path | None = None,
    use_tuned: bool | None = None,
    **rest: Any,
) -> RunSettings:
    """Settings from what the user typed; ``options`` are the engine's and the benchmark's own, by name.

    What is left open comes from the settings that were tuned for the model and scenario, if they lie below
    ``measurements``: with ``use_tuned`` None if they were tuned on this machine, with True wherever they were.

    Raises:
        ConfigError: a name is unknown, a value is wrong, or two settings contradict each other.
    """
    engine = choose("engine", ENGINES, engine) if engine else None
    scenario = choose("scenario", SCENARIOS, scenario)
    mode = choose("mode", MODES, mode)
    found = find_model(model or default_model())
    if measurements and use_tuned is not False:
        place = tuned.folder(measurements, rest.get("system"), found.official_name, scenario)
        record, remark = _tuned(place, found, engine, use_tuned)
        if record:
            engine, options = record.engine, tuned.merged(options, record)
            rest["tuned"] = place / tuned.FILE
            remark += f": {engine}, {tuned.words(options)}"
            why = _other_circumstances(record, found.benchmark, options, rest.get("dataset"), rest.get("samples"))
            if why:
                remark += f"; not its {record.key}, since {why}"
            else:
                rest.setdefault("user_conf", place / tuned.CONF)
        rest["remarks"] = (remark,) if remark else ()
    engine = engine or default_engine()
    rest.setdefault("user_conf", default_conf())
    engine_class = resolve("engine", ENGINES, engine)
    if not (isinstance(engine_class, type) and issubclass(engine_class, Engine)):
        raise ConfigError(f"{engine} is no engine: a subclass of harness.engines.base.Engine is needed.")
    benchmark_class = resolve("benchmark", BENCHMARKS, found.benchmark)
    owners = {"engine": engine_class.Settings, "benchmark": benchmark_class.Settings}
    parts = _split(options, owners, {"benchmark": found.settings}, engine)
    if rest.get("audit"):
        rest["audit"] = find_audit(rest["audit"]).name
        if mode != "performance" or not (rest.get("official") or rest.get("rehearsal")):
            raise ConfigError(f"{rest['audit']} repeats an official performance run: give --official with it.")
    if rest.get("rehearsal"):
        if (rest.get("duration") or 1) < 1:
            raise ConfigError(f"--duration {rest['duration']:g} is too short for a rehearsal: give 1 second or more.")
        rest["official"] = True
        rest.setdefault("tree", REHEARSAL_TREE)
    if rest.get("official") and rest.get("timeline") == "loadgen":
        raise ConfigError("an official run has no trace: leave out --timeline loadgen.")
    if rest.get("official"):
        for name in ("samples",) if rest.get("rehearsal") else ("samples", "duration"):
            if rest.get(name) is not None:
                raise ConfigError(f"an official run covers what the rules demand: leave out --{name}.")
    if rest.get("official") and not rest.get("rehearsal"):
        if not engine_class.computes:
            raise ConfigError(f"the {engine_class.name} engine computes nothing, so it has no official result.")
        if found.caveat:
            raise ConfigError(f"{found.path} has {found.caveat}, so it has no official result.")
    return validated(
        RunSettings,
        {
            "model": found,
            "engine": engine,
            "scenario": scenario,
            "mode": mode,
            "engine_settings": parts["engine"],
            "benchmark_settings": parts["benchmark"],
            **rest,
        },
    )


def default_conf() -> Path | None:
    """The project's user.conf, None where there is none."""
    path = ROOT / "user.conf"
    return path if path.is_file() else None


def _tuned(place: Path, model: Model, engine: str | None, use: bool | None) -> tuple[tuned.Tuned | None, str | None]:
    """The tuned settings in a folder if they are to be used, and what to say about them."""
    record = tuned.read(place)
    if record is None:
        if use:
            raise ConfigError(f"there are no tuned settings in {place}: make them with `harness tune`.")
        return None, None
    mismatch = record.mismatch(model.sha256, engine)
    other_machine = mismatch is not None and record.mismatch(model.sha256, engine, anywhere=True) is None
    if mismatch and not (use and other_machine):
        if use:
            raise ConfigError(f"the settings in {place} {mismatch}.")
        return None, f"the settings in {place} {mismatch}: they are not used."
    where = f"on another machine ({record.machine})" if mismatch else "here"
    return record, f"with the settings of {place}, tuned {where}"


def _other_circumstances(
    record: tuned.Tuned, benchmark: str, options: Mapping[str, str], dataset: str | None, samples: int | None
) -> str | None:
    """Why the rate that was tuned does not count in a run, though the engine's settings do; None if it does."""
    found = find_dataset(benchmark, dataset)
    if (found.name, found.sha256, samples) != (record.dataset, record.dataset_sha256, record.samples):
        return f"it was found with {'the first samples of ' if record.samples else ''}data set {record.dataset}"
    if options != record.options:
        return "other options were in force then"
    if tuned.digest(default_conf()) != record.base_conf:
        return "user.conf was changed after that"
    return None


def options_help() -> list[tuple[str, str, str]]:
    """Every option of `--set`: (owner, name, what it is for)."""
    rows = []
    for kind, table in (("engine", ENGINES), ("benchmark", BENCHMARKS)):
        for owner in table:
            settings = resolve(kind, table, owner).Settings
            for name, field in settings.model_fields.items():
                default = "" if field.default is None else f" [{field.default}]"
                rows.append((owner, name, f"{_type(field.annotation)}: {field.description}{default}"))
    return rows


def _split(
    options: Mapping[str, str],
    owners: dict[str, type[BaseModel]],
    defaults: dict[str, dict[str, str | int]],
    engine: str,
) -> dict[str, BaseModel]:
    values: dict[str, dict[str, str | int]] = {owner: dict(defaults.get(owner, {})) for owner in owners}
    for name, value in options.items():
        owner = next((owner for owner, settings in owners.items() if name in settings.model_fields), None)
        if owner is None:
            valid = [field for settings in owners.values() for field in settings.model_fields]
            raise ConfigError(f"unknown option '{name}' for engine {engine}: {did_you_mean(name, valid)}")
        values[owner][name] = value
    return {owner: validated(settings, values[owner]) for owner, settings in owners.items()}


def validated(settings: type[BaseModel], values: Mapping[str, Any]) -> Any:
    """Settings of that class from what the user typed.

    Raises:
        ConfigError: a value is wrong; the sentence names the first one.
    """
    try:
        return settings.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else settings.__name__
        reason = first["msg"][:1].lower() + first["msg"][1:]
        raise ConfigError(f"{name} = {first['input']}: {reason}.") from None


def _type(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type(part) for part in typing.get_args(annotation) if part is not type(None))
    if origin is typing.Literal:
        return "|".join(map(str, typing.get_args(annotation)))
    return getattr(annotation, "__name__", str(annotation))
