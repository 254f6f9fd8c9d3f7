"""Claim: whatever a host says, in whatever order, the governor answers, and does not grow.

python -m benchmarks.soak [--calls N] [--seed N] [--part I/N] [--quick] [--json FILE]

Every length policy is driven by fuzzed calls, within a governor and on its own. A run ends at the
first answer that is out of range, exception, growth of memory, or fault that no bad input
explains; it is listed, and the exit code is 1. Many runs, one process a core.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import report
from benchmarks.soak_host import WildHost
from benchmarks.soak_policy import LonePolicy
from benchmarks.soak_run import Footprint, strict
from flyball.policies.registry import LENGTH_POLICIES

CALLS = 10_000_000
QUICK_CALLS = 200_000
RUN_CALLS = 20_000
LOOKS = 8  # at memory, a run
ALONE = 5  # of so many runs one is of the policy on its own
Job = tuple[str, bool, list[int], int]


def main() -> None:
    """Drive, print, write."""
    options = _arguments()
    jobs = list(_jobs(options.calls, options.seed))[options.part[0] - 1 :: options.part[1]]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with report.progress() as bar, multiprocessing.Pool(cores) as pool:
        task = bar.add_task("calling", total=sum(job[-1] for job in jobs))
        runs = []
        for run in pool.imap_unordered(soak, jobs):
            runs.append(run)
            bar.advance(task, run["calls"])
    rows = _table(runs)
    report.print_table("fuzzed calls", rows, tuple(rows[0]))
    failures = sorted(run["failure"] for run in runs if run["failure"])
    summary = {
        "calls": sum(run["calls"] for run in runs),
        "failures": len(failures),
        "peak_mb": max(run["peak_mb"] for run in runs),
    }
    report.print_summary(summary)
    found = {**summary, "failed": failures}
    report.write("soak", vars(options), rows, found, options.json, ("numpy",))
    for failure in failures:
        print(failure, file=sys.stderr)
    sys.exit(bool(failures))


def _jobs(num_calls: int, seed: int) -> list[Job]:
    """Runs that make so many calls in all; every policy gets as many."""
    policies = list(LENGTH_POLICIES)
    number = -(-num_calls // RUN_CALLS)
    number = max(number + -number % len(policies), len(policies) * ALONE)
    calls = max(1, round(num_calls / number))
    return [
        (policies[i % len(policies)], i // len(policies) % ALONE == ALONE - 1, [seed, i], calls)
        for i in range(number)
    ]


def soak(job: Job) -> dict[str, Any]:
    """One run: at least so many calls of a new governor, or of a policy on its own."""
    policy, alone, seed, num_calls = job
    failure, footprint = "", Footprint()
    driven: WildHost | LonePolicy | None = None
    with strict() as messages:
        try:
            driven = LonePolicy(policy, seed) if alone else WildHost(policy, seed)
            for look in range(LOOKS):
                while driven.tally.num_calls * LOOKS < num_calls * (look + 1):
                    driven.step()
                driven.settle()
                footprint.check(driven.subject)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            failure = f"{job}, {driven}: {error!r} at {where.name}:{where.lineno}"
            failure += f" after {messages}" if messages else ""
    tally = driven.tally if driven else None
    faults = driven.governor.faults if isinstance(driven, WildHost) else {}
    return {
        "policy": policy,
        "driven_by": "itself" if alone else "governor",
        "calls": tally.num_calls if tally else 0,
        "faults": sum(faults.values()),
        "seconds": tally.seconds if tally else 0.0,
        "slowest_ms": 1e3 * tally.slowest_s if tally else 0.0,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "failure": failure,
    }


def _table(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the runs of a policy make together."""
    rows = []
    for policy, driven_by in sorted({(run["policy"], run["driven_by"]) for run in runs}):
        mine = [run for run in runs if (run["policy"], run["driven_by"]) == (policy, driven_by)]
        calls = sum(run["calls"] for run in mine)
        rows.append(
            {
                "policy": policy,
                "driven_by": driven_by,
                "calls": calls,
                "bad_inputs_counted": sum(run["faults"] for run in mine),
                "failures": sum(bool(run["failure"]) for run in mine),
                "slowest_ms": float(np.max([run["slowest_ms"] for run in mine])),
                "mean_us": 1e6 * sum(run["seconds"] for run in mine) / max(1, calls),
            }
        )
    return rows


def _part(text: str) -> tuple[int, int]:
    """The 2nd of 4 parts is 2/4."""
    first, _, last = text.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise argparse.ArgumentTypeError(f"expected a part such as 1/4, but got {text}")
    return int(first), int(last)


def _arguments() -> argparse.Namespace:
    parser = report.argument_parser("soak", __doc__, f"{QUICK_CALLS} calls")
    parser.add_argument("--calls", type=int, default=None, metavar="N", help=f"default {CALLS}")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all runs")
    parser.add_argument(
        "--part", type=_part, default=(1, 1), metavar="I/N", help="only these runs of them"
    )
    options = parser.parse_args()
    if options.calls is None:
        options.calls = QUICK_CALLS if options.quick else CALLS
    return options


if __name__ == "__main__":
    main()
