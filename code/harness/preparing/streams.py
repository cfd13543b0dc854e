"""Chooses the number of streams that answer queries under a latency bound.

One core per stream gives the highest throughput. If one core takes too long for a single sample, no rate is low enough
to meet the bound; fewer streams, with more cores each, may then meet it.
"""

from collections.abc import Callable, Sequence

from harness.engines.base import Engine, EngineSettings
from harness.scenarios.base import Listener, Scenario
from harness.task.shape import Integers
from harness.terminal import console

_SPACE_FACTOR = 2  # memory for an engine's own copy of the weights, as a multiple of the file's size
Build = Callable[[EngineSettings], Scenario]


def with_streams(layouts: Sequence[EngineSettings], streams: int | None) -> Sequence[EngineSettings]:
    """The layouts to choose from, most streams first; only those with the ``streams`` of another run, if any."""
    if streams is None or len(layouts) < 2:
        return layouts
    same = [layout for layout in layouts if layout.stream_count() == streams]
    if not same:
        console.warn(
            f"another run of this result used {streams} streams, which is not possible here: the number is chosen "
            "again."
        )
    return same or layouts


def affordable(layouts: Sequence[EngineSettings], size: int, memory: int | None) -> Sequence[EngineSettings]:
    """The layouts, without those that would need too much memory if each stream had its own ``size`` bytes of weights.

    Streams of one core share weights; those of several may not. The first and the last layout always remain.
    """

    def fits(layout: EngineSettings) -> bool:
        return memory is None or _SPACE_FACTOR * size * (layout.stream_count() or 1) <= memory

    first, *fewer = layouts
    return [first, *filter(fits, fewer[:-1]), *fewer[-1:]]


def quick_enough(
    layouts: Sequence[EngineSettings],
    build: Build,
    close: Callable[[Engine], None],
    indices: Integers,
    listener: Listener,
) -> Scenario:
    """The scenario with the first layout that is quick enough for its bound, or else with the last one.

    ``build`` loads the engine; ``close`` frees an engine that was too slow. ``indices`` are loaded samples.
    """
    left, why = list(layouts), ""
    while len(left) > 1:
        scenario = build(left[0])
        times, words = scenario.slowness(indices, listener)
        why = f"{why}; {words}" if why else words
        if times <= 1:
            break
        console.detail(f"{words}: fewer streams, with more cores each")
        enough = scenario.sut.engine.parallel / times  # twice the cores are at best twice as fast
        left = [layout for layout in left[1:] if (layout.stream_count() or 1) <= enough] or left[-1:]
        close(scenario.sut.engine)
        del scenario  # two copies of a large model would not fit
    else:
        scenario = build(left[0])
    if len(layouts) > 1:
        scenario.streams_why = why
    return scenario
