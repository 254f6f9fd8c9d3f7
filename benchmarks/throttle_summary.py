"""What follows from searches, days and exhaustion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]


def _share(rows: Sequence[Row], part: str, whole: str) -> float:
    return sum(row[part] for row in rows) / max(sum(row[whole] for row in rows), 1)


def _found(rows: Sequence[Row]) -> Any:
    """Windows until within 2%; infinite where it never was."""
    return np.array([row["found"] or np.inf for row in rows], np.float64)


def _quantile(found: Any, share: float) -> float:
    """Of values some of which are infinite."""
    return float(np.sort(found)[int(np.ceil(share * len(found))) - 1])


def table(rows: Sequence[Row]) -> list[Row]:
    """A row a policy: trials, violations, savings."""
    searches = [row for row in rows if row["part"] == "search"]
    names = list(dict.fromkeys(row["policy"] for row in searches))
    lines = []
    for name in sorted(names):
        own = [row for row in searches if row["policy"] == name]
        found = _found(own)
        lines.append(
            {
                "policy": name,
                "runs": len(own),
                "median": _quantile(found, 0.5),
                "p95": _quantile(found, 0.95),
                "never": float(np.isinf(found).mean()),
                "trials": float(np.mean([row["trials"] for row in own])),
                "violations": _share(own, "violations", "trials"),
                "far over": _share(own, "far_over", "trials"),
                "settled late": _share(own, "settled_violations", "settled"),
                "gap": float(np.mean([row["final_gap"] for row in own])),
                "ends late": float(np.mean([not row["final_keeps"] for row in own])),
                "saved": float(np.mean([row["saved"] for row in own])),
                "best saved": float(np.mean([row["best_saved"] for row in own])),
            }
        )
    return lines


def summarise(rows: Sequence[Row]) -> dict[str, Any]:
    """Everything that the README may cite."""
    return {
        "policies": {line.pop("policy"): line for line in table(rows)},
        "constrained_bo_is_faster_on": _faster(rows),
        "days": _days(rows),
        "joint": _joint(rows),
    }


def _faster(rows: Sequence[Row]) -> dict[str, float]:
    """Share of surfaces where constrained_bo's median number of windows is lower."""
    searches = [row for row in rows if row["part"] == "search"]
    seeds = {row["seed"] for row in searches}
    medians = {
        (row["policy"], row["seed"]): _quantile(
            _found(
                [
                    one
                    for one in searches
                    if one["policy"] == row["policy"] and one["seed"] == row["seed"]
                ]
            ),
            0.5,
        )
        for row in searches
        if row["repeat"] == 0
    }
    names = sorted({row["policy"] for row in searches} - {"constrained_bo"})
    return {
        name: float(
            np.mean([medians["constrained_bo", seed] < medians[name, seed] for seed in seeds])
        )
        for name in names
    }


def _days(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    days = [row for row in rows if row["part"] == "day"]
    default = {
        row["seed"]: row["energy_per_token_j"] for row in days if row["policy"] == "default"
    }
    found = {}
    for name in sorted({row["policy"] for row in days}):
        own = [row for row in days if row["policy"] == name]
        saved = [1.0 - row["energy_per_token_j"] / default[row["seed"]] for row in own]
        found[name] = {
            "saved": float(np.mean(saved)),
            "trials": float(np.mean([row["trials"] for row in own])),
            "violations": _share(own, "violations", "trials"),
            "settled_violations": _share(own, "settled_violations", "settled"),
        }
    return found


def _joint(rows: Sequence[Row]) -> dict[str, float]:
    drafted = [row for row in rows if row["part"] == "joint" and row["drafts"]]
    return {
        "surfaces": float(len(drafted)),
        **{
            name: float(np.mean([row[name] for row in drafted]))
            for name in ("saved_jointly", "saved_alone", "more")
        },
    }
