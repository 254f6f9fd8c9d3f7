"""What learning costs length policies where nothing changes: stationary texts, 5,000 rounds.

Pseudo-regret of a round: what it is expected to bring per second, by the length that was drafted,
as a share of the best length's that the host would have let it have, taken from 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.length_run import rooms_of, walk_policy
from benchmarks.length_streams import MAX_DRAFT_LEN, SCENARIOS, TARGET_S, Costs
from benchmarks.length_texts import DEFAULT, DRAFT_SHARES, LEFT_OUT, Measured, policy_file
from flyball.policies.registry import LENGTH_POLICIES

ROUNDS = 5000
LATE = 4000  # rounds after which a policy should have settled
Floats = NDArray[np.float64]
Job = tuple[int, int]


def run(seeds: range, quick: bool) -> Measured:
    """Walk, print, and give the table."""
    rounds = 1000 if quick else ROUNDS
    rows = report.in_parallel(_walk, [(seed, rounds) for seed in seeds])
    rows.sort(key=lambda row: (row["policy"], row["seed"]))
    table = _table(rows)
    report.print_table(f"pseudo-regret over {rounds} rounds", table, tuple(table[0]))
    return rows, {line.pop("policy"): line for line in table}


def _walk(job: Job) -> list[dict[str, Any]]:
    """Every policy on one text."""
    seed, rounds = job
    rng = np.random.default_rng([seed, 100])
    stream = SCENARIOS["stationary"](rng, rounds * (MAX_DRAFT_LEN + 1))
    assert stream.known is not None
    costs = Costs(DRAFT_SHARES[seed % 4] * TARGET_S, 0.0)
    found = []
    for name in (*(name for name in LENGTH_POLICIES if name not in LEFT_OUT), DEFAULT):
        walk = walk_policy(stream, costs, policy_file(name), max_rounds=rounds)
        table = regret_by_length(float(stream.known[0]), costs)
        room = np.minimum(rooms_of(stream, walk)[:rounds], MAX_DRAFT_LEN)
        regret = table[room, walk.lengths[:rounds]]
        late = regret[LATE * rounds // ROUNDS :]
        found.append(
            {
                "seed": seed,
                "acceptance": float(stream.known[0]),
                "policy": name,
                "regret": float(regret.sum()),
                "late_regret_per_round": float(late.mean()),
                "curve": regret.reshape(50, -1).sum(axis=1).cumsum().tolist(),
            }
        )
    return found


def regret_by_length(acceptance: float, costs: Costs) -> Floats:
    """What a round is expected to lose, as a share of the best rate.

    Returns:
        (K + 1, K + 1) by room, that is the longest draft allowed, and length.
    """
    lengths = np.arange(MAX_DRAFT_LEN + 1)
    tokens = np.cumsum(acceptance**lengths)
    rate: Floats = tokens / costs.round_s(lengths.astype(np.float64))
    result: Floats = 1.0 - rate / np.maximum.accumulate(rate)[:, None]
    return result


def _table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over seeds, least regret first."""
    found = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        mine = [row for row in rows if row["policy"] == policy]
        regret = [row["regret"] for row in mine]
        late = [row["late_regret_per_round"] for row in mine]
        found.append(
            {
                "policy": policy,
                "regret": float(np.mean(regret)),
                "late_regret_per_round": float(np.mean(late)),
            }
        )
    return sorted(found, key=lambda line: line["regret"])
