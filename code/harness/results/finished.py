"""A finished run for reports: its record, LoadGen's log and its timeline, wherever each is stored."""

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from harness import paths
from harness.catalog import manifests
from harness.errors import ConfigError, RunFailed, did_you_mean
from harness.loadgen.logs import DETAIL, read_detail
from harness.results.layout import RUN
from harness.results.profile import PROFILE, Profile, read_profile
from harness.results.record import Record, RecordedModel, read_record
from harness.results.timeline import TIMELINE, Timeline, read_timeline
from harness.rules.rehearsal import REHEARSAL_TREE
from harness.scenarios.base import Metric, Scenario, find_scenario
from harness.terminal import console

TREES = (paths.ROOT, REHEARSAL_TREE)
"""The folders that contain results/ and compliance/."""


@dataclass(frozen=True)
class Finished:
    """A run that ended."""

    name: str
    """The folder's name, or its path below results/ or compliance/."""
    record: Record
    """run.json, without paths that reveal a user's folders."""
    values: dict[str, Any]
    """The values in mlperf_log_detail.txt by key; empty if the log no longer exists."""
    metrics: tuple[Metric, ...]
    """The scenario's metric, or the scores of an accuracy run."""
    latency_ms: dict[str, float]
    """By percentile, such as "99.00"; empty for accuracy runs."""
    bound_ms: float | None
    duration_s: float | None
    timeline: Timeline | None
    profile: Profile | None = None
    """The time of each operator, if the run was made with --profile."""
    logs: Path | None = None
    """The folder of LoadGen's logs; None if they no longer exist."""

    @property
    def performance(self) -> bool:
        """Whether it measured speed rather than accuracy."""
        return self.record.performance

    @property
    def scenario(self) -> type[Scenario]:
        """LoadGen's scenario."""
        return find_scenario(self.record.scenario)

    @property
    def verdict(self) -> str:
        """VALID or INVALID; "complete" for an accuracy run, which LoadGen does not judge."""
        return "INVALID" if not self.record.valid else "VALID" if self.performance else "complete"

    @property
    def disturbed(self) -> str:
        """The processes that took cores from this run, and the affected quantity; "" if it was not disturbed."""
        return f"{self.record.disturbed}: {self.scenario.suffers}" if self.record.disturbed else ""

    @property
    def reasons(self) -> list[str]:
        """Why the run is INVALID; empty if it is not."""
        return self.record.reasons or []

    @property
    def title(self) -> str:
        """Model, engine, scenario and test in a few words."""
        record = self.record
        return f"{self.model.title} on {record.engine.name}, {record.scenario} {record.test}"

    @property
    def label(self) -> str:
        """The start time, or the name if it does not contain one."""
        found = re.match(r"(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)-", self.name)
        return "{}-{}-{} {}:{}:{}".format(*found.groups()) if found else self.name

    @property
    def model(self) -> RecordedModel:
        """The model that ran."""
        return self.record.model

    @property
    def published(self) -> str | None:
        """The row of the published table for the model, or for the one it was built and compressed like, or None."""
        model = self.model
        rows = manifests.published()
        if model.name in rows:
            return model.name
        built = model.metadata.get("model", "")
        if built not in rows:
            return None
        entry = manifests.models()[built][1]
        same = model.precision == entry.precision and ("compression" in model.metadata) == bool(entry.recipe)
        if entry.recipe:
            same &= model.metadata.get("sparsity", "0") == f"{entry.recipe.sparsity:g}"
        return built if same else None

    @property
    def padding(self) -> float | None:
        """Padding ÷ the samples' own cost; None if unknown."""
        ratio = self.record.result.padded_to_real
        return ratio - 1 if ratio else None

    @property
    def cores_busy(self) -> tuple[float, float] | None:
        """The mean number of busy cores, for the process and for the machine."""
        if cores := self.record.result.cores:
            return cores.own, cores.own + cores.others + cores.stolen
        return self.timeline.cores_busy if self.timeline else None


