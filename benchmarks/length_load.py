"""Length policies under load, from memory-bound to compute-bound steps.

Batches of 1 to 256 requests whose acceptance differs, in virtual time, with a step that is bound
by memory in small batches and by arithmetic in large ones. Two kinds of host: one that verifies a
rectangle and asks in mid-draft, as Hugging Face's loop does, and one that pays for each verified
token and fixes lengths before the round, as vLLM's scheduler does. Rival: the best constant length
of each batch size in hindsight, which is the best table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import report
from benchmarks.length_run import Walk
from benchmarks.length_streams import TARGET_S
from benchmarks.length_texts import Measured
from flyball.controller.contract import Cost, HostInfo, Outcomes
from flyball.controller.governor import Governor
from flyball.controller.policy_file import PolicyFile, load_policy

Floats = NDArray[np.float64]
Longs = NDArray[np.int64]

BATCH_SIZES = (1, 4, 16, 64, 256)
MAX_DRAFT_LEN = 16
KNEE = 160  # tokens of a step beyond which arithmetic binds
DRAFT_SHARE = 0.05  # of a target step, for a draft step
REQUEST_LEN = 300  # tokens
HOSTS = {
    "rectangle": HostInfo("rectangle", max_draft_len=MAX_DRAFT_LEN),
    "per_token": HostInfo(
        "per_token",
        max_draft_len=MAX_DRAFT_LEN,
        padded=False,
        mid_draft_stop=False,
        reads=False,
        rounds_overlap=True,
    ),
}
Job = tuple[str, int, int, int]


@dataclass(frozen=True)
class Lanes:
    """Requests that run side by side, one after the other in each lane.

    Attributes:
        run: (n, t) proposals in a row that would be accepted from each position.
        confidence: (n, t) the draft's largest probability.
    """

    run: Longs
    confidence: Floats


def make_lanes(seed: int, batch_size: int, size: int) -> Lanes:
    """Requests with an acceptance of their own, drafts that know it in part."""
    rng = np.random.default_rng([seed, batch_size])
    own = np.clip(rng.beta(2.0, 0.8, (batch_size, size // REQUEST_LEN)), 0.02, 0.98)
    base = np.log(own / (1.0 - own)).repeat(REQUEST_LEN, axis=1)
    truth = 1.0 / (1.0 + np.exp(-base - rng.normal(0.0, 1.0, base.shape)))
    match = rng.random(truth.shape) < truth
    odds = np.log(truth / (1.0 - truth)) + rng.normal(0.0, 0.7, truth.shape)
    run = np.zeros((batch_size, size + 1), np.int64)
    for position in range(size - 1, -1, -1):
        following = run[:, position + 1] * ((position + 1) % REQUEST_LEN > 0)
        run[:, position] = match[:, position] * (1 + following)
    return Lanes(run[:, :-1], 1.0 / (1.0 + np.exp(-odds)))


def verify_s(num_tokens: float) -> float:
    """Seconds of a target step over so many tokens."""
    return float(TARGET_S * (1.0 + (num_tokens / KNEE) ** 4) ** 0.25)


def draft_step_s(batch_size: int) -> float:
    """Seconds of a draft step."""
    return float(DRAFT_SHARE * TARGET_S * (1.0 + (batch_size / (4 * KNEE)) ** 4) ** 0.25)


def walk(lanes: Lanes, host: HostInfo, policy: PolicyFile) -> Walk:
    """A governor with this policy until the first lane is at its end."""
    governor = Governor(policy, host, clock=lambda: 0.0)
    num_lanes, size = lanes.run.shape
    at, lane = np.zeros(num_lanes, np.int64), np.arange(num_lanes)
    slots = governor.admit(num_lanes)
    tokens, lengths, seconds = [], [], []
    while at.max() < size:
        plan = governor.plan(slots)
        room = REQUEST_LEN - at % REQUEST_LEN
        length = np.minimum(plan.draft_len, room)
        if governor.wants_confidence:
            length = _draft(governor, plan.step_id, lanes, at, length)
        width = int(length.max())
        accepted = np.minimum(lanes.run[lane, at], length)
        emitted = np.minimum(accepted + 1, room)
        verified = num_lanes * (width + 1) if host.padded else int(length.sum()) + num_lanes
        drafting, verifying = width * draft_step_s(num_lanes), verify_s(verified)
        place = np.minimum(at[:, None] + np.arange(width), size - 1)
        governor.observe(
            Outcomes(
                plan.step_id,
                slots,
                length.astype(np.int32),
                accepted.astype(np.int32),
                np.minimum(accepted + 1, length).astype(np.int32),
                lanes.confidence[lane[:, None], place] if governor.wants_confidence else None,
            ),
            Cost(
                plan.step_id,
                drafting + verifying,
                num_lanes,
                verified / num_lanes,
                width,
                drafting,
                verifying,
            ),
        )
        tokens.append(int(emitted.sum()))
        lengths.append(width)
        seconds.append(drafting + verifying)
        at += emitted
        ended = at % REQUEST_LEN == 0
        if ended.any():
            governor.release(slots[ended])
            slots[ended] = governor.admit(int(ended.sum()))
    if governor.faults:
        raise RuntimeError(f"policy {policy.length.policy} had faults: {governor.faults}")
    return Walk(np.array(tokens), np.array(lengths), np.array(seconds))


def _draft(governor: Governor, step_id: int, lanes: Lanes, at: Longs, length: Longs) -> Longs:
    """Lengths (n,) after the policy was asked at each position."""
    length = length.copy()
    for position in range(1, int(length.max(initial=0))):
        rows = np.flatnonzero(length > position)
        if len(rows) == 0:
            break
        sure = lanes.confidence[rows, at[rows] + position - 1]
        length[rows[governor.stop(step_id, rows, position, sure)]] = position
    return length


def run(seeds: range, quick: bool) -> Measured:
    """Walk, print, and give the table."""
    size = 3 if quick else 10
    jobs = [
        (host, batch_size, seed, size * REQUEST_LEN)
        for host in HOSTS
        for batch_size in BATCH_SIZES
        for seed in seeds
    ]
    rows = report.in_parallel(_compare, jobs)
    table = _table(rows)
    report.print_table("rate, of the best constant length in hindsight", table, tuple(table[0]))
    return rows, {line.pop("policy"): line for line in table}


def _compare(job: Job) -> list[dict[str, Any]]:
    """Constant lengths and policies on the same lanes."""
    host, batch_size, seed, size = job
    lanes = make_lanes(seed, batch_size, size)
    sections: dict[str, dict[str, Any]] = {
        f"static {length}": {"policy": "static", "draft_len": length}
        for length in (*range(9), 12, 16)
    }
    sections |= {name: {"policy": name} for name in ("heuristic", "gamma_tune", "nightjar")}
    files = {
        name: load_policy({"version": 1, "length": {"max_draft_len": MAX_DRAFT_LEN, **section}})
        for name, section in sections.items()
    }
    length = {"policy": "goodput", "max_draft_len": MAX_DRAFT_LEN}
    files["goodput"] = load_policy(
        {"version": 1, "length": length, "governor": {"follow": "length"}}
    )
    files["default"] = load_policy({"version": 1, "length": length})
    rates = {name: walk(lanes, HOSTS[host], file).rate for name, file in files.items()}
    best = max((name for name in rates if name.startswith("static")), key=rates.__getitem__)
    return [
        {
            "host": host,
            "batch_size": batch_size,
            "seed": seed,
            "policy": name,
            "rate": rate,
            "best_static": best,
            "vs_best_static": rate / rates[best],
            "vs_static_0": rate / rates["static 0"],
        }
        for name, rate in rates.items()
    ]


def _table(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean ratio to the best constant length, by policy, host and batch size."""
    found = []
    for policy in dict.fromkeys(row["policy"] for row in rows):
        line: dict[str, Any] = {"policy": policy}
        for host in HOSTS:
            for batch_size in BATCH_SIZES:
                ratios = [
                    row["vs_best_static"]
                    for row in rows
                    if (row["policy"], row["host"], row["batch_size"])
                    == (policy, host, batch_size)
                ]
                line[f"{host} {batch_size}"] = float(np.mean(ratios))
        found.append(line)
    return found
