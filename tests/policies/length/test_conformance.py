"""Every registered length policy obeys the contract."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from policy_sections import length_section

from flyball.controller.price import quote
from flyball.estimators.cost import marginal_seconds
from flyball.policies.length.base import LengthPolicy, Progress, RoundResult, View
from flyball.policies.registry import LENGTH_POLICIES


def make(name: str, max_draft_len: int) -> LengthPolicy:
    policy = LENGTH_POLICIES[name]
    return policy(policy.Settings(**length_section(name, max_draft_len)))


@st.composite
def views(draw: st.DrawFn) -> View:
    limit = draw(st.integers(1, 12))
    n = draw(st.integers(0, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    survival = rng.random((n, limit)).cumprod(axis=1)
    known = draw(st.booleans())
    round_s = rng.random(limit + 1) + 1e-4 if known else np.full(limit + 1, np.nan)
    tokens = np.pad(survival, ((0, 0), (1, 0)), constant_values=1.0).cumsum(axis=1)
    quoted = quote(tokens[None], round_s[None]) if known and n else None
    return View(
        slots=np.arange(n, dtype=np.int32),
        max_draft_len=limit,
        can_stop=draw(st.booleans()),
        padded=draw(st.booleans()),
        survival=survival,
        round_s=round_s,
        marginal_s=marginal_seconds(round_s),
        verify_marginal_s=0.7 * marginal_seconds(round_s),
        price=quoted.price if quoted else np.nan,
        weight=quoted.weight if quoted else np.ones(n),
        best_len=quoted.draft_len if quoted else 0,
        probe_len=draw(st.sampled_from([None, 0, limit])),
    )


@pytest.mark.parametrize("name", LENGTH_POLICIES)
@given(view=views(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=150, deadline=None)
def test_decisions_have_the_right_shape_and_bounds(name: str, view: View, seed: int) -> None:
    rng = np.random.default_rng(seed)
    policy = make(name, view.max_draft_len)
    policy.admit(view.slots)
    n = len(view.slots)
    for _ in range(3):
        lengths = policy.decide(view)
        assert lengths.shape == (n,)
        assert lengths.dtype == np.int32
        assert ((lengths >= 0) & (lengths <= view.max_draft_len)).all()
        rows = np.flatnonzero(lengths > 1)
        if policy.stops and len(rows):
            progress = Progress(view, rows, 1, *rng.random((4, len(rows))))
            stopped = policy.stop(progress)
            assert stopped.shape == rows.shape
            assert stopped.dtype == np.bool_
        seen = rng.random(n) < 0.7  # feedback may be missing for some
        accepted = np.minimum(rng.integers(0, 9, n), lengths).astype(np.int32)
        policy.learn(RoundResult(view.slots[seen], lengths[seen], accepted[seen]))


@pytest.mark.parametrize("name", LENGTH_POLICIES)
def test_slots_far_apart_are_served(name: str) -> None:
    policy = make(name, 4)
    slots = np.array([3, 500], np.int32)
    policy.admit(slots)
    one = np.ones(2, np.int32)
    policy.learn(RoundResult(slots, one, one))
