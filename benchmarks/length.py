"""Claim: the default length policy is the best there is, whatever the text and the costs.

python -m benchmarks.length [--quick] [--seed-base N] [--json FILE]

Every policy walks the same synthetic texts in virtual time, with one request at a time. Rivals in
hindsight: the best static length, an oracle that knows the draft's true probability up to where it
is, and one that knows how long each run will be.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.length_run import (
    MAX_DRAFT_LEN,
    Walk,
    walk_causal,
    walk_policy,
    walk_runs,
    walk_static,
)
from benchmarks.length_streams import SCENARIOS, TARGET_S, Costs
from flyball.policies.registry import LENGTH_POLICIES

DEFAULT = "goodput"
DRAFT_SHARES = (0.02, 0.05, 0.1, 0.25)
HOST_SHARES = (0.0, 0.1)
# A table is for loads and the constant is a rival of its own.
LEFT_OUT = ("static", "batch_table")
SETTLED = 0.05  # of the final rate
WINDOW = 100  # rounds
Job = tuple[str, int, float, float, int]


def main() -> None:
    """Measure, print, write."""
    arguments = _arguments()
    seeds = range(arguments.seed_base, arguments.seed_base + (2 if arguments.quick else 20))
    size = 4000 if arguments.quick else 20_000
    jobs = [
        (scenario, seed, DRAFT_SHARES[seed % 4], HOST_SHARES[seed // 4 % 2], size)
        for scenario in SCENARIOS
        for seed in seeds
    ]
    with report.progress() as bar, multiprocessing.Pool(os.cpu_count()) as pool:
        task = bar.add_task("walking", total=len(jobs))
        rows: list[dict[str, Any]] = []
        for found in pool.imap_unordered(_walk, jobs):
            rows += found
            bar.advance(task)
    rows.sort(key=lambda row: (list(SCENARIOS).index(row["scenario"]), row["policy"], row["seed"]))
    table = _table(rows)
    report.print_table("rate, of the best static length in hindsight", table, tuple(table[0]))
    result = _summary(rows)
    report.print_summary(result)
    report.write("length", vars(arguments), rows, result, arguments.json)


def _walk(job: Job) -> list[dict[str, Any]]:
    """Every policy on one text."""
    scenario, seed, draft_share, host_share, size = job
    number = list(SCENARIOS).index(scenario)
    stream = SCENARIOS[scenario](np.random.default_rng([seed, number]), size)
    costs = Costs(draft_share * TARGET_S, host_share * TARGET_S)
    statics = [walk_static(stream, costs, length) for length in range(MAX_DRAFT_LEN + 1)]
    best = max(statics, key=lambda walk: walk.rate)
    walks = {
        "causal oracle": walk_causal(stream, costs),
        "run oracle": walk_runs(stream, costs),
    }
    for name in LENGTH_POLICIES:
        if name not in LEFT_OUT:
            policy = {"policy": name, "max_draft_len": MAX_DRAFT_LEN}
            walks[name] = walk_policy(stream, costs, policy)
    return [
        {
            "scenario": scenario,
            "seed": seed,
            "draft_share": draft_share,
            "host_share": host_share,
            "policy": name,
            "rate": walk.rate,
            "vs_static": walk.rate / best.rate,
            "causal_vs_static": walks["causal oracle"].rate / best.rate,
            "rounds_to_settle": _settled(walk),
            "decision_us": 1e6 * walk.decision_s / len(walk.tokens),
        }
        for name, walk in walks.items()
    ]


def _settled(walk: Walk) -> int:
    """Rounds until the rate first stays near the final one for a window."""
    count = len(walk.tokens) // WINDOW
    tokens = walk.tokens[: count * WINDOW].reshape(count, WINDOW).sum(axis=1)
    rates = tokens / walk.seconds[: count * WINDOW].reshape(count, WINDOW).sum(axis=1)
    final = rates[count // 2 :].mean()
    near = np.flatnonzero(rates >= (1.0 - SETTLED) * final)
    return int(near[0]) * WINDOW if len(near) else len(walk.tokens)


def _table(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean ratio to the best static length, by policy and scenario."""
    found = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = [row for row in rows if row["policy"] == policy]
        line: dict[str, Any] = {"policy": policy}
        for scenario in SCENARIOS:
            ratios = [row["vs_static"] for row in mine if row["scenario"] == scenario]
            line[scenario] = float(np.mean(ratios))
        line["mean"] = float(np.mean([row["vs_static"] for row in mine]))
        line["decision_us"] = float(np.mean([row["decision_us"] for row in mine]))
        found.append(line)
    return sorted(found, key=lambda line: -line["mean"])


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The default against all others, by scenario."""
    lines = {line["policy"]: line for line in _table(rows)}
    others = [name for name in lines if name not in (DEFAULT, "causal oracle", "run oracle")]
    result: dict[str, Any] = {}
    for scenario in (*SCENARIOS, "mean"):
        rival = max(others, key=lambda name: lines[name][scenario])
        oracle, mine = lines["causal oracle"][scenario], lines[DEFAULT][scenario]
        result[scenario] = {
            "vs_best_static": mine,
            "best_other": rival,
            "vs_best_other": mine / lines[rival][scenario],
            "gap_closed": (mine - 1.0) / (oracle - 1.0) if oracle > 1.0 else None,
        }
    return result


def _arguments() -> argparse.Namespace:
    parser = report.argument_parser("length", __doc__, "two seeds and short texts")
    report.add_seed_base(parser, "texts")
    return parser.parse_args()


if __name__ == "__main__":
    main()
