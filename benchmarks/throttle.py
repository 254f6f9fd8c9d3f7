"""Claim: few tries, nearly all within the SLO, find the setting of least energy.

python -m benchmarks.throttle [--quick] [--seed-base N] [--json FILE]

Surfaces are simulated: devices, models, loads and SLOs drawn by seed from committed ranges
(`benchmarks/throttle_surfaces.py`), thousands of settings each. Every policy searches each surface
several times; what it chose is judged by the simulator's truth, never by what it measured. Then
days of changing load, against the default setting; and what tuning the draft length together
with the clocks saves over the clocks alone, by exhaustion.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from benchmarks import report
from benchmarks.throttle_search import SEARCHES, day, joint, search
from benchmarks.throttle_summary import summarise, table

_DAYS = ("default", "constrained_bo", "sweep", "lowest_feasible", "linucb")
# Windows that a search may take; a bandit learns by the hundred.
_WINDOWS = {"constrained_bo": 40, "linucb": 200, "plain_ei": 30, "random": 200}
_OTHERS = 60
_FEWER = {"plain_ei": 3}  # repeats: it fits hyperparameters at every trial

Job = tuple[Callable[..., dict[str, Any]], tuple[Any, ...]]


def main() -> None:
    """Measure, print, write."""
    parser = report.argument_parser("throttle", __doc__, "few surfaces: no figure to go by")
    report.add_seed_base(parser, "surfaces, searches and days")
    arguments = parser.parse_args()
    num_surfaces, num_repeats, num_days = (8, 2, 2) if arguments.quick else (40, 10, 10)
    num_windows = 96 if arguments.quick else 288
    seeds = range(arguments.seed_base, arguments.seed_base + num_surfaces)
    jobs: list[Job] = [(joint, (seed,)) for seed in seeds]
    for name in SEARCHES:
        jobs += [
            (search, (seed, name, repeat, _WINDOWS.get(name, _OTHERS)))
            for seed in seeds
            for repeat in range(min(num_repeats, _FEWER.get(name, num_repeats)))
        ]
    jobs += [(day, (seed, name, seed, num_windows)) for name in _DAYS for seed in seeds[:num_days]]
    rows = report.in_parallel(_run, jobs)
    report.print_table(
        "search", table(rows),
        ("policy", "median", "p95", "violations", "far over", "settled late", "gap", "saved"),
    )  # fmt: skip
    summary = summarise(rows)
    report.print_summary(summary)
    packages = (*report.PACKAGES, "botorch", "gpytorch")
    report.write("throttle", vars(arguments), rows, summary, arguments.json, packages)


def _run(job: Job) -> list[dict[str, Any]]:
    """Whatever a process is to do; its row."""
    torch.set_num_threads(1)
    work, arguments = job
    return [work(*arguments)]


if __name__ == "__main__":
    main()