def find(names: Sequence[str], last: int | None, runs_dir: Path, tree: Path | None = None) -> list[Finished]:
    """Runs by name or folder, or the ``last`` ones of ``runs_dir``, oldest first; by default the newest.

    A folder that is not a run, such as build/runs, stands for all runs below it. A run that was not named and cannot be
    read is skipped with a warning.

    Raises:
        ConfigError: there are no runs, or a named run cannot be read.
        RunFailed: LoadGen's log of a named run is truncated.
    """
    if names and last:
        raise ConfigError("--last cannot be combined with names of runs: omit one of them.")
    trees = [tree] if tree else TREES
    if names:
        named = [run for folder in locate(names, runs_dir, trees) for run in _all_in(folder, runs_dir, trees)]
        if not named:
            raise ConfigError(f"no run in {', '.join(names)} can be read: name finished runs of this version.")
        return named
    known = _folders(runs_dir)
    if not known:
        raise ConfigError(f"there is no finished run in {runs_dir}: make one with `harness run`.")
    found: list[Finished] = []
    for folder in reversed(known.values()):
        try:
            found.append(read(folder, runs_dir, trees))
        except (ConfigError, RunFailed) as error:
            console.warn(f"skipped: {error}")
        if len(found) == (last or 1):
            break
    if not found:
        raise ConfigError(f"no run in {runs_dir} can be read: make one with `harness run`.")
    return found[::-1]


def _all_in(folder: Path, runs_dir: Path, trees: Sequence[Path]) -> Iterator[Finished]:
    """The run in a folder, or those below a folder of runs, in the order of their names."""
    below = [] if (folder / RUN).exists() else sorted(path.parent for path in folder.rglob(RUN))
    below = [each for each in below if not any(part.startswith(".") for part in each.relative_to(folder).parts)]
    if not below:
        yield read(folder, runs_dir, trees)
    for each in below:
        try:
            yield read(each, runs_dir, trees)
        except (ConfigError, RunFailed) as error:
            console.warn(f"skipped: {error}")


def read(folder: Path, runs_dir: Path, trees: Iterable[Path]) -> Finished:
    """The run whose record is in that folder.

    An official run's logs are in results/ or compliance/, and its timeline is in ``runs_dir``: from either folder, the
    other is found.

    Raises:
        ConfigError: the record cannot be read, or names an unknown scenario.
        RunFailed: LoadGen's log is truncated.
    """
    record = record_in(folder)
    scenario = find_scenario(record.scenario)
    logs = folder if (folder / DETAIL).exists() else _other_folder(record, _official(trees), DETAIL)
    result = record.result
    metrics: tuple[Metric, ...] = (Metric(result.metric.name, result.metric.value, result.metric.unit),)
    latencies, bound, duration, values = result.latency_ms or {}, None, result.duration_s, {}
    if logs:
        detail = read_detail(logs, record.mode)
        metrics = (scenario.metric(detail),)
        latencies, bound, duration, values = detail.latencies, detail.bound, detail.duration, detail.values
    if not record.performance:
        metrics = tuple(Metric(name, value, "%") for name, value in (result.accuracy or {}).items())
        latencies, bound, duration = {}, None, None
    return Finished(
        name=_name(folder, trees),
        record=Record.model_validate_json(json.dumps(_shareable(record.values()))),
        values=values,
        metrics=metrics,
        latency_ms=latencies,
        bound_ms=bound,
        duration_s=duration,
        timeline=timeline(folder, record, runs_dir),
        profile=profile(folder, record, runs_dir),
        logs=logs,
    )


def timeline(folder: Path, record: Record, runs_dir: Path) -> Timeline | None:
    """The timeline of the run in that folder; an official result's is next to its record in ``runs_dir``."""
    found = _folder_with(TIMELINE, folder, record, runs_dir)
    return read_timeline(found) if found else None


