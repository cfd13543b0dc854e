"""Judges forecasts of the time left: an estimator is driven through a run on a fake clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

ALLOWED, SECONDS = 0.25, 2.0
FROM = 0.1


@dataclass(frozen=True)
class Forecast:
    """The time left as shown at one moment."""

    at: float
    """Seconds since the work began."""
    left: float
    """Seconds that it will still take."""


def error(forecasts: Iterable[Forecast], lasted: float) -> float:
    """The worst error of a forecast after the first tenth of the work, relative to the true time left.

    Two seconds are always forgiven: near the end, a quarter of the time left would be less than a reader notices, and
    the time is shown in whole seconds.
    """
    later = [each for each in forecasts if FROM * lasted <= each.at < lasted]
    return max((_error(each, lasted - each.at) for each in later), default=0.0)


def _error(forecast: Forecast, true: float) -> float:
    wrong = abs(forecast.left - true)
    return 0.0 if wrong <= SECONDS else wrong / max(true, 1e-9)


def forecasts_at(moments: Iterable[float], left: Callable[[float], float | None]) -> list[Forecast]:
    """The forecasts of ``left`` at these moments, without those at which it gives none."""
    found = ((at, left(at)) for at in moments)
    return [Forecast(at, seconds) for at, seconds in found if seconds is not None]


def coverage(forecasts: Iterable[Forecast], lasted: float) -> float:
    """The share of the time after the first tenth that follows the first forecast: an estimator must give one."""
    first = min((each.at for each in forecasts), default=lasted)
    return (lasted - max(first, FROM * lasted)) / ((1 - FROM) * lasted)
