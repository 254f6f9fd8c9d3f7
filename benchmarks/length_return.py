"""How soon length policies come back when a useless draft turns good; had they stopped?

Texts whose draft is useless for a third and good from there on. A round's worth is what it is
expected to bring per second, by its length, as a share of the best length's there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.length_regret import regret_by_length
from benchmarks.length_run import rooms_of, walk_policy
from benchmarks.length_streams import MAX_DRAFT_LEN, SCENARIOS, TARGET_S, Costs
from benchmarks.length_texts import (
    DEFAULT,
    DRAFT_SHARES,
    HOST_SHARES,
    LEFT_OUT,
    Measured,
    policy_file,
)
from flyball.policies.registry import LENGTH_POLICIES

SIZE = 6000  # tokens
BACK = 0.95  # of the best rate
WINDOW = 20  # rounds whose mean counts
Job = tuple[str, int]


def run(seeds: range, quick: bool) -> Measured:
    """Walk, print, and give the table."""
    names = [*(name for name in LENGTH_POLICIES if name not in LEFT_OUT), DEFAULT]
    rows = report.in_parallel(_walk, [(name, seed) for name in names for seed in seeds])
    rows.sort(key=lambda row: (row["policy"], row["seed"]))
    table = _table(rows)
    report.print_table("a useless draft turns good", table, tuple(table[0]))
    return rows, {line.pop("policy"): line for line in table}


def _walk(job: Job) -> list[dict[str, Any]]:
    """One policy on one text."""
    name, seed = job
    stream = SCENARIOS["useless_then_good"](np.random.default_rng([seed, 200]), SIZE)
    assert stream.known is not None
    costs = Costs(DRAFT_SHARES[seed % 4] * TARGET_S, HOST_SHARES[seed // 4 % 2] * TARGET_S)
    turn = int(np.flatnonzero(stream.known != stream.known[0])[0])
    walk = walk_policy(stream, costs, policy_file(name))
    start = np.concatenate([[0], walk.tokens.cumsum()[:-1]])
    room, good = np.minimum(rooms_of(stream, walk), MAX_DRAFT_LEN), start >= turn
    useless = regret_by_length(float(stream.known[0]), costs)
    worth = regret_by_length(float(stream.known[-1]), costs)
    worth = 1.0 - worth[room[good], walk.lengths[good]]
    mean = np.convolve(worth, np.full(WINDOW, 1.0 / WINDOW), "valid")
    back = np.flatnonzero(mean >= BACK)
    late = (start >= turn // 2) & ~good
    before = walk.lengths[late]
    return [
        {
            "policy": name,
            "seed": seed,
            "back_after": int(start[good][back[0]]) - turn if len(back) else SIZE - turn,
            "stopped": float((before == 0).mean()) if useless[-1].argmin() == 0 else None,
            "lost_while_useless": float(useless[room[late], before].mean()),
        }
    ]


def _table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Tokens until a policy is back, and rounds without a draft before; soonest first."""
    found = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = [row for row in rows if row["policy"] == policy]
        tokens = [row["back_after"] for row in mine]
        stopped = [row["stopped"] for row in mine if row["stopped"] is not None]
        found.append(
            {
                "policy": policy,
                "tokens_until_back": float(np.mean(tokens)),
                "at_most": max(tokens),
                "share_of_rounds_at_length_0": float(np.mean(stopped)) if stopped else None,
                "lost_while_useless": float(np.mean([row["lost_while_useless"] for row in mine])),
            }
        )
    return sorted(found, key=lambda line: line["tokens_until_back"])
