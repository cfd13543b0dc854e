"""A run from its settings to its result: prepare, measure if need be, let LoadGen test, read the logs, say it."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from harness import __version__
from harness.catalog import manifests
from harness.engines.base import Engine
from harness.errors import HarnessError, RunFailed
from harness.host import console, machine
from harness.host.supervise import Heartbeat, supervised
from harness.loadgen.conf import MIN_DURATION_MS, UserConf, check_official, read_user_conf
from harness.loadgen.logs import ACCURACY, TRACE, Detail, check_accuracy_log, read_detail
from harness.results.layout import CONF, RUN
from harness.results.record import reference
from harness.rules.rehearsal import DEVELOPMENT_SECONDS
from harness.running.agreement import Agreement, agreement
from harness.running.audit import Audit
from harness.running.identity import code_digest, command, identity
from harness.running.places import Places, check_space, write_json
from harness.running.prepare import patience, prepare
from harness.running.recorder import Recorder
from harness.running.settings import RunSettings
from harness.scenarios.base import Metric, Scenario
from harness.scheduling.base import Counters
from harness.task.base import Accuracy, Benchmark
from harness.task.sut import SUT


def run(settings: RunSettings) -> int:
    """Run one test in a process of its own.

    Returns:
        0, or 1 when the result is INVALID or the test failed, 2 when a setting is wrong, 130 after Ctrl-C.
    """
    places = Places.choose(settings)
    return supervised(_test, settings, places, cleanup=places.discard)


def _test(settings: RunSettings, places: Places, heartbeat: Heartbeat) -> int:
    heartbeat.beat(patience(settings))
    places.create()
    # This process may be killed at any moment: what engines and the cache leave half-made then goes with the rest.
    tempfile.tempdir = str(places.staging)
    if settings.notices:
        hint = "" if settings.official else " Official runs take --official (OFFICIAL=1)."
        console.note(f"{' '.join(settings.notices)}{hint}")
    for remark in settings.remarks:
        console.note(remark)
    audit = Audit.choose(settings)
    conf = read_user_conf(audit.conf if audit else settings.user_conf)
    if settings.official and not settings.rehearsal:
        check_official(conf, settings.model.benchmark, settings.scenario, MIN_DURATION_MS)
    ready = prepare(settings, heartbeat.beat)
    benchmark, dataset, qsl, engine, sut = ready.benchmark, ready.dataset, ready.qsl, ready.engine, ready.sut
    scenario = ready.scenario
    if remark := engine.remark():
        console.warn(remark)

    seconds = settings.duration or (MIN_DURATION_MS / 1000 if settings.official else DEVELOPMENT_SECONDS)
    measured = None
    sized = settings.mode == "performance" or scenario.paced
    if sized and not conf.lookup(benchmark.name, settings.scenario, scenario.key):
        measured, how = scenario.estimate(ready.indices, seconds, ready.told)
        heartbeat.beat(patience(settings))
        console.detail(f"no {scenario.key} in user.conf, so it is set to {measured:.4g}: {how}")
    qsl.unload(ready.indices)
    agreed = _agreement(benchmark, sut, lambda: heartbeat.beat(patience(settings))) if _accuracy(settings) else None
    conf_path = places.staging / CONF
    conf_path.write_text(
        _effective_conf(settings, conf, benchmark.name, scenario.key, len(ready.indices), seconds, measured), "utf-8"
    )
    check_space(
        places.staging,
        needed=64 * 2**20 + (2 * qsl.count * (benchmark.max_response + 64) if _accuracy(settings) else 0),
    )

    from harness.running import session  # LoadGen is native code: only the process of a test loads it

    test_settings = session.make_settings(conf_path, benchmark.name, settings.scenario, session.Mode(settings.mode))
    bound = test_settings.server_target_latency_ns / 1e9
    if settings.scenario == "Server" and bound != scenario.bound:
        raise RunFailed(
            f"LoadGen's bound is {bound * 1000:g} ms and the harness knows {scenario.bound * 1000:g} ms for "
            f"{benchmark.name}: this LoadGen's round has other rules than this harness."
        )
    scheduler = scenario.scheduler(session.complete)
    recorder = scheduler.recorder = None if settings.timeline == "off" else Recorder()
    stalled = max(settings.stall_timeout, 20 * ready.slowest)
    heartbeat.beat(stalled)
    # An accuracy run comes in as many queries as the data set has loads.
    expected = (qsl.count, int(scenario.costs.sum())) if _accuracy(settings) else (0, 0)
    with console.Progress("LoadGen", unit="samples") as bar:
        last = -1

        def tick() -> None:
            nonlocal last
            if recorder:
                recorder.tick()
            counters: Counters = scheduler.counters
            if counters.completed != last:
                last = counters.completed
                heartbeat.beat(stalled)
            if counters.issued:
                # Long samples run first, so that the share of the tokens tells the time left, not that of the samples.
                bar.update(
                    done=counters.completed,
                    total=max(counters.issued, expected[0]),
                    fraction=counters.done_cost / max(counters.real, expected[1]),
                )

        if recorder:
            recorder.tick()
        session.run_test(
            test_settings,
            qsl,
            scheduler,
            places.staging,
            tick,
            audit=audit.write(places.staging) if audit else None,
            trace=settings.timeline == "loadgen",
        )
    heartbeat.beat(patience(settings))
    scheduler.close()

    detail = read_detail(places.staging, settings.mode)
    if recorder:
        trace = places.staging / TRACE if settings.timeline == "loadgen" else None
        recorder.keep(places.staging, settings.scenario, trace)
    (places.staging / TRACE).unlink(missing_ok=True)
    accuracy = None
    if _accuracy(settings):
        check_accuracy_log(places.staging / ACCURACY, qsl.count)
        accuracy = benchmark.score(
            places.staging / ACCURACY,
            dataset,
            qsl.count if settings.samples else None,
            places.staging / "accuracy.txt",
            " ".join(settings.notices) or None,
        )
        for warning in accuracy.warnings:
            console.warn(warning)
    elif settings.audit != "TEST01":
        (places.staging / ACCURACY).unlink(missing_ok=True)
    valid = not detail.errors if _accuracy(settings) else detail.valid
    reasons = [] if valid else detail.reasons(_hint(scenario, detail, conf, benchmark.name))
    metric = scenario.metric(detail)
    record = _record(
        settings, dataset, qsl.count, engine, scenario, scheduler.counters, detail, metric, measured, accuracy, sut.unit
    )
    record |= {"valid": valid, "reasons": reasons}
    if agreed:
        record["agreement"] = agreed.record()
    write_json(places.staging / RUN, record)
    if record["notice"] and not record["for_submission"]:
        (places.staging / "NOT-FOR-SUBMISSION.txt").write_text("\n".join((*settings.notices, "")), "utf-8")
    engine.close()
    result = places.collect(settings.audit) if settings.official and valid else None
    if audit and result:
        reasons = audit.verify(result, benchmark, dataset)
        valid = not reasons
        # It has to say what came of the whole test, and which results that is about.
        told = {**record, "valid": valid, "reasons": reasons, "reference": reference(audit.reference, audit.test)}
        for folder in (places.staging, result / "performance" / "run_1"):
            write_json(folder / RUN, told)
    heartbeat.publish()
    logs = places.publish(result if valid else None)
    try:
        if settings.shown == "json":
            told = {key: record[key] for key in _PRINTED} | {"agreement": record.get("agreement")}
            console.print_json(told | {"valid": valid, "reasons": reasons, "logs": logs})
        elif settings.shown == "table":
            _show(settings, engine, scheduler.counters, detail, metric, valid, reasons, accuracy, logs, sut.unit)
    except OSError as error:
        console.warn(f"the result could not be printed ({error.strerror}); it is in {logs}.")
    return 0 if valid else 1


_PRINTED = ("scenario", "mode", "audit", "for_submission", "notice", "model", "dataset", "engine", "result")
"""What `--json` prints of the record."""


def _accuracy(settings: RunSettings) -> bool:
    return settings.mode == "accuracy"


def _agreement(benchmark: Benchmark, sut: SUT, ran: Callable[[], None]) -> Agreement | None:
    """How far the engine is from ONNX Runtime, where that runs the model; too far is a warning."""
    try:
        with console.working("comparing with ONNX Runtime"):
            agreed = agreement(benchmark, sut, np.arange(sut.qsl.count), ran)
    except HarnessError as error:
        console.detail(f"not compared with ONNX Runtime: {error}")
        return None
    if agreed and agreed.wrong:
        console.warn(agreed.warning(sut.engine.name))
    return agreed


def _effective_conf(
    settings: RunSettings, conf: UserConf, model: str, key: str, count: int, seconds: float, measured: float | None
) -> str:
    """The user.conf that LoadGen reads: the user's, and behind it what the harness sets."""
    prefix = f"{model}.{settings.scenario}"
    lines = []
    if measured is not None:
        lines.append(f"{prefix}.{key} = {measured:.6g}")
    if settings.duration or not settings.official:
        lines.append(f"{prefix}.min_duration = {round(seconds * 1000)}")
    if not settings.official:
        lines += [
            f"{prefix}.min_query_count = 1",
            f"{prefix}.performance_sample_count_override = {count}",
        ]
    if not lines:
        return conf.text
    return conf.extended(" ".join(("set by the harness.", *settings.notices)), lines)


