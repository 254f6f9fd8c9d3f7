"""Claim: the governor's decisions cost microseconds.

python -m benchmarks.overhead [--quick] [--json FILE]

A fake host hands in outcomes made
beforehand: rounds of 1 to 6 observed tokens with confidences, longest draft 32, padded, with
stops in mid-draft. Learning is gathered over rounds, hence mean and 99th percentile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks import report
from flyball.controller.governor import Cost, DraftInfo, Governor, HostInfo, Offer, Outcomes
from flyball.controller.policy_file import load_policy
from flyball.policies.registry import LENGTH_POLICIES

K = 32
SECTIONS: dict[str, dict[str, Any]] = {
    "static": {"draft_len": 4},
    "batch_table": {"table": [[1, 8, 8], [9, 256, 4]]},
}
Micros = NDArray[np.float64]


class Host:
    """Rounds of `num_requests` requests whose outcomes are ready before the clock starts."""

    def __init__(self, policy: str, num_requests: int, with_offer: bool) -> None:
        section = {"policy": policy, "max_draft_len": K, **SECTIONS.get(policy, {})}
        drafts: tuple[DraftInfo, ...] = (DraftInfo("model"),)
        if with_offer:
            drafts += (DraftInfo("lookup", steps=False),)
        host = HostInfo("fake", drafts=drafts)
        self.governor = Governor(load_policy({"version": 1, "length": section}), host)
        self.slots = self.governor.admit(num_requests)
        self._rng = np.random.default_rng(0)
        self._offers = self._make_offers(num_requests) if with_offer else []

    def _make_offers(self, num_requests: int) -> list[Offer]:
        length = self._rng.integers(0, 8, num_requests).astype(np.int32)
        strength = self._rng.integers(0, 8, num_requests).astype(np.int32)
        return [Offer(1, length, strength)]

    def round(self) -> tuple[float, float]:
        """Seconds of `plan` and of `observe`."""
        start = time.perf_counter()
        plan = self.governor.plan(self.slots, offers=self._offers)
        plan_s = time.perf_counter() - start
        outcomes, cost = self._outcomes(plan.step_id, plan.draft_len)
        start = time.perf_counter()
        self.governor.observe(outcomes, cost)
        return plan_s, time.perf_counter() - start

    def _outcomes(self, step_id: int, limit: NDArray[np.int32]) -> tuple[Outcomes, Cost]:
        n = len(limit)
        proposed = np.minimum(limit, self._rng.integers(1, 7, n)).astype(np.int32)
        hits = self._rng.random((n, 6)) < 0.85
        accepted = np.minimum(hits.cumprod(axis=1).sum(axis=1), proposed).astype(np.int32)
        observed = np.minimum(accepted + 1, proposed).astype(np.int32)
        confidence = self._rng.random((n, 6)) ** 0.2
        width = int(proposed.max())
        draft_s, verify_s = 5e-4 * width, 3.5e-3 * (1 + 0.02 * width)
        noise = self._rng.lognormal(0.0, 0.05)
        cost = Cost(
            step_id, noise * (draft_s + verify_s), n, width + 1, width, draft_s, noise * verify_s
        )
        return Outcomes(step_id, self.slots, proposed, accepted, observed, confidence), cost

    def stop(self, num_rows: int, repeats: int) -> Micros:
        """Microseconds of `stop` for some rows of a plan."""
        rows = np.arange(num_rows)
        confidence = 0.9 + 0.1 * self._rng.random((16, num_rows))
        times = []
        for _ in range(max(1, repeats // 16)):
            plan = self.governor.plan(self.slots)
            for position in range(1, 17):
                start = time.perf_counter()
                self.governor.stop(plan.step_id, rows, position, confidence[position - 1])
                times.append(time.perf_counter() - start)
        return 1e6 * np.array(times)

    def read(self, repeats: int) -> Micros:
        """Microseconds of `read` of 32 tokens."""
        match = (self._rng.random((len(self.slots), 32)) < 0.8).astype(np.float64)
        return timed(lambda: self.governor.read(self.slots, match), repeats)


def timed(call: Callable[[], object], repeats: int) -> Micros:
    """Microseconds of each of many calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e6 * np.array(times)


def measure(policy: str, num_requests: int, with_offer: bool, repeats: int) -> dict[str, Any]:
    """One row of the table."""
    host = Host(policy, num_requests, with_offer)
    rounds = 1e6 * np.array([host.round() for _ in range(repeats + 100)])[100:]
    samples = {
        "plan": rounds[:, 0],
        "observe": rounds[:, 1],
        "plan_observe": rounds.sum(axis=1),
        "read": host.read(repeats // 4),
    }
    if host.governor.wants_confidence:
        samples["stop_1_row"] = host.stop(1, repeats)
        samples["stop_n_rows"] = host.stop(num_requests, repeats)
    row: dict[str, Any] = {"policy": policy, "requests": num_requests, "offer": with_offer}
    for name, values in samples.items():
        row[f"{name}_mean_us"] = round(float(values.mean()), 1)
        row[f"{name}_median_us"] = round(float(np.median(values)), 1)
        row[f"{name}_p99_us"] = round(float(np.quantile(values, 0.99)), 1)
    return row


def show(rows: list[dict[str, Any]]) -> None:
    """Print mean / median / p99 of every call."""
    calls = ["plan", "observe", "plan_observe", "stop_1_row", "stop_n_rows", "read"]
    table = Table(title="microseconds a call: mean / median / p99")
    for name in ["policy", "requests", "offer", *calls]:
        table.add_column(name, justify="right")
    for row in rows:
        cells = [
            " / ".join(f"{row[f'{call}_{part}_us']:.0f}" for part in ("mean", "median", "p99"))
            if f"{call}_mean_us" in row
            else "-"
            for call in calls
        ]
        table.add_row(row["policy"], str(row["requests"]), str(row["offer"]), *cells)
    Console(width=150).print(table)


def main() -> None:
    """Measure, print and write."""
    options = report.argument_parser("overhead", __doc__, "fewer repeats").parse_args()
    repeats = 400 if options.quick else 4000
    cases = [(name, n, False) for name in LENGTH_POLICIES for n in (1, 16, 64, 256)]
    cases += [("goodput", n, True) for n in (1, 256)]
    rows = [measure(*case, repeats) for case in cases]
    show(rows)
    mean = {
        (row["policy"], row["requests"], row["offer"]): row["plan_observe_mean_us"] for row in rows
    }
    summary = {
        "goodput_1_request_mean_us": mean["goodput", 1, False],
        "goodput_256_requests_mean_us": mean["goodput", 256, False],
    }
    report.print_summary(summary)
    report.write("overhead", vars(options), rows, summary, options.json)


if __name__ == "__main__":
    main()
