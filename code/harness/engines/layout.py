"""Where an engine's streams run: threads, instances, and the cores that they are kept on."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

from pydantic import Field

from harness.engines.base import EngineSettings
from harness.errors import ConfigError
from harness.machine import Core, cores

Cpus = tuple[int, ...]


class CoreSettings(EngineSettings):
    """Settings of engines that compute on cores."""

    threads: int | None = Field(None, ge=1, description="cores of one stream; default: cores ÷ streams")
    instances: int | None = Field(
        None, ge=1, description="copies of the model, which share the streams; default: one for each NUMA node"
    )
    pin: bool | None = Field(
        None, description="keep each instance on cores of its own; default: as suits the engine and the machine"
    )

    def suited(self, *, latency: bool, arriving: bool, max_cost: int) -> Self:
        """As of every engine, unless the user sets the threads of a stream."""
        if self.threads is not None:
            return self
        return super().suited(latency=latency, arriving=arriving, max_cost=max_cost)


@dataclass(frozen=True)
class Layout:
    """Streams on cores."""

    threads: int
    """Of one stream."""
    streams: int
    instances: tuple[Cpus, ...]
    """The CPUs of each copy of the model."""
    pin: bool

    @classmethod
    def of(cls, settings: CoreSettings, preferred: int, pin: bool, machine: Sequence[Core] | None = None) -> Layout:
        """The layout on this machine: no core idle, and where nothing is set ``preferred`` threads a stream or more.

        On several NUMA nodes instances are pinned; where there is one, ``pin`` says what suits the engine.

        Raises:
            ConfigError: the streams cannot be shared out evenly among the instances.
        """
        machine = machine or cores()
        streams = settings.streams or max(1, len(machine) // (settings.threads or preferred))
        threads = settings.threads or max(1, len(machine) // streams)
        nodes = len({core.node for core in machine})
        count = settings.instances or max(n for n in range(1, nodes + 1) if streams % n == 0)
        if streams % count:
            raise ConfigError(
                f"{streams} streams cannot be shared out among {count} instances: set streams to a multiple of {count}."
            )
        size = streams // count * threads
        cpus = [machine[place % len(machine)].cpu for place in range(count * size)]
        places = tuple(tuple(cpus[start : start + size]) for start in range(0, count * size, size))
        return cls(threads, streams, places, pin or nodes > 1 if settings.pin is None else settings.pin)

    def instance(self, stream: int) -> int:
        """The instance that a stream belongs to."""
        return stream * len(self.instances) // self.streams

    def cpus(self, stream: int) -> Cpus:
        """The CPUs of a stream."""
        place = stream % (self.streams // len(self.instances)) * self.threads
        return self.instances[self.instance(stream)][place : place + self.threads]

    def describe(self) -> dict[str, object]:
        """For the record of a run."""
        facts = {"threads": self.threads, "streams": self.streams, "instances": len(self.instances), "pin": self.pin}
        return {**facts, "cpus": [list(cpus) for cpus in self.instances]} if self.pin else facts


def stream_counts(most: int) -> list[int]:
    """Powers of two up to ``most``, and ``most``."""
    return sorted({most, *(2**power for power in range(most.bit_length()) if 2**power <= most)})


def batch_sizes(settings: type[EngineSettings], max_cost: int) -> list[dict[str, str]]:
    """Batch limits to try around the default: of samples where each costs 1, otherwise of cost units."""
    if max_cost == 1:
        return [{"max_batch": str(size)} for size in (4, 16, 64)]
    default = settings.model_fields["max_tokens"].default
    return [{"max_tokens": str(round(default * factor))} for factor in (0.5, 1, 2)]


_here = threading.local()


def stay_on(cpus: Cpus) -> None:
    """Keep the calling thread on these CPUs from now on; not the main thread, whose place new threads inherit."""
    if threading.current_thread() is threading.main_thread():
        return
    if getattr(_here, "cpus", None) != cpus:
        _set_affinity(cpus)
        _here.cpus = cpus


@contextmanager
def on_cpus(cpus: Cpus) -> Iterator[None]:
    """Run the block on these CPUs: memory that it touches first lies near them, threads that it starts stay there."""
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
