"""What the benchmarks share: a scenario made ready as a run makes it, and how ratios are printed."""

from __future__ import annotations

import multiprocessing
import statistics
from dataclasses import dataclass

from harness.config import make_settings
from harness.loadgen.logs import Detail
from harness.prepare import Prepared, prepare
from harness.scheduling.base import Scheduler


@dataclass(frozen=True)
class Ready(Prepared):
    """A scenario with all that it needs, loaded and warm."""

    @classmethod
    def make(cls, model: str, dataset: str | None, engine: str, name: str, **options: object) -> Ready:
        """The scenario of that name with a model on an engine."""
        settings = make_settings(
            model=model,
            engine=engine,
            scenario=name,
            mode="performance",
            options={key: str(value) for key, value in options.items()},
            dataset=dataset,
        )
        return cls(**vars(prepare(settings)))

    def test(self, scheduler: Scheduler | None = None, **settings: object) -> Detail:
        """LoadGen's log of a test; its samples are loaded again afterwards."""
        from harness.loadgen import session

        scheduler = scheduler or self.scenario.scheduler(session.complete)
        detail = session.short_test(self.scenario.name, scheduler, self.qsl, **settings)
        self.qsl.load(self.indices)
        return detail


def apart(work, *args):
    """Run a measurement in a process of its own: engines and LoadGen leave threads behind."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def spread(values: list[float]) -> str:
    """Median, least and greatest."""
    return f"{statistics.median(values):.3f} ({min(values):.3f} - {max(values):.3f})"
