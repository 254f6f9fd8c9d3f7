"""`flyball report`: one page about what policies would have done on a trace."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flyball.commands.options import CostFile, DraftName, ExactTrace, HostName
from flyball.commands.progress import progress


def report(
    trace: ExactTrace,
    policy: Annotated[
        list[Path], typer.Option(metavar="FILE", help="Policy file to show; give several.")
    ],
    costs: CostFile,
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
    from flyball.controller.report import policies_page

    out.parent.mkdir(parents=True, exist_ok=True)
    out.touch()  # what cannot be written is known before minutes have passed
    policies = load_policies(policy)
    table = load_costs(costs)
    corpus = Corpus(of_draft(read_matches(trace), draft), np.random.default_rng(seed))
    found = {}
    with progress() as bar:
        for name, file in bar.track(policies.items(), description="replaying"):
            found[name] = run(corpus, file, table, HOSTS[host], concurrency)
    how = f"at most {concurrency} at a time, decoded as {host} does"
    page = policies_page("Flyball: what policies would have done", corpus, found, table, how)
    out.write_text(page, encoding="utf-8")
    print(out)
