"""The hardware as Linux shows it without root: processors, caches, memory, disks, network cards."""

import math
import platform
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import MissingDependencyError
from harness.host.sysfs import CPUS, CpuPlace, model_name, number, numbered, online_cpus, place, read
from harness.paths import SETUP

# Product names of firmware whose maker set none, and of virtual machines.
_NAMELESS = re.compile(r"o\.?e\.?m|default string|system product|not (specified|applicable)|^none$|standard pc", re.I)
_NO_DISK = re.compile(r"(loop|ram|zram|dm-|md|sr|fd|nbd|drbd)\d|mmcblk\d+(boot|rpmb)")
_DDR = {0x18: "DDR3", 0x1A: "DDR4", 0x1E: "LPDDR4", 0x22: "DDR5", 0x23: "LPDDR5"}


@dataclass(frozen=True)
class Hardware:
    """A machine in the words of a system description; "" or 0 for anything that Linux does not show."""

    product: str
    """Maker and product: "Dell Inc. PowerEdge R760"."""
    virtual: bool
    """Whether this is a virtual machine."""
    processor: str
    """Model name."""
    sockets: int
    cores: int
    """Physical cores of one processor; 0 also where the processors differ."""
    frequency: str
    """"2.10 GHz base, 3.40 GHz maximum"."""
    caches: str
    """Of one processor, each size counted: "L1d: 2x 32 KB, L2: 2x 1 MB, L3: 1x 32 MB"."""
    core_kinds: str
    """Of a hybrid processor: "2 performance cores and 4 efficient cores"."""
    memory: str
    """Size: "512 GB"."""
    memory_modules: str
    """"8x 64 GB DDR5-4800"; only root may read them."""
    storage: str
    """Size of the disks that are built in, or else of the root file system: "2x 960 GB"."""
    storage_kind: str
    """"NVMe SSD", "SSD", "HDD", or several; "" in a virtual machine, which does not know its disks."""
    network: str
    """Fastest link of each card, equal ones once: "25 GbE + InfiniBand 400 Gb/s"."""
    network_cards: int
    operating_system: str
    """Distribution and kernel: "Ubuntu 24.04.1 LTS, Linux 6.8.0-45-generic"."""


def describe_hardware(root: Path = Path("/")) -> Hardware:
    """Describe the machine whose proc, sys and etc are in ``root``.

    Raises:
        MissingDependencyError: /proc and /sys do not show enough, and psutil is not installed.
    """
    cpuinfo = read(root / "proc/cpuinfo")
    virtual = re.search(r"^flags\s*:.*\bhypervisor\b", cpuinfo, re.MULTILINE) is not None
    cpus = online_cpus(root)
    sockets, cores = _processors(cpus, cpuinfo)
    disks = _disks(root)
    cards = _cards(root)
    return Hardware(
        product=_product(root),
        virtual=virtual,
        processor=model_name(cpuinfo),
        sockets=sockets,
        cores=cores,
        frequency=_frequency(root),
        caches=_caches(cpus),
        core_kinds=_core_kinds(root, cpus),
        memory=_size(_memory(root), 2**30),
        memory_modules=_modules(root),
        storage=_counted(_size(size, 10**9) for _, size in disks) or _root_file_system(),
        storage_kind="" if virtual else _unique(kind for kind, _ in disks),
        network=_unique(cards.values()),
        network_cards=len(cards),
        operating_system=_operating_system(root),
    )


def _psutil() -> Any:  # the optional module
    try:
        import psutil
    except ImportError as error:
        raise MissingDependencyError(f"psutil is not installed: {SETUP}.") from error
    return psutil


def _processors(cpus: list[Path], cpuinfo: str) -> tuple[int, int]:
    """Sockets, and physical cores of one processor."""
    cores = {place(cpu) for cpu in cpus}
    if not cores:  # /proc/cpuinfo alone, as in a container without /sys
        entries = [dict(re.findall(r"^(\w[\w ]*?)\s*: (.*)$", text, re.MULTILINE)) for text in cpuinfo.split("\n\n")]
        cores = {
            CpuPlace(e["physical id"], "", e["core id"]) for e in entries if {"physical id", "core id"} <= e.keys()
        }
    if not cores:
        return 0, _psutil().cpu_count(logical=False) or 0
    sockets = Counter(core.socket for core in cores)
    each = {*sockets.values()}
    return len(sockets), each.pop() if len(each) == 1 else 0


def _frequency(root: Path) -> str:
    """Base and maximum clock of the fastest kind of core."""
    found = {}
    for name, file in (("base", "base_frequency"), ("maximum", "cpuinfo_max_freq")):
        paths = (root / CPUS).glob(f"cpu[0-9]*/cpufreq/{file}")
        found[name] = max((number(path) for path in paths), default=0)
    return ", ".join(f"{kilohertz / 1e6:.2f} GHz {name}" for name, kilohertz in found.items() if kilohertz)


def _caches(cpus: list[Path]) -> str:
    seen: dict[str, set[tuple[str, str]]] = {}
    sockets: set[str] = set()
    for cpu in cpus:
        sockets.add(place(cpu).socket)
        for cache in numbered(cpu / "cache", "index"):
            level, kind = read(cache / "level"), read(cache / "type")
            size, shared = read(cache / "size"), read(cache / "shared_cpu_list")
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


