"""Finished drafts are cut before their verification, by how sure the draft was."""

from __future__ import annotations

import numpy as np
import pytest

from flyball.controller.contract import Cost, HostInfo, Outcomes, Plan
from flyball.controller.governor import Governor
from flyball.controller.policy_file import load_policy

WIDTH, REQUESTS = 6, 12
STEP_S, DRAFT_S, TOKEN_S = 4e-3, 2e-4, 6e-5  # of a step, a drafted token, a verified one


def make(policy: str = "goodput", **section: float) -> Governor:
    length = {"policy": policy, "max_draft_len": WIDTH, **section}
    host = HostInfo("test", WIDTH, padded=False, mid_draft_stop=False, trims=True, reads=False)
    return Governor(load_policy({"version": 1, "length": length}), host, clock=lambda: 0.0)


class Served:
    """Requests whose drafts are right as often as the draft is sure of them."""

    def __init__(self, governor: Governor, seed: int = 3, token_s: float = TOKEN_S) -> None:
        self.governor, self.token_s = governor, token_s
        self.rng = np.random.default_rng(seed)
        self.slots = governor.admit(REQUESTS)

    def round(self) -> tuple[Plan, np.ndarray, np.ndarray]:
        """A plan, how sure the drafts were, and the lengths that were verified."""
        plan = self.governor.plan(self.slots)
        sure = self.rng.choice([0.1, 0.6, 0.95], (REQUESTS, WIDTH))
        rows = np.flatnonzero(plan.draft_len)
        lengths = plan.draft_len.copy()
        foreseen = np.full(REQUESTS, np.nan)
        lengths[rows], foreseen[rows] = self.governor.trim(
            plan.step_id, rows, lengths[rows], sure[rows]
        )
        right = self.rng.random(sure.shape) < sure
        accepted = np.minimum(right.cumprod(axis=1).sum(axis=1), lengths).astype(np.int32)
        observed = np.minimum(accepted + 1, lengths)
        steps, verified = int(plan.draft_len.max()), 1.0 + lengths.mean()
        cost = Cost(
            plan.step_id,
            STEP_S + DRAFT_S * steps + self.token_s * verified * REQUESTS,
            REQUESTS,
            verified,
            steps,
            draft_s=DRAFT_S * steps,
            verify_s=STEP_S + self.token_s * verified * REQUESTS,
        )
        self.governor.observe(
            Outcomes(
                plan.step_id, self.slots, lengths, accepted, observed, sure, foreseen=foreseen
            ),
            cost,
        )
        return plan, sure, lengths


@pytest.fixture(scope="module")
def served() -> Served:
    served = Served(make())
    for _ in range(300):
        served.round()
    assert served.governor.faults == {}
    return served


def test_a_rule_on_confidence_ends_each_draft_with_its_first_unsure_token() -> None:
    served = Served(make("threshold", min_confidence=0.5))
    for _ in range(20):
        plan, sure, lengths = served.round()
        assert (plan.draft_len == WIDTH).all()
        unsure = np.concatenate([sure < 0.5, np.ones((REQUESTS, 1), bool)], axis=1)
        assert (lengths == np.minimum(unsure.argmax(axis=1) + 1, WIDTH)).all()


def test_what_is_not_worth_its_verification_is_cut(served: Served) -> None:
    rounds = [served.round() for _ in range(100)]
    planned = np.concatenate([plan.draft_len for plan, _, _ in rounds])
    sure = np.concatenate([sure for _, sure, _ in rounds])
    lengths = np.concatenate([lengths for _, _, lengths in rounds])
    assert (lengths <= planned).all()
    assert (lengths[planned > 0] >= 1).all()
    several, both = planned > 1, sure[:, 0] * sure[:, 1]
    assert (lengths[several & (both < 0.09)] == 1).mean() > 0.95
    assert (lengths[several & (both > 0.5)] > 1).mean() > 0.95


