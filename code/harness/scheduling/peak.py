"""Search for the highest rate that passes, with few tests."""

from collections.abc import Callable

_STEP = 1.5  # factor between tests until both a passing and a failing rate are known


def highest_passing(passes: Callable[[float], bool], guess: float, precision: float = 0.03, most: int = 12) -> float:
    """The highest rate that passed in at most ``most`` tests; 0 if none did.

    From ``guess``, the rate is raised or lowered in large steps until one rate passes and one fails. Bisection then
    narrows the interval to ``precision`` (geometric, since rates differ by factors).
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
