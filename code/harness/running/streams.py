"""Chooses the number of streams that answer queries under a latency bound.

One core per stream gives the highest throughput. Where one core takes too long for a single sample, no rate is low
enough to meet the bound: fewer streams, with more cores each, then answer what many cannot.
"""

from collections.abc import Callable, Sequence

from harness.engines.base import Engine, EngineSettings
from harness.host import console
from harness.scenarios.base import Listener, Scenario
from harness.task.shape import Integers

Build = Callable[[EngineSettings], Scenario]


def with_streams(layouts: Sequence[EngineSettings], streams: int | None) -> Sequence[EngineSettings]:
    """The layouts from which to choose, most streams first: only that with the ``streams`` of another run, if any."""
    return [layout for layout in layouts if len(layouts) > 1 and _streams(layout) == streams] or layouts


def quick_enough(
    layouts: Sequence[EngineSettings],
    build: Build,
    close: Callable[[Engine], None],
    indices: Integers,
    listener: Listener,
) -> Scenario:
    """The scenario on the first of the layouts that is quick enough for its bound, or on the last.

    ``build`` loads the engine; ``close`` frees one that was too slow. ``indices`` are loaded samples.
    """
    left, why = list(layouts), ""
    while True:
        scenario = build(left[0])
        if len(left) == 1:
            break
        times, words = scenario.slowness(indices, listener)
        if times <= 1:
            why = words
            break
        console.detail(f"{words}: fewer streams, with more cores each")
        why, enough = words, scenario.sut.engine.streams / times  # twice the cores are at best twice as fast
        left = [layout for layout in left[1:] if _streams(layout) <= enough] or left[-1:]
        close(scenario.sut.engine)
    if len(layouts) > 1:
        scenario.streams_why = why
    return scenario


def _streams(layout: EngineSettings) -> int:
    return int(str(layout.in_force()["streams"]))
