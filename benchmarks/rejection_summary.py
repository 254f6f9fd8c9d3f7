"""What the rows of `benchmarks.rejection` say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.rejection_best import RISKS
from benchmarks.rejection_live import LIVE, live_summary

Rows = Sequence[dict[str, Any]]

_POINT = 0.005  # of accuracy that a policy may lose and still count as equal


def summarise(rows: Rows) -> dict[str, Any]:
    """By part; policies' savings at equal accuracy."""
    summary: dict[str, Any] = {}
    for part in ("best_of_n", "beams"):
        own = averaged(rows, part)
        if own:
            summary[part] = {
                f"n={size}": _savings([row for row in own if row["n"] == size])
                for size in sorted({row["n"] for row in own})
            }
    promised = [row for row in rows if row["part"] == "best_of_n" and _is_promised(row)]
    if promised:
        summary["promise"] = _promise(promised)
    shifted = [row for row in rows if row["part"] == "shift"]
    if shifted:
        summary["shift"] = _shift(shifted)
    summary["noise"] = {
        f"n={row['n']}": f"{row['stopped']:.3f} of all candidates stopped"
        for row in rows
        if row["part"] == "noise"
    }
    votes = [row for row in rows if row["part"] == "votes"]
    if votes:
        summary["votes"] = _votes(votes)
    live = [row for row in rows if row["part"] == "live"]
    if live:
        summary["live"] = live_summary(live)
    return summary


def averaged(rows: Rows, part: str) -> list[dict[str, Any]]:
    """What policies saved and lost, over the orders in which they met the problems."""
    found: list[dict[str, Any]] = []
    own = [row for row in rows if row["part"] == part]
    for size, name in sorted({(row["n"], row["policy"]) for row in own}):
        same = [row for row in own if (row["n"], row["policy"]) == (size, name)]
        wrong = [row["wrong"] for row in same if row.get("wrong") is not None]
        found.append(
            {
                "policy": name,
                "n": size,
                "orders": len(same),
                "accuracy": float(np.mean([row["accuracy"] for row in same])),
                "saved": 1.0 / float(np.mean([1.0 / row["saved"] for row in same])),
                "wrong": float(np.mean(wrong)) if wrong else None,
                "audited": float(np.mean([row.get("audited", 0.0) for row in same])),
            }
        )
    return found


def _is_promised(row: dict[str, Any]) -> bool:
    """Whether a row is one of many orders, under a risk that is promised."""
    return row["n"] in LIVE["best_of_n"] and row["policy"] in [
        f"conformal {risk}" for risk in RISKS
    ]


def _savings(rows: Rows) -> dict[str, Any]:
    """Operations saved by each policy, and the best top_fraction within half a point."""
    base = next(row for row in rows if row["policy"] == "none")
    found: dict[str, Any] = {"accuracy without rejection": base["accuracy"]}
    fractions: list[tuple[bool, float, float, str]] = []
    for row in rows:
        lost = base["accuracy"] - row["accuracy"]
        if row["policy"].startswith("top_fraction"):
            fractions.append((lost <= _POINT, row["saved"], lost, row["policy"]))
        elif row is not base:
            found[row["policy"]] = _line(row["saved"], lost, row.get("wrong"))
    widths = sorted({name.split()[1] for *_, name in fractions})
    for width in widths:
        equal = [f for f in fractions if f[0] and f[3].split()[1] == width]
        if equal:
            _, saved, lost, name = max(equal)
            found[f"best {name}"] = _line(saved, lost, None)
        else:
            found[f"top_fraction {width}"] = "never within half a point"
    return found


def _line(saved: float, lost: float, wrong: float | None) -> str:
    rate = "" if wrong is None else f", winners wrongly stopped {wrong:.3f}"
    return f"saves {saved:.2f}x, accuracy {-100 * lost:+.1f} points{rate}"


def _promise(rows: Rows) -> dict[str, Any]:
    found = {}
    for name, size in sorted({(row["policy"], row["n"]) for row in rows}):
        own = [row for row in rows if (row["policy"], row["n"]) == (name, size)]
        wrong = np.array([row["wrong"] for row in own])
        found[f"{name}, n={size}"] = {
            "splits": len(own),
            "mean rate": float(wrong.mean()),
            "highest": float(wrong.max()),
            "stopped": float(np.mean([row["stopped"] for row in own])),
        }
    return found


def _shift(rows: Rows) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for risk in sorted({row["risk"] for row in rows}):
        own = [row for row in rows if row["risk"] == risk]
        found[f"risk {risk}"] = {
            f"groups {start} to {start + 99}": float(
                np.mean(
                    [
                        row["wrong"]
                        for row in own
                        if row["from"] == start and row["wrong"] is not None
                    ]
                )
            )
            for start in sorted({row["from"] for row in own})
        }
    return found


def _votes(rows: Rows) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for size in sorted({row["n"] for row in rows}):
        own = [row for row in rows if row["n"] == size]
        base = next(row for row in own if row["policy"] == "fixed")
        found[f"n={size}"] = {
            row["policy"]: f"{row['samples'] / size:.2f} of the samples, accuracy "
            f"{100 * row['accuracy']:.1f} ({100 * (row['accuracy'] - base['accuracy']):+.1f})"
            for row in own
        }
    return found
