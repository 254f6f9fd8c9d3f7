"""Pictures of a result of `benchmarks.rejection`.

python -m benchmarks.rejection_picture RESULT.json PICTURE.png
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rejection_summary import averaged

COLOURS = {"none": "#555555", "conformal": "#2e7d32", "top_fraction": "#1f4e79"}
GREY = "#9aa7b5"
_SIZE = 16
Rows = Sequence[dict[str, Any]]


def main() -> None:
    """Read, draw, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rejection_picture")
    parser.add_argument("result", type=Path, help="JSON that benchmarks.rejection wrote")
    parser.add_argument("picture", type=Path, help="PNG, PDF or SVG")
    arguments = parser.parse_args()
    draw(json.loads(arguments.result.read_text(encoding="utf-8"))["rows"], arguments.picture)


def draw(rows: Rows, path: Path) -> None:
    """Write the picture: accuracy against operations, what partial scores tell over tokens."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(13, 4.2), constrained_layout=True)
    _trade(axes[0], averaged(rows, "best_of_n"), "best of n")
    _trade(axes[1], averaged(rows, "beams"), "beams")
    _curve(axes[2], [row for row in rows if row["part"] == "correlation"])
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _trade(axis: Any, rows: Rows, title: str) -> None:
    """Accuracy of every policy and n against its operations, as a share of no rejection's."""
    named: set[str] = set()
    for row in rows:
        kind = row["policy"].split()[0]
        colour = COLOURS.get(kind, GREY)
        share = row["n"] / max(r["n"] for r in rows) / row["saved"]
        label = None if kind in named else kind
        named.add(kind)
        axis.scatter(share, 100 * row["accuracy"], color=colour, s=14, label=label)
    axis.set_xscale("log")
    axis.set_xlabel("operations, share of all candidates of the largest n")
    axis.set_ylabel("right answers, %")
    axis.set_title(title)
    axis.legend(frameon=False)


def _curve(axis: Any, rows: Rows) -> None:
    """Correlation of partial and final scores within a problem, by tokens."""
    tokens = [row["tokens"] for row in rows]
    axis.plot(tokens, [row["correlation"] for row in rows], color=COLOURS["conformal"], lw=2)
    axis.set_xlabel("tokens generated")
    axis.set_ylabel("correlation of partial and final score")
    axis.set_ylim(0, 1)
    axis.set_title("what a partial score tells")


if __name__ == "__main__":
    main()
