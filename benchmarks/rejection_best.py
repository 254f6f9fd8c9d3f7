"""Best of n on a pool: what each policy saves, what it costs in accuracy, and its promise."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rejection_pool import Pool
from benchmarks.rejection_replay import Played, play

Floats = NDArray[np.float64]

SIZES = (4, 8, 16, 32)
RISKS = (0.05, 0.1)  # of which the promise is tested
TRIED = (0.02, 0.04, 0.05, 0.1)  # as many settings as make a choice
CHECKS = (2, 4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64)
WIDTHS = (2, 4, 8)  # of top_fraction
TIE = 0.1  # nats of the judge's likelihood, a tenth of its chance
NUM_SPLITS = 20  # orders of the problems, for what depends on who was audited
_FEW_SPLITS = 5
_FEW = 8  # candidates up to which fewer orders are played
_WINDOW = 100  # groups whose rate after a shift is told together
SHIFT_SIZE = 16


def conformal(risk: float) -> dict[str, Any]:
    """Its section of a policy file."""
    return {
        "policy": "conformal",
        "risk": risk,
        "tie": TIE,
        "check_at_tokens": list(CHECKS),
    }


def sections() -> dict[str, dict[str, Any] | None]:
    """All policies that compete for the best of n; None stops nobody."""
    found: dict[str, dict[str, Any] | None] = {"none": None}
    for risk in TRIED:
        found[f"conformal {risk}"] = conformal(risk)
    for width in WIDTHS:
        for tau in CHECKS:
            found[f"top_fraction 1/{width} tau {tau}"] = {
                "policy": "top_fraction",
                "width": width,
                "tau": tau,
            }
    found["first_finish"] = {"policy": "first_finish"}
    return found


def num_orders(size: int, name: str) -> int:
    """In how many orders a policy meets the problems: who is audited is a matter of luck."""
    if not name.startswith("conformal"):
        return 1
    return _FEW_SPLITS if size <= _FEW else NUM_SPLITS


def best_of_n(pool: Pool, size: int, name: str, seed: int, split: int) -> dict[str, Any]:
    """One policy on the first candidates, problems in an order of chance."""
    some = pool.take(np.random.default_rng([seed, split]).permutation(len(pool)), size)
    played = play(sections()[name], some)
    row = {"part": "best_of_n", "policy": name, "n": size, "split": split}
    return {**row, **_measured(played, some)}


def _measured(played: Played, pool: Pool) -> dict[str, Any]:
    free = ~played.audited
    return {
        "accuracy": float(played.correct(pool).mean()),
        "saved": float(pool.full_cost.sum() / played.cost(pool).sum()),
        "saved_unaudited": float(pool.full_cost[free].sum() / played.cost(pool)[free].sum())
        if free.any()
        else None,
        "wrong": float(played.wrong(pool, TIE)[free].mean()) if free.any() else None,
        "audited": float(played.audited.mean()),
        "stopped": float((~played.finished).mean()),
        "faults": sum(played.faults.values()),
    }


def shift(usual: Pool, harder: Pool, risk: float, seed: int, split: int) -> list[dict[str, Any]]:
    """Rates of wrongly stopped winners, by windows of groups, as problems become harder."""
    rng = np.random.default_rng([seed, split])
    before = usual.take(rng.permutation(len(usual))[: len(usual) // 2], SHIFT_SIZE)
    after = harder.take(rng.permutation(len(harder)), SHIFT_SIZE)
    both = before.followed_by(after)
    played = play(conformal(risk), both)
    wrong, free = played.wrong(both, TIE), ~played.audited
    saved = 1.0 - played.cost(both) / both.full_cost
    size, rows = min(_WINDOW, len(before)), []
    for start in range(-size, len(after) - size + 1, size):
        window = slice(len(before) + start, len(before) + start + size)
        rows.append(
            {
                "part": "shift",
                "risk": risk,
                "split": split,
                "from": start,
                "wrong": float(wrong[window][free[window]].mean()) if free[window].any() else None,
                "saved": float(saved[window].mean()),
            }
        )
    return rows


def noise(pool: Pool, size: int, seed: int) -> dict[str, Any]:
    """What conformal does where scores are noise."""
    some = pool.take(np.arange(len(pool)), size).with_noise(np.random.default_rng(seed))
    played = play(conformal(RISKS[0]), some)
    return {"part": "noise", "n": size, **_measured(played, some), **played.figures}
