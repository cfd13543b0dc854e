"""Who used the cores: this process, other processes, and a virtual machine's host.

A container sees all processors of its machine, but may use only those of its affinity, and of these only as many as its
control groups grant. Load on the others takes nothing from it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Self  # Python 3.11: the doctor must also run on older ones, to say that they are

from harness.host.memory import cgroup
from harness.host.sysfs import number, read

_HERE = Path("/")
_MIN_SECONDS = 0.3  # the kernel counts in hundredths
_MAX_GAIN = 3.0  # with more, a run would take too long if the other load stays
NOTABLE_SHARE = 0.05
"""The share of the cores that others must take to be worth a remark."""


class Reading(NamedTuple):
    """Seconds of processor time since an arbitrary moment."""

    when: float
    """time.perf_counter()"""
    own: float
    busy: float
    """Of the processors that this process may use, stolen time included."""
    stolen: float
    """Taken by the host of a virtual machine."""
    group: float = 0.0
    """Of the control group that limits this process; 0 if none does."""


@dataclass(frozen=True)
class CoreUse:
    """The mean number of cores in use over some time."""

    own: float
    others: float
    """By other processes, as far as this takes from what this process may use."""
    stolen: float
    """By the host of a virtual machine."""
    cores: float
    """The number that this process may use."""

    @classmethod
    def between(cls, first: Reading, last: Reading, cpus: int | None = None, quota: float | None = None) -> CoreUse:
        """The use between two readings of ``cpus`` processors, of which ``quota`` are granted (None for all).

        Without ``cpus``, both are those of this process.
        """
        seconds = max(last.when - first.when, 1e-9)
        if cpus is None:
            cpus, quota = len(usable()), cpu_quota()
        granted = min(cpus, quota or cpus)
        own, busy, stolen, group = ((last[at] - first[at]) / seconds for at in (1, 2, 3, 4))
        # The machine's counter is coarser: for a mostly idle run it may count less than the run's own counter.
        others = max(0.0, group - own, busy - stolen - own - (cpus - granted))
        # The host takes from all processors equally, but this process may use only some of them.
        return cls(own, others, max(0.0, stolen) * granted / cpus, granted)

    @property
    def lost(self) -> float:
        """The cores that others took."""
        return self.others + self.stolen

    @property
    def disturbed(self) -> bool:
        """Whether others took so much that a result is lower than this machine can do."""
        return self.lost > NOTABLE_SHARE * self.cores

    @property
    def gain(self) -> float:
        """The maximum factor by which work could be faster if it had these cores to itself; from 1 to 3.

        Squared, since threads that share a batch all wait for the one that lost its core.
        """
        left = self.cores - self.lost
        return min(_MAX_GAIN, (self.cores / left) ** 2) if left > 0 else _MAX_GAIN

    @property
    def words(self) -> str:
        """Who took how many of the cores: ``other processes used 0.64 of 2 cores``."""
        total = f"of {self.cores:g} cores"
        taken = []
        if self.others > NOTABLE_SHARE * self.cores or self.others >= self.stolen:
            taken.append(f"other processes used {self.others:.2f} {total}")
        if self.stolen > NOTABLE_SHARE * self.cores or self.stolen > self.others:
            taken.append(f"the host of this virtual machine took {self.stolen:.2f} {'' if taken else total}".rstrip())
        return " and ".join(taken)


class CoreMeter:
    """Measures who uses the cores in a ``with`` block, or between the first and the last `look`."""

    def __init__(self, *, children: bool = False) -> None:
        """With ``children``, processes that this one starts and waits for count as its own, once they have ended."""
        self._children = children
        self._first: Reading | None = None
        self._last: Reading | None = None

    def __enter__(self) -> Self:
        self.look()
        return self

    def __exit__(self, *_: object) -> None:
        self.look()

    def look(self) -> None:
        """Read the counters; unreadable ones give no reading, since an error here must not cost a result."""
        try:
            self._last = reading(children=self._children)
        except Exception:  # noqa: BLE001
            self._last = None
        self._first = self._first or self._last

    @property
    def use(self) -> CoreUse | None:
        """The use between the looks; None if the time was too short, or the system does not show it."""
        first, last = self._first, self._last
        long_enough = first and last and last.when - first.when >= _MIN_SECONDS
        try:
            return CoreUse.between(first, last) if first and last and long_enough else None
        except Exception:  # noqa: BLE001  it reads the control groups again
            return None


def reading(root: Path = _HERE, *, children: bool = False) -> Reading | None:
    """The counters now; None if the system does not show them. ``root`` contains proc and sys.

    ``children`` adds the time of finished child processes to this process's own.
    """
    times, now = os.times(), time.perf_counter()
    found = _busy(read(root / "proc/stat"), usable())
    if found is None:
        return None
    groups = sorted(_limited(root))
    own = sum(times[:4] if children else times[:2])  # user and system, then those of the children
    return Reading(now, own, *found, _group_seconds(groups[0][1]) if groups else 0.0)


def usable() -> frozenset[int]:
    """The processors that this process may use."""
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def cpu_quota(root: Path = _HERE) -> float | None:
    """CPUs granted by the strictest control group; None without a limit."""
    return min((quota for quota, _ in _limited(root)), default=None)


def _limited(root: Path) -> Iterator[tuple[float, Path]]:
    """The control groups that limit this process, with the CPUs that each grants."""
    for folder in cgroup(root, "cpu"):
        quota, _, period = read(folder / "cpu.max").partition(" ")
        if not quota:
            quota, period = read(folder / "cpu.cfs_quota_us"), read(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit() and int(period):
            yield int(quota) / int(period), folder


def _group_seconds(folder: Path) -> float:
    """Processor time that a control group used; 0 if it does not show it."""
    found = re.search(r"^usage_usec (\d+)$", read(folder / "cpu.stat"), re.MULTILINE)
    return int(found[1]) / 1e6 if found else number(folder / "cpuacct.usage") / 1e9


def _busy(stat: str, cpus: frozenset[int]) -> tuple[float, float] | None:
    """Busy and stolen seconds of these processors; None if /proc/stat does not list them."""
    hertz = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100
    lines = {int(cpu): text.split() for cpu, text in re.findall(r"^cpu(\d+) (.*)$", stat, re.MULTILINE)}
    rows = [[int(ticks) for ticks in lines[cpu]] for cpu in cpus if cpu in lines]
    if not rows or min(map(len, rows)) < 8:
        return None
    # user, nice, system, idle, iowait, irq, softirq, steal; user already includes the time of guests.
    busy = sum(sum(row[:3]) + sum(row[5:8]) for row in rows)
    return busy / hertz, sum(row[7] for row in rows) / hertz
