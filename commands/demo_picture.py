"""The demo's picture: draft length and acceptance over time, and tokens per second."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from flyball.commands.demo import Tally, Trail

SHADES = {"code": "#dbe9f6", "tables": "#fde8cd", "prose": "#dff0d8"}
WINDOW = 15  # rounds in the moving averages


def draw(path: Path, tallies: dict[str, Tally], trail: Trail) -> None:
    """Write the picture as PNG, PDF or SVG, whichever the path ends in."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (length, accept, bars) = plt.subplots(
        3, 1, figsize=(9, 8.5), height_ratios=[1, 1, 1.5], constrained_layout=True
    )
    drafted, accepted = np.array(trail.drafted), np.array(trail.accepted)
    rounds = np.arange(len(drafted))
    length.plot(rounds, drafted, ".", markersize=2, color="#9aa7b5")
    length.plot(rounds, _smooth(drafted), color="#1f4e79", label=f"mean of {WINDOW} rounds")
    length.set_ylabel("drafted tokens")
    length.set_title("What the governor does as the stream changes domain")
    observed = np.minimum(accepted + 1, drafted)
    share = np.full(len(rounds), np.nan)  # where nothing was drafted, nothing was observed
    np.divide(_smooth(accepted), _smooth(observed), out=share, where=_smooth(observed) > 1e-9)
    accept.plot(rounds, share, color="#a3471c", label=f"over {WINDOW} rounds")
    accept.set_ylabel("accepted per\nobserved token")
    accept.set_xlabel("round")
    accept.set_ylim(0, 1.02)
    for axis in (length, accept):
        _shade(axis, trail.domain)
        axis.set_xlim(0, max(1, len(drafted) - 1))
        axis.legend(loc="lower left", fontsize=8)
    _bars(bars, tallies)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _smooth(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    kernel = np.ones(min(WINDOW, max(1, len(values))))
    sums, counts = (np.convolve(each, kernel, "same") for each in (values, np.ones(len(values))))
    means: np.ndarray[Any, Any] = sums / counts
    return means


def _shade(axis: Any, domains: list[str]) -> None:
    edges = [0, *(i for i in range(1, len(domains)) if domains[i] != domains[i - 1]), len(domains)]
    for start, end in zip(edges, edges[1:], strict=False):
        domain = domains[start]
        axis.axvspan(start, end, color=SHADES[domain], zorder=0)
        axis.text(
            (start + end) / 2, 0.95, domain, ha="center", va="top",
            transform=axis.get_xaxis_transform(), fontsize=9,
        )  # fmt: skip


def _bars(axis: Any, tallies: dict[str, Tally]) -> None:
    names = list(tallies)[::-1]
    rates = [tallies[name].rate() for name in names]
    last = len(names) - 1
    colours = ["#2e7d32" if i == 0 else "#9aa7b5" for i in range(last + 1)]
    axis.barh(names, rates, color=colours)
    for i, rate in enumerate(rates):
        axis.text(rate, i, f" {rate:.0f}", va="center", fontsize=8)
    axis.set_xlabel("tokens per second, whole stream")
    axis.tick_params(axis="y", labelsize=8)
