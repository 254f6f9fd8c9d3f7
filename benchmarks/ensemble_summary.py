"""Tables and claims of `benchmarks.ensemble`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.ensemble_modes import DEFAULT, SERVED, VIEWS
from flyball.demo.vlm_data import OUT_OF_DOMAIN, SCENARIOS

Rows = Sequence[dict[str, Any]]


def summarise(rows: Rows, tracked: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One line a mode and way of decoding, and what is claimed.

    Args:
        rows: one a prompt and mode.
        tracked: what rules did where scenarios switch.
    """
    table = []
    names = list(dict.fromkeys(row["mode"] for row in rows))
    for sampled in (False, True):
        for name in names:
            own = [row for row in rows if row["mode"] == name and row["sampled"] == sampled]
            line: dict[str, Any] = {"mode": name, "sampled": sampled}
            for scenario in SCENARIOS:
                part = [row for row in own if row["scenario"] == scenario]
                line[scenario] = _efficiency(part)
                line[f"{scenario}_tokens_per_s"] = _rate(part)
            line["mean"] = float(np.mean([line[scenario] for scenario in SCENARIOS]))
            line["tokens_per_s"] = _rate(own)
            table.append(line)
    for line in table:
        best = max(_line(table, view, line["sampled"])["tokens_per_s"] for view in VIEWS)
        line["of_best_single"] = line["tokens_per_s"] / best
    summary: dict[str, Any] = {
        name: _claims(table, sampled) for name, sampled in (("greedy", False), ("sampling", True))
    }
    summary["num_unlike"] = sum(row["unlike"] for row in rows)
    summary["tracking"] = tracked
    return table, summary


def _claims(table: Rows, sampled: bool) -> dict[str, Any]:
    """What the default does against single members and TABED."""
    lines = {line["mode"]: line for line in table if line["sampled"] == sampled}
    default, tabed = lines[DEFAULT], lines["tabed"]
    best_fixed = max((lines[view] for view in VIEWS), key=lambda line: float(line["mean"]))
    best = {s: max(lines[view][s] for view in VIEWS) for s in SCENARIOS}
    own = [lines[SERVED.format(view)] for view in VIEWS]
    own_best = {s: max(line[s] for line in own) for s in SCENARIOS}
    on = {rule: lines[SERVED.format(rule)] for rule in (DEFAULT, "tabed")}
    alone = [lines[f"{view}, own lengths"] for view in VIEWS]
    best_rate = {s: max(line[f"{s}_tokens_per_s"] for line in alone) for s in SCENARIOS}
    rate = {s: lines["governor"][f"{s}_tokens_per_s"] for s in SCENARIOS}
    block = lines[f"{DEFAULT}, block"]
    return {
        "best_fixed_member": best_fixed["mode"],
        "of_best_fixed_member_on_the_mean": default["mean"] / best_fixed["mean"],
        "of_best_member": {s: default[s] / best[s] for s in SCENARIOS},
        "of_tabed": {s: default[s] / tabed[s] for s in OUT_OF_DOMAIN},
        "served_of_best_fixed_member_on_the_mean": on[DEFAULT]["mean"]
        / max(line["mean"] for line in own),
        "served_of_best_member": {s: on[DEFAULT][s] / own_best[s] for s in SCENARIOS},
        "served_of_tabed": {s: on[DEFAULT][s] / on["tabed"][s] for s in OUT_OF_DOMAIN},
        "of_best_mixture": {s: default[s] / lines["best mixture"][s] for s in SCENARIOS},
        "of_stock": default["tokens_per_s"] / lines["stock"]["tokens_per_s"],
        "of_off": default["tokens_per_s"] / lines["off"]["tokens_per_s"],
        "governor_of_best_fixed_rate": lines["governor"]["tokens_per_s"]
        / max(line["tokens_per_s"] for line in alone),
        "governor_of_best_rate": {s: rate[s] / best_rate[s] for s in SCENARIOS},
        "block_of_standard": {s: block[s] / default[s] for s in SCENARIOS},
        "width_2_of_chain": lines[f"{DEFAULT}, width 2"]["mean"] / default["mean"],
        "width_3_of_chain": lines[f"{DEFAULT}, width 3"]["mean"] / default["mean"],
    }


def _line(table: Rows, mode: str, sampled: bool) -> dict[str, Any]:
    return next(line for line in table if line["mode"] == mode and line["sampled"] == sampled)


def _efficiency(rows: Rows) -> float:
    """Mean tokens of a round; reading the prompt makes each text's first."""
    rounds = sum(row["rounds"] for row in rows)
    return sum(row["tokens"] - 1 for row in rows) / max(1, rounds)


def _rate(rows: Rows) -> float:
    return float(sum(row["tokens"] for row in rows) / sum(row["seconds"] for row in rows))
