"""`harness export mlflow`: finished runs as runs of MLflow. Only this file imports mlflow, which is optional."""

from __future__ import annotations

import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from socket import gaierror
from typing import Protocol
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pydantic import JsonValue

from harness import paths
from harness.errors import ConfigError, MissingDependencyError
from harness.files.disk import kernel, locked
from harness.loadgen.logs import SUMMARY
from harness.report import facts
from harness.report.text import rows
from harness.results.finished import Finished
from harness.terminal import console

RUN, DIGEST = "harness.run", "harness.digest"
"""The tags for a run's name, and for the digest that identifies it: sha256 over its settings, time and result."""
_TAGS = (
    *("run", "verdict", "for_submission", "rehearsal", "reasons", "disturbed", "command", "notice", "time"),
    "ratio_to_first",
)
"""CSV columns that become tags instead, or are meaningless outside a report."""
_PARAMS = ("cores", "nodes")  # numbers that are not results
_EXPORTER = "harness.export"
"""The tag that says who exports a run, and since when: see `_Exporter.abandoned`."""
_ABANDONED_S = 3600.0  # since another machine or checkout began to export a run, which takes seconds
_MAX_PARAMS = 100  # that MLflow accepts in one request
_MAX_VALUE_LENGTH = 500  # characters of a value that servers of all versions accept


class _Info(Protocol):
    run_id: str
    status: str


class _Data(Protocol):
    tags: Mapping[str, str]


class _MlflowRun(Protocol):
    info: _Info
    data: _Data


class _Page(Protocol):
    token: str | None

    def __iter__(self) -> _Page: ...

    def __next__(self) -> _MlflowRun: ...


class _Experiment(Protocol):
    experiment_id: str


class _Client(Protocol):
    """The used part of ``mlflow.MlflowClient``."""

    def get_experiment_by_name(self, name: str) -> _Experiment | None: ...

    def create_experiment(self, name: str) -> str: ...

    def search_runs(self, experiment_ids: list[str], *, max_results: int, page_token: str | None) -> _Page: ...

    def create_run(self, experiment_id: str, start_time: int | None, tags: Mapping[str, str]) -> _MlflowRun: ...

    def log_batch(self, run_id: str, metrics: Sequence[object], params: Sequence[object]) -> None: ...

    def log_artifact(self, run_id: str, local_path: str) -> None: ...

    def set_terminated(self, run_id: str, status: str, end_time: int | None) -> None: ...

    def delete_run(self, run_id: str) -> None: ...


@dataclass(frozen=True)
class ExportResult:
    """The result of an export."""

    added: list[str]
    """The names of the runs that were added to the experiment."""
    known: int
    """The number of runs that the experiment already had."""


def export(runs: Sequence[Finished], uri: str, experiment: str) -> ExportResult:
    """Add the runs that the experiment of a tracking store lacks, each with its LoadGen summary as an artifact.

    ``uri`` is an MLflow tracking URI: file:, http: or another. A run whose export was interrupted is exported again. A
    second export to the experiment waits until the first has ended; one from another machine or checkout does not
    wait, and may add runs twice.

    Raises:
        MissingDependencyError: MLflow is not installed.
        ConfigError: the store cannot be used, or the lock cannot be written.
    """
    connect = _mlflow()
    contents = {digest_of(run): _Content.of(run) for run in runs}
    try:
        exporter = _Exporter.of(uri, experiment)
        with locked(exporter.lock, f"another export to the experiment {experiment} in {uri} is running", wait=True):
            client = connect(tracking_uri=uri)
            found = client.get_experiment_by_name(experiment)
            place = found.experiment_id if found else client.create_experiment(experiment)
            known = _known(client, place, exporter)
            added = [content for digest, content in contents.items() if digest not in known]
            for content in added:
                _add(client, place, content, exporter)
    except ConfigError:
        raise
    except Exception as error:  # the libraries behind a store may raise anything
        raise ConfigError(
            f"the MLflow store {uri} cannot be used ({_reason(error)}): give another --tracking-uri or --experiment."
        ) from error
    return ExportResult([content.tags[RUN] for content in added], len(contents) - len(added))


@dataclass(frozen=True)
class _Exporter:
    """The exports to one experiment from this checkout on this machine, of which one runs at a time."""

    lock: Path

    @classmethod
    def of(cls, uri: str, experiment: str) -> _Exporter:
        """The exporter to an experiment of a store; a folder is the same store however it is written."""
        parts = urlsplit(uri)
        local = parts.scheme in ("", "file")
        store = Path(url2pathname(parts.path)).resolve() if local else uri.rstrip("/")
        digest = sha256(f"{store}\n{experiment}".encode()).hexdigest()[:16]
        return cls(paths.ROOT / "build" / "locks" / f"mlflow-{digest}.lock")

    @property
    def _name(self) -> str:
        return sha256(f"{kernel()} {self.lock}".encode()).hexdigest()[:16]

    def tag(self) -> str:
        """The tag of a run whose export begins now."""
        return f"{self._name} {datetime.now().timestamp():.0f}"

    def abandoned(self, tag: str) -> bool:
        """Whether a run with this tag, which is not complete, is no longer being exported; the lock is held."""
        name, _, began = tag.partition(" ")
        if name == self._name or not began.isdecimal():  # an older version wrote no such tag
            return True
        return datetime.now().timestamp() - int(began) > _ABANDONED_S


def _reason(error: BaseException) -> str:
    """The system's message for a failed connection, which many layers wrap, else the error's first line."""
    cause: BaseException | None = error
    while cause:
        if isinstance(cause, ConnectionError | TimeoutError | gaierror) and cause.strerror:
            return cause.strerror
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)


