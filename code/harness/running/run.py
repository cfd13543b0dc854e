"""One test from its settings to its result: prepare, let LoadGen test, read its logs, store and show the outcome."""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from harness.errors import HarnessError, RunFailed
from harness.host import console
from harness.host.clock import Timing
from harness.host.files import native
from harness.host.fingerprint import check_unchanged, combined
from harness.host.supervise import Heartbeat, supervised
from harness.loadgen.conf import UserConf, check_official, read_user_conf
from harness.loadgen.logs import ACCURACY, TRACE, Detail, check_accuracy_log, read_detail
from harness.results.digests import sealed
from harness.results.layout import CONF, RUN
from harness.results.record import reference
from harness.rules.limits import MIN_DURATION_MS
from harness.running.agreement import Agreement, agreement
from harness.running.audit import AuditRun
from harness.running.identity import code_digest, identity
from harness.running.outcome import Outcome
from harness.running.places import Places, check_space, write_json
from harness.running.prepare import Prepared, patience, prepare
from harness.running.recorder import Recorder
from harness.running.settings import RunSettings
from harness.scenarios.base import Scenario
from harness.scheduling.base import Counters, Scheduler
from harness.task.base import Accuracy

_RESERVE = 64 * 2**20  # bytes of a run's logs without its responses


def run(settings: RunSettings) -> int:
    """Run one test in its own process.

    Returns:
        0, or 1 if the result is INVALID or the test failed, 2 if a setting is wrong, 130 after Ctrl-C.
    """
    places = Places.choose(settings)
    return supervised(_test, settings, places, cleanup=places.discard)


@dataclass(frozen=True)
class _Planned:
    """A test that is ready to run."""

    settings: RunSettings
    places: Places
    audit: AuditRun | None
    conf: UserConf
    """The user's settings for LoadGen."""
    ready: Prepared
    estimated: float | None
    """An estimate for the scenario's key of user.conf, if the user sets none."""
    agreement: Agreement | None
    doubts: tuple[str, ...] = ()
    """Signs that a setting does not belong to the model."""


def _test(settings: RunSettings, places: Places, heartbeat: Heartbeat) -> int:
    heartbeat.beat(patience(settings))
    places.create()
    # This process may be killed at any moment: temporary files of engines are then removed as well.
    tempfile.tempdir = str(native(places.scratch))
    planned = _plan(settings, places, heartbeat)
    counters, timing, recorder = _measure(planned, heartbeat)
    heartbeat.beat(patience(settings))
    outcome = _read(planned, counters, timing)
    if recorder:
        trace = places.staging / TRACE if settings.timeline == "loadgen" else None
        recorder.keep(places.staging, planned.ready.scenario.samples_per_query, trace)
    (places.staging / TRACE).unlink(missing_ok=True)
    outcome, logs = _keep(planned, outcome, heartbeat)
    code = 0 if outcome.valid else 1
    # From here on the result is safe, whatever the engine does to this process.
    heartbeat.report(code)
    heartbeat.beat(patience(settings))
    try:
        outcome.show(logs)
    except Exception as error:  # noqa: BLE001  such as a full disk
        console.warn(f"the result could not be printed ({error}); it is in {logs}.")
    planned.ready.close(heartbeat.beat, settings.stall_timeout)
    return code


def _plan(settings: RunSettings, places: Places, heartbeat: Heartbeat) -> _Planned:
    """Make all checks, prepare the scenario, and write the user.conf that LoadGen will read."""
    if settings.notices:
        hint = "" if settings.official else " Pass --official (OFFICIAL=1) for an official run."
        console.note(f"{settings.notice}{hint}")
    for remark in settings.remarks:
        console.note(remark)
    audit = AuditRun.choose(settings)
    conf = read_user_conf(audit.conf if audit else settings.user_conf)
    if settings.official and not settings.rehearsal:
        check_official(conf, settings.model.benchmark, settings.scenario, MIN_DURATION_MS)
    code_digest()  # kept for the record: that of the code which runs, even if its files change meanwhile
    ready = prepare(settings, heartbeat.beat)
    estimated = _estimate(settings, conf, ready)
    heartbeat.beat(patience(settings))
    ready.qsl.unload(ready.indices)
    agreed = _agreement(ready, lambda: heartbeat.beat(patience(settings))) if settings.accuracy else None
    doubts = _doubts(settings, ready)
    (places.staging / CONF).write_text(_effective_conf(settings, conf, ready, estimated), "utf-8")
    responses = 2 * ready.qsl.count * (ready.benchmark.max_response + 64) if settings.accuracy else 0
    check_space(places.staging, needed=_RESERVE + responses)
    return _Planned(settings, places, audit, conf, ready, estimated, agreed, doubts)


