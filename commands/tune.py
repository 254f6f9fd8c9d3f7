"""`flyball tune`: the best policy file of a space, found by replaying a trace."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from flyball.commands.options import AsJson, CostFile, DraftName, ExactTrace, HostName
from flyball.commands.progress import progress
from flyball.controller.errors import CostTableError

if TYPE_CHECKING:
    from flyball.controller.corpus import Corpus
    from flyball.controller.cost_table import CostTable
    from flyball.controller.policy_file import PolicyFile
    from flyball.controller.slices import Setting
    from flyball.controller.space import Space
    from flyball.controller.tune import Evaluate, Trial, Tuner

_SHOWN = 5  # trials


def tune(
    trace: ExactTrace,
    space: Annotated[Path, typer.Option(metavar="FILE", help="Space of policy files.")],
    costs: CostFile,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="For the winner and the trials; goes on there.")
    ] = Path("tuned"),
    trials: Annotated[int, typer.Option(min=1, help="Policies to try.")] = 60,
    draft: DraftName = None,
    host: HostName = "transformers",
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 1,
    slices: Annotated[int, typer.Option(min=3, help="Of the trace, to judge by.")] = 8,
    held_out: Annotated[
        int, typer.Option(min=2, help="Further slices, that the winner is reported on.")
    ] = 4,
    risk: Annotated[
        float, typer.Option(min=0.0, help="Standard deviations over slices to take off the mean.")
    ] = 0.0,
    token_latency_p99_ms: Annotated[
        float | None, typer.Option(min=0.001, help="Limit on a token's latency, 99th percentile.")
    ] = None,
    joules_per_token: Annotated[
        float | None, typer.Option(min=1e-9, help="Limit; for cost tables that tell the power.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, or Ray actors; one a core by default.")
    ] = None,
    ray: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Replay on a Ray cluster; or 'local'.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all choices.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Tune a policy file by Bayesian optimisation; once killed, the same call goes on."""
    from flyball.controller.cost_table import load_costs
    from flyball.controller.policy_file import dump_policy
    from flyball.controller.slices import Setting, Slices
    from flyball.controller.space import load_space
    from flyball.controller.tune import Tuner, TuneSettings

    checked, table = load_space(space), load_costs(costs)
    setting = Setting(
        trace=str(trace),
        draft=draft,
        costs=table.model_dump_json(),
        host=host,
        concurrency=concurrency,
        num_slices=slices,
        num_held_out=held_out,
        seed=seed,
    )
    parts = Slices(setting)  # what is wrong with the trace shows here, not in a process
    how = TuneSettings(
        num_trials=trials,
        num_slices=slices,
        risk=risk,
        limits=_limits(token_latency_p99_ms, joules_per_token, table),
        seed=seed,
    )
    count = workers or len(os.sched_getaffinity(0))
    with _runner(setting, count, ray) as evaluate, progress() as bar:
        tuner = Tuner(checked, evaluate, how, out / "trials.jsonl", setting.digest)
        task = bar.add_task("tuning", total=trials)
        for _ in tuner.run():
            best = tuner.best
            shown = "" if best is None else f", best {best.rates.mean():.1f} tokens/s"
            bar.update(task, advance=1, description=f"tuning{shown}")
        summary = _conclude(tuner, checked, setting, evaluate)
    policies = {"before": checked.policy_at({})}
    if summary["winner"] is not None:
        policies["winner"] = checked.policy_at(summary["winner"]["point"])
        (out / "winner.yaml").write_text(dump_policy(policies["winner"]), encoding="utf-8")
    (out / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    if find_spec("plotly") is None:
        print("No report: it needs plotly; pip install 'flyball[report]'", file=sys.stderr)
    else:
        page = _page(policies, parts.held_out, table, host, concurrency, summary["trials"])
        (out / "report.html").write_text(page, encoding="utf-8")
    if as_json:
        print(json.dumps(summary))
    else:
        _print(summary, out)


def _limits(
    token_latency_p99_ms: float | None, joules_per_token: float | None, costs: CostTable
) -> dict[str, float]:
    """What trials are to keep, by field of `Result`."""
    limits = {}
    if token_latency_p99_ms is not None:
        limits["token_latency_s"] = token_latency_p99_ms / 1e3
    if joules_per_token is not None:
        if costs.power is None:
            raise CostTableError(
                f"expected power in the cost table of {costs.machine} for --joules-per-token; "
                "add it, or leave the limit out"
            )
        limits["joules_per_token"] = joules_per_token
    return limits


def _runner(
    setting: Setting, count: int, ray: str | None
) -> contextlib.AbstractContextManager[Evaluate]:
    if ray is not None:
        from flyball.integrations.ray import ray_tasks

        return ray_tasks(setting, count, ray)
    from flyball.controller.slices import processes

    return processes(setting, count)


def _conclude(tuner: Tuner, space: Space, setting: Setting, evaluate: Evaluate) -> dict[str, Any]:
    """The winner and the policy that was there before, on slices that nobody was tuned on."""
    unseen = range(setting.num_slices, setting.num_slices + setting.num_held_out)

    def held_out(point: dict[str, Any]) -> list[float]:
        policy = space.policy_at(point).model_dump_json()
        return [result.rate for result in evaluate([(policy, number) for number in unseen])]

    def row(trial: Trial) -> dict[str, Any]:
        return {
            "trial": trial.number,
            "point": trial.point,
            "rates": trial.rates.tolist(),
            "objective": tuner.objective(trial.rates),
            "token_latency_p99_ms": 1e3 * trial.mean("token_latency_s"),
            "joules_per_token": _joules(trial),
            "stopped": trial.stopped,
            "eligible": not trial.stopped and tuner.allows(trial),
        }

    best = tuner.best
    return {
        "winner": None if best is None else {**row(best), "held_out": held_out(best.point)},
        "before": {"held_out": held_out({})},
        "trials": [row(trial) for trial in tuner.trials],
    }


def _page(
    policies: dict[str, PolicyFile],
    corpus: Corpus,
    costs: CostTable,
    host: str,
    concurrency: int,
    trials: list[dict[str, Any]],
) -> str:
    from flyball.controller.replay import HOSTS, replay
    from flyball.controller.report import policies_page, trials_section

    found = {
        name: replay(corpus, policy, costs, HOSTS[host], concurrency)
        for name, policy in policies.items()
    }
    how = f"held out and in one go, at most {concurrency} at a time, decoded as {host} does"
    title = "Flyball: a tuned policy on texts that it was not tuned on"
    return policies_page(title, corpus, found, costs, how, [trials_section(trials)])


def _joules(trial: Trial) -> float | None:
    known = trial.results[0].joules_per_token is not None
    return trial.mean("joules_per_token") if known else None


def _print(summary: dict[str, Any], out: Path) -> None:
    console = Console()
    whole = [row for row in summary["trials"] if not row["stopped"]]
    whole.sort(key=lambda row: -sum(row["rates"]))
    table = Table(title=f"the best of {len(summary['trials'])} trials")
    for heading in ("trial", "settings", "tokens/s", "p99 of a token, ms", "joules a token"):
        table.add_column(heading)
    for row in whole[:_SHOWN]:
        settings = ", ".join(f"{name} {value}" for name, value in row["point"].items())
        mean = sum(row["rates"]) / len(row["rates"])
        latency, joules = f"{row['token_latency_p99_ms']:.1f}", row["joules_per_token"]
        joules = "" if joules is None else f"{joules:.3g}"
        table.add_row(f"{row['trial']}", Text(settings), f"{mean:.1f}", latency, joules)
    console.print(table)
    winner, before = summary["winner"], summary["before"]
    if winner is None:
        console.print("No trial keeps the limits.")
        return
    ratios = [a / b for a, b in zip(winner["held_out"], before["held_out"], strict=True)]
    console.print(
        f"On {len(ratios)} held-out slices the winner runs at {sum(ratios) / len(ratios):.3f} "
        f"times the policy before ({min(ratios):.3f} to {max(ratios):.3f}); "
        f"it is in {out / 'winner.yaml'}."
    )
