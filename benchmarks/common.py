"""Shared by the benchmarks: scenarios prepared as for a run, processes for measurements, formatting of ratios."""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

from harness.errors import HarnessError
from harness.host import console
from harness.preparing.local import prepare
from harness.preparing.prepared import Preparation, Prepared
from harness.preparing.shared import Shared
from harness.scheduling.limits import Limits
from harness.settings.request import RunRequest, resolve


@dataclass(frozen=True)
class Ready(Prepared):
    """A scenario with everything it needs, loaded and warmed up."""

    @classmethod
    def make(
        cls, model: str, dataset: str | None, engine: str, name: str, limits: Limits | None = None, **options: object
    ) -> Ready:
        """Prepare the scenario with this name, for a model on an engine; ``limits`` in place of measured ones."""
        settings = resolve(
            RunRequest(
                model=model,
                engine=engine,
                scenario=name,
                mode="performance",
                options={key: str(value) for key, value in options.items()},
                dataset=dataset,
            )
        )
        return cls(**vars(prepare(settings, Preparation(shared=Shared(limits)))))


def command(measure: Callable[[], None]) -> None:
    """Run a benchmark's command line; user errors become one line and an exit code."""
    try:
        measure()
    except HarnessError as error:
        console.error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        console.error("interrupted.")
        sys.exit(130)


def apart(work, *args, **options):
    """Run a measurement in a separate process: engines and LoadGen leave threads behind."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args, options)


class OtherProcesses:
    """The mean number of cores that other processes keep busy during a block; `cores` is set at its end."""

    cores = 0.0

    def __enter__(self) -> OtherProcesses:
        self._start = self._now()
        return self

    def __exit__(self, *_: object) -> None:
        wall, busy, own = (after - before for after, before in zip(self._now(), self._start, strict=True))
        self.cores = max(0.0, busy - own) / wall

    @staticmethod
    def _now() -> tuple[float, float, float]:
        """The time, and the processor seconds of the machine and of this process with its finished children."""
        times = psutil.cpu_times()
        busy = sum(times[:8]) - times.idle - getattr(times, "iowait", 0.0)
        return time.monotonic(), busy, sum(os.times()[:4])


def spread(values: list[float]) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"