def test_a_cut_depends_on_nothing_after_it_and_asking_again_changes_nothing(
    served: Served,
) -> None:
    plan = served.governor.plan(served.slots)
    rows, longest = np.arange(REQUESTS), np.full(REQUESTS, WIDTH, np.int32)
    cuts = set()
    for _ in range(50):
        sure = served.rng.choice([0.1, 0.6, 0.95], (REQUESTS, WIDTH))
        lengths, _ = served.governor.trim(plan.step_id, rows, longest, sure)
        later = np.arange(WIDTH) > lengths[:, None]  # the next token's sign is known, too
        other = np.where(later, served.rng.random(sure.shape), sure)
        again, _ = served.governor.trim(plan.step_id, rows, longest, other)
        # What comes after the cut was looked at only where the draft went on, and ends no sooner.
        assert (again == lengths)[lengths < WIDTH].all()
        cuts |= set(lengths.tolist())
        part = np.sort(served.rng.permutation(REQUESTS)[:5])
        alone, _ = served.governor.trim(plan.step_id, part, longest[part], sure[part])
        assert (alone == lengths[part]).all()
    assert len(cuts) > 2


def test_what_is_cut_does_not_make_the_rest_look_better(served: Served) -> None:
    rounds = [served.round() for _ in range(200)]
    cut = np.concatenate([plan.draft_len > lengths for plan, _, lengths in rounds])
    assert cut.mean() > 0.2
    right = np.mean([0.1, 0.6, 0.95])
    survival = view_survival(served)
    assert survival[0] == pytest.approx(right, abs=0.06)
    assert survival[1] == pytest.approx(right**2, abs=0.06)


def view_survival(served: Served) -> np.ndarray:
    """Mean over requests of what is believed of each position."""
    view = served.governor.view
    assert view is not None
    return view.survival.mean(axis=0)


def test_drafts_of_another_plan_are_left_alone(served: Served) -> None:
    plan = served.governor.plan(served.slots)
    lengths = np.full(REQUESTS, 4, np.int32)
    unsure = np.full((REQUESTS, WIDTH), 0.01)
    rows = np.arange(REQUESTS)
    assert (served.governor.trim(plan.step_id - 1, rows, lengths, unsure)[0] == 4).all()
    assert (served.governor.trim(plan.step_id, rows, lengths, unsure)[0] == 1).all()


def test_nothing_is_asked_where_little_could_be_saved() -> None:
    served = Served(make(), token_s=1e-7)
    rounds = [served.round() for _ in range(60)][20:]
    assert all((lengths == plan.draft_len).all() for plan, _, lengths in rounds)
    assert max(plan.draft_len.max() for plan, _, _ in rounds) > 1


def test_rules_on_entropies_are_not_asked_for_nobody_knows_them() -> None:
    assert make("threshold").wants_confidence
    assert not make("svip").wants_confidence and not make("svip").wants_entropy


def test_a_slow_answer_counts_once_a_plan_however_long_that_is_held() -> None:
    governor = make("threshold", min_confidence=0.0)
    now_s = 0.0

    def clock() -> float:
        nonlocal now_s
        now_s += 0.003  # every look at it takes a while
        return now_s

    served = Served(governor)
    governor._clock = clock
    for _ in range(5):
        served.round()
        plan, rows = governor._steps.latest, np.arange(REQUESTS)
        for _ in range(20):
            lengths, sure = np.full(REQUESTS, WIDTH, np.int32), np.ones((REQUESTS, WIDTH))
            governor.trim(plan.step_id, rows, lengths, sure)
        assert plan.decision_s + plan.trim_s < 0.02
    assert governor.faults == {}


def test_a_fault_cuts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    served = Served(make("threshold"))
    plan, _, _ = served.round()
    policy = served.governor._seat.policy
    monkeypatch.setattr(policy, "stop", lambda progress: np.ones(3, bool))
    lengths = np.full(REQUESTS, 4, np.int32)
    unsure = np.full((REQUESTS, WIDTH), 0.01)
    rows = np.arange(REQUESTS)
    assert (served.governor.trim(plan.step_id, rows, lengths, unsure)[0] == 4).all()
    assert sum(served.governor.faults.values()) == 1
