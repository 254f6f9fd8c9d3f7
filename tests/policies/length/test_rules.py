"""Each policy follows the rule that its source states."""

from typing import Any

import numpy as np
import pytest

from flyball.controller.policy_file import PolicyFileError, load_policy
from flyball.policies.length.base import LengthPolicy, Progress, RoundResult, View

COSTS = 1.0 + 0.3 * np.arange(17)
PROBABILITY = 0.8  # of a token
BEST = int(((1 - PROBABILITY ** (np.arange(17) + 1)) / (1 - PROBABILITY) / COSTS).argmax())


def make(name: str, **settings: Any) -> LengthPolicy:
    section = {"policy": name, **settings}
    return load_policy({"version": 1, "length": section}).make_length_policy()


def view(num_requests: int = 1, max_draft_len: int = 16) -> View:
    round_s = COSTS[: max_draft_len + 1]
    return View(
        slots=np.arange(num_requests, dtype=np.int32),
        max_draft_len=max_draft_len,
        can_stop=True,
        padded=True,
        survival=np.full((num_requests, max_draft_len), 0.5),
        round_s=round_s,
        marginal_s=np.diff(round_s),
        verify_marginal_s=np.diff(round_s) / 2,
        price=2.0,
        weight=np.ones(num_requests),
        best_len=3,
        probe_len=None,
    )


def progress(
    position: int, survival: float, confidence: float, entropy: float = np.nan
) -> Progress:
    column = (np.array([value]) for value in (survival, 0.9, confidence, entropy))
    return Progress(view(), np.array([0]), position, *column)


def result(proposed: int, accepted: int) -> RoundResult:
    column = (np.array([value], np.int32) for value in (0, proposed, accepted))
    return RoundResult(*column)


def play(policy: LengthPolicy, num_rounds: int, probability: float, rng: Any) -> list[int]:
    lengths = []
    for _ in range(num_rounds):
        length = int(policy.decide(view())[0])
        run = int(rng.geometric(1.0 - probability)) - 1
        policy.learn(result(length, min(run, length)))
        lengths.append(length)
    return lengths


def test_gamma_tune_adds_two_or_follows_the_mean() -> None:
    policy = make("gamma_tune", start_draft_len=4)
    policy.admit(np.array([0], np.int32))
    lengths = []
    for accepted in (4, 6, 8, 0, 10, 3):
        length = int(policy.decide(view())[0])
        lengths.append(length)
        policy.learn(result(length, min(accepted, length)))
    # 4 is accepted in full, 6 too, then 8, then nothing of 10: mean 0.7 * 4, and so on.
    assert lengths == [4, 6, 8, 10, 3, 5]


def test_threshold_ends_where_the_draft_is_unsure() -> None:
    policy = make("threshold", min_confidence=0.6)
    assert int(policy.decide(view())[0]) == 16
    assert not policy.stop(progress(1, 0.1, 0.61))[0]
    assert policy.stop(progress(1, 0.9, 0.59))[0]


def test_survival_ends_where_a_rejection_is_likely() -> None:
    policy = make("survival", max_risk=0.3, min_draft_len=2)
    assert not policy.stop(progress(1, 0.1, 0.9))[0]
    assert not policy.stop(progress(2, 0.71, 0.1))[0]
    assert policy.stop(progress(2, 0.69, 0.99))[0]


def test_survival_at_the_price_of_the_next_token() -> None:
    policy = make("survival", max_risk="price", min_draft_len=0)
    # The next token costs 0.3 s at 2 tokens a second.
    assert not policy.stop(progress(1, 0.61, 0.5))[0]
    assert policy.stop(progress(1, 0.59, 0.5))[0]


def test_svip_ends_where_the_entropy_is_high() -> None:
    policy = make("svip")
    assert not policy.stop(progress(1, 0.1, 0.1, entropy=0.59))[0]
    assert policy.stop(progress(1, 0.9, 0.9, entropy=0.61))[0]  # 0.15 x 0.6 = 0.3 squared


@pytest.mark.parametrize("name", ["svip", "adaedl"])
def test_an_unknown_entropy_ends_no_draft(name: str) -> None:
    policy = make(name)
    policy.admit(np.array([0], np.int32))
    assert not policy.stop(progress(1, 0.1, 0.1))[0]


