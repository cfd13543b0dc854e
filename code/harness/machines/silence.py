"""Whether a silent node is lost, or merely lacks processor time, as this process itself may."""

from __future__ import annotations

SILENT_SECONDS = 3.0
"""Seconds without an answer after which a node is lost if its machine cannot be reached either."""
STARVED_SECONDS = 30.0
"""Seconds without an answer after which a node is lost in any case."""
_MAX_LOOK_SECONDS = 1.0  # that one call of `look` can add


class Silence:
    """Counts a node's seconds of silence, except those in which this process itself did not run."""

    def __init__(self, now: float, starting: float) -> None:
        """``now`` is in seconds of any clock; the first answer may take ``starting`` seconds longer."""
        self._looked, self._silent = now, -starting

    def heard(self, now: float) -> None:
        """Record an answer."""
        self._looked, self._silent = now, 0.0

    def look(self, now: float) -> None:
        """Add the time since the last call, but at most a second: call this often."""
        self._silent += min(max(0.0, now - self._looked), _MAX_LOOK_SECONDS)
        self._looked = now

    @property
    def suspicious(self) -> bool:
        """Whether it is time to check that its machine can be reached."""
        return self._silent > SILENT_SECONDS

    def verdict(self, reachable: bool | None) -> str:
        """Why the node is lost; "" if it is not.

        ``reachable`` says whether its machine accepts connections, as a kernel does even if no process gets processor
        time; None if that is not known yet.
        """
        if self._silent > STARVED_SECONDS:
            return f"no answer for {STARVED_SECONDS:.0f} s"
        if self.suspicious and reachable is False:
            return f"no answer for {SILENT_SECONDS:.0f} s, and its machine cannot be reached"
        return ""
