"""How honest a time left is: an estimator is driven through a run on a fake clock, and what it says is judged."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

ALLOWED, SECONDS = 0.25, 2.0
FROM = 0.1


@dataclass(frozen=True)
class Told:
    """What was said at one moment."""

    at: float
    """Seconds since the work began."""
    left: float


def error(told: Iterable[Told], lasted: float) -> float:
    """The worst error of a time left after the first tenth of the work, relative to the true time left.

    Two seconds are always forgiven: near the end, a quarter of the time left would be less than a reader notices, and
    what is shown is rounded to whole seconds.
    """
    later = [each for each in told if FROM * lasted <= each.at < lasted]
    return max((_error(each, lasted - each.at) for each in later), default=0.0)


def _error(told: Told, true: float) -> float:
    wrong = abs(told.left - true)
    return 0.0 if wrong <= SECONDS else wrong / max(true, 1e-9)


def said(left: Callable[[float], float | None], moments: Iterable[float]) -> list[Told]:
    """What ``left`` says at these moments, without those where it says nothing."""
    found = ((at, left(at)) for at in moments)
    return [Told(at, seconds) for at, seconds in found if seconds is not None]


def told_share(told: Iterable[Told], lasted: float) -> float:
    """Share of the time after the first tenth from which on something is said: an estimator must not just be silent."""
    first = min((each.at for each in told), default=lasted)
    return (lasted - max(first, FROM * lasted)) / ((1 - FROM) * lasted)