def _doubts(settings: RunSettings, ready: Prepared) -> tuple[str, ...]:
    """Warn of settings that do not seem to belong to the model; of stand-ins nothing else is expected."""
    doubts = ready.doubts
    if settings.accuracy and not _guesses(settings, ready):
        doubts += ready.benchmark.sampled_doubts(ready.sut, ready.dataset)
    for doubt in doubts:
        console.warn(doubt)
    return doubts


def _guesses(settings: RunSettings, ready: Prepared) -> bool:
    """Whether nothing better than a score at chance is expected."""
    return settings.stand_ins or not ready.engine.computes


def _estimate(settings: RunSettings, conf: UserConf, ready: Prepared) -> float | None:
    """A measured value of the scenario's key, if LoadGen needs one and the user sets none."""
    scenario = ready.scenario
    needed = not settings.accuracy or scenario.paced
    if not needed or conf.lookup(ready.benchmark.name, scenario.name, scenario.key):
        return None
    value, how = scenario.estimate(ready.indices, settings.seconds, ready.listener)
    console.detail(f"no {scenario.key} in user.conf, so it is set to {value:.4g}: {how}")
    return value


def _agreement(ready: Prepared, ran: Callable[[], None]) -> Agreement | None:
    """The engine's deviation from ONNX Runtime, if that runs the model; too large a deviation is a warning."""
    try:
        with console.working("comparing with ONNX Runtime"):
            agreed = agreement(ready.benchmark, ready.sut, np.arange(ready.qsl.count), ran)
    except HarnessError as error:
        console.detail(f"not compared with ONNX Runtime: {error}")
        return None
    if agreed and agreed.wrong:
        console.warn(agreed.warning(ready.engine.name))
    return agreed


def _effective_conf(settings: RunSettings, conf: UserConf, ready: Prepared, estimated: float | None) -> str:
    """The user.conf that LoadGen reads: the user's, followed by the harness's settings."""
    prefix = f"{ready.benchmark.name}.{settings.scenario}"
    lines = []
    if estimated is not None:
        lines.append(f"{prefix}.{ready.scenario.key} = {estimated:.6g}")
    if settings.duration or not settings.official:
        lines.append(f"{prefix}.min_duration = {round(settings.seconds * 1000)}")
    if not settings.official:
        lines += [
            f"{prefix}.min_query_count = 1",
            f"{prefix}.performance_sample_count_override = {len(ready.indices)}",
        ]
    if not lines:
        return conf.text
    return conf.extended(" ".join(("set by the harness.", *settings.notices)), lines)


def _measure(planned: _Planned, heartbeat: Heartbeat) -> tuple[Counters, Timing, Recorder | None]:
    """Let LoadGen run the test to its end."""
    from harness.running import session  # LoadGen is native code: only the process of a test loads it

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
    with console.Progress("LoadGen", unit="samples") as bar:
        watch = _Watch(planned, scheduler, heartbeat, bar)
        if recorder:
            recorder.tick()

        def tick() -> None:
            if recorder:
                recorder.tick()
            watch.look()

        timing = session.run_test(
            test_settings,
            ready.qsl,
            scheduler,
            places.staging,
            tick,
            audit=planned.audit.write(places.staging) if planned.audit else None,
            trace=settings.timeline == "loadgen",
        )
    scheduler.close()
    return scheduler.counters, timing, recorder


class _Watch:
    """Turns a scheduler's counters into heartbeats and a progress bar."""

    def __init__(self, planned: _Planned, scheduler: Scheduler, heartbeat: Heartbeat, bar: console.Progress) -> None:
        settings, ready = planned.settings, planned.ready
        self._scheduler, self._heartbeat, self._bar = scheduler, heartbeat, bar
        self._stalled = max(settings.stall_timeout, 20 * ready.slowest)
        # LoadGen issues an accuracy run in several queries, one for each set of samples that it loads.
        self._samples = ready.qsl.count if settings.accuracy else 0
        self._cost = int(ready.scenario.costs.sum()) if settings.accuracy else 0
        self._completed = -1
        heartbeat.beat(self._stalled)

    def look(self) -> None:
        """Report what was completed since the last call."""
        counters = self._scheduler.counters
        if counters.completed != self._completed:
            self._completed = counters.completed
            self._heartbeat.beat(self._stalled)
        if counters.issued:
            # Long samples run first, so the share of tokens, not of samples, shows the time left.
            self._bar.update(
                done=counters.completed,
                total=max(counters.issued, self._samples),
                fraction=counters.done_cost / max(counters.real, self._cost),
            )


