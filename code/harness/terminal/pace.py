"""Estimates the time left for counted work from its pace so far; every time left that is shown comes from here."""

from itertools import pairwise

_MAX_MOMENTS = 256  # to keep
_SAME_STEP_SHARE = 0.2  # of the previous pause: closer steps count as one, such as those of streams that end together

_Moment = tuple[float, float]
"""Clock seconds, and the work done by then."""


class Pace:
    """The pace of work that advances in steps.

    The time left follows the pace in the last half of the time so far, so that it soon adapts when the pace changes.
    The first step is ignored, since it often includes one-time work: loading, compiling, filling caches. So nothing is
    known before the second step.
    """

    def __init__(self, began: float, done: float = 0.0) -> None:
        """``began`` is in seconds of any clock; ``done`` is the work done before that."""
        self._restart(began, done)

    def _restart(self, began: float, done: float) -> None:
        self._moments: list[_Moment] = [(began, done)]
        self._opened = self._before = began
        """When the last moment began, and the previous one."""

    def note(self, now: float, done: float) -> None:
        """Record what is ``done``; ignored if that has not grown. If it is less than before, the work began again."""
        grown = done - self._moments[-1][1]
        if grown < 0:
            self._restart(now, done)
        if grown <= 0:
            return
        if len(self._moments) > 1 and self._same_step(now):
            self._moments[-1] = (now, done)
            return
        self._before, self._opened = self._opened, now
        self._moments.append((now, done))
        if len(self._moments) > _MAX_MOMENTS:
            # The end of the first step and the newest moments stay.
            self._moments[2:-2] = self._moments[3:-2:2]

    def per_second(self, now: float) -> float | None:
        """Work per second in the last half of the time; None if unknown."""
        half = self._last_half(now)
        if not half or half[-1][0] <= half[0][0]:
            return None
        return (half[-1][1] - half[0][1]) / (half[-1][0] - half[0][0])

    def left(self, now: float, total: float) -> float | None:
        """Seconds until ``total`` is done; None if the pace is unknown.

        The time of a running step is counted down. If it takes longer than any in the last half of the time, it is
        expected to need as much more time as it is overdue.
        """
        rate = self.per_second(now)
        if rate is None:
            return None
        last, done = self._moments[-1]
        longest = max(later - earlier for (earlier, _), (later, _) in pairwise(self._last_half(now)))
        running = now - last
        return max((total - done) / rate - min(running, longest), 0.0) + max(running - longest, 0.0)

    def _last_half(self, now: float) -> list[_Moment]:
        """The moments since the first step ended, without those of the first half; none if there are less than two."""
        moments = self._moments[1:]
        if len(moments) > 2 and self._same_step(now):  # the newest step may still grow
            moments.pop()
        if len(moments) < 2:
            return []
        middle = (moments[0][0] + moments[-1][0]) / 2
        start = next(at for at in range(len(moments) - 2, -1, -1) if moments[at][0] <= middle)
        return moments[start:]

    def _same_step(self, now: float) -> bool:
        """Whether a step that ends now counts as part of the last one."""
        return now - self._opened < _SAME_STEP_SHARE * (self._opened - self._before)
