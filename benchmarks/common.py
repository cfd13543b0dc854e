"""Shared by the benchmarks: scenarios prepared as for a run, processes for measurements, formatting of ratios."""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from harness.errors import HarnessError
from harness.preparing.local import prepare
from harness.preparing.prepared import Preparation, Prepared
from harness.preparing.shared import Shared
from harness.scheduling.limits import Limits
from harness.settings.request import RunRequest, resolve
from harness.terminal import console

P = ParamSpec("P")
R = TypeVar("R")
NO_OPTIONS: Mapping[str, object] = {}


def prepare_test(
    model: str,
    dataset: str | None,
    engine: str,
    scenario: str,
    options: Mapping[str, object] = NO_OPTIONS,
    limits: Limits | None = None,
) -> Prepared:
    """A model on an engine, loaded and warmed up for a scenario; ``limits`` in place of measured ones."""
    settings = resolve(
        RunRequest(
            model=model,
            engine=engine,
            scenario=scenario,
            mode="performance",
            options={key: str(value) for key, value in options.items()},
            dataset=dataset,
        )
    )
    return prepare(settings, Preparation(shared=Shared(limits)))


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


def apart(work: Callable[P, R], *args: P.args, **options: P.kwargs) -> R:
    """Run a measurement in a separate process: engines and LoadGen leave threads behind."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args, options)


def spread(values: list[float]) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"
