"""What is published about devices' energy, and what the simulated devices give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from flyball.integrations.hardware.device_model import DeviceModel, Steady
from flyball.integrations.hardware.device_models import MODELS
from flyball.integrations.hardware.device_settings import settings_of
from flyball.integrations.hardware.device_space import space_of
from flyball.integrations.hardware.device_spec import DeviceSpec
from flyball.integrations.hardware.device_specs import A100, H100, ORIN, TX2
from flyball.integrations.hardware.device_work import Model, Work
from flyball.policies.throttle.base import Context
from flyball.policies.throttle.space import Floats, Places, Space

SATURATED = 1e9  # tokens a second: more than any device serves
CLOCKS = ("graphics_clock_mhz", "memory_clock_mhz", "cpu_clock_mhz")

# 0.39 billion multiply-adds an image and some 40 MB of activations, as a small convolution net's.
SMALL_CNN = Work(Model(0.39e9, 0.1, 25, 0, 4.0), None, prompt_len=0.0, answer_len=1.0)
# 85 million weights over 128 tokens, as an encoder's query.
ENCODER = Work(Model(0.085e9, 2.0, 12, 768, 36_864.0), None, prompt_len=127.0, answer_len=1.0)


@dataclass(frozen=True)
class Figure:
    """A published figure.

    Attributes:
        what: is measured, on what.
        source: of it.
        low: least that is published, or that its tolerance allows.
        high: most.
        unit: of the figures; "%" of fractions.
        modelled: what the simulated device gives.
    """

    what: str
    source: str
    low: float
    high: float
    unit: str
    modelled: float


@dataclass(frozen=True)
class Sweep:
    """All clocks of a device under one load; the default setting has them all at their highest."""

    space: Space
    settings: Places
    steady: Steady

    @property
    def default(self) -> int:
        """Row of the default setting."""
        return int(self.space.index(self.space.default))

    def saved(self, *free: str, slower: float = np.inf) -> float:
        """Energy saved by setting these knobs alone, where rounds take so much longer at most."""
        names = [knob.name for knob in self.space.knobs]
        held = [j for j, name in enumerate(names) if name not in free]
        rows = (self.settings[:, held] == self.space.default[held]).all(axis=1)
        rows &= self.steady.token_s <= (1.0 + slower) * self.steady.token_s[self.default]
        energy_j = self.steady.energy_per_token_j
        return float(1.0 - energy_j[rows].min() / energy_j[self.default])

    def curve(self) -> tuple[Floats, Floats]:
        """Graphics clocks and joules per token, all else at its highest."""
        held = self.settings[:, 1:] == self.space.default[1:]
        rows = held.all(axis=1)
        clocks = self.space.column(0, self.settings[rows])
        return clocks, self.steady.energy_per_token_j[rows]


def sweep(spec: DeviceSpec, work: Work, batch: float, load: float = SATURATED) -> Sweep:
    """All clocks; load in tokens a second, or below 1 as a share of what the default can do."""
    space = space_of(spec, batch_sizes=(batch,), default_batch=batch)
    model, grid = DeviceModel(spec, work), space.grid
    settings = settings_of(spec, space, grid, batch)
    if load < 1.0:
        load = load * float(model.steady(settings, Context(1e-3, batch)).rate[-1])
    return Sweep(space, grid, model.steady(settings, Context(load, batch)))


def figures() -> list[Figure]:
    """Every figure."""
    work_13b, work_8b = (Work(MODELS[name], None, 512.0, 256.0) for name in ("13B", "8B"))
    a100, h100 = sweep(A100, work_13b, 32.0), sweep(H100, work_8b, 32.0)
    h100_full = sweep(H100, work_8b, 64.0)
    clocks, energy_j = a100.curve()
    orin, tx2 = sweep(ORIN, SMALL_CNN, 1.0), sweep(TX2, ENCODER, 4.0)
    idle = {spec.name: sweep(spec, work_8b, 1.0, 1e-3) for spec in (A100, H100)}
    return [
        Figure(
            "A100, decoding: clock of least energy",
            "throttLL'eM 2408.05235: 1,050; VoltanaLLM 2509.04827: 1,005",
            1005, 1050, "MHz", float(clocks[energy_j.argmin()]),
        ),
        Figure(
            "A100, decoding: saved there",
            "throttLL'eM: 24.7 on average, 30.7 at most; VoltanaLLM: 36.3 at most",
            0.247, 0.363, "%", a100.saved("graphics_clock_mhz"),
        ),
        Figure(
            "A100, decoding: energy at the lowest clock over the least",
            "VoltanaLLM: U-shaped, the lowest clock is not the cheapest",
            1.2, np.inf, "", float(energy_j[0] / energy_j.min()),
        ),
        Figure(
            "A100: saved by a cap of 175 instead of 250 W",
            "Samsi et al. 2310.03003: 23, for 6 to 7% more time",
            0.18, 0.28, "%", _capped(work_13b),
        ),
        Figure(
            "A100: idle at the highest clock over the lowest",
            "2605.23918: a CUDA context adds 26 to 50",
            20, 50, "W", _idle_gap(idle["A100"]),
        ),
        Figure(
            "H100: the same",
            "2605.23918: a CUDA context adds 26 to 50",
            20, 50, "W", _idle_gap(idle["H100"]),
        ),
        Figure(
            "H100, decoding: saved by the clock at 10% more time at most",
            "2605.11999 (H200): up to 32 at minimal loss",
            0.20, 0.32, "%", h100.saved("graphics_clock_mhz", slower=0.1),
        ),
        Figure(
            "H100, 8B, batch 64: power",
            "api.serialalice.pt: 267 to 680 from batch 1 to 128",
            267, 680, "W", float(h100_full.steady.busy_w[h100_full.default]),
        ),
        Figure(
            "Orin: settings of clocks and batch",
            "PolyThrottle 2310.19991",
            1820, 1820, "", _num_settings(ORIN),
        ),
        Figure(
            "TX2: settings of clocks and batch",
            "PolyThrottle",
            5005, 5005, "", _num_settings(TX2),
        ),
        Figure(
            "Orin, small CNN: saved by the memory's clock alone, saturated",
            "PolyThrottle: 12 to 25",
            0.10, 0.25, "%", orin.saved("memory_clock_mhz"),
        ),
        Figure(
            "TX2, small CNN: the same at 60% load",
            "PolyThrottle: 12 to 25",
            0.12, 0.25, "%", sweep(TX2, SMALL_CNN, 1.0, 0.6).saved("memory_clock_mhz", slower=1.0),
        ),
        Figure(
            "Orin, small CNN: saved by all clocks at 1.5 times the latency",
            "PolyThrottle: up to 36",
            0.25, 0.38, "%", orin.saved(*CLOCKS, slower=0.5),
        ),
        Figure(
            "TX2, encoder: the same",
            "PolyThrottle: up to 36",
            0.25, 0.40, "%", tx2.saved(*CLOCKS, slower=0.5),
        ),
        Figure(
            "Orin: the graphics part under arithmetic alone",
            "vendor's forum 323456: 40.4 on the rail it shares with the SoC",
            32, 41, "W", ORIN.dynamic_w + ORIN.leak_w,
        ),
        Figure(
            "TX2: memory and SoC with next to no traffic",
            "tegrastats in gist fa30ba54: 1.3 and 1.0",
            2.0, 2.8, "W", TX2.memory_idle_w + TX2.base_w,
        ),
    ]  # fmt: skip


def _capped(work: Work) -> float:
    """Energy per token saved by a cap of 175 W, against 250 W."""
    space = space_of(A100, batch_sizes=(8.0,), default_batch=8.0)
    settings = settings_of(A100, space, np.stack([space.default] * 2), 8.0)
    settings.power_limit_w[:] = (250.0, 175.0)
    energy_j = DeviceModel(A100, work).steady(settings, Context(SATURATED, 8.0)).energy_per_token_j
    return float(1.0 - energy_j[1] / energy_j[0])


def _idle_gap(idle: Sweep) -> float:
    """Idle watts at the highest clocks over those at the lowest graphics clock."""
    watts = idle.steady.idle_w
    return float(watts[idle.default] - watts[idle.settings[:, 0] == 0].max())


def _num_settings(spec: DeviceSpec) -> float:
    batches = (1.0, 2.0, 4.0, 8.0, 16.0)
    return float(space_of(spec, batch_sizes=batches, default_batch=1.0).num_settings)


def shown(value: float, unit: str) -> str:
    """A number as a table shows it."""
    if not np.isfinite(value):
        return "-"
    return f"{100 * value:.0f}%" if unit == "%" else f"{value:,.4g} {unit}".strip()


def main() -> None:
    """Print the table of docs/throttle.md."""
    table = Table("", "published", "accepted", "modelled")
    for row in figures():
        accepted = f"{shown(row.low, row.unit)} to {shown(row.high, row.unit)}"
        table.add_row(row.what, row.source, accepted, shown(row.modelled, row.unit))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
