"""The highest rate that still passes, found with few tests."""

from __future__ import annotations

from collections.abc import Callable

_STEP = 1.5  # from one test to the next while no limit is known on one side


def highest_passing(passes: Callable[[float], bool], guess: float, precision: float = 0.03, most: int = 12) -> float:
    """The highest rate that passed, of at most ``most`` tests; 0 if none did.

    From ``guess`` on the rate is raised or lowered in large steps until one passes and one fails, then the two are
    brought together by bisection (geometric, since rates differ by factors) until they lie within ``precision``.
    """
    low, high = 0.0, float("inf")
    rate = guess
    for _ in range(most):
        if passes(rate):
            low = rate
        else:
            high = rate
        if low and high <= low * (1 + precision):
            break
        if not low:
            rate = high / _STEP
        elif high == float("inf"):
            rate = low * _STEP
        else:
            rate = (low * high) ** 0.5
    return low
