"""Runs one test with LoadGen, a scheduler and a QSL. One process runs one test.

LoadGen logs "Multiple conf files" when a process reads a second configuration, and official checkers reject such a
log. Callbacks run on LoadGen's own threads, and `StartTest` cannot be stopped: after a failure, the caller must end the
process.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

import mlperf_loadgen as lg

from harness.errors import RunFailed
from harness.host.clock import Stopwatch, Timing
from harness.loadgen.logs import Detail, read_detail
from harness.scenarios.base import Scenario, ShortTest
from harness.scheduling.base import Scheduler
from harness.scheduling.overload import LONGEST_GAP, Overloaded
from harness.task.qsl import SampleLibrary
from harness.task.sut import Responses


class Mode(StrEnum):
    """The quantity that LoadGen measures."""

    PERFORMANCE = "performance"
    ACCURACY = "accuracy"


_MODES = {Mode.PERFORMANCE: lg.TestMode.PerformanceOnly, Mode.ACCURACY: lg.TestMode.AccuracyOnly}
NO_AUDIT = ""
"""An audit file name that cannot exist: LoadGen would otherwise read audit.config from the working directory."""


def complete(ids: list[int], responses: Responses) -> None:
    """Report the answers to these query ids to LoadGen, in one call per batch, since each call costs microseconds."""
    first = responses.buffer.ctypes.data
    pointers = [first + offset for offset in responses.offsets.tolist()]  # faster than numpy for a few
    lg.QuerySamplesComplete(list(map(lg.QuerySampleResponse, ids, pointers, responses.sizes.tolist())))


def make_settings(conf: Path, model: str, scenario: str, mode: Mode) -> lg.TestSettings:
    """LoadGen's settings from its embedded mlperf.conf and this user.conf. Call this once per process.

    Raises:
        RunFailed: LoadGen cannot read the file.
    """
    settings = lg.TestSettings()
    # As bytes: LoadGen knows neither the locale's encoding nor Python's escapes for undecodable bytes.
    if settings.FromConfig(os.fsencode(conf), model, scenario) != 0:
        raise RunFailed(f"LoadGen could not read {conf}: check the user.conf that it was made from.")
    settings.scenario = getattr(lg.TestScenario, scenario)
    settings.mode = _MODES[mode]
    return settings


def run_test(
    settings: lg.TestSettings,
    qsl: SampleLibrary,
    scheduler: Scheduler,
    log_dir: Path,
    on_tick: Callable[[bool], None],
    tick: float = 0.2,
    audit: Path | None = None,
    trace: bool = False,
) -> Timing:
    """Run one test to its end, calling ``on_tick(False)`` every ``tick`` seconds, and ``on_tick(True)`` at its end.

    ``audit`` is the file of a compliance test's settings. ``trace`` makes LoadGen write mlperf_log_trace.json, with one
    line per event.

    Returns:
        The duration by a clock that cannot be set, unlike the realtime clock of LoadGen.

    Raises:
        The first failure of the scheduler, the engine or the QSL; Overloaded if ``on_tick`` raises it. LoadGen's thread
        is then still waiting, and the process must be ended.
    """
    log_settings = _log_settings(log_dir, trace)
    failure: list[BaseException] = []
    ended = threading.Event()
    watch = Stopwatch()

    def fail(error: BaseException) -> None:
        failure.append(error)
        ended.set()

    handle = lg.ConstructFastSUT(scheduler.issue, scheduler.flush)
    library = _library(qsl, watch, fail)

    def start() -> None:
        try:
            lg.StartTestWithLogSettings(handle, library, settings, log_settings, os.fsencode(audit or NO_AUDIT))
        except BaseException as error:  # noqa: BLE001
            fail(error)
        ended.set()

    thread = threading.Thread(target=start, name="loadgen", daemon=True)
    thread.start()
    _wait(ended, tick, scheduler, watch, on_tick)
    if scheduler.failure:
        raise scheduler.failure
    if failure:
        raise failure[0]
    on_tick(True)
    thread.join()
    lg.DestroyFastSUT(handle)
    lg.DestroyQSL(library)
    counters = scheduler.counters
    if counters.completed != counters.issued:
        raise RunFailed(f"{counters.issued} samples were issued, but {counters.completed} answered.")
    return watch.timing(counters.ended - counters.began)


def _wait(
    ended: threading.Event, tick: float, scheduler: Scheduler, watch: Stopwatch, on_tick: Callable[[bool], None]
) -> None:
    """Wait for the end of the test or a failure of the scheduler; a failure counts more than an overload.

    Raises:
        Overloaded: ``on_tick`` raised it, and no batch that was being computed failed.
    """
    try:
        while not ended.wait(tick) and not scheduler.failed.is_set():
            watch.look()
            on_tick(False)
    except Overloaded as error:
        scheduler.stop()
        scheduler.close()  # ends the batches that are being computed, and any of them may fail
        if scheduler.failure is None:
            watch.stop()
            error.moved = watch.timing(error.seconds).moved
            raise


def _library(qsl: SampleLibrary, watch: Stopwatch, fail: Callable[[BaseException], None]) -> int:
    """LoadGen's handle for the QSL; ``watch`` runs while samples are loaded."""

    def load(indices: Sequence[int]) -> None:
        qsl.load(indices)
        watch.start()  # LoadGen loads, issues queries until all are answered, and unloads

    def unload(indices: Sequence[int]) -> None:
        watch.stop()
        qsl.unload(indices)

    library: int = lg.ConstructQSL(qsl.count, qsl.performance_count, _guarded(load, fail), _guarded(unload, fail))
    return library


