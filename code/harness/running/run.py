"""One test from its settings to its result: prepare, run LoadGen, read its logs, store and show the outcome."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import RunFailed
from harness.files.disk import native
from harness.files.fingerprint import check_unchanged, combined
from harness.host.clock import Timing
from harness.host.energy import Energy
from harness.host.supervise import Heartbeat, supervised
from harness.host.usage import CoreUse
from harness.loadgen.conf import UserConf, check_official, read_user_conf
from harness.loadgen.logs import ACCURACY, TRACE, Detail, Unfinished, check_accuracy_log, keep_partial, read_detail
from harness.preparing.agreement import NotCompared, agreement
from harness.preparing.doubts import expects_chance_score, warn_of_doubts
from harness.preparing.prepared import Preparation, Prepared, patience
from harness.preparing.ready import get_ready
from harness.preparing.shared import shared_with_result
from harness.results.agreement import Agreement
from harness.results.digests import with_digests
from harness.results.layout import CONF, RUN, RUN_1, SCORES
from harness.results.parts import RecordedNode
from harness.results.record import read_record
from harness.rules.limits import MIN_DURATION_MS
from harness.rules.rehearsal import NOTICE_FILE
from harness.running import advice
from harness.running.audit import AuditRun
from harness.running.load import Load
from harness.running.nodes import node_records
from harness.running.outcome import Outcome
from harness.running.places import Places, check_space, write_json
from harness.running.profile import profile_run
from harness.running.recorder import Recorder
from harness.running.sizing import checked, effective_conf, overridden, sized
from harness.running.watch import Watch, WatchedTest
from harness.scenarios.base import Metric
from harness.scheduling.base import Counters
from harness.scheduling.overload import Overload, Overloaded, query_limit
from harness.settings.identity import code_digest, identity
from harness.settings.run import RunSettings
from harness.settings.runfile import RUNFILE, written
from harness.task.base import Accuracy
from harness.terminal import console
from harness.terminal.progress import Progress, working
from harness.terminal.streams import native_output_dropped

if TYPE_CHECKING:
    from mlperf_loadgen import TestSettings

_RETEST_EXIT_CODE = 75  # exit code of a test's process that asks for a second test: EX_TEMPFAIL
_MAX_RETEST_SECONDS = 300.0  # of a test that may be run twice
_MAX_LOG_BYTES = 64 * 2**20  # of a run's logs without its responses


@dataclass(frozen=True)
class Ended:
    """How a test ended."""

    code: int
    """0, or 1 if the result is INVALID or the test failed, 2 if a setting is wrong, 130 after Ctrl-C."""
    folder: Path | None
    """The folder of its record in the folder of runs; None if it left none."""


def run_test(settings: RunSettings) -> Ended:
    """Run one test in its own process, and repeat it at a lower rate if it missed the bound at one the harness chose.

    The caller has `reserved` the result.

    Raises:
        ConfigError: an official result already exists, or it cannot be written.
    """
    ended = _once(settings)
    if ended.code != _RETEST_EXIT_CODE:
        return ended
    record = read_record(ended.folder) if ended.folder else None
    missed = record.estimated if record else None
    if missed is None:
        return replace(ended, code=1)
    return _once(settings.model_copy(update={"missed": missed}))


def _once(settings: RunSettings) -> Ended:
    places = Places.choose(settings)
    verdict = supervised(_test, settings, places, cleanup=places.discard)
    # A process that dies right after it has published its result reports no record.
    named = (verdict.record, verdict.where if verdict.where != places.official else None)
    return Ended(verdict.code, next((folder for folder in named if folder and (folder / RUN).is_file()), None))


@dataclass(frozen=True)
class _Planned:
    """A test that is ready to run."""

    settings: RunSettings
    places: Places
    audit: AuditRun | None
    conf: UserConf
    """The user's settings for LoadGen."""
    ready: Prepared
    load: Load
    """The number of queries that LoadGen generates, and its cause."""
    estimated: float | None
    """An estimate for the scenario's key of user.conf, if the user sets none."""
    agreement: Agreement | None
    doubts: tuple[str, ...] = ()
    """Signs that a setting does not belong to the model."""


