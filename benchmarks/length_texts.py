"""Every length policy along the same texts, one request at a time: synthetic and recorded ones.

Rivals in hindsight: the best static length, an oracle that knows the draft's true probability up
to where it is (of synthetic texts; of others nobody does), and one that knows each run's length.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.length_run import Walk, walk_causal, walk_policy, walk_runs, walk_static
from benchmarks.length_streams import MAX_DRAFT_LEN, SCENARIOS, TARGET_S, Costs
from benchmarks.length_traces import RECORDED
from flyball.policies.registry import LENGTH_POLICIES

DEFAULT = "default"  # goodput, and shadows are followed
CAUSAL, RUNS = "causal oracle", "run oracle"
TEXTS = {**SCENARIOS, **RECORDED}
GROUPS = {"synthetic texts": tuple(SCENARIOS), "recorded texts": tuple(RECORDED)}
DRAFT_SHARES = (0.02, 0.05, 0.1, 0.25)
HOST_SHARES = (0.0, 0.1)
# A table is for loads and the constant is a rival of its own.
LEFT_OUT = ("static", "batch_table")
SETTLED = 0.05  # of the final rate
WINDOW = 100  # rounds
Job = tuple[str, int, float, float, int]
Measured = tuple[list[dict[str, Any]], dict[str, Any]]  # rows, and what follows from them


def run(seeds: range, quick: bool) -> Measured:
    """Walk, print, and compare the default with all others."""
    size = 4000 if quick else 20_000
    jobs = [
        (scenario, seed, DRAFT_SHARES[seed % 4], HOST_SHARES[seed // 4 % 2], size)
        for scenario in TEXTS
        for seed in seeds
    ]
    rows = report.in_parallel(_walk, jobs)
    rows.sort(key=lambda row: (list(TEXTS).index(row["scenario"]), row["policy"], row["seed"]))
    for group, scenarios in GROUPS.items():
        table = mean_ratios(rows, scenarios)
        title = f"{group}: rate, of the best static length in hindsight"
        report.print_table(title, table, tuple(table[0]))
    return rows, _summary(rows)


def _walk(job: Job) -> list[dict[str, Any]]:
    """Every policy on one text."""
    scenario, seed, draft_share, host_share, size = job
    number = list(TEXTS).index(scenario)
    stream = TEXTS[scenario](np.random.default_rng([seed, number]), size)
    costs = Costs(draft_share * TARGET_S, host_share * TARGET_S)
    statics = [walk_static(stream, costs, length) for length in range(MAX_DRAFT_LEN + 1)]
    best = max(statics, key=lambda walk: walk.rate)
    walks = {RUNS: walk_runs(stream, costs)}
    if stream.known is not None:
        walks[CAUSAL] = walk_causal(stream, costs)
    causal = walks.get(CAUSAL)
    for name in LENGTH_POLICIES:
        if name not in LEFT_OUT:
            walks[name] = walk_policy(stream, costs, policy_file(name))
    walks[DEFAULT] = walk_policy(stream, costs, policy_file(DEFAULT))
    return [
        {
            "scenario": scenario,
            "seed": seed,
            "draft_share": draft_share,
            "host_share": host_share,
            "policy": name,
            "rate": walk.rate,
            "vs_static": walk.rate / best.rate,
            "causal_vs_static": None if causal is None else causal.rate / best.rate,
            "rounds_to_settle": _settled(walk),
            "decision_us": 1e6 * walk.decision_s / len(walk.tokens),
        }
        for name, walk in walks.items()
    ]


def policy_file(name: str) -> dict[str, Any]:
    """A policy file with this policy alone, or with the default and all its shadows."""
    follow = "shadows" if name == DEFAULT else "length"
    policy = "goodput" if name == DEFAULT else name
    length = {"policy": policy, "max_draft_len": MAX_DRAFT_LEN}
    return {"version": 1, "length": length, "governor": {"follow": follow}}


def _settled(walk: Walk) -> int:
    """Rounds until the rate first stays near the final one for a window."""
    count = len(walk.tokens) // WINDOW
    tokens = walk.tokens[: count * WINDOW].reshape(count, WINDOW).sum(axis=1)
    rates = tokens / walk.seconds[: count * WINDOW].reshape(count, WINDOW).sum(axis=1)
    final = rates[count // 2 :].mean()
    near = np.flatnonzero(rates >= (1.0 - SETTLED) * final)
    return int(near[0]) * WINDOW if len(near) else len(walk.tokens)


def mean_ratios(rows: Sequence[dict[str, Any]], scenarios: Sequence[str]) -> list[dict[str, Any]]:
    """Mean ratio to the best static length, by policy and scenario; None where it was not run."""
    found = []
    for policy in dict.fromkeys(row["policy"] for row in rows if row["scenario"] in scenarios):
        mine = [row for row in rows if row["policy"] == policy and row["scenario"] in scenarios]
        line: dict[str, Any] = {"policy": policy}
        for scenario in scenarios:
            ratios = [row["vs_static"] for row in mine if row["scenario"] == scenario]
            line[scenario] = float(np.mean(ratios)) if ratios else None
        line["mean"] = float(np.mean([row["vs_static"] for row in mine]))
        line["decision_us"] = float(np.mean([row["decision_us"] for row in mine]))
        found.append(line)
    return sorted(found, key=lambda line: -line["mean"])


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The default against all others, by scenario, in the mean of a group's and of all."""
    result: dict[str, Any] = {}
    lines = {line["policy"]: line for line in mean_ratios(rows, tuple(TEXTS))}
    for scenario in TEXTS:
        result[scenario] = _compare(lines, scenario, (scenario,))
    for group, scenarios in {**GROUPS, "mean": tuple(TEXTS)}.items():
        means = {line["policy"]: line for line in mean_ratios(rows, scenarios)}
        result[group] = _compare(means, "mean", scenarios)
    return result


def _compare(
    lines: dict[str, dict[str, Any]], column: str, scenarios: Sequence[str]
) -> dict[str, Any]:
    """The default against the best other policy of a column, and how far it comes to oracles."""
    others = [name for name in lines if name not in (DEFAULT, CAUSAL, RUNS)]
    rival = max(others, key=lambda name: lines[name][column])
    mine = lines[DEFAULT][column]
    return {
        "vs_best_static": mine,
        "best_other": rival,
        "vs_best_other": mine / lines[rival][column],
        "gap_closed": _share_of_gap(lines, CAUSAL, scenarios),
        "run_gap_closed": _share_of_gap(lines, RUNS, scenarios),
    }


def _share_of_gap(
    lines: dict[str, dict[str, Any]], oracle: str, scenarios: Sequence[str]
) -> float | None:
    """Where the default stands between the best static length (0) and an oracle (1).

    In the mean of the scenarios that have the oracle; None where none has, or it gains nothing.
    """
    known = [name for name in scenarios if lines.get(oracle, {}).get(name) is not None]
    if not known:
        return None
    gain = float(np.mean([lines[oracle][name] for name in known])) - 1.0
    mine = float(np.mean([lines[DEFAULT][name] for name in known])) - 1.0
    return mine / gain if gain > 0.0 else None
