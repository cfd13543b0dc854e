"""The energy that the processors used, from the kernel's powercap interface to RAPL.

The counters cover whole packages, other processes included. Since Linux 5.10 only root may read them, and few virtual
machines have them: without them, nothing is measured.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.host.sysfs import number, read

_HERE = Path("/")
_ZONES = "sys/class/powercap"
_PACKAGE, _MEMORY = r"intel-rapl:\d+", r"intel-rapl:\d+:\d+"


@dataclass(frozen=True)
class Energy:
    """The energy used over some time."""

    joules: float
    seconds: float
    zones: tuple[str, ...]
    """The kernel's names of what was measured: package-0, dram."""

    @property
    def watts(self) -> float:
        """The mean power."""
        return self.joules / self.seconds


class EnergyMeter:
    """Adds up the energy between the first and the last `look`."""

    def __init__(self, root: Path = _HERE) -> None:
        """``root`` contains sys."""
        self._zones = list(_readable(root / _ZONES))
        self._last: list[int] = []
        self._joules = 0.0
        self._began = self._ended = 0.0

    def look(self, now: float | None = None) -> None:
        """Read the counters, which wrap around to 0 after minutes: look more often than that.

        ``now`` is in seconds of time.perf_counter().
        """
        if not self._zones:
            return
        texts = [read(zone / "energy_uj") for zone in self._zones]
        if not all(text.isdigit() for text in texts):  # without one of them, the sum would not be the machine's
            self._zones, self._joules = [], 0.0
            return
        found = [int(text) for text in texts]
        self._ended = time.perf_counter() if now is None else now
        if not self._last:
            self._began = self._ended
        for zone, value, before in zip(self._zones, found, self._last, strict=False):
            passed = value - before
            self._joules += (passed if passed >= 0 else passed + number(zone / "max_energy_range_uj")) / 1e6
        self._last = found

    @property
    def energy(self) -> Energy | None:
        """The energy used between the looks; None if the machine does not show it."""
        if self._ended <= self._began or self._joules <= 0:
            return None
        return Energy(self._joules, self._ended - self._began, tuple(read(zone / "name") for zone in self._zones))


def _readable(folder: Path) -> Iterator[Path]:
    """The packages' zones, and the memory's, whose energy is not part of a package's."""
    for zone in sorted(folder.glob("intel-rapl:*")):
        name = read(zone / "name")
        package = re.fullmatch(_PACKAGE, zone.name) and name.startswith("package")
        memory = re.fullmatch(_MEMORY, zone.name) and name == "dram"
        if (package or memory) and read(zone / "energy_uj").isdigit():
            yield zone
