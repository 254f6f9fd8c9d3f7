"""Surfaces to tune on: devices, models, loads and promises, drawn by seed from ranges below."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from flyball.integrations.hardware.device_model import DeviceModel, Steady
from flyball.integrations.hardware.device_models import DRAFTS, MODELS
from flyball.integrations.hardware.device_settings import settings_of
from flyball.integrations.hardware.device_space import space_of
from flyball.integrations.hardware.device_spec import DeviceSpec
from flyball.integrations.hardware.device_specs import DEVICES
from flyball.integrations.hardware.device_trace import BURST, Load
from flyball.integrations.hardware.device_trace import draw_day as draw_loads
from flyball.integrations.hardware.device_work import Work
from flyball.integrations.hardware.simulated import SimulatedDevice
from flyball.policies.throttle.base import Context, Goal, Window
from flyball.policies.throttle.space import Floats, Places, Space

NUM_SURFACES = 40
WINDOW_S = (20.0, 120.0)  # of a try: as long as it takes to generate
WINDOW_TOKENS = 2000.0
NUM_KNOWN = 4  # loads whose truth is kept: a day has hundreds, of a megabyte each
SETTINGS = (1800, 12_500)  # that a surface has: clocks are thinned until they are few enough
THINNED = (
    *((graphics, 1, cpu) for cpu in (1, 2) for graphics in (1, 2, 3, 4, 6)),
    *((graphics, memory, memory) for memory in (2, 3) for graphics in (2, 3, 4, 6)),
)

# Models that fit the device and answer faster than people read, more or less.
TARGETS = {
    "A100": ("3B", "7B", "8B", "13B", "14B-w8", "32B-w8", "70B-w4"),
    "H100": ("7B", "8B", "13B", "14B-w8", "32B-w8", "70B-w4"),
    "Orin": ("0.5B", "1.1B", "1.5B", "3B", "8B"),
    "TX2": ("0.1B", "0.4B", "0.5B", "1.1B", "1.5B"),
}
SERVED_BATCH = (4.0, 8.0, 16.0, 32.0, 64.0, 96.0)
EDGE_BATCH = (1.0, 2.0, 4.0, 8.0, 16.0)
DRAFT_LENS = (0.0, 1.0, 2.0, 3.0, 4.0, 6.0)
EDGE_DRAFT_LENS = (0.0, 1.0, 2.0, 4.0, 6.0)
DEFAULT_DRAFTS = (0.0, 2.0, 4.0)

AMBIENT_C = (18.0, 42.0)
PARTS = {  # factors on a device's constants
    "dynamic_w": (0.92, 1.08),
    "leak_w": (0.75, 1.35),
    "stall_activity": (0.85, 1.15),
    "core_bandwidth": (0.90, 1.12),
    "roof_exponent": (0.75, 1.35),
    "layer_s": (0.80, 1.25),
    "host_s": (0.65, 1.45),
    "resistance_c_per_w": (0.80, 1.45),
    "jitter": (0.70, 1.60),
}

DRAFTED_SHARE = 0.65  # of the surfaces whose target has a draft
POWER_SHARE = 0.4  # of them can set a power limit
BACKEND_SHARE = 0.35  # of them can choose the attention backend
ACCEPTANCE = (0.40, 0.90)
PROMPT_LEN = (64.0, 2048.0)
EDGE_PROMPT_LEN = (32.0, 512.0)
ANSWER_LEN = (64.0, 512.0)
SERVED_REQUESTS = (2.0, 64.0)
EDGE_REQUESTS = (1.0, 2.0, 4.0, 8.0)
UTILISATION = (0.15, 0.80)  # of the default setting
CAP_FACTOR = (0.45, 0.85)  # times the power of the default setting under full load
SLO_FACTOR = (1.1, 2.5)  # times the latency of the default setting, the fastest clocks


@dataclass(frozen=True)
class Best:
    """The setting of least energy that keeps the promise, among all."""

    setting: Places
    energy_per_token_j: float
    latency_s: float


@dataclass
class Surface:
    """Something to tune.

    Attributes:
        name: device, model, draft and number.
        model: the device and what it decodes.
        space: what can be set; its default is in force without a governor and keeps the SLO.
        goal: what for.
        context: the load that it is drawn with.
        window_s: seconds of a try.
    """

    name: str
    model: DeviceModel
    space: Space
    goal: Goal
    context: Context
    window_s: float
    _known: dict[Context, Steady] = field(default_factory=dict, init=False, repr=False)

    def truth(self, context: Context | None = None) -> Steady:
        """What every setting of the grid comes to, exactly."""
        context = context or self.context
        if context not in self._known:
            while len(self._known) >= NUM_KNOWN:
                self._known.pop(next(iter(self._known)))
            settings = settings_of(
                self.model.spec, self.space, self.space.grid, context.batch_size
            )
            self._known[context] = self.model.steady(settings, context)
        return self._known[context]

    def true(self, settings: Places, context: Context | None = None) -> tuple[Floats, Floats]:
        """Energy per token (...) and the SLO's latency (...) of settings (..., knobs)."""
        rows = self.space.index(settings)
        truth = self.truth(context)
        return truth.energy_per_token_j[rows], truth.latency_s[rows]

    def feasible(self, context: Context | None = None) -> NDArray[np.bool_]:
        """Which settings (grid,) keep the promise."""
        truth = self.truth(context)
        return keeps(truth, self.goal)

    def best(self, context: Context | None = None) -> Best:
        """By exhaustion; where nothing keeps the promise, the setting of least latency."""
        truth = self.truth(context)
        feasible = self.feasible(context)
        if feasible.any():
            cost = truth.energy_per_token_j
            if self.goal.maximize == "tokens_per_second":
                cost = -truth.tokens_per_s
            row = int(np.where(feasible, cost, np.inf).argmin())
        else:
            row = int(truth.latency_s.argmin())
        return Best(
            self.space.grid[row],
            float(truth.energy_per_token_j[row]),
            float(truth.latency_s[row]),
        )

    def device(self) -> SimulatedDevice:
        """A device of it, at the default setting and cool."""
        return SimulatedDevice(self.model, self.space, self.context.batch_size)

    def window(
        self, setting: Places, rng: np.random.Generator, context: Context | None = None
    ) -> Window:
        """What `window_s` under a setting show, once its temperature has settled."""
        context = context or self.context
        device = self.device()
        row = int(self.space.index(setting))
        device.apply(self.space.named(setting))
        device.temperature_c = float(self.truth(context).temperature_c[row])
        device.reset_meter()
        return device.window(self.window_s, context, rng)