def _hint(scenario: Scenario, detail: Detail, conf: UserConf, model: str) -> str:
    """How to mend a test that was too short."""
    value, key = scenario.correction(detail), scenario.key
    if value is None:
        return f"change {key}"
    entry = conf.lookup(model, scenario.name, key)
    if entry:
        return f"{key} is {entry.value} in line {entry.line} of {conf.path}; set it to {value:.4g}"
    return f"run it again, or set {model}.{scenario.name}.{key} = {value:.4g} in user.conf"


def _record(
    settings: RunSettings,
    dataset: manifests.Dataset,
    count: int,
    engine: Engine,
    scenario: Scenario,
    counters: Counters,
    detail: Detail,
    metric: Metric,
    measured: float | None,
    accuracy: Accuracy | None,
    unit: str,
) -> dict[str, Any]:
    return {
        "harness": __version__,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command(settings),
        "code": code_digest(),
        "for_submission": settings.official and not settings.rehearsal,
        "rehearsal": settings.rehearsal,
        "notice": " ".join(settings.notices) or None,
        "scenario": settings.scenario,
        "mode": settings.mode,
        "audit": settings.audit,
        "identity": identity(settings),
        "model": settings.model.model_dump(),
        "dataset": {**dataset.model_dump(), "samples_used": count},
        "tuned": settings.tuned,
        "benchmark_settings": settings.benchmark_settings.model_dump(),
        "engine": engine.describe(),
        **scenario.describe(),
        f"estimated_{scenario.key}": measured,
        "result": {
            "metric": dataclasses.asdict(metric),
            "latency_ms": detail.latencies,
            "duration_s": detail.duration,
            "samples": counters.completed,
            "batches": counters.batches,
            "cost": counters.real,
            "cost_unit": unit,
            "padded_to_real": counters.padding_ratio,
            "accuracy": accuracy.metrics if accuracy else None,
            "accuracy_scope": accuracy.scope if accuracy else None,
        },
        "loadgen": {key: detail.values.get(key) for key in ("loadgen_version", "effective_target_qps")},
        "machine": machine.describe(),
    }


