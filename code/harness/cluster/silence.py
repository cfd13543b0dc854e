"""When a node that does not answer is lost, and when it, or this process, only lacks processor time."""

from __future__ import annotations

SILENT = 3.0
"""Seconds without an answer after which a node is lost if its machine cannot be reached either."""
STARVED = 30.0
"""Seconds without an answer after which a node is lost in any case."""
_STEP = 1.0  # seconds between two looks, at most, that count


class Silence:
    """Counts the seconds in which a node could have been heard; not those in which this process did not run."""

    def __init__(self, now: float, starting: float) -> None:
        """``now`` is the moment on any clock; the first answer has ``starting`` seconds more."""
        self._looked, self._silent = now, -starting

    def heard(self, now: float) -> None:
        """It answered."""
        self._looked, self._silent = now, 0.0

    def look(self, now: float) -> None:
        """To be called often: what is more than a second since the last time was spent without processor time."""
        self._silent += min(max(0.0, now - self._looked), _STEP)
        self._looked = now

    @property
    def suspicious(self) -> bool:
        """Whether it is time to ask whether its machine can be reached."""
        return self._silent > SILENT

    def verdict(self, reachable: bool | None) -> str:
        """Why it is lost; empty if it is not.

        ``reachable`` says whether its machine accepts connections, which a kernel does also where no process gets
        processor time; None if that is not known yet.
        """
        if self._silent > STARVED:
            return f"no answer for {STARVED:.0f} s"
        if self.suspicious and reachable is False:
            return f"no answer for {SILENT:.0f} s, and its machine cannot be reached"
        return ""
