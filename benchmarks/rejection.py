"""Claim: losers are stopped early at a stated risk, and the answers stay as good.

python -m benchmarks.rejection [--quick] [--seed-base N] [--json FILE]

The demo's reasoning pair: a solver that writes the steps of multi-step arithmetic at temperature
0.8, and a judge that scores every prefix. Candidates run by seeds of their own, so what a policy
stops changes none of the others' tokens: best of n and votes are decided on a pool of candidates
that ran to completion, beams on the texts that any of them wrote, with every policy's own contests
and searches; everything that is timed runs for real. Operations are counted: every token through
solver and judge at its context, audits included; a prompt is read once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from benchmarks import rejection_beams as beams
from benchmarks import report
from benchmarks.rejection_best import (
    CHECKS,
    NUM_SPLITS,
    RISKS,
    SIZES,
    best_of_n,
    noise,
    num_orders,
    sections,
    shift,
)
from benchmarks.rejection_live import live
from benchmarks.rejection_pool import Pool, make_pool
from benchmarks.rejection_prefixes import Prefixes
from benchmarks.rejection_summary import averaged, summarise
from benchmarks.rejection_votes import right_by_vote, vote
from flyball.demo.reasoner_loader import load_reasoner
from flyball.estimators.partial_reward import PartialReward

_NUM_CANDIDATES = 32
_NOISE_SIZE = 16
_VOTES = (16, 32)
_CONFIDENCES = (0.8, 0.9, 0.95)

Job = tuple[Callable[..., Any], tuple[Any, ...]]
# Processes that play on them are forked.
_pools: dict[str, Pool] = {}
_prefixes: dict[str, Prefixes] = {}


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("rejection", __doc__, "few problems: no figure to go by")
    report.add_seed_base(parser, "problems, candidates and orders")
    arguments = parser.parse_args()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    num_problems = 120 if arguments.quick else 1000
    num_beams = 120 if arguments.quick else 2000
    seed = 10_000 + arguments.seed_base
    for mix, made in report.in_parallel(_run, _makers(num_problems, num_beams, seed)):
        if isinstance(made, Pool):
            _pools[mix] = made
        else:
            _prefixes[mix] = made
    rows: list[dict[str, Any]] = report.in_parallel(_run, _replays(seed))
    rows += report.in_parallel(_run, _beams(seed + 2))
    rows += live(seed + 3, arguments.quick)
    _compare_flops([row for row in rows if row["part"] == "beams"])
    for part, columns in (
        ("best_of_n", ("policy", "n", "accuracy", "saved", "wrong", "audited")),
        ("beams", ("policy", "n", "accuracy", "saved", "wrong", "audited")),
    ):
        own = [row for row in averaged(rows, part) if _worth_showing(row)]
        report.print_table(part, own, columns)
    summary = summarise(rows)
    report.print_summary(summary)
    report.write("rejection", vars(arguments), rows, summary, arguments.json)


def _run(job: Job) -> list[Any]:
    """Whatever a process is to do; rows of it."""
    torch.set_num_threads(1)
    work, arguments = job
    found = work(*arguments)
    return found if isinstance(found, list) else [found]


def _makers(num_problems: int, num_beams: int, seed: int) -> list[Job]:
    """Candidates and texts that all policies meet."""
    mixes = [(_pool, (mix, num_problems, seed + n)) for n, mix in enumerate(("usual", "harder"))]
    return [(_beam_prefixes, (num_beams, seed + 2)), *mixes]


def _beam_prefixes(num_problems: int, seed: int) -> list[tuple[str, Prefixes]]:
    return [("usual", beams.prefixes_of(num_problems, seed))]


def _pool(mix: str, num_problems: int, seed: int) -> list[tuple[str, Pool]]:
    models = load_reasoner()
    return [(mix, make_pool(models, mix, num_problems, _NUM_CANDIDATES, seed))]


def _replays(seed: int) -> list[Job]:
    """Everything that is decided on the pools."""
    jobs: list[Job] = [
        (_best, (size, name, seed, split))
        for size in reversed(SIZES)
        for name in sections()
        for split in range(num_orders(size, name))
    ]
    jobs += [(_shift, (risk, seed, split)) for risk in RISKS for split in range(NUM_SPLITS)]
    jobs += [(_noise, (seed,)), (_correlation, ())]
    return jobs + [(_votes, (size,)) for size in _VOTES]


def _best(size: int, name: str, seed: int, split: int) -> dict[str, Any]:
    return best_of_n(_pools["usual"], size, name, seed, split)


def _shift(risk: float, seed: int, split: int) -> list[dict[str, Any]]:
    return shift(_pools["usual"], _pools["harder"], risk, seed, split)


def _noise(seed: int) -> dict[str, Any]:
    return noise(_pools["usual"], _NOISE_SIZE, seed)


def _beams(seed: int) -> list[Job]:
    """All beam searches, the longest first."""
    return [
        (_beam, (name, size, seed))
        for size in sorted(beams.SIZES, reverse=True)
        for name in beams.sections(size)
    ]


def _beam(name: str, size: int, seed: int) -> dict[str, Any]:
    return beams.play(_prefixes["usual"], name, size, seed)


def _compare_flops(rows: list[dict[str, Any]]) -> None:
    """Say of each beam search how many operations fewer it took than without rejection."""
    base = {row["n"]: row["flops"] for row in rows if row["policy"] == "none"}
    for row in rows:
        row["saved"] = base[row["n"]] / row["flops"]


def _worth_showing(row: dict[str, Any]) -> bool:
    return not row["policy"].startswith("top_fraction") or "1/4" in row["policy"]


def _votes(size: int) -> list[dict[str, Any]]:
    """Self-consistency: all samples, and as many as consensus asks for."""
    some = _pools["usual"].take(np.arange(len(_pools["usual"])), size)
    fixed = np.full(len(some), size)
    budgets: list[tuple[str, dict[str, Any]]] = [
        (f"consensus {confidence}", {"policy": "consensus", "confidence": confidence})
        for confidence in _CONFIDENCES
    ]
    budgets.append(("consensus, a quarter", {"policy": "consensus", "mean_samples": size / 4}))
    return [
        _voted("fixed", size, some, fixed),
        # As many for every problem as a quarter allows, whatever they say.
        _voted("fixed, a quarter", size, some, fixed // 4),
        *(_voted(name, size, some, vote(section, some)) for name, section in budgets),
    ]


def _voted(name: str, size: int, pool: Pool, samples: Any) -> dict[str, Any]:
    return {
        "part": "votes",
        "policy": name,
        "n": size,
        "samples": float(samples.mean()),
        "accuracy": float(right_by_vote(pool, samples).mean()),
    }


def _correlation() -> list[dict[str, Any]]:
    """Correlation of partial and final scores within a problem, by tokens."""
    pool = _pools["usual"]
    checks = np.array([check for check in CHECKS if check <= pool.score.shape[2]])
    reward = PartialReward(len(checks))
    score = pool.score[:, :, checks - 1]
    ended = pool.length[:, :, None] <= checks
    reward.learn(np.where(ended, pool.final[:, :, None], score), pool.final)
    return [
        {"part": "correlation", "tokens": tokens, "correlation": correlation}
        for tokens, correlation in zip(checks.tolist(), reward.correlation.tolist(), strict=True)
    ]


if __name__ == "__main__":
    main()