def keeps(truth: Steady, goal: Goal) -> NDArray[np.bool_]:
    """Which settings (S,) keep the SLO and the cap."""
    kept = np.ones(len(truth.latency_s), np.bool_)
    if goal.latency_slo_s is not None:
        kept &= truth.latency_s <= goal.latency_slo_s
    if goal.power_cap_w is not None:
        kept &= truth.power_w <= goal.power_cap_w
    return kept


def draw_surface(seed: int) -> Surface:
    """A surface of this seed; devices take turns, all else is drawn."""
    rng = np.random.default_rng([seed, 20])
    spec = vary(list(DEVICES.values())[seed % len(DEVICES)], rng)
    edge = spec.gather_s > 0
    target = str(rng.choice(TARGETS[spec.name]))
    drafted = rng.random() < DRAFTED_SHARE and target in DRAFTS
    draft = DRAFTS[target] if drafted else None
    work = Work(
        MODELS[target],
        MODELS[draft] if draft else None,
        prompt_len=np.round(_log_uniform(rng, EDGE_PROMPT_LEN if edge else PROMPT_LEN)),
        answer_len=np.round(_log_uniform(rng, ANSWER_LEN)),
    )
    if edge:
        batch_size = float(rng.choice(EDGE_REQUESTS))
        default_batch = batch_size
    else:
        batch_size = float(np.round(_log_uniform(rng, SERVED_REQUESTS)))
        default_batch = SERVED_BATCH[-1]
    space = _draw_space(rng, spec, drafted, default_batch)
    model = DeviceModel(spec, work)
    acceptance = float(rng.uniform(*ACCEPTANCE)) if drafted else 0.0
    probe = Context(1e-3, batch_size, acceptance)
    at_default = settings_of(spec, space, space.default[None], batch_size)
    rate = float(model.steady(at_default, probe).rate[0])
    context = Context(float(rng.uniform(*UTILISATION)) * rate, batch_size, acceptance)
    latency_s = float(model.steady(at_default, context).latency_s[0])
    goal = Goal(latency_slo_s=float(rng.uniform(*SLO_FACTOR)) * latency_s)
    window_s = float(np.clip(WINDOW_TOKENS / context.tokens_per_s, *WINDOW_S))
    name = f"{spec.name} {target}{'+' + draft if draft else ''} #{seed}"
    return Surface(name, model, space, goal, context, window_s)


