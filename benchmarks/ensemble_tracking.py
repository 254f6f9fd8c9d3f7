"""How fast rules follow when the scenario of the texts switches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.ensemble_modes import RULES, VIEWS
from benchmarks.ensemble_texts import ReadText, Walk, grid_acceptance, walk
from flyball.demo.vlm_data import SCENARIOS
from flyball.policies.ensemble.base import EnsemblePolicy, simplex_grid
from flyball.policies.registry import ENSEMBLE_POLICIES

Texts = dict[tuple[bool, str], list[ReadText]]
SETTLED = 50  # tokens after which a rule should have followed


def make(rule: str, **settings: Any) -> EnsemblePolicy:
    """A fresh policy."""
    policy = ENSEMBLE_POLICIES[rule]
    made = policy.Settings(policy=rule, **settings)
    return policy(made, len(VIEWS), np.random.default_rng(0))


def track(texts: Texts) -> dict[str, Any]:
    """Acceptance of each rule after a switch, as a share of the new scenario's best fixed mixture.

    Scenarios come in turn, several times over, a few texts each, as the requests of one server;
    what counts are tokens from the 50th after each switch on, and the first 50 beside them.
    """
    found: dict[str, Any] = {}
    for sampled in (False, True):
        order = schedule(texts, sampled)
        stream = [texts[sampled, name][number] for name, number in order]
        best = {name: _best_fixed(texts[sampled, name], sampled) for name in SCENARIOS}
        fixed = {
            name: walk(make("static", weights=best[name].tolist()), stream, sampled)
            for name in SCENARIOS
        }
        lines = {}
        for rule in RULES:
            own = walk(make(rule), stream, sampled)
            lines[rule] = _shares(own, fixed, order)
        found["sampling" if sampled else "greedy"] = lines
    return found


def schedule(texts: Texts, sampled: bool, run: int = 2) -> list[tuple[str, int]]:
    """Scenario and number of each text: `run` texts of a scenario, then the next one's."""
    count = min(len(texts[sampled, name]) for name in SCENARIOS)
    return [
        (name, number)
        for start in range(0, count, run)
        for name in SCENARIOS
        for number in range(start, min(start + run, count))
    ]


def _best_fixed(texts: Sequence[ReadText], sampled: bool) -> NDArray[np.float64]:
    grid = simplex_grid(len(VIEWS))
    best: NDArray[np.float64] = grid[grid_acceptance(texts, grid, sampled).argmax()]
    return best


def _shares(own: Walk, fixed: dict[str, Walk], order: list[tuple[str, int]]) -> dict[str, float]:
    """Of the best fixed mixtures' acceptance, before and after a switch has settled."""
    names = [name for name, _ in order]
    since = np.zeros(len(own.acceptance), np.int64)
    counted = 0
    for place, text in enumerate(own.text.tolist()):
        begins = own.place[place] == 0 and (text == 0 or names[text] != names[text - 1])
        counted = 0 if begins else counted + 1
        since[place] = counted
    which = np.array([names[text] for text in own.text.tolist()])
    best = np.zeros(len(own.acceptance))
    for name, other in fixed.items():
        best[which == name] = other.acceptance[which == name]
    result = {}
    for label, late in (("first_50", since < SETTLED), ("later", since >= SETTLED)):
        for name in SCENARIOS:
            chosen = late & (which == name)
            if chosen.any():
                ratio = own.acceptance[chosen].mean() / max(best[chosen].mean(), 1e-9)
                result[f"{label} {name}"] = float(ratio)
    result["later"] = float(
        own.acceptance[since >= SETTLED].mean() / best[since >= SETTLED].mean()
    )
    return result


def draw(texts: Texts, path: Path) -> None:
    """Write a picture of the weights round by round, scenarios one after the other."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(11, 5), sharey=True, constrained_layout=True)
    for row, rule in enumerate(("accept_ascent", "tabed")):
        for column, sampled in enumerate((False, True)):
            axis, policy = axes[row, column], make(rule)
            order = schedule(texts, sampled, run=4)[: 4 * len(SCENARIOS)]
            parts = [
                walk(policy, [texts[sampled, name][number]], sampled).weights
                for name, number in order
            ]
            ends = [
                (name, int(end))
                for (name, _), end in zip(order, np.cumsum(list(map(len, parts))), strict=True)
            ]
            weights = np.concatenate(parts)
            axis.stackplot(np.arange(len(weights)), weights.T, labels=VIEWS)
            start = 0
            for name in SCENARIOS:
                end = max(place for other, place in ends if other == name)
                axis.axvline(end, color="black", linewidth=0.8)
                axis.text((start + end) / 2, 1.02, name, ha="center", fontsize=7)
                start = end
            axis.set(ylim=(0, 1), xlim=(0, start))
            axis.set_title(f"{rule}, {'sampling' if sampled else 'greedy'}", pad=14, fontsize=9)
    axes[1, 0].set_xlabel("round")
    axes[0, 1].legend(loc="lower right", fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
