"""Choices that all runs of one result share, although each could measure again: batch limits, number of streams."""

from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from harness.errors import ConfigError
from harness.host.machine import core_count, cpu_model
from harness.results.layout import Classic
from harness.results.parts import RecordedLimits, RecordedStreams
from harness.results.record import Record, read_record
from harness.scheduling.limits import Limits
from harness.settings.identity import identity
from harness.settings.run import RunSettings


class Shared(NamedTuple):
    """The choices that the other runs of a result made by measurement; None for those that they did not make."""

    limits: Limits | None = None
    streams: int | None = None


def shared_with_result(settings: RunSettings) -> Shared:
    """The choices of the other official run of the same result.

    A second measurement may lead to another choice. The accuracy run would then check other batches than the fast ones,
    and a compliance test would compare two ways to run. So only a performance run that replaces another, and a run on
    another processor, measure again.
    """
    here = (cpu_model(), core_count())
    for record in _others(settings):
        if (record.limits or record.streams) and (record.machine.cpu, record.machine.cores) == here:
            return _shared(record.limits, record.streams)
    return Shared()


def shared_by_nodes(settings: RunSettings) -> dict[str, Shared]:
    """The choices of each node in the other official run of the same result, by the node's name."""
    nodes = next((record.nodes for record in _others(settings) if record.nodes), [])
    return {node.name: _shared(node.limits, node.chosen_streams) for node in nodes}


def _others(settings: RunSettings) -> Iterator[Record]:
    """The records of the other official runs of the same result."""
    if not settings.official or (settings.force and settings.mode == "performance" and not settings.compliance):
        return
    layout = Classic(settings.tree)
    for folder in (layout.performance(settings.scene), layout.accuracy(settings.scene)):
        if folder == settings.target:
            continue
        with suppress(ConfigError):  # a damaged record is reported by the commands that need it
            record = read_record(folder)
            if record and not record.identity.difference(identity(settings)):
                yield record


def _shared(limits: RecordedLimits | None, streams: RecordedStreams | None) -> Shared:
    return Shared(
        Limits(limits.max_batch, limits.max_tokens) if limits else None,
        streams.streams if streams else None,
    )
