"""What a page about replays shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.controller import report_data
from flyball.controller.corpus import Corpus
from flyball.controller.cost_table import CostTable
from flyball.controller.html_page import Section, render
from flyball.controller.replay_summary import summarise
from flyball.controller.replayed import Replayed

if TYPE_CHECKING:
    import plotly.graph_objects as go

_COLOURS = ("#2e7d32", "#1f77b4", "#d1662a", "#8e5bb5", "#b8860b", "#c2185b", "#00838f", "#6b7280")
_NEUTRAL = "#8a94a0"  # on light and on dark
_LENGTHS = np.arange(17)


def sections(corpus: Corpus, found: Mapping[str, Replayed], costs: CostTable) -> list[Section]:
    """What there is to see of replays of several policies.

    Args:
        corpus: that was replayed.
        found: by policy.
        costs: that it was replayed with.
    """
    colour = {name: _COLOURS[n % len(_COLOURS)] for n, name in enumerate(found)}
    parts = [
        Section(
            "Throughput",
            "Tokens per second in virtual time; bars span 95% of resampled texts.",
            _rates(corpus, found, colour),
        ),
        Section(
            "Regret",
            "Seconds lost to the best of these policies, at as many tokens.",
            _regret(found, colour),
        ),
        Section(
            "Draft length and acceptance",
            "Mean tokens drafted in a round, and the share of them that was accepted, over time.",
            _trails(found, colour),
        ),
    ]
    asked = {name: one for name, one in found.items() if one.survival is not None}
    if asked:
        parts.append(
            Section(
                "Calibration of survival",
                "How often drafts would have been accepted up to a position, by how likely that "
                "was believed to be before the round. On the diagonal beliefs are right.",
                _calibration(corpus, asked, colour),
            )
        )
    return [
        *parts,
        Section(
            "Cost surface",
            "Milliseconds of a round, by requests in the batch and draft length.",
            _surface(costs),
        ),
        Section(
            "Where tokens were wasted",
            "Drafted tokens by position in the draft: accepted (full) and not (pale).",
            _waste(found, colour),
        ),
    ]


def policies_page(
    title: str,
    corpus: Corpus,
    found: Mapping[str, Replayed],
    costs: CostTable,
    how: str,
    more: Sequence[Section] = (),
) -> str:
    """The page about replays of several policies.

    Args:
        title: of it.
        corpus: that was replayed.
        found: by policy.
        costs: that it was replayed with.
        how: requests were decoded, for the introduction.
        more: sections to begin with.
    """
    rows = []
    for name, replayed in found.items():
        sums = summarise(corpus, replayed)
        per_joule = sums["tokens_per_joule"]
        rows.append(
            {
                "policy": name,
                "tokens/s": f"{sums['tokens_per_s']:.1f}",
                **({} if per_joule is None else {"tokens/joule": f"{per_joule:.3g}"}),
                "accepted a round": f"{sums['mean_accepted']:.2f}",
                "drafted": f"{sums['drafted']:,}",
                "wasted": f"{sums['wasted'] / max(1, sums['drafted']):.0%}",
                "rounds": f"{sums['rounds']:,}",
            }
        )
    text = corpus.texts[0]
    intro = (
        f"{len(corpus.texts):,} texts of {text.target}, as {text.draft} saw them, {how}; costs: "
        f"{costs.machine}, {costs.source}."
    )
    return render(title, intro, rows, [*more, *sections(corpus, found, costs)])


def trials_section(rows: Sequence[Mapping[str, Any]]) -> Section:
    """What trials of a tuning brought, in their order; rows as `flyball tune` writes them."""
    figure = _figure("trial", "tokens per second")
    means = np.array([np.mean(row["rates"]) for row in rows])
    stopped = np.array([row["stopped"] for row in rows])
    said = [", ".join(f"{name} {value}" for name, value in row["point"].items()) for row in rows]
    kinds = (("whole", ~stopped, "circle"), ("stopped early", stopped, "circle-open"))
    for name, mine, symbol in kinds:
        at = np.flatnonzero(mine)
        figure.add_scatter(
            x=at, y=means[at], name=name, mode="markers", text=[said[number] for number in at],
            marker={"symbol": symbol, "color": _COLOURS[1], "size": 8},
        )  # fmt: skip
    best: list[int] = []  # numbers of the trials that were the best so far
    for number, row in enumerate(rows):
        if row["eligible"] and (not best or row["objective"] > rows[best[-1]]["objective"]):
            best.append(number)
    figure.add_scatter(
        x=[*best, len(rows) - 1][: len(best) + bool(best)], y=means[[*best, *best[-1:]]],
        name="best so far", mode="lines", line={"shape": "hv", "color": _COLOURS[0]},
    )  # fmt: skip
    return Section(
        "Trials",
        "Mean rate on the slices that each trial was replayed on. The best one keeps the limits, "
        "and has the largest objective: the mean, less what is taken off for risk.",
        figure,
    )


def _figure(x: str, y: str, **layout: Any) -> go.Figure:
    import plotly.graph_objects as go

    return go.Figure(
        layout={
            "height": 360,
            "margin": {"l": 56, "r": 12, "t": 8, "b": 48},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "xaxis": {"title": {"text": x}, "automargin": True},
            "yaxis": {"title": {"text": y}, "automargin": True},
            "legend": {"orientation": "h", "y": -0.25, "traceorder": "normal"},
            "barmode": "group",
            **layout,
        }
    )


def _rates(corpus: Corpus, found: Mapping[str, Replayed], colour: Mapping[str, str]) -> go.Figure:
    figure = _figure("", "tokens per second", showlegend=False)
    for name, replayed in found.items():
        rate = report_data.rate(corpus, replayed)
        figure.add_bar(
            x=[name],
            y=[rate.value],
            marker={"color": colour[name]},
            error_y={
                "type": "data",
                "color": _NEUTRAL,
                "symmetric": False,
                "array": [rate.high - rate.value],
                "arrayminus": [rate.value - rate.low],
            },
        )
    return figure


def _regret(found: Mapping[str, Replayed], colour: Mapping[str, str]) -> go.Figure:
    figure = _figure("thousand tokens", "seconds")
    for name, (at, lost_s) in report_data.regret(found).items():
        figure.add_scatter(x=at, y=lost_s, name=name, line={"color": colour[name]})
    return figure


def _trails(found: Mapping[str, Replayed], colour: Mapping[str, str]) -> go.Figure:
    figure = _figure(
        "virtual seconds",
        "tokens drafted",
        height=520,
        xaxis={"title": {"text": "virtual seconds"}, "anchor": "y2"},
        yaxis={"title": {"text": "tokens drafted"}, "domain": [0.55, 1.0]},
        yaxis2={"title": {"text": "accepted"}, "domain": [0.0, 0.45], "range": [0, 1]},
    )
    for name, replayed in found.items():
        at_s, length, accepted = report_data.trail(replayed)
        line = {"color": colour[name]}
        figure.add_scatter(x=at_s, y=length, name=name, line=line, legendgroup=name)
        figure.add_scatter(
            x=at_s, y=accepted, yaxis="y2", line=line, legendgroup=name, showlegend=False
        )
    return figure


def _calibration(
    corpus: Corpus, found: Mapping[str, Replayed], colour: Mapping[str, str]
) -> go.Figure:
    figure = _figure("believed", "observed")
    figure.add_scatter(
        x=[0, 1], y=[0, 1], mode="lines", showlegend=False,
        line={"dash": "dot", "color": _NEUTRAL},
    )  # fmt: skip
    for name, replayed in found.items():
        believed, observed, count = report_data.calibration(corpus, replayed)
        size = 4.0 + 16.0 * np.sqrt(count / max(1, count.max()))
        figure.add_scatter(
            x=believed, y=observed, name=name, mode="lines+markers",
            marker={"size": size, "color": colour[name]}, line={"color": colour[name]},
        )  # fmt: skip
    return figure


def _surface(costs: CostTable) -> go.Figure:
    figure = _figure("tokens drafted", "requests", yaxis={"type": "category"})
    sizes = costs.batch_sizes
    seconds = [costs.step_seconds(size, _LENGTHS + 1.0, _LENGTHS) for size in sizes]
    figure.add_heatmap(
        x=_LENGTHS,
        y=[str(size) for size in sizes],
        z=(1e3 * np.array(seconds)).round(3),
        colorscale="Viridis",
        colorbar={"title": {"text": "ms"}},
    )
    return figure


def _waste(found: Mapping[str, Replayed], colour: Mapping[str, str]) -> go.Figure:
    figure = _figure("position in the draft", "tokens", barmode="stack")
    for number, (name, replayed) in enumerate(found.items()):
        accepted, wasted = report_data.waste(replayed)
        x = np.arange(1, len(accepted) + 1)
        for label, values, opacity in ((name, accepted, 1.0), (f"{name}, wasted", wasted, 0.4)):
            figure.add_bar(
                x=x, y=values, name=label, opacity=opacity, offsetgroup=str(number),
                marker={"color": colour[name]},
            )  # fmt: skip
    return figure