def test_adaedl_moves_its_bound_towards_the_target_acceptance() -> None:
    policy = make("adaedl", start_bound=0.5)
    policy.admit(np.array([0], np.int32))
    at_bound = 0.5**2 / 0.2  # entropy whose promise is the bound
    assert not policy.stop(progress(1, 0.9, 0.9, entropy=at_bound - 0.01))[0]
    assert policy.stop(progress(1, 0.9, 0.9, entropy=at_bound + 0.01))[0]
    for _ in range(100):  # too little is accepted: it becomes stricter, by 0.001 a round
        policy.learn(result(8, 2))
    assert policy.stop(progress(1, 0.9, 0.9, entropy=at_bound - 0.2))[0]
    for _ in range(300):
        policy.learn(result(8, 8))
    assert not policy.stop(progress(1, 0.9, 0.9, entropy=at_bound + 0.2))[0]


def test_a_table_goes_by_batch_size() -> None:
    policy = make("batch_table", table=[[1, 2, 7], [3, 8, 4], [9, 32, 0]])
    found = [int(policy.decide(view(size))[0]) for size in (1, 2, 3, 8, 9, 32, 99)]
    assert found == [7, 7, 4, 4, 0, 0, 0]


@pytest.mark.parametrize(
    "table", [[], [[2, 4, 1]], [[1, 4, 1], [6, 8, 0]], [[1, 4]], [[4, 1, 0]], [[1, 4, 99]]]
)
def test_a_table_with_a_gap_is_refused_in_one_line(table: list[list[int]]) -> None:
    with pytest.raises(PolicyFileError) as error:
        make("batch_table", table=table)
    assert "table" in str(error.value)


@pytest.mark.parametrize("name", ["ucb", "exp3", "thompson", "nightjar"])
def test_a_bandit_finds_a_good_length(name: str) -> None:
    rng = np.random.default_rng(0)
    lengths = play(make(name), 4000, PROBABILITY, rng)
    value = (1 - PROBABILITY ** (np.arange(17) + 1)) / (1 - PROBABILITY) / COSTS
    late = value[lengths[3000:]].mean() / value[BEST]
    assert late > 0.9


@pytest.mark.parametrize("arms", [[], [2, 1], [1, 1], [-1, 2], [9, 12]])
def test_arms_that_cannot_be_played_are_refused_in_one_line(arms: list[int]) -> None:
    with pytest.raises(PolicyFileError) as error:
        make("ucb", arms=arms, max_draft_len=8)
    assert "arms" in str(error.value)
    assert "\n" not in str(error.value)


def test_tapout_tries_every_rule_and_keeps_to_the_best() -> None:
    policy: Any = make("tapout")
    slots = np.arange(7, dtype=np.int32)
    policy.admit(slots)
    assert sorted(policy._rule.values[slots]) == list(range(7))
    for _ in range(400):  # only rule 2 gets anything accepted
        accepted = np.where(policy._rule.values[slots] == 2, 8, 0).astype(np.int32)
        policy.learn(RoundResult(slots, np.full(7, 8, np.int32), accepted))
    policy.admit(slots)
    assert (policy._rule.values[slots] == 2).all()


@pytest.mark.parametrize("risk", [-0.1, 1.1, "dear"])
def test_a_risk_that_is_none_is_refused(risk: object) -> None:
    with pytest.raises(PolicyFileError):
        make("survival", max_risk=risk)


def test_every_arm_of_ucb_has_a_bonus_of_its_own() -> None:
    policy: Any = make("ucb", arms=[0, 1, 2])
    for arm, plays in enumerate((50, 50, 2)):
        for _ in range(plays):
            policy.credit(arm, 0.5)
    assert policy.pick(3) == 2


def test_a_bandit_comes_back_from_length_0() -> None:
    rng = np.random.default_rng(1)
    policy = make("thompson")
    assert np.mean(play(policy, 1500, 0.02, rng)[1000:]) < 1.5
    assert np.mean(play(policy, 3000, 0.95, rng)[2000:]) > 5


def test_nightjar_minds_what_coming_back_costs() -> None:
    def starts(switch_cost: float) -> int:
        policy = make("nightjar", switch_cost=switch_cost, arms=[0, 2])
        lengths = play(policy, 3000, 0.31, np.random.default_rng(2))
        return sum(a == 0 < b for a, b in zip(lengths, lengths[1:], strict=False))

    assert starts(5.0) <= starts(0.0)


def test_random_choices_are_reproducible() -> None:
    for name in ("exp3", "thompson", "nightjar"):
        runs = [play(make(name, seed=7), 200, 0.7, np.random.default_rng(3)) for _ in range(2)]
        assert runs[0] == runs[1]