def profile(folder: Path, record: Record, runs_dir: Path) -> Profile | None:
    """The profile of the run in that folder, found like its timeline."""
    found = _folder_with(PROFILE, folder, record, runs_dir)
    return read_profile(found) if found else None


def _folder_with(file: str, folder: Path, record: Record, runs_dir: Path) -> Path | None:
    """The folder with that file of a run: its own, or that of its record in ``runs_dir``; None if neither has it."""
    # If the folder is in runs_dir itself, a missing file was never written.
    if (folder / file).exists() or folder.resolve().parent == runs_dir.resolve():
        return folder
    return _other_folder(record, _folders(runs_dir).values(), file)


def locate(names: Sequence[str], runs_dir: Path, trees: Iterable[Path] | None = None) -> list[Path]:
    """The folders of runs given by name or path, or by path below one of the trees.

    Raises:
        ConfigError: a run does not exist.
    """
    known = _folders(runs_dir)
    found = []
    for name in names:
        name = name.removesuffix(f"/{RUN}")
        places = [known[name]] if name in known else [Path(name), *(tree / name for tree in trees or TREES)]
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            meant = did_you_mean(name, known)
            if len(known) > 5 and meant.startswith("choose"):
                meant = f"the newest are {', '.join(list(known)[-5:])}."
            raise ConfigError(f"there is no run '{name[:200]}', neither as a folder nor in {runs_dir}: {meant}")
        found.append(folder)
    return found


def record_in(folder: Path) -> Record:
    """The record of the run in that folder.

    Raises:
        ConfigError: it does not exist or cannot be read.
    """
    record = read_record(folder)
    if record is None:
        raise ConfigError(f"{folder} contains no {RUN}: give the folder of a finished run.")
    return record


def names(runs_dir: Path) -> list[str]:
    """The names of the finished runs, oldest first."""
    return list(_folders(runs_dir))


def _folders(runs_dir: Path) -> dict[str, Path]:
    # A name begins with the second in which the run started; runs that started in the same second are sorted by end.
    found = [path.parent for path in runs_dir.glob(f"*/{RUN}") if not path.parent.name.startswith(".")]
    found.sort(key=lambda folder: (folder.name.partition("-")[0], (folder / RUN).stat().st_mtime, folder.name))
    return {folder.name: folder for folder in found}


def _official(trees: Iterable[Path]) -> Iterator[Path]:
    for tree in trees:
        for kind in ("results", "compliance"):
            yield from sorted(path.parent for path in (tree / kind).rglob(RUN))


def _other_folder(record: Record, folders: Iterable[Path], file: str) -> Path | None:
    """The other folder of the same run, if it contains ``file``."""
    for folder in folders:
        if not (folder / file).exists():
            continue
        try:
            other = read_record(folder)
        except ConfigError:
            continue
        if other and _same_run(other, record):
            return folder
    return None


def _same_run(one: Record, other: Record) -> bool:
    facts = [(record.time, record.command, record.identity, record.scenario) for record in (one, other)]
    return facts[0] == facts[1]


def _shareable(value: JsonValue) -> JsonValue:
    """A record with paths relative to the repository or to ~, so that a report does not reveal a user's folders."""
    if isinstance(value, dict):
        return {key: _shareable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_shareable(inner) for inner in value]
    if not isinstance(value, str) or "/" not in value:
        return value
    for folder, short in ((str(paths.ROOT), ""), (os.path.expanduser("~").rstrip("/"), "~/")):  # noqa: PTH111  no error
        if folder.startswith("/"):
            value = re.sub(rf"(?<![\w.~/-]){re.escape(folder)}/", short, value)
    return value


def _name(folder: Path, trees: Iterable[Path]) -> str:
    folder = folder.resolve()
    for tree in trees:
        for kind in ("results", "compliance"):
            if folder.is_relative_to(tree.resolve() / kind):
                return str(folder.relative_to(tree.resolve()))
    return folder.name