def _read(planned: _Planned, counters: Counters, timing: Timing) -> Outcome:
    """The outcome from LoadGen's logs."""
    settings, ready, staging = planned.settings, planned.ready, planned.places.staging
    detail = read_detail(staging, settings.mode)
    if not settings.accuracy:
        timing.check(detail.elapsed)
    check_unchanged(ready.inputs)  # before scoring, which could only say that the log does not fit
    accuracy = _score(planned) if settings.accuracy else None
    if not settings.accuracy and not (settings.compliance and settings.compliance.accuracy):
        (staging / ACCURACY).unlink(missing_ok=True)
    valid = not detail.errors if settings.accuracy else detail.valid
    hint = _correction(ready.scenario, detail, planned.conf, ready.benchmark.name)
    outcome = Outcome(
        settings=settings,
        dataset=ready.dataset,
        samples=ready.qsl.count,
        samples_sha256=combined([file.sha256 for file in ready.qsl.files]) if ready.qsl.files else None,
        identity=identity(settings),
        engine=ready.description,
        scenario=ready.scenario,
        estimated=planned.estimated,
        counters=counters,
        timing=timing,
        detail=detail,
        metric=ready.scenario.metric(detail),
        accuracy=accuracy,
        agreement=planned.agreement,
        valid=valid,
        reasons=() if valid else tuple(detail.reasons(hint)),
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
    accuracy = ready.benchmark.score(
        staging / ACCURACY, ready.dataset, samples, staging / "accuracy.txt", settings.notice
    )
    if _guesses(settings, ready):
        accuracy = replace(accuracy, doubts=())
    for warning in (*accuracy.warnings, *accuracy.doubts):
        console.warn(warning)
    return accuracy


def _correction(scenario: Scenario, detail: Detail, conf: UserConf, model: str) -> str:
    """How to correct a test that was too short."""
    value, key = scenario.correction(detail), scenario.key
    if value is None:
        return f"change {key}"
    entry = conf.lookup(model, scenario.name, key)
    if entry:
        return f"{key} is {entry.value} in line {entry.line} of {conf.path}; set it to {value:.4g}"
    return f"run it again, or set {model}.{scenario.name}.{key} = {value:.4g} in user.conf"


def _keep(planned: _Planned, outcome: Outcome, heartbeat: Heartbeat) -> tuple[Outcome, Path]:
    """Write the record and move everything to its place; verify a compliance test, which may invalidate it.

    Returns:
        The outcome, and the folder that holds the logs.
    """
    settings, places, audit, ready = planned.settings, planned.places, planned.audit, planned.ready
    write_json(places.staging / RUN, sealed(outcome.record, places.staging))
    if settings.notice and not outcome.record.for_submission:
        (places.staging / "NOT-FOR-SUBMISSION.txt").write_text("\n".join((*settings.notices, "")), "utf-8")
    result = places.collect(settings.audit) if settings.official and outcome.valid else None
    if audit and result:
        reasons = _verified(audit, result, ready)
        compared = reference(audit.reference, audit.test.name)
        outcome = replace(outcome, valid=not reasons, reasons=reasons, reference=compared)
        # The record must include the verification's verdict, and the results that the test was compared with.
        for folder in (places.staging, result / "performance" / "run_1"):
            write_json(folder / RUN, sealed(outcome.record, result / "performance" / "run_1"))
    code = 0 if outcome.valid else 1
    publish = partial(heartbeat.publish, code)
    return outcome, places.publish(result if outcome.valid else None, publish)


def _verified(audit: AuditRun, result: Path, ready: Prepared) -> tuple[str, ...]:
    """Why the compliance test failed, if it did; one that cannot be verified has failed, but is kept."""
    try:
        return tuple(audit.verify(result, ready.benchmark, ready.dataset))
    except (HarnessError, OSError) as error:
        return (f"it could not be verified: {error}",)