def digest_of(run: Finished) -> str:
    """The value of the tag `DIGEST`, which does not depend on where the run's record is stored."""
    record = run.record
    about = (record.time, record.command, record.scenario, record.test, record.valid)
    content = (*about, record.identity.model_dump(), record.result.model_dump())
    return sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def params_of(run: Finished) -> dict[str, str]:
    """The parameters of the run: model, data, engine, machine, and the settings in force."""
    row, record = rows([run])[0], run.record
    values: dict[str, JsonValue] = {key: row[key] for key in row if key not in _TAGS and not _is_metric(key, row[key])}
    values["samples_used"] = record.dataset.samples_used
    values |= dict(facts.flat({"engine": {k: v for k, v in record.engine.values().items() if k != "name"}}))
    values |= dict(facts.flat({"benchmark": record.benchmark_settings or {}}))
    known = {key: value for key, value in values.items() if value not in (None, "", [], {})}
    return {_key(key): (v if isinstance(v, str) else json.dumps(v))[:_MAX_VALUE_LENGTH] for key, v in known.items()}


def metrics_of(run: Finished) -> dict[str, float]:
    """The result in numbers, by the names of the CSV columns."""
    row = rows([run])[0]
    return {
        _key(key): float(value)
        for key, value in row.items()
        if key not in _TAGS and isinstance(value, int | float) and _is_metric(key, value)
    }


def tags_of(run: Finished) -> dict[str, str]:
    """The tags: VALID or INVALID with the reasons, official or not, the machine, and the run's digest."""
    record = run.record
    tags = {
        "mlflow.runName": run.name,
        "mlflow.source.name": "harness",
        DIGEST: digest_of(run),
        RUN: run.name,
        "result": run.verdict,
        "official": "yes" if record.for_submission else "no",
        "rehearsal": "yes" if record.rehearsal else "",
        "machine": f"{record.machine.cpu}, {record.machine.cores} cores",
        "reasons": " ".join(run.reasons),
        "disturbed": run.disturbed,
        "notice": record.notice or "",
        "command": record.command,
    }
    return {key: value[:4000] for key, value in tags.items() if value}


@dataclass(frozen=True)
class _Content:
    """The content of a run in MLflow."""

    tags: Mapping[str, str]
    params: Mapping[str, str]
    metrics: Mapping[str, float]
    summary: Path | None
    started: int | None
    """Unix time in milliseconds."""
    ended: int | None

    @classmethod
    def of(cls, run: Finished) -> _Content:
        ended = _milliseconds(run.record.time)
        started = None if ended is None else ended - round(1000 * (run.duration_s or 0))
        summary = run.logs / SUMMARY if run.logs else None
        return cls(
            tags_of(run),
            params_of(run),
            metrics_of(run),
            summary if summary and summary.is_file() else None,
            started,
            ended,
        )


def _add(client: _Client, experiment: str, content: _Content, exporter: _Exporter) -> None:
    from mlflow.entities import Metric, Param

    tags = {**content.tags, _EXPORTER: exporter.tag()}
    made = client.create_run(experiment, start_time=content.started, tags=tags).info.run_id
    when = round(1000 * datetime.now().timestamp()) if content.ended is None else content.ended
    metrics = [Metric(key, value, when, 0) for key, value in content.metrics.items()]
    params = [Param(key, text) for key, text in content.params.items()]
    client.log_batch(made, metrics, params[:_MAX_PARAMS])
    for start in range(_MAX_PARAMS, len(params), _MAX_PARAMS):
        client.log_batch(made, [], params[start : start + _MAX_PARAMS])
    if content.summary:
        client.log_artifact(made, str(content.summary))
    client.set_terminated(made, "FINISHED", end_time=content.ended)


def _known(client: _Client, experiment: str, exporter: _Exporter) -> set[str]:
    """The digests of the runs in an experiment; deletes runs that an interrupted export left incomplete."""
    known, token = set(), None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        for run in page:
            digest = run.data.tags.get(DIGEST)
            if digest and run.info.status == "FINISHED":
                known.add(digest)
            elif digest and exporter.abandoned(run.data.tags.get(_EXPORTER, "")):
                client.delete_run(run.info.run_id)
        token = page.token
        if not token:
            return known


def _mlflow() -> Callable[..., _Client]:
    """MLflow's client, quiet and without its telemetry, which sends usage data."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    # MLflow requires this for runs stored in files, a backend that it no longer develops.
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each run
    warnings.filterwarnings("ignore", category=FutureWarning, module="mlflow")
    try:
        from mlflow.tracking import MlflowClient
    except ImportError as error:
        raise MissingDependencyError(
            "the export needs MLflow: add it with `make setup MLFLOW=1`, or use `harness report --format csv`."
        ) from error
    if not console.output().verbose:
        logging.getLogger("mlflow").setLevel(logging.ERROR)
    client: Callable[..., _Client] = MlflowClient
    return client


def _is_metric(key: str, value: JsonValue) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and key.rpartition(".")[2] not in _PARAMS


def _key(name: str) -> str:
    """A name that MLflow allows: any other character becomes "_"."""
    return re.sub(r"[^\w./ -]", "_", name)


def _milliseconds(time: str) -> int | None:
    """An ISO 8601 time as Unix time in milliseconds; None for a record without a time."""
    with suppress(ValueError):
        return round(1000 * datetime.fromisoformat(time).timestamp())
    return None
