"""The checks of the machine, from /proc and /sys; each takes the ``root`` that contains them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.host import sysfs
from harness.host.memory import memory_limit, sizes
from harness.host.sysfs import CPUS, numbered, online_cpus, place, read
from harness.host.usage import cpu_quota
from harness.terminal.findings import BAD, GOOD, WARNING, Finding

_SETS = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "AMX": ("amx_int8",),
    "BF16": ("avx512_bf16", "amx_bf16"),
}
_ARM_SETS = {"dot product": ("asimddp",), "I8MM": ("i8mm",), "SVE": ("sve",), "BF16": ("bf16",)}
_CLOCKS = ("tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page")
"""Clock sources that can be read without a system call."""
_BUSY_CPUS = 0.2  # warn if other processes keep this many CPUs busy
_STOLEN_SHARE = 0.02  # warn if a virtual machine's host takes this share of the time
_MINIMUM_MEMORY, _ENOUGH_MEMORY = 2**29, 2**31


def instruction_sets(root: Path, deepsparse: bool = False) -> Iterator[Finding]:
    """The instruction sets that engines use; ``deepsparse`` says whether that engine is installed."""
    text = read(root / "proc/cpuinfo")
    flags = sysfs.instruction_sets(text)
    if not flags:
        yield Finding(WARNING, "instructions", "/proc/cpuinfo does not list the processor's instruction sets")
        return
    arm = "asimd" in flags or "Features" in text
    sets = {name: not flags.isdisjoint(words) for name, words in (_ARM_SETS if arm else _SETS).items()}
    has, lacks = (", ".join(name for name, found in sets.items() if found is wanted) for wanted in (True, False))
    words = "; ".join(part for part in (has, lacks and f"without {lacks}") if part)
    int8 = "dot product" if arm else "VNNI"
    if not arm and not sets["AVX2"]:
        level = BAD if deepsparse else WARNING
        yield Finding(level, "instructions", f"{words}: DeepSparse needs AVX2", "use ENGINE=onnxruntime")
    elif not sets[int8]:
        what = f"{words}: INT8 models gain less without {int8}"
        yield Finding(WARNING, "instructions", what, "compare with an FP32 model, or use a newer processor")
    else:
        yield Finding(GOOD, "instructions", words)


def cores(root: Path, usable: set[int] | None = None) -> Iterator[Finding]:
    """Cores, hyper-threads, sockets, and limits on their use by this process."""
    online = online_cpus(root)
    present = {int(path.name[3:]) for path in online} or set(range(os.cpu_count() or 1))
    if usable is None:
        usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else present
    places = {place(path) for path in online}
    count, sockets = len(places) or len(present), len({each.socket for each in places}) or 1
    threads = f", {len(present)} hyper-threads" if len(present) > count else ""
    words = f"{_count(count, 'core')}{threads} on {_count(sockets, 'socket')}"
    if usable & present != present:
        what = f"{words}, of which this process may use {_count(len(usable & present), 'CPU')}"
        yield Finding(WARNING, "cores", what, "run without taskset, or give the container all CPUs")
    elif count == 1:
        yield Finding(WARNING, "cores", f"{words}: LoadGen shares it with the engine", "use a machine with more cores")
    else:
        yield Finding(GOOD, "cores", words)
    quota = cpu_quota(root)
    if quota is not None and quota < len(usable & present):
        what = f"this container is limited to {quota:g} of {len(usable & present)} CPUs: its threads are throttled"
        yield Finding(WARNING, "CPU quota", what, "start it without a limit, or give it entire CPUs (--cpuset-cpus)")


def numa(root: Path) -> Iterator[Finding]:
    """NUMA nodes, and whether the kernel moves pages between them."""
    folders = numbered(root / "sys/devices/system/node", "node")
    nodes = sum(bool(read(path / "cpulist")) for path in folders) or 1  # a node without CPUs has only memory
    if nodes > 1 and read(root / "proc/sys/kernel/numa_balancing") not in ("", "0"):
        what = f"{nodes} nodes, and the kernel moves pages between them during a test"
        yield Finding(WARNING, "NUMA", what, "run `sysctl kernel.numa_balancing=0` as root")
    elif nodes > 1:
        yield Finding(GOOD, "NUMA", f"{nodes} nodes; an engine has an instance on each (`harness options`: instances)")
    else:
        yield Finding(GOOD, "NUMA", "one node")


def clock(root: Path) -> Iterator[Finding]:
    """Governor, turbo, clock source and huge pages."""
    cpu = root / CPUS
    found = {read(path) for path in cpu.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {""}
    if not found:
        yield Finding(GOOD, "governor", "the kernel shows none, as in most virtual machines")
    elif found == {"performance"}:
        yield Finding(GOOD, "governor", "performance")
    else:
        what = f"{', '.join(sorted(found))}: the clock follows the load, so results vary"
        yield Finding(WARNING, "governor", what, "run `cpupower frequency-set -g performance` as root")
    no_turbo, boost = read(cpu / "intel_pstate/no_turbo"), read(cpu / "cpufreq/boost")
    if no_turbo == "1" or boost == "0":
        switch = "0 > /sys/devices/system/cpu/intel_pstate/no_turbo"
        cure = switch if no_turbo == "1" else "1 > /sys/devices/system/cpu/cpufreq/boost"
        yield Finding(
            WARNING, "turbo", "off: steady, but slower than the machine can run", f"run `echo {cure}` as root"
        )
    elif no_turbo or boost:
        yield Finding(GOOD, "turbo", "on")
    else:
        yield Finding(GOOD, "turbo", "the kernel shows no switch, as in most virtual machines")
    source = read(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    if source and source not in _CLOCKS:
        what = f"{source}: reading it takes a system call, for every query"
        yield Finding(WARNING, "clock source", what, "boot with clocksource=tsc if the processor's TSC is stable")
    elif source:
        yield Finding(GOOD, "clock source", source)
    pages = re.search(r"\[(\w+)\]", read(root / "sys/kernel/mm/transparent_hugepage/enabled"))
    if pages and pages[1] == "never":
        cure = "run `echo madvise > /sys/kernel/mm/transparent_hugepage/enabled` as root"
        yield Finding(WARNING, "huge pages", "never: large weights need more TLB entries", cure)
    elif pages:
        yield Finding(GOOD, "huge pages", pages[1])


def memory(root: Path) -> Iterator[Finding]:
    """Free memory, within a container's limit, and swapped pages."""
    found = sizes(root)
    if "MemAvailable" not in found:
        yield Finding(WARNING, "memory", "/proc/meminfo does not show how much is free")
        return
    free, total, limit = found["MemAvailable"], found.get("MemTotal", 0), memory_limit(root)
    words = f"{_size(free)} free of {_size(total)}"
    if limit is not None and limit[0] < total:
        free = min(free, limit[0] - limit[1])
        words = f"{_size(free)} free within the container's limit of {_size(limit[0])}"
    if free < _MINIMUM_MEMORY:
        yield Finding(
            BAD, "memory", f"{words}: the kernel would kill a test", "stop other programs, or raise the limit"
        )
    elif free < _ENOUGH_MEMORY:
        cure = "use a small model, stop other programs, or raise the limit"
        yield Finding(WARNING, "memory", f"{words}: too little for large models", cure)
    else:
        yield Finding(GOOD, "memory", words)
    swapped = found.get("SwapTotal", 0) - found.get("SwapFree", 0)
    if swapped > 2**26:
        what = f"{_size(swapped)} of memory are swapped to disk: reading them back would slow a test"
        yield Finding(WARNING, "swap", what, "run `swapoff -a && swapon -a` as root")


