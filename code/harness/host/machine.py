"""Facts about this machine that the harness needs: cores, processor, memory, versions."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from harness.host import sysfs


class Core(NamedTuple):
    """A physical core, identified by the first of its CPUs (hyper-threads) that this process may use."""

    node: int
    """NUMA node; 0 if the kernel reports none."""
    cpu: int


@cache
def cores(root: Path = Path("/")) -> tuple[Core, ...]:
    """The physical cores that this process may use, ordered by NUMA node; ``root`` contains sys."""
    usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    found: dict[tuple[str, ...], Core] = {}
    for cpu in sorted(usable):
        folder = root / sysfs.CPUS / f"cpu{cpu}"
        place = sysfs.place(folder)
        node = next((int(path.name[4:]) for path in folder.glob("node[0-9]*")), 0)
        found.setdefault(place if place.core else ("cpu", str(cpu)), Core(node, cpu))
    return tuple(sorted(found.values()))


def core_count() -> int:
    """Number of physical cores that this process may use; the hyper-threads of a core count once."""
    return len(cores())


@cache
def cpu_model() -> str:
    """The processor's name as reported by the kernel."""
    text = sysfs.read(Path("/proc/cpuinfo"))
    return sysfs.model_name(text) or (not text and platform.processor()) or platform.machine()


def computes_bf16(root: Path = Path("/")) -> bool:
    """Whether the processor multiplies bfloat16 in hardware; ``root`` contains proc."""
    return not sysfs.instruction_sets(sysfs.read(root / "proc/cpuinfo")).isdisjoint(("avx512_bf16", "amx_bf16"))


def default_system_name() -> str:
    """A name for results/<system> from processor and number of cores, safe in a path."""
    slug = re.sub(r"[^a-z0-9]+", "-", cpu_model().lower()).strip("-")
    return f"{slug}-{core_count()}c"


PACKAGES = ("mlcommons_loadgen", "deepsparse", "onnxruntime", "openvino", "numpy", "tokenizers")


@dataclass(frozen=True)
class MachineFacts:
    """The machine and the software versions that a result depends on."""

    cpu: str
    cores: int
    numa_nodes: int
    memory_bytes: int
    os: str
    python: str
    packages: dict[str, str]
    """Versions by the names of `PACKAGES`."""


def describe() -> MachineFacts:
    """The facts about this machine."""
    return MachineFacts(
        cpu=cpu_model(),
        cores=core_count(),
        numa_nodes=len({core.node for core in cores()}),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        os=platform.platform(),
        python=platform.python_version(),
        packages={name: version for name in PACKAGES if (version := package_version(name))},
    )


def package_version(name: str) -> str | None:
    """The installed version of a package; None if it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def multiplies_int8(root: Path = Path("/")) -> bool:
    """Whether the processor has 8-bit dot-product instructions, such as VNNI; ``root`` contains proc."""
    sets = sysfs.instruction_sets(sysfs.read(root / "proc/cpuinfo"))
    return not sets.isdisjoint(("avx512_vnni", "avx_vnni", "amx_int8", "asimddp"))
