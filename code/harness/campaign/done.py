"""Whether a campaign's test is done: its record is valid, complete, and matches the current model, data and results."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from harness.campaign.steps import Step
from harness.catalog.datasets import find_dataset
from harness.catalog.models import find_model
from harness.errors import ConfigError
from harness.loadgen.conf import read_user_conf
from harness.loadgen.logs import ACCURACY, DETAIL, SUMMARY
from harness.results.layout import CONF, SCORES, Classic, Scene
from harness.results.record import Record, read_record, reference
from harness.settings.identity import identity


@dataclass(frozen=True)
class ExaminedFolder:
    """The findings on a test's folder."""

    record: Record | None = None
    """The record; None if the test is not done."""
    repeat_because: str = ""
    """Why the test must be repeated although the folder holds a result; it is kept until the new one replaces it."""


def examine(steps: Sequence[Step]) -> list[ExaminedFolder]:
    """Whether tests are done, each on its own and compared with the others of its scenario.

    Raises:
        ConfigError: a record cannot be read, or belongs to another test, model, engine or settings.
    """
    today = _CurrentState()
    found = [today.examine(step) for step in steps]
    # Hashing all images takes minutes, so the newest test of a scenario stands for their current content.
    newest: dict[Scene, Record] = {}
    for step, each in zip(steps, found, strict=True):
        scene = step.settings.scene
        if each.record and (scene not in newest or _ended(each.record) >= _ended(newest[scene])):
            newest[scene] = each.record
    return [
        ExaminedFolder(repeat_because=f"its data set is not that of the newer {newest[step.settings.scene].test} run")
        if each.record and each.record.dataset.content != newest[step.settings.scene].dataset.content
        else each
        for step, each in zip(steps, found, strict=True)
    ]


def user_conf_change(step: Step) -> str:
    """How user.conf differs from the one that a done performance test used, in words; "" if it does not.

    The result still counts, but a user who has raised a rate expects a test at that rate.
    """
    settings = step.settings
    if settings.accuracy or settings.audit:
        return ""
    now = read_user_conf(settings.user_conf)
    try:
        then = read_user_conf(step.folder / CONF)
    except ConfigError:
        return ""
    if then.text == now.text:
        return ""
    scope = settings.model.benchmark, settings.scenario
    old, new = then.without_own().values(*scope), now.values(*scope)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    before, after = (", ".join(_setting(key, values) for key in keys) for values in (old, new))
    return f"{before} then, {after} now" if keys else ""


def _setting(key: str, values: Mapping[str, float]) -> str:
    return f"{key} = {values[key]:.10g}" if key in values else f"{key} unset"


def _ended(record: Record) -> float:
    """When a test ended, in seconds; 0 if its record does not say."""
    with contextlib.suppress(ValueError, OverflowError, OSError):
        return datetime.fromisoformat(record.time).timestamp()
    return 0.0


@dataclass(frozen=True)
class _CurrentState:
    """The current models and data sets, each read only once."""

    _datasets: dict[tuple[str, str | None], str | None] = field(default_factory=dict)
    _models: dict[str, str | None] = field(default_factory=dict)

    def examine(self, step: Step) -> ExaminedFolder:
        """Whether a test is done, regardless of other tests."""
        record = read_record(step.folder)
        if record is None and step.folder.exists():
            raise ConfigError(f"{step.folder} has no record (run.json), so it is not from this harness: move it away.")
        if record is None:
            return ExaminedFolder()
        if other := _other(step, record):
            raise ConfigError(
                f"{step.folder} holds a run with another {other}: move it away, or use the same for this campaign."
            )
        again = self._outdated(step, record)
        return ExaminedFolder(repeat_because=again) if again else ExaminedFolder(record)

    def _outdated(self, step: Step, record: Record) -> str:
        settings = step.settings
        if not record.valid:
            return "its record says that it is not valid"
        files = (SUMMARY, DETAIL, ACCURACY, SCORES) if settings.accuracy else (SUMMARY, DETAIL)
        if missing := [file for file in files if not (step.folder / file).is_file()]:
            return f"{missing[0]} is missing"
        if self._model(step) not in (None, record.identity.model_sha256):
            return "its model has changed"
        if record.dataset.sha256 is not None and self._dataset(step, record) not in (None, record.dataset.sha256):
            return "its data set has changed"
        if settings.audit and record.reference != reference(
            Classic(settings.tree).results(settings.scene), settings.audit
        ):
            return "it was compared with results that were replaced later"
        return ""

    def _model(self, step: Step) -> str | None:
        """sha256 of the model; None if it no longer exists."""
        path = str(step.settings.model.path)
        if path not in self._models:
            self._models[path] = None
            with contextlib.suppress(ConfigError):
                self._models[path] = find_model(path).sha256
        return self._models[path]

    def _dataset(self, step: Step, record: Record) -> str | None:
        """sha256 of the data set that a test would use; None if it is not on this machine."""
        settings = step.settings
        # A rehearsal makes its own data set.
        name = record.dataset.path if settings.rehearsal and settings.dataset is None else settings.dataset
        key = (settings.model.benchmark, name)
        if key not in self._datasets:
            self._datasets[key] = None
            with contextlib.suppress(ConfigError):
                found = find_dataset(*key)
                # An official test rejects the shipped sample, which is the default without the full data set.
                usable = found.official or settings.rehearsal or settings.dataset is not None
                self._datasets[key] = found.sha256 if usable else None
        return self._datasets[key]


def _other(step: Step, record: Record) -> str | None:
    """The name of the first fact in which a record does not match this test; None if all match."""
    settings = step.settings
    facts = {
        "scenario": (record.scenario, settings.scenario),
        "test": (record.test, step.test),
        "kind (rehearsal or official)": (
            (record.rehearsal, record.for_submission),
            (settings.rehearsal, not settings.rehearsal),
        ),
    }
    return next((words for words, (one, two) in facts.items() if one != two), None) or record.identity.difference(
        identity(settings)
    )
