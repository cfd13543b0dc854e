"""What all runs of one result share, although each could measure it anew: batch limits, and the number of streams."""

from contextlib import suppress
from typing import NamedTuple

from harness.errors import ConfigError
from harness.host.machine import core_count, cpu_model
from harness.results.layout import Classic
from harness.results.record import Record, read_record
from harness.running.identity import identity
from harness.running.settings import RunSettings
from harness.scheduling.limits import Limits


class Shared(NamedTuple):
    """What the other runs of a result measured to be best; None for what they did not choose."""

    limits: Limits | None = None
    streams: int | None = None


def shared_with_result(settings: RunSettings) -> Shared:
    """The choices of the other official run of the same result.

    A second measurement may choose otherwise. The accuracy run would then check other batches than those that were
    fast, and a compliance test would compare two ways to run. Only a performance run that replaces another measures
    anew, and one on another processor.
    """
    if not settings.official or (settings.force and settings.mode == "performance" and not settings.compliance):
        return Shared()
    layout = Classic(settings.tree)
    here = (cpu_model(), core_count())
    for folder in (layout.performance(settings.scene), layout.accuracy(settings.scene)):
        if folder == settings.target:
            continue
        with suppress(ConfigError):  # a damaged record is reported by the commands that need it
            record = read_record(folder)
            if not record or (record.machine.cpu, record.machine.cores) != here:
                continue
            if (record.limits or record.streams) and not record.identity.difference(identity(settings)):
                return _of(record)
    return Shared()


def _of(record: Record) -> Shared:
    limits = Limits(record.limits.max_batch, record.limits.max_tokens) if record.limits else None
    return Shared(limits, record.streams.streams if record.streams else None)
