"""Pictures of a result of `benchmarks.length`.

python -m benchmarks.length_picture RESULT.json PICTURE.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.length_load import BATCH_SIZES, HOSTS
from benchmarks.length_texts import CAUSAL, DEFAULT, RUNS, TEXTS, mean_ratios

COLOURS = {DEFAULT: "#2e7d32", CAUSAL: "#1f4e79", RUNS: "#a3471c"}
GREY = "#9aa7b5"
LOADED = (DEFAULT, "heuristic", "gamma_tune", "nightjar")
STYLES = ("-", "--", "-.", ":")
Rows = Sequence[dict[str, Any]]


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.length_picture")
    parser.add_argument("result", type=Path, help="JSON that benchmarks.length wrote")
    parser.add_argument("picture", type=Path, help="PNG, PDF or SVG")
    arguments = parser.parse_args()
    result = json.loads(arguments.result.read_text(encoding="utf-8"))
    draw(result["rows"], result["summary"], arguments.picture)


def draw(rows: Rows, summary: Mapping[str, Any], path: Path) -> None:
    """Write the picture: rates by text, regret over rounds, rates by batch size."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplot_mosaic(
        [["texts", "texts"], ["regret", "load"]],
        figsize=(10, 8.5),
        height_ratios=[1.4, 1],
        constrained_layout=True,
    )
    _texts(axes["texts"], [row for row in rows if row["part"] == "texts"])
    _regret(axes["regret"], [row for row in rows if row["part"] == "regret"])
    _load(axes["load"], summary["load"])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _texts(axis: Any, rows: Rows) -> None:
    """Every policy on every text, as a share of the best static length."""
    for line in mean_ratios(rows, tuple(TEXTS)):
        policy = line["policy"]
        special = policy in COLOURS
        axis.plot(
            range(len(TEXTS)),
            [line[text] for text in TEXTS],
            "D" if special else "o",
            color=COLOURS.get(policy, GREY),
            markersize=7 if special else 4,
            zorder=3 if special else 2,
            label=policy if special else None,
        )
    axis.plot([], [], "o", color=GREY, markersize=4, label="other policies")
    axis.axhline(1.0, color="black", linewidth=0.8, zorder=1)
    axis.set_xticks(range(len(TEXTS)), [name.replace("_", "\n") for name in TEXTS], fontsize=8)
    axis.set_ylabel("rate, of the best static length in hindsight")
    axis.set_ylim(bottom=0.6)
    axis.legend(fontsize=8)


def _regret(axis: Any, rows: Rows) -> None:
    """Mean pseudo-regret over rounds; the least last."""
    curves = {
        policy: np.mean([row["curve"] for row in rows if row["policy"] == policy], axis=0)
        for policy in dict.fromkeys(row["policy"] for row in rows)
    }
    shown = [DEFAULT, "thompson", "ucb", "exp3", "nightjar"]
    for policy, style in zip(shown, ("-", *STYLES), strict=True):
        colour = COLOURS.get(policy, GREY)
        axis.plot(np.linspace(2, 100, 50), curves[policy], style, color=colour, label=policy)
    axis.set_yscale("log")
    axis.set_xlabel("share of 5,000 rounds, %")
    axis.set_ylabel("pseudo-regret, in best rounds")
    axis.legend(fontsize=8)


def _load(axis: Any, ratios: Mapping[str, Mapping[str, float]]) -> None:
    """Rates by batch size, as a share of the best constant length there."""
    for host, marker in zip(HOSTS, ("o", "s"), strict=True):
        for policy, style in zip(LOADED, STYLES, strict=True):
            colour = COLOURS.get(policy, GREY)
            means = [ratios[policy][f"{host} {size}"] for size in BATCH_SIZES]
            axis.plot(
                BATCH_SIZES, means, style, marker=marker, markersize=4, color=colour,
                label=f"{policy}, {host.replace('_', ' ')}",
            )  # fmt: skip
    axis.axhline(1.0, color="black", linewidth=0.8, zorder=1)
    axis.set_xscale("log")
    axis.set_xticks(BATCH_SIZES, [str(size) for size in BATCH_SIZES])
    axis.minorticks_off()
    axis.set_xlabel("requests in the batch")
    axis.set_ylabel("rate, of the best constant length")
    axis.legend(fontsize=7)


if __name__ == "__main__":
    main()
