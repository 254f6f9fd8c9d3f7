"""Several rounds handed in at once."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flyball.controller.contract import Cost, Outcomes
from flyball.controller.governor import Governor, HostInfo
from flyball.controller.history import History
from flyball.controller.policy_file import load_policy
from flyball.controller.trace import read_trace

LIMIT = 4


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def cost(step_s: float, step_id: int) -> Cost:
    return Cost(step_id, step_s, 5, 4, 3)


def one_round(rng: np.random.Generator, step_id: int, slots: np.ndarray) -> Outcomes:
    proposed = rng.integers(0, LIMIT + 1, len(slots), np.int32)
    accepted = rng.integers(0, proposed + 1, dtype=np.int32)
    return Outcomes(step_id, slots, proposed, accepted, np.minimum(accepted + 1, proposed))


def joined(rounds: list[Outcomes], costs: list[Cost | None] | None = None) -> History:
    names = ("slots", "proposed", "accepted", "observed")
    return History(
        Outcomes(
            rounds[0].step_id,
            *(np.concatenate([getattr(rows, name) for rows in rounds]) for name in names),
        ),
        [rows.step_id for rows in rounds],
        [len(rows.slots) for rows in rounds],
        costs or [None] * len(rounds),
    )


def columns(rows: Outcomes) -> tuple[int, list[list[int]]]:
    names = ("slots", "proposed", "accepted", "observed")
    return rows.step_id, [getattr(rows, name).tolist() for name in names]


def test_it_is_the_rounds_that_were_joined() -> None:
    rng = np.random.default_rng(0)
    rounds = [
        one_round(rng, 5 + i // 2, ints(*range(size))) for i, size in enumerate([3, 0, 1, 7])
    ]
    history = joined(rounds)
    assert [columns(rows) for rows, _ in history] == [columns(rows) for rows in rounds]
    assert history.plans().tolist() == [5, 5, 5, 6, *[6] * 7]
    keep = rng.random(11) < 0.5
    parts = np.split(keep, np.cumsum([3, 0, 1]))
    expected = [rows.only(part) for rows, part in zip(rounds, parts, strict=True)]
    kept = history.only(keep)
    assert [columns(rows) for rows, _ in kept] == [columns(rows) for rows in expected]


@pytest.mark.parametrize("policy", ["goodput", "heuristic"])
def test_the_governor_learns_what_it_learns_from_one_after_the_other(policy: str) -> None:
    lengths = {"policy": policy, "max_draft_len": LIMIT}
    host = HostInfo("test", LIMIT, padded=False, mid_draft_stop=False, feedback_delay=8)
    single, many = (
        Governor(load_policy({"version": 1, "length": lengths}), host, lambda: 0.0)
        for _ in range(2)
    )
    rng = np.random.default_rng(1)
    for governor in (single, many):
        slots = governor.admit(5)
    for _ in range(30):
        plans = [governor.plan(slots) for governor in (single, many)]
        assert plans[0].draft_len.tolist() == plans[1].draft_len.tolist()
        rounds = [one_round(rng, plans[0].step_id, slots) for _ in range(16)]
        rounds[3].proposed[2] = -1  # cannot be true
        for rows in rounds:
            single.observe(rows)
        many.observe_many(joined(rounds))
        plan_cost = cost(1e-3 * (4 + float(plans[0].draft_len.max())), plans[0].step_id)
        single.observe(joined(rounds[:1]).outcomes.only(slice(0, 0)), plan_cost)
        nothing = rounds[0].only(slice(0, 0))
        many.observe_many(joined([nothing], [plan_cost]))
    assert single.faults == many.faults == {"outcomes": 30}


@pytest.mark.parametrize(
    "changes",
    [
        {"step_ids": [1, 1]},
        {"num_rows": [2, 2]},
        {"num_rows": [2, 2, 3]},
        {"num_rows": [2, 5, -1]},
        {"costs": []},
    ],
)
def test_rounds_that_do_not_fit_are_dropped_and_no_policy_is_blamed(
    changes: dict[str, Any],
) -> None:
    file = load_policy({"version": 1, "length": {"policy": "heuristic"}})
    governor = Governor(file, HostInfo("test", LIMIT), lambda: 0.0)
    rng = np.random.default_rng(3)
    slots = governor.admit(2)
    rounds = [one_round(rng, governor.plan(slots).step_id, slots) for _ in range(3)]
    governor.observe_many(replace(joined(rounds), **changes))
    assert governor.faults == {"outcomes": 1}
    assert governor.plan(slots).draft_len.any()  # not benched


def test_a_trace_has_every_round_with_its_seconds_and_the_policy_that_planned(
    tmp_path: Path,
) -> None:
    governor = Governor(
        load_policy(
            {
                "version": 1,
                "length": {"policy": "static", "draft_len": 2},
                "trace": {"dir": str(tmp_path)},
            }
        ),
        HostInfo("test", LIMIT),
    )
    rng = np.random.default_rng(2)
    slots = governor.admit(2)
    step_id = governor.plan(slots).step_id
    rounds = [one_round(rng, step_id, slots) for _ in range(3)]
    governor._seat._file = load_policy({"version": 1, "length": {"policy": "goodput"}})
    governor.observe_many(joined(rounds, [cost(0.5, step_id), None, cost(0.25, step_id)]))
    governor.close()
    table = read_trace(tmp_path)
    assert table["step_s"].to_pylist()[::2] == pytest.approx([0.5, np.nan, 0.25], nan_ok=True)
    assert set(table["policy"].to_pylist()) == {"static/1"}
    assert table["accepted"].to_pylist() == [n for rows in rounds for n in rows.accepted.tolist()]
