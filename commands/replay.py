"""`flyball replay`: what other policies would have done on a trace."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flyball.commands.options import AsJson, DraftName, HostName
from flyball.commands.progress import progress
from flyball.controller.errors import CostTableError

if TYPE_CHECKING:
    from flyball.controller.policy_file import PolicyFile


def replay(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="Folder of a trace.")],
    policy: Annotated[
        list[Path], typer.Option(metavar="FILE", help="Policy file to try; give several.")
    ],
    costs: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Cost table, or the name of a published one; an ordinary trace has its own.",
        ),
    ] = None,
    draft: DraftName = None,
    host: HostName = "transformers",
    concurrency: Annotated[
        list[int] | None, typer.Option(min=1, help="Requests at a time; give several. [1]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of what is drawn.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Say what other policies would have done: exactly on an exact trace, else estimated."""
    from flyball.controller.match_trace import is_exact
    from flyball.controller.policy_file import load_policies

    policies = load_policies(policy)
    exact = is_exact(trace)
    if exact and costs is None:
        raise CostTableError(
            "expected --costs for an exact trace, which holds no seconds; measure them with "
            "flyball advise --measure"
        )
    answer = (_exactly if exact else _estimated)(trace, draft, costs, host, seed)
    sizes = concurrency or [1]
    rows = []
    with progress() as bar:
        task = bar.add_task("replaying", total=len(policies) * len(sizes))
        for size in sizes:
            for name, file in policies.items():
                rows.append({"policy": name, "concurrency": size, **answer(file, size)})
                bar.advance(task)
    if as_json:
        print(json.dumps({"trace": str(trace), "exact": exact, "host": host, "rows": rows}))
    else:
        (_print if exact else _print_estimates)(rows)


def _exactly(
    trace: Path, draft: str | None, costs: str | None, host: str, seed: int
) -> Callable[[PolicyFile, int], dict[str, Any]]:
    import numpy as np

    from flyball.controller.corpus import Corpus, of_draft
    from flyball.controller.cost_table import load_costs
    from flyball.controller.match_trace import read_matches
    from flyball.controller.replay import HOSTS
    from flyball.controller.replay import replay as run
    from flyball.controller.replay_summary import summarise

    assert costs is not None
    table = load_costs(costs)
    corpus = Corpus(of_draft(read_matches(trace), draft), np.random.default_rng(seed))
    return lambda file, size: summarise(corpus, run(corpus, file, table, HOSTS[host], size))


def _estimated(
    trace: Path, draft: str | None, costs: str | None, host: str, seed: int
) -> Callable[[PolicyFile, int], dict[str, Any]]:
    import numpy as np
    import pyarrow.compute as pc

    from flyball.controller.cost_table import load_costs
    from flyball.controller.estimated import Estimator
    from flyball.controller.replay import HOSTS
    from flyball.controller.trace_costs import costs_of_trace
    from flyball.controller.trace_format import read_trace

    table = read_trace(trace)
    if draft is not None:  # rounds without a draft belong to all of them
        table = table.filter(pc.fill_null(pc.equal(table["draft"].cast("string"), draft), True))
    own = costs_of_trace(table) if costs is None else load_costs(costs)
    estimator = Estimator(table, np.random.default_rng(seed))
    return lambda file, size: estimator.estimate(file, own, HOSTS[host], size)


def _print(rows: list[dict[str, Any]]) -> None:
    domains = list(rows[0]["domains"])
    table = Table(title="tokens per second, in virtual time")
    table.add_column("policy")
    headings = ["requests", "tokens/s", *domains, "accepted a round", "drafted", "wasted"]
    known = rows[0]["tokens_per_joule"] is not None
    headings += ["tokens/joule"] * known
    for heading in headings:
        table.add_column(Text(heading or "no domain"), justify="right")
    for row in rows:
        by_domain = (row["domains"][domain]["tokens_per_s"] for domain in domains)
        table.add_row(
            Text(row["policy"]),
            f"{row['concurrency']}",
            f"{row['tokens_per_s']:.1f}",
            *("" if rate is None else f"{rate:.1f}" for rate in by_domain),
            f"{row['mean_accepted']:.2f}",
            f"{row['drafted']:,}",
            f"{row['wasted'] / max(1, row['drafted']):.0%}",
            *([f"{row['tokens_per_joule']:.3g}"] if known else []),
        )
    Console().print(table)


def _print_estimates(rows: list[dict[str, Any]]) -> None:
    console = Console()
    table = Table(title="estimated for these texts, with 95% intervals")
    table.add_column("policy")
    for heading in ("requests", "tokens/s", "accepted a round", "tokens a round, by weighting"):
        table.add_column(heading, justify="right")
    for row in rows:
        weighted = row["tokens_per_round"]
        if not isinstance(weighted, str):
            weighted = _said(weighted["doubly_robust"], 2)
        table.add_row(
            Text(row["policy"]),
            f"{row['concurrency']}",
            _said(row["tokens_per_s"], 1),
            _said(row["mean_accepted"], 2),
            Text(weighted),
        )
    console.print(table)
    console.print(f"{rows[0]['unknown']:.0%} of the tokens were never drafted, and are guessed.")


def _said(interval: dict[str, float], digits: int) -> str:
    low, high = (f"{interval[name]:.{digits}f}" for name in ("low", "high"))
    return f"{interval['value']:.{digits}f} ({low} to {high})"
