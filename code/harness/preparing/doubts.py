"""Signs that a setting does not belong to the model."""

from harness.preparing.prepared import Prepared
from harness.settings.run import RunSettings
from harness.terminal import console


def warn_of_doubts(settings: RunSettings, ready: Prepared) -> tuple[str, ...]:
    """Warn of settings that do not seem to belong to the model, and return the warnings.

    Before an accuracy run, samples are checked as well, unless stand-ins would explain any score.
    """
    doubts = ready.doubts
    if settings.accuracy and not ready.links and not expects_chance_score(settings, ready):
        doubts += ready.benchmark.sampled_doubts(ready.sut, ready.dataset)
    for doubt in doubts:
        console.warn(doubt)
    return doubts


def expects_chance_score(settings: RunSettings, ready: Prepared) -> bool:
    """Whether only a score at chance is expected: data, weights or engine are stand-ins."""
    return settings.stand_ins or not ready.engine.computes