def _core_kinds(root: Path, cpus: list[Path]) -> str:
    """Number of cores of each kind; "" unless there are two kinds."""
    kinds = {}
    for words, device in (("performance", "cpu_core"), ("efficient", "cpu_atom")):
        listed = _cpu_list(read(root / "sys/devices" / device / "cpus"))
        kinds[words] = len({place(cpu) for cpu in cpus if int(cpu.name[3:]) in listed})
    if not all(kinds.values()):
        return ""
    return " and ".join(f"{count} {words} cores" for words, count in kinds.items())


def _cpu_list(text: str) -> set[int]:
    """Parse the kernel's list format: "0-3,8" is 0, 1, 2, 3 and 8."""
    numbers: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def _memory(root: Path) -> int:
    """Bytes of memory: all that is installed, or else the slightly smaller amount that the kernel manages."""
    folder = root / "sys/devices/system/memory"
    block = read(folder / "block_size_bytes")
    online = sum(read(path / "state") == "online" for path in numbered(folder, "memory"))
    if re.fullmatch(r"[0-9a-f]+", block) and online:
        return int(block, 16) * online
    return int(_psutil().virtual_memory().total)


def _modules(root: Path) -> str:
    """The memory modules in the firmware's tables, which only root may read; "" otherwise."""
    found = []
    for path in sorted((root / "sys/firmware/dmi/entries").glob("17-*/raw")):
        try:
            raw = path.read_bytes()
        except OSError:
            return ""
        # SMBIOS, type 17: a size of 0x7FFF MiB refers to the longer field at 0x1C; the rate is the configured one.
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
    """(kind, bytes) of the built-in disks; the kind is "" if unknown."""
    found = []
    for disk in sorted((root / "sys/block").glob("*")):
        size = 512 * number(disk / "size")
        if _NO_DISK.match(disk.name) or number(disk / "removable") or number(disk / "hidden") or not size:
            continue
        kind = "NVMe SSD" if disk.name.startswith("nvme") else ""
        if disk.name.startswith("sd"):
            kind = {"0": "SSD", "1": "HDD"}.get(read(disk / "queue/rotational"), "")
        found.append((kind, size))
    return found


def _root_file_system() -> str:
    """Size of the root file system, for machines that show no disk."""
    try:
        return _size(_psutil().disk_usage("/").total, 10**9)
    except OSError:
        return ""


def _cards(root: Path) -> dict[str, str]:
    """Fastest link of each network card, by bus address; the ports of a card count as one."""
    rates: dict[str, int] = {}
    kinds: dict[str, str] = {}
    for port in sorted((root / "sys/class/net").glob("*")):
        device = port / "device"
        if not device.exists():
            continue  # virtual
        card = re.sub(r"\.\d$", "", device.resolve().name)
        kind = {"1": "Ethernet", "32": "InfiniBand"}.get(read(port / "type"), "")
        kinds[card] = "Wi-Fi" if (port / "phy80211").exists() else kind
        rates[card] = max(rates.get(card, 0), number(port / "speed"))
    return {card: _link(kinds[card], rates[card]) for card in kinds}


def _link(kind: str, rate: int) -> str:
    if rate <= 0 or kind in ("", "Wi-Fi"):
        return kind
    gigabit = f"{rate / 1000:g}"
    return f"{gigabit} GbE" if kind == "Ethernet" else f"{kind} {gigabit} Gb/s"


def _product(root: Path) -> str:
    folder = root / "sys/class/dmi/id"
    maker, product = read(folder / "sys_vendor"), read(folder / "product_name")
    if not product or _NAMELESS.search(product) or _NAMELESS.search(maker):
        return ""
    return product if not maker or product.startswith(maker) else f"{maker} {product}"


def _operating_system(root: Path) -> str:
    found = re.search(r'^PRETTY_NAME="?(.*?)"?$', read(root / "etc/os-release"), re.MULTILINE)
    name = found[1] if found else "" if platform.system() == "Linux" else f"{platform.system()} {platform.release()}"
    kernel = re.match(r"Linux version (\S+)", read(root / "proc/version"))
    return f"{name}, Linux {kernel[1]}" if name and kernel else name


def _size(size: int, unit: int) -> str:
    """Bytes in GB or TB; ``unit`` is the size of the gigabyte by convention: 2**30 for memory, 10**9 for disks."""
    if size <= 0:
        return ""
    step = 1024 if unit == 2**30 else 1000
    value, name = (size / unit, "GB") if size < unit * step else (size / unit / step, "TB")
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{round(value, digits):g} {name}"


def _counted(words: Iterable[str]) -> str:
    """Count equal words: "2x 64 GB + 1x 32 GB"; a single word stays unchanged."""
    counts = Counter(words)
    if sum(counts.values()) == 1:
        return next(iter(counts))
    return " + ".join(f"{count}x {word}" for word, count in counts.items())


def _unique(kinds: Iterable[str]) -> str:
    """The distinct words; "" if one of them is unknown."""
    found = [*dict.fromkeys(kinds)]
    return "" if "" in found else " + ".join(found)
