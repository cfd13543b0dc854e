"""What Linux tells of a machine without root: processors, caches, memory, disks, network cards."""

from __future__ import annotations

import math
import platform
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.errors import MissingDependencyError

# What firmware says where its maker has left the name open, and what a virtual machine says.
_NAMELESS = re.compile(r"o\.?e\.?m|default string|system product|not (specified|applicable)|^none$|standard pc", re.I)
_NO_DISK = re.compile(r"(loop|ram|zram|dm-|md|sr|fd|nbd|drbd)\d|mmcblk\d+(boot|rpmb)")
_DDR = {0x18: "DDR3", 0x1A: "DDR4", 0x1E: "LPDDR4", 0x22: "DDR5", 0x23: "LPDDR5"}


def _psutil() -> Any:
    try:
        import psutil  # reading and checking a description must do without
    except ImportError as error:
        raise MissingDependencyError("psutil is not installed: run `make setup`.") from error
    return psutil


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:  # of a device that is not there, or that only root may read
        return ""


def _number(path: Path) -> int:
    text = _read(path)
    return int(text) if re.fullmatch(r"-?\d+", text) else 0


def _numbered(folder: Path, name: str) -> list[Path]:
    """The folder's entries that are called ``name`` and a number, by that number."""
    found = [path for path in folder.glob(f"{name}[0-9]*") if path.name[len(name) :].isdigit()]
    return sorted(found, key=lambda path: int(path.name[len(name) :]))


def _cpus(root: Path) -> list[Path]:
    """The CPUs (hyper-threads) that are online and tell where they are."""
    return [cpu for cpu in _numbered(root / "sys/devices/system/cpu", "cpu") if _read(cpu / "topology/core_id")]


def _place(cpu: Path) -> tuple[str, str, str]:
    """(socket, die, core) of a CPU: a core's number is one of its die only."""
    topology = cpu / "topology"
    return _read(topology / "physical_package_id"), _read(topology / "die_id"), _read(topology / "core_id")


def _processor(root: Path, cpuinfo: str, cpus: list[Path]) -> dict[str, str]:
    cores = {_place(cpu) for cpu in cpus}
    if not cores:  # /proc/cpuinfo alone, as in a container without /sys
        entries = [dict(re.findall(r"^(\w[\w ]*?)\s*: (.*)$", text, re.MULTILINE)) for text in cpuinfo.split("\n\n")]
        cores = {(e["physical id"], "", e["core id"]) for e in entries if {"physical id", "core id"} <= e.keys()}
    sockets = Counter(socket for socket, *_ in cores)
    total = len(cores) or _psutil().cpu_count(logical=False) or 0
    each = {*sockets.values()}
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return {
        "host_processor_model_name": model[1].strip() if model else "",
        "host_processors_per_node": str(len(sockets) or ""),
        "host_processor_core_count": str(each.pop() if len(each) == 1 else "" if each else total or ""),
        "host_processor_frequency": _frequency(root),
    }


def _frequency(root: Path) -> str:
    """Base and highest clock, of what kinds of cores there are the fastest."""
    found = {}
    for name, file in (("base", "base_frequency"), ("maximum", "cpuinfo_max_freq")):
        paths = (root / "sys/devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{file}")
        found[name] = max((_number(path) for path in paths), default=0)
    return ", ".join(f"{kilohertz / 1e6:.2f} GHz {name}" for name, kilohertz in found.items() if kilohertz)


def _caches(cpus: list[Path]) -> str:
    """The caches of a processor, each size counted: "L1d: 2x 32 KB, L2: 2x 1 MB, L3: 1x 32 MB"."""
    seen: dict[str, set[tuple[str, str]]] = {}
    sockets: set[str] = set()
    for cpu in cpus:
        sockets.add(_place(cpu)[0])
        for cache in _numbered(cpu / "cache", "index"):
            level, kind = _read(cache / "level"), _read(cache / "type")
            size, shared = _read(cache / "size"), _read(cache / "shared_cpu_list")
            if level and size.endswith("K"):
                name = f"L{level}" + {"Data": "d", "Instruction": "i"}.get(kind, "")
                seen.setdefault(name, set()).add((size, shared or cpu.name))
    words = []
    for name in sorted(seen):
        sizes = Counter(int(size[:-1]) for size, _ in seen[name])
        parts = [f"{count // len(sockets)}x {_kilobytes(size)}" for size, count in sorted(sizes.items(), reverse=True)]
        words.append(f"{name}: {' + '.join(parts)}")
    return ", ".join(words)


def _kilobytes(size: int) -> str:
    return f"{size // 1024} MB" if size % 1024 == 0 else f"{size} KB"


def _hybrid(root: Path, cpus: list[Path]) -> str:
    """How many cores of each kind, where there are two."""
    kinds = {}
    for words, device in (("performance", "cpu_core"), ("efficient", "cpu_atom")):
        listed = _cpu_list(_read(root / "sys/devices" / device / "cpus"))
        kinds[words] = len({_place(cpu) for cpu in cpus if int(cpu.name[3:]) in listed})
    if not all(kinds.values()):
        return ""
    return " and ".join(f"{count} {words} cores" for words, count in kinds.items())


