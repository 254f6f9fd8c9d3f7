"""Faults inside Flyball change no token and fail no call; those of a disk neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_texts import random_models, random_rows

from flyball.controller.trace_format import read_trace
from flyball.integrations.hf import GovernedGenerate, govern

NUM_FAULTS = 500


def broken(kind: int, right: Any, rng: np.random.Generator) -> Any:
    """Something that a policy or an estimator must not answer."""
    if kind == 0:
        raise RuntimeError("injected")
    if kind == 1:
        return np.full(np.shape(right), np.nan)
    if kind == 2:
        return np.full(np.shape(right), rng.choice([-3, 65, 10**9]), np.int32)
    if kind == 3:
        return np.zeros(len(right) + 1, np.int32)
    return [[None]]


class Saboteur:
    """Makes methods fail now and then, in every way there is; counts how often."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.count = 0

    def sabotage(self, thing: Any, name: str, odds: float) -> None:
        method = getattr(thing, name)

        def failing(*args: Any, **kwargs: Any) -> Any:
            right = method(*args, **kwargs)
            if self.rng.random() > odds:
                return right
            self.count += 1
            return broken(int(self.rng.integers(0, 5)), [0] if right is None else right, self.rng)

        setattr(thing, name, failing)


def sabotage_all(gov: GovernedGenerate, saboteur: Saboteur) -> None:
    """Policies and estimators fail, and no bench keeps them from failing again at once."""
    governor: Any = gov.governor
    governor._guard.bench = lambda _: None
    seat = governor._seat
    hire = seat.hire

    def hired() -> Any:
        policy = hire()
        for name in ("decide", "stop", "learn", "admit"):
            saboteur.sabotage(policy, name, 0.2)
        return policy

    seat.hire = hired
    seat.policy = None
    beliefs = governor._beliefs
    for draft in beliefs._drafts.drafts.values():
        for name in ("survival", "effects", "note", "learn", "read"):
            saboteur.sabotage(draft, name, 0.05)
    saboteur.sabotage(beliefs._costs.estimator, "update", 0.05)
    saboteur.sabotage(beliefs._costs.estimator, "round_s", 0.05)


def test_500_faults_change_no_token() -> None:
    target, draft = random_models("qwen2")
    rows = random_rows(6)
    expected = [
        target.generate(row[None], max_new_tokens=60, do_sample=False)[0].tolist() for row in rows
    ]
    saboteur, calls = Saboteur(11), 0
    while saboteur.count < NUM_FAULTS:
        gov = govern(target, [draft, "prompt_lookup"])
        sabotage_all(gov, saboteur)
        out = gov.generate_many(rows, batch_size=3, max_new_tokens=60, do_sample=False)
        assert [text.tolist() for text in out] == expected
        assert sum(gov.governor.faults.values()) > 0
        calls += 1
    assert calls > 3


def record(directory: Path, target: Any, draft: Any, ids: torch.Tensor) -> Any:
    policy = {"version": 1, "trace": {"dir": str(directory)}}
    with govern(target, [draft, "prompt_lookup"], policy=policy) as gov:
        out = gov.generate(ids, max_new_tokens=40, do_sample=False)
    return out.tolist(), gov


@pytest.mark.parametrize("place", ["below a file", "is a file"])
def test_a_trace_that_cannot_be_written_changes_nothing(tmp_path: Path, place: str) -> None:
    target, draft = random_models("qwen2")
    ids = random_rows(1)[0][None]
    expected = target.generate(ids, max_new_tokens=40, do_sample=False).tolist()
    (tmp_path / "file").write_text("")
    directory = tmp_path / "file" / "trace" if place == "below a file" else tmp_path / "file"
    out, gov = record(directory, target, draft, ids)
    assert out == expected
    assert gov.governor._recording._recorder.dropped == gov.stats.num_rounds


def test_a_trace_holds_every_round(tmp_path: Path) -> None:
    target, draft = random_models("qwen2")
    rounds: list[Any] = []
    policy = {"version": 1, "trace": {"dir": str(tmp_path / "trace")}}
    rows = random_rows(5)
    with govern(target, [draft, "prompt_lookup"], policy=policy, on_round=rounds.append) as gov:
        out = gov.generate_many(rows, batch_size=2, max_new_tokens=40, do_sample=False)
    table = read_trace(tmp_path / "trace").to_pydict()
    assert len(table["request"]) == sum(len(r.draft_len) for r in rounds)
    assert sum(table["proposed"]) == gov.stats.num_drafted
    assert sum(table["accepted"]) == gov.stats.num_accepted
    assert set(table["engine"]) == {"transformers"}
    assert set(table["draft"]) <= {"model 0", "prompt_lookup", None}
    for request, (row, text) in enumerate(zip(rows, out, strict=True)):
        mine = [i for i, r in enumerate(table["request"]) if r == request]
        positions = [table["position"][i] for i in mine]
        assert positions[0] == 1
        assert positions == sorted(positions)
        assert [table["context_len"][i] - len(row) for i in mine] == positions
        last = mine[-1]
        assert positions[-1] + table["accepted"][last] + 1 >= len(text) - len(row)