def _guarded(
    action: Callable[[Sequence[int]], None], fail: Callable[[BaseException], None]
) -> Callable[[Sequence[int]], None]:
    """``action`` as a callback for LoadGen's thread, which waits forever after a failure."""

    def callback(indices: Sequence[int]) -> None:
        try:
            action(indices)
        except BaseException as error:  # noqa: BLE001  it must not unwind through LoadGen's C++ frames
            fail(error)
            threading.Event().wait()  # continuing would measure samples that are not loaded

    return callback


def _log_settings(log_dir: Path, trace: bool) -> lg.LogSettings:
    output = lg.LogOutputSettings()
    output.outdir = os.fsencode(log_dir)
    output.copy_summary_to_stdout = False
    settings = lg.LogSettings()
    settings.log_output, settings.enable_trace = output, trace
    return settings


def short_test(
    scenario: Scenario, test: ShortTest, scheduler: Scheduler, qsl: SampleLibrary, on_progress: Callable[[], None]
) -> Detail:
    """Run a performance test for measurement only: a process may run any number of these.

    The scheduler is closed at the end. ``on_progress()`` is called while samples are completed, or while LoadGen waits
    until the next one is due.

    Raises:
        The errors of `run_test`.
        RunFailed: the realtime clock was changed.
    """
    completed = -1

    def tick(ended: bool) -> None:
        nonlocal completed
        counters = scheduler.counters
        idle = counters.issued == counters.completed and time.monotonic() < last
        if idle or counters.completed != completed:
            completed = counters.completed
            on_progress()

    settings = _short_settings(scenario, test)
    last = time.monotonic() + test.seconds + LONGEST_GAP / settings.server_target_qps  # between queries, all is idle
    with tempfile.TemporaryDirectory() as folder:
        timing = run_test(settings, qsl, scheduler, Path(folder), tick)
        scheduler.close()
        detail = read_detail(Path(folder), Mode.PERFORMANCE)
    timing.check(detail.elapsed)
    return detail


def _short_settings(scenario: Scenario, test: ShortTest) -> lg.TestSettings:
    settings = lg.TestSettings()
    settings.scenario, settings.mode = getattr(lg.TestScenario, scenario.name), _MODES[Mode.PERFORMANCE]
    settings.min_duration_ms, settings.min_query_count = round(test.seconds * 1000), test.queries
    if test.max_queries is not None:
        settings.max_query_count = test.max_queries
    if test.rate is not None and scenario.paced:
        settings.server_target_qps, settings.server_target_latency_ns = test.rate, round(scenario.bound * 1e9)
    elif test.rate is not None:
        settings.offline_expected_qps = test.rate
    if test.latency is not None:
        nanoseconds = round(test.latency * 1e6)
        settings.single_stream_expected_latency_ns = settings.multi_stream_expected_latency_ns = nanoseconds
    return settings
