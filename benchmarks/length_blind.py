"""What it costs to look at confidences that tell nothing: the default, beside a host without any.

Texts whose drafts' confidences and entropies are dealt out anew, each to some other place. One
host shows them; the other shows none, so that counts alone are left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.length_run import walk_policy
from benchmarks.length_streams import TARGET_S, Costs
from benchmarks.length_texts import (
    DEFAULT,
    DRAFT_SHARES,
    HOST_SHARES,
    TEXTS,
    Measured,
    policy_file,
)

Job = tuple[str, int, int]


def run(seeds: range, quick: bool) -> Measured:
    """Walk, print, and give the ratios."""
    size = 4000 if quick else 20_000
    rows = report.in_parallel(_walk, [(name, seed, size) for name in TEXTS for seed in seeds])
    rows.sort(key=lambda row: (list(TEXTS).index(row["scenario"]), row["seed"]))
    table = []
    for name in TEXTS:
        ratios = [row["vs_counts_alone"] for row in rows if row["scenario"] == name]
        error = float(np.std(ratios, ddof=1)) / len(ratios) ** 0.5
        loss = 100.0 * (1.0 - float(np.mean(ratios)))
        table.append({"scenario": name, "loss_percent": loss, "standard_error": 100.0 * error})
    report.print_table("confidences that tell nothing", table, tuple(table[0]))
    return rows, {line.pop("scenario"): line for line in table}


def _walk(job: Job) -> list[dict[str, Any]]:
    """One text, with and without."""
    name, seed, size = job
    rng = np.random.default_rng([seed, list(TEXTS).index(name)])
    stream = TEXTS[name](rng, size)
    costs = Costs(DRAFT_SHARES[seed % 4] * TARGET_S, HOST_SHARES[seed // 4 % 2] * TARGET_S)
    order = rng.permutation(len(stream.match))
    dealt = replace(
        stream, confidence=stream.confidence[order], entropy=stream.entropy[order], known=None
    )
    looking, alone = (
        walk_policy(dealt, costs, policy_file(DEFAULT), shows=shows) for shows in (True, False)
    )
    return [{"scenario": name, "seed": seed, "vs_counts_alone": looking.rate / alone.rate}]
