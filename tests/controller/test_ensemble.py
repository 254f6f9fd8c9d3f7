"""The ensemble's seat: what it lets through, and what a reload changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flyball.controller.ensemble import Ensemble
from flyball.controller.errors import PolicyFileError
from flyball.controller.governor import Governor, HostInfo
from flyball.controller.policy_file import PolicyFile, load_policy
from flyball.estimators.slots import SlotPool

SLOTS = np.array([0], np.int32)


def file(policy: str, **settings: Any) -> PolicyFile:
    return load_policy({"version": 1, "ensemble": {"policy": policy, **settings}})


def make(policy: str, **settings: Any) -> Ensemble:
    pool = SlotPool()
    pool.take(1, 0)
    return Ensemble(file(policy, **settings), 2, pool)


def test_late_evidence_of_another_kind_is_not_learned() -> None:
    ensemble = make("tabed")
    before = ensemble.decide(SLOTS, True)
    ensemble.learn(SLOTS, np.zeros(4, np.intp), "ascent", np.tile([1.0, 0.0], (4, 1)), True)
    assert ensemble.decide(SLOTS, True).tolist() == before.tolist()
    ensemble.reload(file("accept_ascent"))
    ensemble.learn(SLOTS, np.zeros(4, np.intp), "ascent", np.tile([1.0, 0.0], (4, 1)), True)
    assert ensemble.decide(SLOTS, True)[0, 0] > 0.6


def test_a_host_without_members_says_that_it_leaves_the_section_aside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    Governor(load_policy({"version": 1}), HostInfo("test"))
    assert not caplog.text
    Governor(file("accept_ascent"), HostInfo("test"))
    assert "ensemble: left aside" in caplog.text


def test_what_does_not_suit_the_members_stays_out(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PolicyFileError, match="expected 2 weights for as many drafts, but got 3"):
        make("static", weights=[0.2, 0.3, 0.5])
    ensemble = make("static", weights=[0.2, 0.8])
    ensemble.reload(file("static", weights=[0.2, 0.3, 0.5]))
    ensemble.reload(load_policy(None))
    assert ensemble.decide(SLOTS, False).tolist() == [[0.2, 0.8]]
    assert caplog.text.count("the policy in force stays") == 2
    ensemble.reload(file("static", weights=[0.9, 0.1]))
    assert ensemble.decide(SLOTS, False).tolist() == [[0.9, 0.1]]
