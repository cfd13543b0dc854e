"""Energy by the kernel's powercap files, of a machine that a folder imitates."""

from pathlib import Path

import pytest

from harness.host.energy import EnergyMeter


def zone(root: Path, folder: str, name: str, microjoules: int, most: int = 10_000_000) -> None:
    path = root / "sys/class/powercap" / folder
    path.mkdir(parents=True, exist_ok=True)
    for file, value in (("name", name), ("energy_uj", microjoules), ("max_energy_range_uj", most)):
        (path / file).write_text(f"{value}\n")


@pytest.fixture
def machine(tmp_path) -> Path:
    """Two packages, of which one has memory of its own; the cores and the whole board are counted elsewhere."""
    zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 5_000_000)
    zone(tmp_path, "intel-rapl:0:1", "dram", 1_000_000)
    zone(tmp_path, "intel-rapl:1", "package-1", 2_000_000)
    zone(tmp_path, "intel-rapl:2", "psys", 7_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 9_000_000)
    return tmp_path


def test_packages_and_memory_are_added_also_after_a_counter_started_again(machine):
    meter = EnergyMeter(machine)
    meter.look(10.0)
    zone(machine, "intel-rapl:0", "package-0", 1_000_000)  # 2 J, around the end of its range
    zone(machine, "intel-rapl:0:0", "core", 9_000_000)
    zone(machine, "intel-rapl:0:1", "dram", 1_500_000)
    meter.look(12.0)
    zone(machine, "intel-rapl:1", "package-1", 3_500_000)
    meter.look(14.0)
    energy = meter.energy
    assert energy.joules == pytest.approx(2 + 0.5 + 1.5)
    assert energy.watts == pytest.approx(1.0)
    assert energy.zones == ("package-0", "dram", "package-1")


def test_a_machine_without_readable_counters_says_nothing(tmp_path):
    (tmp_path / "sys/class/powercap/intel-rapl:0").mkdir(parents=True)
    (tmp_path / "sys/class/powercap/intel-rapl:0/name").write_text("package-0\n")
    for root in (tmp_path, tmp_path / "none"):
        meter = EnergyMeter(root)
        meter.look(1.0)
        meter.look(2.0)
        assert meter.energy is None


def test_one_look_is_not_a_measurement(machine):
    meter = EnergyMeter(machine)
    meter.look(1.0)
    assert meter.energy is None


def test_a_counter_that_becomes_unreadable_ends_the_measurement(machine):
    meter = EnergyMeter(machine)
    meter.look(1.0)
    zone(machine, "intel-rapl:0", "package-0", 9_500_000)
    meter.look(2.0)
    assert meter.energy.joules == pytest.approx(0.5)
    (machine / "sys/class/powercap/intel-rapl:0:1/energy_uj").unlink()
    meter.look(3.0)
    meter.look(4.0)
    assert meter.energy is None