def other_processes(
    root: Path, seconds: float = 0.5, sleep: Callable[[float], object] = time.sleep, own: int | None = None
) -> Iterator[Finding]:
    """CPU time that other processes and a virtual machine's host take during ``seconds``."""
    before, each_before = _cpu_time(root), _processes(root)
    sleep(seconds)
    after, each_after = _cpu_time(root), _processes(root)
    total = sum(after) - sum(before)
    if len(after) < 8 or total <= 0:
        yield Finding(WARNING, "other processes", "/proc/stat does not show how busy the machine is")
        return
    cpus = len(re.findall(r"^cpu\d", read(root / "proc/stat"), re.MULTILINE)) or 1
    own = os.getpid() if own is None else own
    spent = {
        (name, pid): ticks - each_before.get(pid, (name, ticks))[1]
        for pid, (name, ticks) in each_after.items()
        if pid != own
    }
    idle = after[3] + after[4] - before[3] - before[4]
    stolen = (after[7] - before[7]) / total
    mine = each_after.get(own, ("", 0))[1] - each_before.get(own, ("", 0))[1]
    busy = cpus * max(0, total - idle - (after[7] - before[7]) - mine) / total
    if busy >= _BUSY_CPUS:
        busiest = sorted((item for item in spent.items() if item[1] > 0), key=lambda item: -item[1])[:3]
        names = ", ".join(f"{name} ({pid})" for (name, pid), _ in busiest)
        what = f"others keep {busy:.1f} of {cpus} CPUs busy{f': {names}' if names else ''}"
        yield Finding(WARNING, "other processes", what, "stop them or wait: they take CPU time from a test")
    else:
        yield Finding(GOOD, "other processes", "the machine is idle")
    if stolen >= _STOLEN_SHARE:
        what = f"{stolen:.0%} of the time goes to other machines on the same host"
        yield Finding(WARNING, "host", what, "measure on a dedicated machine, or on dedicated cores")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{max(0, size) / 2**20:.0f} MiB"


def _cpu_time(root: Path) -> list[int]:
    line = re.search(r"^cpu +([\d ]+)$", read(root / "proc/stat"), re.MULTILINE)
    return [int(word) for word in line[1].split()][:8] if line else []


def _processes(root: Path) -> dict[int, tuple[str, int]]:
    """Name and CPU ticks of every process, by its number."""
    found = {}
    for path in (root / "proc").glob("[0-9]*"):
        name, _, rest = read(path / "stat").rpartition(") ")
        fields = rest.split()
        if path.name.isdigit() and len(fields) > 12:
            found[int(path.name)] = (name.partition("(")[2], int(fields[11]) + int(fields[12]))
    return found
