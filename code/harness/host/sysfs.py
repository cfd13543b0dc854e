"""Reading the small files in /proc and /sys.

The doctor uses this without any package and on Python versions too old for a run: standard library only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

CPUS = "sys/devices/system/cpu"


class CpuPlace(NamedTuple):
    """The location of a CPU (hyper-thread), in the kernel's numbers; "" for a number that it does not give."""

    socket: str
    die: str
    core: str
    """Unique within a die only."""


def read(path: Path) -> str:
    """The text of a file, stripped; "" if it does not exist, or if only root may read it."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def number(path: Path) -> int:
    """The integer that a file holds; 0 if it holds anything else."""
    text = read(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else 0


def numbered(folder: Path, name: str) -> list[Path]:
    """The entries of a folder whose name is ``name`` and a number, in the order of the numbers."""
    found = [path for path in folder.glob(f"{name}[0-9]*") if path.name[len(name) :].isdigit()]
    return sorted(found, key=lambda path: int(path.name[len(name) :]))


def online_cpus(root: Path) -> list[Path]:
    """The folders cpu<number> of the CPUs that are online and have a known place."""
    return [cpu for cpu in numbered(root / CPUS, "cpu") if place(cpu).core]


def place(cpu: Path) -> CpuPlace:
    """The place of a CPU, given its folder cpu<number>."""
    topology = cpu / "topology"
    return CpuPlace(read(topology / "physical_package_id"), read(topology / "die_id"), read(topology / "core_id"))


def instruction_sets(cpuinfo: str) -> frozenset[str]:
    """The instruction sets of the first processor in the text of /proc/cpuinfo, in the kernel's names."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


def model_name(cpuinfo: str) -> str:
    """The processor's name in the text of /proc/cpuinfo; "" if it has none."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""
