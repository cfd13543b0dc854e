"""The layout of an engine's streams: threads, instances, and the cores that they are pinned to."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

from pydantic import Field, JsonValue

from harness.engines.base import EngineSettings
from harness.errors import ConfigError
from harness.host.machine import Core, cores

Cpus = tuple[int, ...]


class CoreSettings(EngineSettings):
    """The settings of engines that compute on CPU cores."""

    threads: int | None = Field(None, ge=1, description="cores per stream; default: cores ÷ streams")
    instances: int | None = Field(
        None, ge=1, description="copies of the model, which share the streams; default: one per NUMA node"
    )
    pin: bool | None = Field(
        None, description="pin each instance to its own cores; default: chosen by engine and machine"
    )

    def suited(self, *, latency: bool, arriving: bool, max_cost: int) -> Self:
        """As for every engine, unless the user sets the threads per stream."""
        if self.threads is not None:
            return self
        return super().suited(latency=latency, arriving=arriving, max_cost=max_cost)

    def layouts(self, suited: Self) -> list[Self]:
        """Each with about half the streams of the previous one, equally many per instance, down to one on all cores."""
        if self.streams or self.threads or self.instances:
            return [suited]
        first = suited.layout()
        return [suited, *(suited.model_copy(update={"streams": count}) for count in fewer_streams(first))]

    def stream_count(self) -> int:
        """The streams of the layout."""
        return self.layout().streams

    def layout(self) -> StreamLayout:
        """The layout of the streams on this machine, by default with one thread each."""
        return StreamLayout.of(self, preferred=1, pin=False)

    def in_force(self) -> dict[str, JsonValue]:
        """The settings with the layout on this machine."""
        return {**super().in_force(), **self.layout().describe()}

    def crowded(self) -> str:
        """A warning above two threads per core, since a core has two hyper-threads at most."""
        layout, count = self.layout(), len(cores())
        if layout.streams * layout.threads <= 2 * count:
            return ""
        given = [f"{name} = {value}" for name in ("streams", "threads", "instances") if (value := getattr(self, name))]
        makes, fewer = ("makes", "a lower value is") if len(given) == 1 else ("make", "lower values are")
        return (
            f"{', '.join(given)} {makes} {layout.streams * layout.threads} threads compete for {count} "
            f"{'core' if count == 1 else 'cores'}, which slows every batch: {fewer} usually faster."
        )


@dataclass(frozen=True)
class StreamLayout:
    """How streams are laid out: threads, model instances and cores."""

    threads: int
    """Per stream."""
    streams: int
    instances: tuple[Cpus, ...]
    """The CPUs of each copy of the model."""
    pin: bool

    @classmethod
    def of(
        cls, settings: CoreSettings, preferred: int, pin: bool, machine: Sequence[Core] | None = None
    ) -> StreamLayout:
        """The layout on this machine: no core is idle, and by default a stream has at least ``preferred`` threads.

        On several NUMA nodes instances are pinned by default; on one, ``pin`` is the engine's default.

        Raises:
            ConfigError: the streams cannot be divided evenly among the instances.
        """
        machine = machine or cores()
        nodes = [[core.cpu for core in machine if core.node == node] for node in sorted({c.node for c in machine})]
        streams = settings.streams
        if streams is None:
            streams = max(1, len(machine) // (settings.threads or preferred))
            share = settings.instances or len(nodes)
            streams = max(1, streams // share) * share
        threads = settings.threads or max(1, len(machine) // streams)
        count = settings.instances or (len(nodes) if streams % len(nodes) == 0 else 1)
        if streams % count:
            raise ConfigError(
                f"{streams} streams cannot be divided among {count} instances: set streams to a multiple of {count}."
            )
        pinned = pin or len(nodes) > 1 if settings.pin is None else settings.pin
        return cls(threads, streams, _places(nodes, count), pinned)

    def instance(self, stream: int) -> int:
        """The instance of a stream."""
        return stream * len(self.instances) // self.streams

    def cpus(self, stream: int) -> Cpus:
        """The CPUs of a stream."""
        cpus = self.instances[self.instance(stream)]
        first = stream % (self.streams // len(self.instances)) * self.threads
        # If there are more threads than cores, they share the cores of their instance.
        return tuple(dict.fromkeys(cpus[place % len(cpus)] for place in range(first, first + self.threads)))

    def describe(self) -> dict[str, JsonValue]:
        """The layout, for a run's record."""
        facts: dict[str, JsonValue] = {
            "threads": self.threads,
            "streams": self.streams,
            "instances": len(self.instances),
            "pin": self.pin,
        }
        return {**facts, "cpus": [[*cpus] for cpus in self.instances]} if self.pin else facts


def _places(nodes: Sequence[Sequence[int]], count: int) -> tuple[Cpus, ...]:
    """The CPUs of ``count`` instances: entire nodes or parts of one, if the numbers allow it."""
    if count % len(nodes) == 0:
        return tuple(part for node in nodes for part in _parts(node, count // len(nodes)))
    return _parts([cpu for node in nodes for cpu in node], count)


def _parts(cpus: Sequence[int], count: int) -> tuple[Cpus, ...]:
    """``count`` contiguous parts of nearly equal size; if there are more parts than CPUs, they share CPUs."""
    if count > len(cpus):
        return tuple((cpus[part % len(cpus)],) for part in range(count))
    ends = [len(cpus) * part // count for part in range(count + 1)]
    return tuple(tuple(cpus[start:end]) for start, end in pairwise(ends))


def fewer_streams(layout: StreamLayout) -> list[int]:
    """Ever smaller numbers of streams that leave no core idle, the same for each instance; the last is 1."""
    share, instances = layout.streams // len(layout.instances), len(layout.instances)
    cpus = min(len(instance) for instance in layout.instances)
    counts = []
    while share > 1:
        share = max(count for count in range(1, share // 2 + 1) if cpus % count == 0)
        counts.append(share * instances)
    return counts if layout.streams == 1 or counts[-1:] == [1] else [*counts, 1]


def stream_counts(maximum: int) -> list[int]:
    """Powers of two up to ``maximum``, and ``maximum``."""
    return sorted({maximum, *(2**power for power in range(maximum.bit_length()))})


def batch_sizes(settings: type[EngineSettings], max_cost: int) -> list[dict[str, str]]:
    """Batch limits to try around the default: in samples if each costs 1, otherwise in cost units."""
    if max_cost == 1:
        return [{"max_batch": str(size)} for size in (1, 2, 4, 8, 16, 64)]
    default = settings.model_fields["max_tokens"].default
    return [{"max_tokens": str(round(default * factor))} for factor in (0.25, 0.5, 1, 2)]


_here = threading.local()


def stay_on(cpus: Cpus) -> None:
    """Pin the calling thread to these CPUs, unless it is the main thread, whose CPUs new threads inherit."""
    if threading.current_thread() is threading.main_thread():
        return
    if getattr(_here, "cpus", None) != cpus:
        _set_affinity(cpus)
        _here.cpus = cpus


@contextmanager
def on_cpus(cpus: Cpus) -> Iterator[None]:
    """Run the block on these CPUs: memory that it first touches is local to them, threads that it starts stay there."""
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    _set_affinity(cpus)
    try:
        yield
    finally:
        if before:
            os.sched_setaffinity(0, before)


def _set_affinity(cpus: Cpus) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
