"""Search for the highest rate that passes, with few tests."""

import math
from collections.abc import Callable

_RATE_FACTOR = 1.5  # factor between tests until both a passing and a failing rate are known


def highest_passing(
    passes: Callable[[float], bool], guess: float, precision: float = 0.03, max_tests: int = 12, retest: bool = False
) -> float:
    """The highest rate that passed in at most ``max_tests`` tests; 0 if none did.

    From ``guess``, the rate is raised or lowered in large steps until one rate passes and one fails. Bisection then
    narrows the interval to ``precision`` (geometric, since rates differ by factors). With ``retest``, the failed rate
    that ends the search is tested once more, since a hiccup of the machine can fail a rate that it can answer; if the
    rate passes, the search continues above it. A search that has used all its tests ends without this retest.
    """
    low, failed = 0.0, {math.inf}
    rate = guess
    for _ in range(max_tests):
        if passes(rate):
            low = rate
            failed = {each for each in failed if each > low}
        elif rate in failed:
            break
        else:
            failed.add(rate)
        high = min(failed)
        if not low:
            rate = high / _RATE_FACTOR
        elif high == math.inf:
            rate = low * _RATE_FACTOR
        elif high > low * (1 + precision):
            rate = (low * high) ** 0.5
        elif retest:
            rate = high
        else:
            break
    return low