def _cpu_list(text: str) -> set[int]:
    """The kernel's list form: "0-3,8" is 0, 1, 2, 3 and 8."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _memory(root: Path) -> int:
    """Bytes of memory: what is installed, else what the kernel manages of it, which is a little less."""
    folder = root / "sys/devices/system/memory"
    block = _read(folder / "block_size_bytes")
    online = sum(_read(path / "state") == "online" for path in _numbered(folder, "memory"))
    if re.fullmatch(r"[0-9a-f]+", block) and online:
        return int(block, 16) * online
    return int(_psutil().virtual_memory().total)


def _modules(root: Path) -> str:
    """The memory modules as firmware lists them, which only root may read: "8x 64 GB DDR5-4800"."""
    found = []
    for path in sorted((root / "sys/firmware/dmi/entries").glob("17-*/raw")):
        try:
            raw = path.read_bytes()
        except OSError:
            return ""
        # SMBIOS, type 17: a size of 0x7FFF MiB stands for the longer field at 0x1C; the rate is the one in force.
        if len(raw) < 0x22 or raw[0] != 17:
            return ""
        size = int.from_bytes(raw[0x0C:0x0E], "little")
        if size == 0x7FFF:
            size = int.from_bytes(raw[0x1C:0x20], "little")
        rate = int.from_bytes(raw[0x20:0x22], "little") or int.from_bytes(raw[0x15:0x17], "little")
        kind = _DDR.get(raw[0x12])
        if size in (0, 0xFFFF):
            continue  # an empty slot
        if kind is None or size & 0x8000:
            return ""
        found.append(f"{_size(size * 2**20, 2**30)} {kind}" + (f"-{rate}" if 0 < rate < 0xFFFF else ""))
    return _counted(found)


def _disks(root: Path) -> list[tuple[str, int]]:
    """(kind, bytes) of the disks that are built in; "" where the kind is not told."""
    found = []
    for disk in sorted((root / "sys/block").glob("*")):
        size = 512 * _number(disk / "size")
        if _NO_DISK.match(disk.name) or _number(disk / "removable") or _number(disk / "hidden") or not size:
            continue
        kind = "NVMe SSD" if disk.name.startswith("nvme") else ""
        if disk.name.startswith("sd"):
            kind = {"0": "SSD", "1": "HDD"}.get(_read(disk / "queue/rotational"), "")
        found.append((kind, size))
    return found


def _free_standing_storage() -> str:
    """The size of the root file system, where no disk is to be seen."""
    try:
        return _size(_psutil().disk_usage("/").total, 10**9)
    except OSError:
        return ""


def _cards(root: Path) -> dict[str, str]:
    """Network cards by their place on the bus, with the fastest link of each; ports of one card are one."""
    rates: dict[str, int] = {}
    kinds: dict[str, str] = {}
    for port in sorted((root / "sys/class/net").glob("*")):
        device = port / "device"
        if not device.exists():
            continue  # made by software
        card = re.sub(r"\.\d$", "", device.resolve().name)
        kind = {"1": "Ethernet", "32": "InfiniBand"}.get(_read(port / "type"), "")
        kinds[card] = "Wi-Fi" if (port / "phy80211").exists() else kind
        rates[card] = max(rates.get(card, 0), _number(port / "speed"))
    return {card: _link(kinds[card], rates[card]) for card in kinds}


def _link(kind: str, rate: int) -> str:
    if rate <= 0 or kind in ("", "Wi-Fi"):
        return kind
    gigabit = f"{rate / 1000:g}"
    return f"{gigabit} GbE" if kind == "Ethernet" else f"{kind} {gigabit} Gb/s"


def _product(root: Path) -> str:
    folder = root / "sys/class/dmi/id"
    maker, product = _read(folder / "sys_vendor"), _read(folder / "product_name")
    if not product or _NAMELESS.search(product) or _NAMELESS.search(maker):
        return ""
    return product if not maker or product.startswith(maker) else f"{maker} {product}"


def _operating_system(root: Path) -> str:
    found = re.search(r'^PRETTY_NAME="?(.*?)"?$', _read(root / "etc/os-release"), re.MULTILINE)
    name = found[1] if found else "" if platform.system() == "Linux" else f"{platform.system()} {platform.release()}"
    kernel = re.match(r"Linux version (\S+)", _read(root / "proc/version"))
    return f"{name}, Linux {kernel[1]}" if name and kernel else name


def _size(size: int, unit: int) -> str:
    """Bytes in GB or TB, by the unit that they are sold in: 2**30 for memory, 10**9 for disks."""
    if size <= 0:
        return ""
    step = 1024 if unit == 2**30 else 1000
    value, name = (size / unit, "GB") if size < unit * step else (size / unit / step, "TB")
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{round(value, digits):g} {name}"


def _counted(words: Iterable[str]) -> str:
    """Equal words once, with their number: "2x 64 GB + 1x 32 GB"; one alone as it is."""
    counts = Counter(words)
    if sum(counts.values()) == 1:
        return next(iter(counts))
    return " + ".join(f"{count}x {word}" for word, count in counts.items())


def _unique(kinds: Iterable[str]) -> str:
    """The different words, "" if one of them is not known."""
    found = [*dict.fromkeys(kinds)]
    return "" if "" in found else " + ".join(found)
