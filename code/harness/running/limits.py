"""The batch limits that all runs of one result share."""

from contextlib import suppress

from harness.errors import ConfigError
from harness.host.machine import core_count, cpu_model
from harness.results.layout import Classic
from harness.results.record import read_record
from harness.running.identity import identity
from harness.running.settings import RunSettings
from harness.scheduling.limits import Limits


def limits_of_result(settings: RunSettings) -> Limits | None:
    """The limits that the other official run of the same result measured to be best; None if it measured none.

    A second measurement may choose other limits. The accuracy run would then check other batches than those that were
    fast, and a compliance test would compare two ways to run. Only a performance run that replaces another measures
    anew, and one on another processor.
    """
    if not settings.official or (settings.force and settings.mode == "performance" and not settings.compliance):
        return None
    layout = Classic(settings.tree)
    here = (cpu_model(), core_count())
    for folder in (layout.performance(settings.scene), layout.accuracy(settings.scene)):
        if folder == settings.target:
            continue
        with suppress(ConfigError):  # a damaged record is reported by the commands that need it
            record = read_record(folder)
            if not record or not record.limits or (record.machine.cpu, record.machine.cores) != here:
                continue
            if not record.identity.difference(identity(settings)):
                return Limits(record.limits.max_batch, record.limits.max_tokens)
    return None
