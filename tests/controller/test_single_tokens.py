"""Drafts of one token must not be for ever because they show nothing of a second one."""

import numpy as np

from flyball.controller.governor import Cost, Governor, HostInfo, Outcomes
from flyball.controller.policy_file import load_policy

TARGET_S, DRAFT_S = 0.01, 0.0025  # a dear draft: a second token has to be likely
POLICY = {
    "version": 1,
    "length": {"policy": "goodput", "max_draft_len": 8},
    "governor": {"follow": "length"},
}


def decode(governor: Governor, num_rounds: int, truth: np.ndarray, seed: int) -> np.ndarray:
    """Lengths of rounds of one request; a confidence that tells nothing."""
    rng, slots, row = np.random.default_rng(seed), governor.admit(1), np.zeros(1, np.intp)
    lengths, unread = [], 0
    for acceptance in truth[:num_rounds]:
        plan = governor.plan(slots)
        length, sure = int(plan.draft_len[0]), rng.beta(8.0, 2.0, (1, 8))
        for position in range(1, length):
            if governor.stop(plan.step_id, row, position, sure[:, position - 1])[0]:
                length = position
                break
        accepted = min(int((rng.random(8) < acceptance).cumprod().sum()), length)
        counts = [np.array([n], np.int32) for n in (length, accepted, min(accepted + 1, length))]
        round_s = TARGET_S + length * DRAFT_S
        governor.observe(
            Outcomes(plan.step_id, slots, *counts, sure[:, :length]),
            Cost(plan.step_id, round_s, 1, length + 1, length, length * DRAFT_S, TARGET_S),
        )
        lengths.append(length)
        unread = 0 if length else unread + 1
        if unread >= governor.read_every():
            governor.read(slots, (rng.random((1, unread)) < acceptance).astype(np.float64))
            unread = 0
    governor.release(slots)
    assert governor.faults == {}
    return np.array(lengths)


def test_a_slow_drift_from_bad_to_good_is_followed_from_one_token_on() -> None:
    truth = np.concatenate([np.full(300, 0.4), np.linspace(0.4, 0.95, 600), np.full(300, 0.95)])
    for seed in range(4):
        governor = Governor(load_policy(POLICY), HostInfo("test", max_draft_len=8), lambda: 0.0)
        lengths = decode(governor, len(truth), truth, seed)
        assert lengths[200:300].mean() < 1.6
        assert lengths[-200:].mean() > 3.0
