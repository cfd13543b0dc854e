"""Watches a test while LoadGen runs it: heartbeats, the progress bar, and early ends."""

import time
from dataclasses import dataclass

from harness.host.energy import Energy, EnergyMeter
from harness.host.supervise import Heartbeat
from harness.host.usage import CoreMeter, CoreUse
from harness.preparing.prepared import Prepared
from harness.running.load import Load
from harness.running.nodes import progress_of
from harness.running.progress import ProgressText
from harness.running.recorder import Recorder
from harness.scheduling.base import Counters, Scheduler
from harness.scheduling.overload import LONGEST_GAP, Overload
from harness.settings.run import RunSettings
from harness.terminal import console
from harness.terminal.progress import Progress

_LOADGEN_SECONDS_PER_QUERY = 2e-6  # at most, to generate a query and, at the end, to sort its latency
_SETTLING_SECONDS = 2.0  # until a test's rate says how long it will take


@dataclass(frozen=True)
class WatchedTest:
    """The test that LoadGen runs, and what shows how it goes."""

    settings: RunSettings
    ready: Prepared
    load: Load
    scheduler: Scheduler
    overload: Overload | None = None
    """Ends a test that can no longer meet its latency bound; None if it has none."""
    recorder: Recorder | None = None
    """Knows the latencies so far."""


class Watch:
    """Turns a scheduler's counters into heartbeats, a progress bar and an early end."""

    def __init__(self, test: WatchedTest, heartbeat: Heartbeat, bar: Progress) -> None:
        settings, ready, load = test.settings, test.ready, test.load
        self._load, self._scheduler, self._heartbeat, self._bar = load, test.scheduler, heartbeat, bar
        self._overload = test.overload
        self._links = ready.links
        self._accuracy, self._streams = settings.accuracy, ready.engine.streams
        self._stalled = max(settings.stall_timeout, 20 * ready.slowest)
        # Nothing progresses between two queries, or while LoadGen generates all of them or sorts their latencies.
        gap = LONGEST_GAP / load.rate if ready.scenario.paced and load.rate else 0
        self._idle = self._stalled + gap + (0 if settings.accuracy else _LOADGEN_SECONDS_PER_QUERY * load.queries)
        # LoadGen issues an accuracy run in several queries, one for each set of samples that it loads.
        samples, cost = (ready.qsl.count, int(ready.scenario.costs.sum())) if settings.accuracy else (0, 0)
        bound = ready.scenario.bound if ready.scenario.paced else None
        unit = ready.scenario.sut.unit
        self._outlook = ProgressText(load, settings.accuracy, samples, cost, unit, bound, test.recorder)
        self._state = (0, False)
        self._settled: tuple[float, float] | None = None
        self._warned = False
        self._meter, self._energy = CoreMeter(), EnergyMeter()
        heartbeat.beat(self._idle)

    @property
    def cores(self) -> CoreUse | None:
        """Who used the cores during the test; None if it was too short, or the system does not show it.

        Also None with nodes: they may be processes of this machine, and would count as others.
        """
        return None if self._links else self._meter.use

    @property
    def energy(self) -> Energy | None:
        """The energy that this machine used during the test; None if it does not show it, or if nodes compute."""
        return None if self._links else self._energy.energy

    def look(self, over: bool) -> None:
        """Report what was completed since the last call; ``over`` once LoadGen has ended the test.

        Raises:
            Overloaded: the test can no longer be VALID.
            ConfigError: it would take far longer than requested.
        """
        if self._scheduler.counters.issued:
            self._meter.look()
            self._energy.look()
        if self._overload and not over:
            self._overload.look(self._scheduler.counters)
        counters = self._scheduler.counters
        busy = counters.issued > counters.completed
        # Only a query without an answer can be stuck in the engine.
        if (counters.completed, busy) != self._state:
            self._state = counters.completed, busy
            self._heartbeat.beat(self._stalled if busy else self._idle)
        if counters.issued:
            self._show(counters, over)
            if not over:
                # Long samples run first, so the share of tokens, not of samples, shows how much is done.
                self._check_duration(counters.done_cost / max(counters.real, self._outlook.cost))

    def _show(self, counters: Counters, over: bool) -> None:
        view = self._outlook.view(counters, counters.ended if over else time.perf_counter(), over)
        note = progress_of(self._scheduler) if self._links else ""
        self._bar.show(view.facts, done=counters.completed, fraction=view.fraction, left=view.left, note=note)

    def _check_duration(self, fraction: float) -> None:
        """Warn of a test that will be far too long, or end it, once its rate is known."""
        now, counters, scenario = time.perf_counter(), self._scheduler.counters, self._load.scenario
        if self._accuracy or scenario.paced or counters.batches < 2 * self._streams:
            return
        if scenario.samples_per_query:
            fraction = counters.completed / (scenario.samples_per_query * self._load.min_queries)
        # Before the first batches, a query of millions of samples takes seconds to plan.
        began, done = self._settled = self._settled or (now, fraction)
        if now - began < _SETTLING_SECONDS or fraction <= done:
            return
        if warning := self._load.look((now - began) / (fraction - done), self._warned):
            console.warn(warning)
            self._warned = True
