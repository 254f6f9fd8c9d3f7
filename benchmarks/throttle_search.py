"""One search on one surface: when it came near the best, and what it cost on the way."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from benchmarks.throttle_baselines import PlainConstrainedEI, RandomSearch
from benchmarks.throttle_surfaces import Surface, draw_surface
from flyball.policies.registry import THROTTLE_POLICIES
from flyball.policies.throttle.base import ThrottlePolicy, ThrottleSettings
from flyball.policies.throttle.space import Bools, Floats

NEAR = 1.02
FAR_OVER = 1.25
SETTLED = 4  # windows without a trial after which a search is over
BASELINES = {"plain_ei": PlainConstrainedEI, "random": RandomSearch}
SEARCHES = ("constrained_bo", "sweep", "lowest_feasible", "linucb", *BASELINES)


@cache
def surface_of(seed: int) -> Surface:
    """Surfaces are drawn once a process."""
    return draw_surface(seed)


def make_policy(name: str, surface: Surface, num_windows: int, seed: int) -> ThrottlePolicy:
    """A policy, or a baseline, by name."""
    rng = np.random.default_rng([seed, 22])
    if name in BASELINES:
        settings = ThrottleSettings(policy=name)
        return BASELINES[name](settings, surface.space, surface.goal, rng, num_windows)
    policy = THROTTLE_POLICIES[name]
    return policy(policy.Settings(policy=name), surface.space, surface.goal, rng)


def judged(surface: Surface) -> tuple[Floats, Floats, Bools]:
    """Energy and latency over the SLO (grid,), and which settings keep it and serve the load."""
    truth = surface.truth()
    over = truth.latency_s / (surface.goal.latency_slo_s or np.inf)
    served = truth.capacity >= surface.context.tokens_per_s
    return truth.energy_per_token_j, over, (over <= 1.0) & served


def search(seed: int, name: str, repeat: int, num_windows: int) -> dict[str, Any]:
    """Search a surface under its steady load.

    Trials are the windows in which the policy searches, and the first. A trial within 2% of the
    least energy, among settings that keep the SLO and serve the load, ends the count; all windows
    up to it count, those at the best so far included.
    """
    surface = surface_of(seed)
    policy = make_policy(name, surface, num_windows, repeat)
    rng = np.random.default_rng([seed, repeat, 23])
    energy, over, feasible = judged(surface)
    best = float(energy[feasible].min())
    windows, trials, found = [], [], None
    for number in range(num_windows):
        setting = policy.decide(surface.context)
        row = int(surface.space.index(setting))
        windows.append(row)
        trials.append(policy.searching or number == 0)
        if found is None and feasible[row] and energy[row] <= NEAR * best:
            found = number + 1
        policy.learn(surface.window(setting, rng))
        if not any(trials[-SETTLED:]):
            break
    rows, tried = np.array(windows), np.array(trials)
    final = (
        policy.decide(surface.context)
        if not policy.searching
        else _least(surface, rows, energy, feasible)
    )
    last = int(surface.space.index(final))
    default = int(surface.space.index(surface.space.default))
    return {
        "part": "search",
        "surface": surface.name,
        "seed": seed,
        "repeat": repeat,
        "policy": name,
        "settings": surface.space.num_settings,
        "found": found,
        "trials": int(tried.sum()),
        "violations": int((over[rows[tried]] > 1.0).sum()),
        "far_over": int((over[rows[tried]] > FAR_OVER).sum()),
        "settled": int((~tried).sum()),
        "settled_violations": int((over[rows[~tried]] > 1.0).sum()),
        "final_gap": float(energy[last] / best - 1.0),
        "final_keeps": bool(over[last] <= 1.0),
        "saved": float(1.0 - energy[last] / energy[default]),
        "best_saved": float(1.0 - best / energy[default]),
    }


def _least(surface: Surface, rows: Any, energy: Floats, feasible: Bools) -> Any:
    """The best that was tried, for those that still search; by the truth, in their favour."""
    kept = rows[feasible[rows]]
    if len(kept) == 0:
        return surface.space.safe
    return surface.space.grid[kept[int(energy[kept].argmin())]]


def joint(seed: int) -> dict[str, Any]:
    """What tuning draft length together with all else saves over leaving it at its default."""
    surface = surface_of(seed)
    energy, _, feasible = judged(surface)
    names = [knob.name for knob in surface.space.knobs]
    default = energy[int(surface.space.index(surface.space.default))]
    row = {"part": "joint", "surface": surface.name, "seed": seed}
    if "draft_len" not in names:
        return {**row, "drafts": False}
    place = names.index("draft_len")
    alone = surface.space.grid[:, place] == surface.space.knobs[place].default
    least, least_alone = energy[feasible].min(), energy[feasible & alone].min()
    return {
        **row,
        "drafts": True,
        "saved_jointly": float(1.0 - least / default),
        "saved_alone": float(1.0 - least_alone / default),
        "more": float(1.0 - least / least_alone),
    }


def day(seed: int, name: str, repeat: int, num_windows: int) -> dict[str, Any]:
    """A day of changing load on a device that keeps its queue and its warmth.

    Each decision is told the load of the window before. `late` are windows that break the SLO
    although the policy was not searching.
    """
    from benchmarks.throttle_surfaces import draw_day

    surface = surface_of(seed)
    loads = draw_day(surface, repeat, num_windows)
    slo_s = surface.goal.latency_slo_s or np.inf
    policy = None if name == "default" else make_policy(name, surface, num_windows, repeat)
    rng = np.random.default_rng([seed, repeat, 24])
    joules = tokens = 0.0
    late, calm, trials, broken = 0, 0, 0, 0
    waiting = 0
    before = loads[0].context
    with surface.device() as device:
        for number, load in enumerate(loads):
            setting = surface.space.default
            searching = False
            if policy is not None:
                setting = policy.decide(before, waiting)
                searching = policy.searching or number == 0
            device.apply(surface.space.named(setting))
            window = device.window(load.seconds, load.context, rng)
            over = device.true_latency_s > slo_s
            trials, broken = trials + searching, broken + (searching and over)
            calm, late = calm + (not searching), late + (not searching and over)
            joules, tokens = joules + device.true_energy_j, tokens + window.num_tokens
            if policy is not None:
                policy.learn(replace(window, setting=setting))
            waiting, before = window.num_waiting, load.context
    return {
        "part": "day",
        "surface": surface.name,
        "seed": seed,
        "repeat": repeat,
        "policy": name,
        "energy_per_token_j": joules / tokens,
        "trials": int(trials),
        "violations": int(broken),
        "settled": int(calm),
        "settled_violations": int(late),
    }