@dataclass(frozen=True)
class _MeasuredTest:
    """A test that has ended."""

    counters: Counters
    ended: Timing | Overloaded
    recorder: Recorder | None
    cores: CoreUse | None
    energy: Energy | None
    nodes: tuple[RecordedNode, ...] = ()
    """Each node's part in the test."""


def _test(settings: RunSettings, places: Places, heartbeat: Heartbeat) -> int:
    heartbeat.beat(patience(settings))
    places.create()
    # This process may be killed at any moment: temporary files of engines are then removed as well.
    tempfile.tempdir = str(native(places.scratch))
    planned = _plan(settings, places, heartbeat)
    measured = _measure(planned, heartbeat)
    heartbeat.beat(patience(settings))
    if isinstance(measured.ended, Overloaded):
        outcome = _read_overloaded(planned, measured, measured.ended)
    else:
        outcome = _read(planned, measured, measured.ended)
    if measured.recorder:
        trace = places.staging / TRACE if settings.timeline == "loadgen" else None
        measured.recorder.keep(places.staging, planned.ready.scenario.samples_per_query, trace)
    (places.staging / TRACE).unlink(missing_ok=True)
    outcome, logs, record = _keep(planned, outcome, heartbeat)
    code = 0 if outcome.valid else _RETEST_EXIT_CODE if _should_retest(planned, outcome) else 1
    # From here on the result is safe, whatever the engine does to this process.
    heartbeat.report(code, record)
    heartbeat.beat(patience(settings))
    try:
        if code == _RETEST_EXIT_CODE:
            console.note(
                f"INVALID: {outcome.reasons[0]} ({logs}). The harness chose this rate, and now tries a lower one."
            )
        else:
            outcome.show(logs)
    except Exception as error:  # noqa: BLE001  such as a full disk
        reason = error.strerror if isinstance(error, OSError) else error
        console.warn(f"the result could not be printed ({reason}); it is in {logs}.")
    if settings.profile and record and code != _RETEST_EXIT_CODE:
        profile_run(settings, planned.ready, measured.recorder, record, heartbeat.beat)
    planned.ready.close(heartbeat.beat, settings.stall_timeout)
    return code


def _should_retest(planned: _Planned, outcome: Outcome) -> bool:
    """Whether an INVALID test should be repeated, because the harness chose its rate and length, and the rate failed.

    A busy moment of the machine makes more queries late than early stopping allows, at rates far below its best.
    """
    settings, ready, load = planned.settings, planned.ready, planned.load
    chosen = planned.estimated is not None and load.scenario.paced and not load.limited
    if outcome.valid or settings.official or settings.accuracy or settings.missed is not None or not chosen:
        return False
    return load.planned_seconds <= _MAX_RETEST_SECONDS and ready.scenario.lower(ready.indices, 0.0) is not None


def _plan(settings: RunSettings, places: Places, heartbeat: Heartbeat) -> _Planned:
    """Make all checks, prepare the scenario, and write the user.conf that LoadGen will read."""
    if settings.notices:
        hint = "" if settings.official else " Pass --official (OFFICIAL=1) for an official run."
        console.note(f"{settings.notice}{hint}")
    for remark in settings.remarks:
        console.note(remark)
    if settings.cluster and settings.official:
        console.warn(
            "a result of several nodes belongs in the open division: on edge systems the closed one also requires "
            "SingleStream, and a Network result requires a datacenter system (docs/cluster.md)."
        )
    audit = AuditRun.choose(settings)
    conf = read_user_conf(audit.conf if audit else settings.user_conf)
    if settings.official and not settings.rehearsal:
        check_official(conf, settings.model.benchmark, settings.scenario, MIN_DURATION_MS)
    crowded = "" if settings.cluster else settings.engine_settings.crowded()
    for warning in filter(None, (*overridden(settings, conf), crowded)):
        console.warn(warning)
    checked(settings, conf, None)
    code_digest()  # cached for the record: that of the running code, even if its files change meanwhile
    with native_output_dropped(not console.output().verbose):
        ready = get_ready(settings, Preparation(heartbeat.beat, shared=shared_with_result(settings)))
    load, estimated = sized(settings, conf, ready)
    heartbeat.beat(patience(settings))
    ready.qsl.unload(ready.indices)
    agreed = None
    if settings.accuracy and ready.links:
        console.note("not compared with ONNX Runtime, since nodes compute: run accuracy on a single node to compare.")
    elif settings.accuracy:
        agreed = _agreement(settings, ready, lambda: heartbeat.beat(patience(settings)))
    doubts = warn_of_doubts(settings, ready)
    (places.staging / CONF).write_text(effective_conf(settings, conf, load, ready, estimated), "utf-8")
    (places.staging / RUNFILE).write_text(written(settings), "utf-8")
    responses = 2 * ready.qsl.count * (ready.benchmark.max_response + 64) if settings.accuracy else 0
    check_space(places.staging, needed=_MAX_LOG_BYTES + responses)
    return _Planned(settings, places, audit, conf, ready, load, estimated, agreed, doubts)


