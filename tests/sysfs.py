"""A folder with the files of sysfs that the CPU actuator and the RAPL meter use."""

from __future__ import annotations

from pathlib import Path

CLOCKS_KHZ = (1_000_000, 2_000_000, 3_000_000)


def make_sysfs(root: Path, clock_khz: tuple[int, int] = (3_000_000, 2_500_000)) -> Path:
    """Two clock domains, the second slower, and one package of 100 W."""
    for domain, khz in enumerate(clock_khz):
        folder = root / f"devices/system/cpu/cpufreq/policy{domain}"
        folder.mkdir(parents=True)
        (folder / "scaling_max_freq").write_text(f"{khz}\n")
        (folder / "cpuinfo_min_freq").write_text("1000000\n")
        (folder / "cpuinfo_max_freq").write_text(f"{khz}\n")
        (folder / "scaling_available_frequencies").write_text(" ".join(map(str, CLOCKS_KHZ)))
    for name in ("intel-rapl:0", "intel-rapl:0:0"):
        zone = root / "class/powercap" / name
        zone.mkdir(parents=True)
        (zone / "energy_uj").write_text("1000000\n")
        (zone / "max_energy_range_uj").write_text("5000000\n")
    package = root / "class/powercap/intel-rapl:0"
    (package / "constraint_0_power_limit_uw").write_text("100000000\n")
    return root


def clocks_khz(root: Path) -> tuple[int, ...]:
    """Highest clocks of the domains, as the files say."""
    folder = root / "devices/system/cpu/cpufreq"
    files = sorted(folder.glob("policy*/scaling_max_freq"))
    return tuple(int(file.read_text()) for file in files)


def set_energy_uj(root: Path, energy_uj: int) -> None:
    """What the package's counter shows."""
    (root / "class/powercap/intel-rapl:0/energy_uj").write_text(f"{energy_uj}\n")