def _show(
    settings: RunSettings,
    engine: Engine,
    counters: Counters,
    detail: Detail,
    metric: Metric,
    valid: bool,
    reasons: list[str],
    accuracy: Accuracy | None,
    logs: Path,
    unit: str,
) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    add = table.add_row
    add("scenario", f"{settings.scenario}, {settings.audit or settings.mode}")
    described = engine.describe()
    add("engine", " ".join(str(described[key]) for key in ("name", "version") if described.get(key)))
    add("model", settings.model.title)
    if accuracy:
        for name, value in accuracy.metrics.items():
            add(name, f"{value:.3f} %")
        add("scored", accuracy.scope)
        add("samples", f"{counters.completed:,} in {counters.batches:,} batches")
    else:
        add(metric.name, str(metric))
        if detail.bound:
            add("latency", f"{detail.latencies['99.00']:,.2f} ms at the 99th percentile, bound {detail.bound:g} ms")
        add(
            "duration",
            f"{detail.duration:.1f} s, {counters.completed:,} samples in {counters.batches:,} batches",
        )
    if counters.padding_ratio:
        add(
            "padding",
            f"{counters.padding_ratio - 1:.1%} ({counters.padded:,} {unit} computed for {counters.real:,})",
        )
    # LoadGen calls only performance runs valid or not.
    verdict = "INVALID" if not valid else "complete" if accuracy else "VALID"
    add("result", verdict, style="bold green" if valid else "bold red")
    for reason in reasons:
        add("because", reason)
    for notice in settings.notices:
        add("note", notice, style="yellow")
    if settings.official and not valid:
        add("note", "Not moved to results/: only a valid run belongs there.", style="yellow")
    here = Path.cwd()
    add("logs", str(logs.relative_to(here) if logs.is_relative_to(here) else logs))
    console.print_table(table)