def _draw_space(
    rng: np.random.Generator, spec: DeviceSpec, drafted: bool, default_batch: float
) -> Space:
    """Which knobs there are, and as many of their clocks as make a space of fair size."""
    edge = spec.gather_s > 0
    default_draft = float(rng.choice(DEFAULT_DRAFTS)) if drafted else 0.0
    power_limits = bool(rng.random() < POWER_SHARE) or not (edge or drafted)
    backends = bool(rng.random() < BACKEND_SHARE)
    for every in THINNED:
        space = space_of(
            spec,
            batch_sizes=EDGE_BATCH if edge else SERVED_BATCH,
            default_batch=default_batch,
            draft_lens=(EDGE_DRAFT_LENS if edge else DRAFT_LENS) if drafted else (),
            default_draft=default_draft,
            every=every,
            power_limits=power_limits,
            backends=backends,
        )
        if space.num_settings <= SETTINGS[1]:
            break
    return space


def draw_capped(seed: int) -> Surface:
    """That surface with more load than it can serve: most tokens a second under a power cap."""
    surface = draw_surface(seed)
    rng = np.random.default_rng([seed, 22])
    row = surface.space.index(surface.space.default)
    most = float(surface.truth().capacity.max())
    context = replace(surface.context, tokens_per_s=2.0 * most)
    cap_w = float(rng.uniform(*CAP_FACTOR)) * float(surface.truth(context).power_w[row])
    goal = Goal(maximize="tokens_per_second", power_cap_w=cap_w)
    return replace(surface, goal=goal, context=context)


def vary(spec: DeviceSpec, rng: np.random.Generator) -> DeviceSpec:
    """A device of the class: parts differ, and so do rooms and hosts."""
    varied = {
        name: getattr(spec, name) * float(rng.uniform(*bounds)) for name, bounds in PARTS.items()
    }
    return replace(spec, ambient_c=float(rng.uniform(*AMBIENT_C)), **varied)


def draw_surfaces(seed_base: int = 0, num: int = NUM_SURFACES) -> list[Surface]:
    """Surfaces of the seeds from seed_base on."""
    return [draw_surface(seed_base + k) for k in range(num)]


def draw_day(surface: Surface, seed: int, num_windows: int = 288) -> list[Load]:
    """A day of load for a surface, whose own context only the highest bursts reach."""
    rng = np.random.default_rng([seed, 21])
    top = surface.context
    peak = Context(top.tokens_per_s / BURST, top.batch_size / BURST, top.acceptance)
    return draw_loads(peak, rng, num_windows=num_windows, window_s=surface.window_s)


def _log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    return float(np.exp(rng.uniform(*np.log(bounds))))


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what is drawn: settings, what is feasible, and what the best saves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed-base", type=int, default=0)
    parser.add_argument("--num", type=int, default=NUM_SURFACES)
    options = parser.parse_args(arguments)
    for surface in draw_surfaces(options.seed_base, options.num):
        best = surface.best()
        default_j, default_s = surface.true(surface.space.default)
        print(
            f"{surface.name:24} {surface.space.num_settings:6} settings  "
            f"feasible {surface.feasible().mean():4.0%}  "
            f"SLO {1e3 * (surface.goal.latency_slo_s or 0):7.1f} ms  "
            f"saves {1 - best.energy_per_token_j / default_j:4.0%}  "
            f"{surface.space.named(best.setting)}"
        )


if __name__ == "__main__":
    main()
