from __future__ import annotations

import json
import struct
from importlib.metadata import version
from pathlib import Path

import pytest

from harness.cli import app
from harness.descriptions import description as system
from harness.descriptions.description import (
    FIELDS,
    MAY_BE_EMPTY,
    REQUIRED,
    WHOLE,
    describe_machine,
    init_system,
    parse_fields,
    read_system,
    unfilled,
)
from harness.errors import ConfigError, HarnessError
from harness.host import machine


class FakeRoot:
    """A tree of /proc, /sys and /etc as far as it is read."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, **files: object) -> None:
        for name, text in files.items():
            self.write(name.replace("__", "/"), text)

    def write(self, name: str, content: object) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else f"{content}\n".encode())

    def cpu(self, number: int, socket: int, core: int, caches: list[tuple[int, str, str, str]], die: int = 0) -> None:
        place = f"sys/devices/system/cpu/cpu{number}"
        for name, value in (("physical_package_id", socket), ("die_id", die), ("core_id", core)):
            self.write(f"{place}/topology/{name}", value)
        for index, values in enumerate(caches):
            for name, value in zip(("level", "type", "size", "shared_cpu_list"), values, strict=True):
                self.write(f"{place}/cache/index{index}/{name}", value)

    def cpuinfo(self, model: str, flags: str = "fpu avx512f") -> None:
        self.write("proc/cpuinfo", f"processor\t: 0\nmodel name\t: {model}\nflags\t\t: {flags}")

    def disk(self, name: str, size: int, rotational: int = 0, removable: int = 0) -> None:
        for file, value in (("size", size // 512), ("queue/rotational", rotational), ("removable", removable)):
            self.write(f"sys/block/{name}/{file}", value)

    def port(self, name: str, bus: str | None, speed: int, kind: int = 1) -> None:
        self.write(f"sys/class/net/{name}/speed", speed)
        self.write(f"sys/class/net/{name}/type", kind)
        if bus:
            device = self.root / "sys/devices/pci" / bus
            device.mkdir(parents=True, exist_ok=True)
            (self.root / f"sys/class/net/{name}/device").symlink_to(device)

    def module(self, slot: int, mebibytes: int, kind: int = 0x22, rate: int = 4800) -> None:
        raw = bytearray(0x5C)
        raw[0], raw[1], raw[0x12] = 17, 0x5C, kind
        struct.pack_into("<H", raw, 0x0C, min(mebibytes, 0x7FFF))
        struct.pack_into("<I", raw, 0x1C, mebibytes)
        struct.pack_into("<H", raw, 0x20, rate)
        self.write(f"sys/firmware/dmi/entries/17-{slot}/raw", bytes(raw))


@pytest.fixture
def fake(tmp_path: Path) -> FakeRoot:
    return FakeRoot(tmp_path / "root")


@pytest.fixture
def server(fake: FakeRoot) -> FakeRoot:
    """Two sockets of four cores with two threads each, two memory blocks per node, as a real server reports them."""
    fake.cpuinfo("Intel(R) Xeon(R) Gold 6430")
    for number in range(16):
        socket, core = number // 4 % 2, number % 4
        twin = f"{number % 8},{number % 8 + 8}"
        l3 = "0-3,8-11" if socket == 0 else "4-7,12-15"
        caches = [(1, "Data", "48K", twin), (1, "Instruction", "32K", twin), (2, "Unified", "2048K", twin)]
        fake.cpu(number, socket, core, [*caches, (3, "Unified", "61440K", l3)])
        fake.write(f"sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq", 3_400_000)
        fake.write(f"sys/devices/system/cpu/cpu{number}/cpufreq/base_frequency", 2_100_000)
        fake.write(f"sys/devices/system/cpu/cpu{number}/node{socket}/cpulist", "")
    fake.write("sys/devices/system/memory/block_size_bytes", "80000000")
    for number in range(256):
        fake.write(f"sys/devices/system/memory/memory{number}/state", "online")
    fake.write("sys/devices/system/memory/memory256/state", "offline")
    fake.disk("nvme0n1", 960_197_124_096)
    fake.disk("nvme1n1", 960_197_124_096)
    for name in ("loop0", "sr0", "dm-0", "zram0"):
        fake.disk(name, 10**9)
    fake.disk("sda", 32 * 10**9, removable=1)
    fake.port("eno1", "0000:3b:00.0", 25_000)
    fake.port("eno2", "0000:3b:00.1", -1)
    fake.port("lo", None, -1, kind=772)
    fake.port("docker0", None, 10_000)
    fake.write("sys/class/dmi/id/sys_vendor", "Dell Inc.")
    fake.write("sys/class/dmi/id/product_name", "PowerEdge R760")
    fake.write("etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"')
    fake.write("proc/version", "Linux version 6.8.0-45-generic (buildd@x) #1 SMP")
    return fake


def test_the_fields_are_those_of_the_official_checker():
    assert len(FIELDS) == len(set(FIELDS)) == 35
    assert len(REQUIRED) == 26
    assert set(REQUIRED) | MAY_BE_EMPTY == set(FIELDS)


def test_a_server_of_two_sockets(server):
    found = describe_machine(server.root)
    assert tuple(found) == FIELDS
    expected = {
        "system_name": "Dell Inc. PowerEdge R760",
        "number_of_nodes": "1",
        "host_processor_model_name": "Intel(R) Xeon(R) Gold 6430",
        "host_processors_per_node": "2",
        "host_processor_core_count": "4",
        "host_processor_frequency": "2.10 GHz base, 3.40 GHz maximum",
        "host_processor_caches": "L1d: 4x 48 KB, L1i: 4x 32 KB, L2: 4x 2 MB, L3: 1x 60 MB",
        "host_memory_capacity": "512 GB",
        "host_memory_configuration": "FILL IN: such as 8x 64 GB DDR5-4800",
        "host_storage_capacity": "2x 960 GB",
        "host_storage_type": "NVMe SSD",
        "host_networking": "25 GbE",
        "host_network_card_count": "1",
        "accelerators_per_node": "0",
        "accelerator_model_name": "N/A",
        "operating_system": "Ubuntu 24.04.1 LTS, Linux 6.8.0-45-generic",
        "hw_notes": "",
    }
    assert {field: found[field] for field in expected} == expected
    assert "ONNX Runtime" in found["framework"]
    assert f"OpenVINO {version('openvino')}" in found["framework"]
    assert "LoadGen" in found["other_software_stack"]
    assert unfilled(found) == [
        "submitter",
        "status",
        "system_type",
        "host_memory_configuration",
        "host_networking_topology",
        "cooling",
    ]


def test_cores_of_several_dies_are_distinguished(fake):
    for number in range(4):
        fake.cpu(number, 0, number % 2, [], die=number // 2)
    assert describe_machine_of(fake)["host_processor_core_count"] == "4"


def describe_machine_of(fake: FakeRoot) -> dict[str, str]:
    fake.write("sys/devices/system/memory/block_size_bytes", "8000000")
    fake.write("sys/devices/system/memory/memory0/state", "online")
    if not (fake.root / "sys/block").exists():
        fake.disk("sda", 480 * 10**9)
    return describe_machine(fake.root)


def test_a_hybrid_processor(fake):
    fake.cpuinfo("13th Gen Intel(R) Core(TM) i5-13500")
    for number in range(4):  # two performance cores of two threads
        fake.cpu(number, 0, number // 2, [(2, "Unified", "1280K", f"{number // 2 * 2}-{number // 2 * 2 + 1}")])
    for number in range(4, 8):  # four efficient cores that share a cache
        fake.cpu(number, 0, number, [(2, "Unified", "2048K", "4-7")])
    fake.write("sys/devices/cpu_core/cpus", "0-3")
    fake.write("sys/devices/cpu_atom/cpus", "4,5-7")
    found = describe_machine_of(fake)
    assert found["host_processor_core_count"] == "6"
    assert found["host_processor_caches"] == "L2: 1x 2 MB + 2x 1280 KB"
    assert found["hw_notes"] == "2 performance cores and 4 efficient cores"
    assert (found["host_storage_capacity"], found["host_storage_type"]) == ("480 GB", "SSD")


def test_a_container_without_sys(fake, monkeypatch):
    pytest.importorskip("psutil", reason="psutil is not installed")
    core = "processor\t: {n}\nmodel name\t: AMD EPYC 9654\nphysical id\t: {s}\ncore id\t\t: {c}\n"
    fake.write("proc/cpuinfo", "\n".join(core.format(n=n, s=n // 4, c=n % 2) for n in range(8)))
    found = describe_machine(fake.root)
    assert found["host_processor_model_name"] == "AMD EPYC 9654"
    assert (found["host_processors_per_node"], found["host_processor_core_count"]) == ("2", "2")
    assert found["host_processor_caches"] == found["host_processor_frequency"] == ""
    assert found["host_memory_capacity"].endswith("B")
    assert found["host_storage_capacity"].endswith("B")
    for field in ("system_name", "host_storage_type", "host_networking", "host_network_card_count", "operating_system"):
        assert found[field].startswith("FILL IN: such as ")


def test_nothing_but_psutil(fake):
    pytest.importorskip("psutil", reason="psutil is not installed")
    found = describe_machine(fake.root)
    assert found["host_processor_model_name"] == "FILL IN: such as Intel(R) Xeon(R) Gold 6430"
    assert found["host_processors_per_node"] == "FILL IN: the number of sockets, such as 2"
    assert tuple(found) == FIELDS


def test_a_virtual_machine_does_not_know_its_disks(server):
    server.cpuinfo("AMD EPYC", "fpu hypervisor avx2")
    server.write("sys/class/dmi/id/product_name", "Standard PC (Q35 + ICH9, 2009)")
    found = describe_machine(server.root)
    assert found["host_storage_type"] == "FILL IN: such as NVMe SSD"
    assert found["system_name"].startswith("FILL IN")
    assert found["hw_notes"] == "virtual machine"


def test_only_root_sees_memory_modules(server):
    for slot in range(8):
        server.module(slot, 65536)
    server.module(8, 0)  # an empty slot
    assert describe_machine(server.root)["host_memory_configuration"] == "8x 64 GB DDR5-4800"
    server.module(7, 16384, 0x1A, 0)
    assert describe_machine(server.root)["host_memory_configuration"] == "7x 64 GB DDR5-4800 + 1x 16 GB DDR4"
    server.module(8, 16384, 0x07)  # "RAM", as virtual machines say
    assert describe_machine(server.root)["host_memory_configuration"].startswith("FILL IN")


def test_networks(server):
    server.port("ib0", "0000:5e:00.0", 400_000, kind=32)
    server.port("wlan0", "0000:6a:00.0", 100)
    (server.root / "sys/class/net/wlan0/phy80211").mkdir()
    found = describe_machine(server.root)
    assert found["host_networking"] == "25 GbE + InfiniBand 400 Gb/s + Wi-Fi"
    assert found["host_network_card_count"] == "3"


def test_different_processors_have_no_core_count(fake):
    for number, socket in enumerate((0, 0, 1)):
        fake.cpu(number, socket, number, [])
    assert describe_machine_of(fake)["host_processor_core_count"] == "FILL IN: cores of one processor, such as 32"


# The file


@pytest.fixture
def described(server, monkeypatch) -> FakeRoot:
    """The machine is the server of two sockets."""
    real = system.describe_machine
    monkeypatch.setattr(system, "describe_machine", lambda: real(server.root))
    monkeypatch.setattr(machine, "cpu_model", lambda: "Xeon 6430")
    return server


GIVEN = {"division": "closed", "submitter": "ACME", "status": "available", "system_type": "edge"}


def test_values_of_a_person_are_kept(described, tmp_path):
    path = tmp_path / "systems" / "s.json"
    values, disagree = init_system(path, GIVEN)
    assert disagree == []
    assert read_system(path) == values
    assert [*json.loads(path.read_text())] == [*FIELDS]
    first = path.read_text()
    init_system(path, {})
    assert path.read_text() == first

    mine = {"cooling": "water", "host_memory_capacity": "1 TB", "hw_notes": "in the cellar", "is_network": "false"}
    path.write_text(json.dumps({**values, **mine, "accelerators_per_node": 0, "host_processors_per_node": 2}))
    values, disagree = init_system(path, {"status": "preview"})
    assert {field: values[field] for field in mine} == mine
    assert (values["accelerators_per_node"], values["status"], values["submitter"]) == ("0", "preview", "ACME")
    assert disagree == [f'host_memory_capacity is "1 TB" in {path}, but this machine reports "512 GB".']
    assert unfilled(values) == ["host_memory_configuration", "host_networking_topology"]
    values, disagree = init_system(path, {"host_memory_capacity": "512 GB"})
    assert disagree == []


def test_a_link_to_a_description_stays_one_and_what_no_checker_accepts_is_replaced(tmp_path):
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    init_system(real, {})
    real.write_text(json.dumps(json.loads(real.read_text()) | {"accelerators_per_node": "N/A", "number_of_nodes": 1.0}))
    link.symlink_to(real)
    values, _ = init_system(link, {"cooling": "air"})
    assert (values["accelerators_per_node"], values["number_of_nodes"]) == ("0", 1.0)
    assert link.is_symlink()
    assert json.loads(real.read_text())["cooling"] == "air"


@pytest.mark.parametrize(
    ("field", "value", "lacks"),
    [
        ("number_of_nodes", 1.0, False),
        ("number_of_nodes", 1.5, True),
        ("number_of_nodes", "\N{ARABIC-INDIC DIGIT TWO}", True),
        ("accelerators_per_node", "N/A", True),  # crashes an official checker
        ("accelerators_per_node", 0, True),
        ("accelerators_per_node", "0", False),
        ("number_of_nodes", 2, False),
        ("division", "Closed", True),
        ("status", "Available", False),
        ("system_type", "edge,datacenter", False),
        ("system_type", "laptop", True),
        ("cooling", "", True),
        ("cooling", "FILL IN: such as air", True),
        ("cooling", " fill in later", True),
        ("number_of_nodes", "0", True),
        ("hw_notes", "", False),
        ("hw_notes", "FILL IN", True),
    ],
)
def test_unfilled_fields(field, value, lacks):
    values = dict.fromkeys(FIELDS, "x") | GIVEN | dict.fromkeys(WHOLE, "1")
    assert unfilled(values) == []
    assert unfilled({**values, field: value}) == ([field] if lacks else [])
    assert unfilled({name: v for name, v in values.items() if name != field}) == [field]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"coolin": "air"}, "unknown field 'coolin' of a system description: did you mean 'cooling'"),
        ({"division": "closd"}, "division cannot be 'closd': did you mean 'closed'"),
        ({"number_of_nodes": "one"}, "number_of_nodes cannot be 'one': give a whole number"),
        ({"accelerators_per_node": "N/A"}, "accelerators_per_node cannot be 'N/A': give a whole number"),
        ({"cooling": ""}, "cooling needs a value: such as air"),
    ],
)
def test_invalid_values(described, tmp_path, given, reason):
    with pytest.raises(ConfigError, match=reason):
        init_system(tmp_path / "s.json", given)
    assert not (tmp_path / "s.json").exists()


def test_files_that_are_not_a_description(tmp_path):
    path = tmp_path / "s.json"
    with pytest.raises(ConfigError, match="cannot read the system description"):
        read_system(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"is not JSON .*remove it and run `harness system init --system"):
        read_system(path)
    path.write_text("[]")
    with pytest.raises(ConfigError, match="is not a JSON object"):
        read_system(path)


def test_field_texts():
    assert parse_fields(["accelerator_on-chip_memories=", "hw_notes= a = b "]) == {
        "accelerator_on-chip_memories": "",
        "hw_notes": "a = b",
    }
    with pytest.raises(ConfigError, match="--set cooling: write FIELD=VALUE"):
        parse_fields(["cooling"])


def test_the_command(described, tmp_path, capsys):
    def command(*words: str) -> int:
        try:
            return app(["system", "init", "--systems-dir", str(tmp_path), *words], standalone_mode=False) or 0
        except HarnessError as error:
            return error.exit_code

    assert command("--submitter", "ACME", "--division", "closed", "--system", "s", "--set", "cooling=air") == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == str(tmp_path / "s.json")
    assert [line.split()[0] for line in out[2:]] == [
        "status",
        "system_type",
        "host_memory_configuration",
        "host_networking_topology",
    ]
    values = read_system(tmp_path / "s.json")
    assert (values["submitter"], values["division"], values["cooling"]) == ("ACME", "closed", "air")
    assert command("--system", "s", "--json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["values"] == values
    assert printed["missing"].keys() == {line.split()[0] for line in out[2:]}
    rest = [word for line in out[4:] for word in ("--set", f"{line.split()[0]}=known")]
    assert command("--system", "s", "--status", "rdi", "--system-type", "edge", *rest) == 0
    assert capsys.readouterr().out.splitlines()[1:] == ["all fields are filled in"]
    assert command("--system", "../s") == 2
    assert command("--set", "cooling") == 2
