"""Free and used memory of this process, within the limits of its control groups; needs only the standard library."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

from harness.host.sysfs import read


def available(root: Path = Path("/")) -> int | None:
    """Bytes that this process can still allocate; None if Linux does not show it. ``root`` contains proc and sys."""
    free, limit = sizes(root).get("MemAvailable"), memory_limit(root)
    if free is None or limit is None:
        return free
    return max(0, min(free, limit[0] - limit[1]))


def peak() -> int:
    """Peak resident memory of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def sizes(root: Path) -> dict[str, int]:
    """The bytes in /proc/meminfo, by name."""
    lines = re.findall(r"^(\w+):\s+(\d+) kB", read(root / "proc/meminfo"), re.MULTILINE)
    return {name: int(size) * 1024 for name, size in lines}


def memory_limit(root: Path) -> tuple[int, int] | None:
    """Limit and use in bytes of the control group with the smallest remainder; None without a limit."""
    found = []
    for folder in cgroup(root, "memory"):
        for maximum, current in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, use = read(folder / maximum), read(folder / current)
            if limit.isdigit():
                # The file cache counts as used, but is released when memory is needed.
                kept = re.search(r"^(?:total_)?inactive_file (\d+)$", read(folder / "memory.stat"), re.MULTILINE)
                found.append((int(limit), max(0, int(use or 0) - int(kept[1] if kept else 0))))
    return min(found, key=lambda pair: pair[0] - pair[1], default=None)


def cgroup(root: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and its parents, in cgroup v2 or v1."""
    for line in read(root / "proc/self/cgroup").splitlines():
        _, names, group = line.split(":", 2)
        base = root / "sys/fs/cgroup"
        if names:
            if controller not in names.split(","):
                continue
            base /= controller
        # In a container the mount point is often the group itself, whatever the path says.
        parts = [part for part in group.split("/") if part and part != ".."]
        for length in range(len(parts), -1, -1):
            yield base.joinpath(*parts[:length])