def _agreement(settings: RunSettings, ready: Prepared, ran: Callable[[], None]) -> Agreement | None:
    """The engine's deviation from ONNX Runtime, if that runs the model; too large a deviation is a warning.

    Raises:
        EngineError: the engine fails where several batches run at once.
    """
    try:
        with working("comparing with ONNX Runtime"):
            indices = np.arange(ready.qsl.count)
            agreed = agreement(ready.benchmark, ready.sut, indices, ran, native(settings.model.path))
    except NotCompared as error:
        console.detail(f"not compared with ONNX Runtime: {error}")
        return None
    if agreed and agreed.wrong:
        console.warn(agreed.warning(ready.engine.name))
    return agreed


def _measure(planned: _Planned, heartbeat: Heartbeat) -> _MeasuredTest:
    """Let LoadGen run the test to its end, or until the test can no longer be VALID."""
    from harness.preparing import session  # LoadGen is native code: only the process of a test loads it

    settings, places, ready, scenario = planned.settings, planned.places, planned.ready, planned.ready.scenario
    test_settings = session.make_settings(
        places.staging / CONF, ready.benchmark.name, scenario.name, session.Mode(settings.mode)
    )
    bound = test_settings.server_target_latency_ns / 1e9
    if scenario.paced and bound != scenario.bound:
        raise RunFailed(
            f"LoadGen's latency bound for {ready.benchmark.name} is {bound * 1000:g} ms, but the harness expects "
            f"{scenario.bound * 1000:g} ms: this LoadGen belongs to a round with other rules."
        )
    recorder = None if settings.timeline == "off" else Recorder()
    scheduler = scenario.scheduler(session.complete, recorder)
    overload = _overload(planned, test_settings)
    test = WatchedTest(settings, ready, planned.load, scheduler, overload, recorder)
    with Progress("LoadGen", unit="samples") as bar:
        watch = Watch(test, heartbeat, bar)
        if recorder:
            recorder.tick()

        def tick(over: bool) -> None:
            if recorder:
                recorder.tick()
            watch.look(over)

        try:
            ended: Timing | Overloaded = session.run_test(
                test_settings,
                ready.qsl,
                scheduler,
                places.staging,
                tick,
                audit=planned.audit.write(places.staging) if planned.audit else None,
                trace=settings.timeline == "loadgen",
            )
        except Overloaded as error:
            ended = error
    scheduler.close()
    nodes = node_records(ready.links, scheduler)
    return _MeasuredTest(scheduler.counters, ended, recorder, watch.cores, watch.energy, nodes)


def _overload(planned: _Planned, effective: "TestSettings") -> Overload | None:
    """The detector of an overloaded test, by LoadGen's own settings; None if no latency bound applies."""
    scenario = planned.ready.scenario
    if not scenario.paced or planned.settings.accuracy or scenario.percentile is None:
        return None
    limit = query_limit(effective.server_target_qps, effective.min_duration_ms / 1000, effective.min_query_count)
    return Overload(limit, scenario.bound, scenario.percentile)


def _read(planned: _Planned, measured: _MeasuredTest, timing: Timing) -> Outcome:
    """The outcome from LoadGen's logs."""
    settings, ready, staging = planned.settings, planned.ready, planned.places.staging
    detail = read_detail(staging, settings.mode)
    if not settings.accuracy:
        timing.check(detail.elapsed)
    check_unchanged(ready.inputs)  # before scoring, which would only report that the log does not match
    accuracy = _score(planned) if settings.accuracy else None
    if not settings.accuracy and not (settings.compliance and settings.compliance.accuracy):
        (staging / ACCURACY).unlink(missing_ok=True)
    valid = not detail.errors if settings.accuracy else detail.valid
    reasons = () if valid else tuple(detail.reasons(advice.longer(planned.load, detail)))
    return _outcome(planned, measured, timing, detail, ready.scenario.metric(detail), reasons, accuracy)


