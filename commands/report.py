"""`flyball report`: one page about what policies would have done on a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flyball.commands.options import DraftName, ExactTrace, HostName
from flyball.commands.progress import progress


def report(
    trace: ExactTrace,
    policy: Annotated[
        list[Path], typer.Option(metavar="FILE", help="Policy file to show; give several.")
    ],
    costs: Annotated[str, typer.Option(metavar="FILE", help="Cost table.")],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The page.")] = Path("report.html"),
    draft: DraftName = None,
    host: HostName = "transformers",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of draws on sampled traces.")] = 0,
) -> None:
    """Write a page with rates, regret, trails, calibration, costs and waste of policies."""
    import numpy as np

    from flyball.controller.corpus import Corpus, of_draft
    from flyball.controller.cost_table import load_costs
    from flyball.controller.match_trace import read_matches
    from flyball.controller.policy_file import load_policies
    from flyball.controller.replay import HOSTS
    from flyball.controller.replay import replay as run
    from flyball.controller.replay_summary import summarise
    from flyball.controller.report import render, sections

    out.parent.mkdir(parents=True, exist_ok=True)
    out.touch()  # what cannot be written is known before minutes have passed
    policies = load_policies(policy)
    table = load_costs(costs)
    corpus = Corpus(of_draft(read_matches(trace), draft), np.random.default_rng(seed))
    found = {}
    with progress() as bar:
        for name, file in bar.track(policies.items(), description="replaying"):
            found[name] = run(corpus, file, table, HOSTS[host], concurrency)
    rows = []
    for name, replayed in found.items():
        sums = summarise(corpus, replayed)
        rows.append(
            {
                "policy": name,
                "tokens/s": f"{sums['tokens_per_s']:.1f}",
                "accepted a round": f"{sums['mean_accepted']:.2f}",
                "drafted": f"{sums['drafted']:,}",
                "wasted": f"{sums['wasted'] / max(1, sums['drafted']):.0%}",
                "rounds": f"{sums['rounds']:,}",
            }
        )
    text = corpus.texts[0]
    intro = (
        f"{len(corpus.texts):,} texts of {text.target}, as {text.draft} saw them, at most "
        f"{concurrency} at a time, decoded as {host} does; costs: {table.machine}, {table.source}."
    )
    page = render(
        "Flyball: what policies would have done", intro, rows, sections(corpus, found, table)
    )
    out.write_text(page, encoding="utf-8")
    print(out)
