"""One HTML page with plots and everything they need inside: it opens anywhere, offline."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from flyball.controller.errors import HostError

if TYPE_CHECKING:
    import plotly.graph_objects as go

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2530; --paper: #ffffff; --rule: #d6dbe1; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e3e8ee; --paper: #14181d; --rule: #39424d; }
}
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; max-width: 960px; padding: 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .25rem; }
p { margin: .25rem 0 .5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--rule); padding: .25rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; }
"""

# Plots take the page's colours, and follow it when it turns dark.
_SCRIPT = """
function paint() {
  const ink = getComputedStyle(document.documentElement).getPropertyValue('--ink').trim();
  const rule = getComputedStyle(document.documentElement).getPropertyValue('--rule').trim();
  for (const plot of document.querySelectorAll('.plot')) {
    const change = {'font.color': ink};
    for (const axis of Object.keys(plot.layout).filter(k => /^[xy]axis/.test(k))) {
      change[axis + '.gridcolor'] = rule; change[axis + '.linecolor'] = rule;
      change[axis + '.zerolinecolor'] = rule;
    }
    Plotly.relayout(plot, change);
  }
}
for (const plot of document.querySelectorAll('.plot')) {
  const figure = JSON.parse(document.getElementById(plot.id + '-data').textContent);
  Plotly.newPlot(plot, figure.data, figure.layout, {responsive: true, displayModeBar: false});
}
paint();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', paint);
"""


@dataclass(frozen=True)
class Section:
    """A heading, what to know about it, and a plot."""

    title: str
    text: str
    figure: go.Figure


def render(
    title: str, intro: str, rows: Sequence[Mapping[str, Any]], parts: Sequence[Section]
) -> str:
    """The page.

    Args:
        title: of it.
        intro: a sentence or two.
        rows: of a table, all with the same keys.
        parts: in order.

    Raises:
        HostError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise HostError("expected plotly for a report; pip install 'flyball[report]'") from error
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in rows[0])
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(value))}</td>" for value in row.values()) + "</tr>"
        for row in rows
    )
    plots = "".join(_plot(number, part) for number, part in enumerate(parts))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>"
        f"<h1>{html.escape(title)}</h1><p>{html.escape(intro)}</p>"
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        f"</div>{plots}<script>{get_plotlyjs()}</script><script>{_SCRIPT}</script></body></html>"
    )


def _plot(number: int, part: Section) -> str:
    data = json.dumps(part.figure.to_plotly_json(), default=_plain).replace("</", "<\\/")
    return (
        f"<h2>{html.escape(part.title)}</h2><p>{html.escape(part.text)}</p>"
        f'<div class="plot" id="plot{number}"></div>'
        f'<script type="application/json" id="plot{number}-data">{data}</script>'
    )


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        # JSON has no NaN.
        return [None if isinstance(v, float) and np.isnan(v) else v for v in value.tolist()]
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"expected numbers for JSON, but got {type(value).__name__}")