def _read_overloaded(planned: _Planned, measured: _MeasuredTest, overloaded: Overloaded) -> Outcome:
    """The outcome of a test that was ended, from the harness's own counters: LoadGen's log has no result."""
    ready, reached, seconds = planned.ready, overloaded.reached, overloaded.seconds
    timing = Timing(seconds, seconds, overloaded.moved)
    timing.check(None)
    keep_partial(planned.places.staging)
    reason = advice.overloaded(planned.load, overloaded, ready.scenario.lower(ready.indices, reached), measured.cores)
    counters = measured.counters
    return _outcome(
        planned,
        replace(measured, counters=replace(counters, issued=counters.completed, real=counters.done_cost)),
        timing,
        Unfinished({"effective_target_qps": planned.load.rate}, (), seconds),
        replace(ready.scenario.metric(Detail({}, ())), value=reached),
        (reason,),
    )


def _outcome(
    planned: _Planned,
    measured: _MeasuredTest,
    timing: Timing,
    detail: Detail,
    metric: Metric,
    reasons: tuple[str, ...],
    accuracy: Accuracy | None = None,
) -> Outcome:
    """The outcome of a test, valid if there are no ``reasons``; RunFailed if an input file has changed."""
    settings, ready = planned.settings, planned.ready
    outcome = Outcome(
        settings=settings,
        dataset=ready.dataset,
        samples=ready.qsl.count,
        samples_sha256=combined([file.sha256 for file in ready.qsl.files]) if ready.qsl.files else None,
        identity=identity(settings),
        engine=ready.description,
        conversion=ready.conversion,
        scenario=ready.scenario,
        estimated=planned.estimated,
        counters=measured.counters,
        cores=measured.cores,
        energy=measured.energy,
        nodes=measured.nodes,
        timing=timing,
        detail=detail,
        metric=metric,
        accuracy=accuracy,
        agreement=planned.agreement,
        valid=not reasons,
        reasons=reasons,
        ended=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        choices=ready.choices,
        doubts=planned.doubts + (accuracy.doubts if accuracy else ()),
    )
    check_unchanged(ready.inputs)
    return outcome


def _score(planned: _Planned) -> Accuracy:
    settings, ready, staging = planned.settings, planned.ready, planned.places.staging
    check_accuracy_log(staging / ACCURACY, ready.qsl.count)
    samples = ready.qsl.count if settings.samples else None
    accuracy = ready.benchmark.score(staging / ACCURACY, ready.dataset, samples, staging / SCORES, settings.notice)
    if expects_chance_score(settings, ready):
        accuracy = replace(accuracy, doubts=())
    for warning in (*accuracy.warnings, *accuracy.doubts):
        console.warn(warning)
    return accuracy


def _keep(planned: _Planned, outcome: Outcome, heartbeat: Heartbeat) -> tuple[Outcome, Path, Path | None]:
    """Write the record and move everything to its place; verify a compliance test, which may invalidate it.

    Returns:
        The outcome, the folder that holds the logs, and that of the record in the folder of runs, if there is one.
    """
    settings, places, audit, ready = planned.settings, planned.places, planned.audit, planned.ready
    write_json(places.staging / RUN, with_digests(outcome.record, places.staging))
    if settings.notice and not outcome.record.for_submission:
        (places.staging / NOTICE_FILE).write_text("\n".join((*settings.notices, "")), "utf-8")
    result = places.collect(settings.audit) if settings.official and outcome.valid else None
    if audit and result:
        reasons, compared = audit.verified(result, ready.benchmark, ready.dataset)
        outcome = replace(outcome, valid=not reasons, reasons=reasons, reference=compared)
        # The record must include the verification's verdict, and the results that the test was compared with.
        for folder in (places.staging, result / RUN_1):
            write_json(folder / RUN, with_digests(outcome.record, result / RUN_1))
    publish = partial(heartbeat.publish, 0 if outcome.valid else 1)
    return outcome, *places.publish(result if outcome.valid else None, publish)
