"""Each policy follows the rule that its source states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import beta

from flyball.controller.errors import PolicyFileError
from flyball.controller.policy_file import load_policy
from flyball.policies.rejection.base import Bools, Groups, Load, RejectionPolicy
from flyball.policies.rejection.consensus import votes

NAN = np.nan


def make(name: str, seed: int = 0, **settings: Any) -> RejectionPolicy:
    file = load_policy({"version": 1, "rejection": {"policy": name, **settings}})
    policy = file.make_rejection_policy(np.random.default_rng(seed))
    assert policy is not None
    return policy


def group(keep: int = 1, checks: int = 16, **state: Any) -> Groups:
    """One group; what is left out is as at the start, `score` is the one at the first checkpoint.

    Whoever has a score has passed the first checkpoint, whoever has a final one has ended.
    """
    n = max(len(values) for values in state.values())
    score = np.full((n, checks), NAN)
    score[:, 0] = state.pop("score", NAN)
    final = np.array(state.pop("final", [NAN] * n), np.float64)
    finished = np.array(state.pop("finished", ~np.isnan(final)), np.bool_)
    passed = np.array(state.pop("passed", ~np.isnan(score[:, 0])), np.int32)
    answer = np.array(state.pop("answer", [-1] * n), np.int32)
    stopped = np.array(state.pop("stopped", [False] * n), np.bool_)
    tokens = np.array(state.pop("tokens", 10 * (passed + finished)), np.int32)
    assert not state
    return Groups(
        keep=np.array([keep], np.int32),
        present=np.ones((1, n), np.bool_),
        score=score[None],
        final=final[None],
        num_tokens=tokens[None],
        num_passed=passed[None],
        finished=finished[None],
        stopped=stopped[None],
        answer=answer[None],
        drawn=np.zeros(1, np.bool_),
        audited=np.zeros(1, np.bool_),
    )


def stopped(policy: RejectionPolicy, groups: Groups, load: Load | None = None) -> list[int]:
    """Members of one group that a policy would stop, of those that go on."""
    stop: Bools = policy.decide(groups, load or Load()) & groups.alive
    return np.flatnonzero(stop[0]).tolist()


# first_finish


@pytest.mark.parametrize(
    ("finished", "num_finished", "keep", "expected"),
    [
        ([0, 0, 0], 1, 1, []),
        ([0, 1, 0], 1, 1, [0, 2]),
        ([0, 1, 0], 2, 1, []),
        ([1, 1, 0], 2, 1, [2]),
        ([0, 1, 0, 0], 1, 2, []),
        ([0, 1, 0, 1], 1, 2, [0, 2]),
    ],
)
def test_first_finish_waits_for_as_many_as_it_needs(
    finished: list[int], num_finished: int, keep: int, expected: list[int]
) -> None:
    policy = make("first_finish", num_finished=num_finished)
    assert stopped(policy, group(keep, finished=finished)) == expected


def test_first_finish_does_not_count_those_that_were_stopped() -> None:
    assert stopped(make("first_finish"), group(finished=[0, 0], stopped=[1, 0])) == []


# top_fraction


@pytest.mark.parametrize(
    ("num_members", "width", "keep", "num_kept"),
    [(16, 4, 1, 4), (16, 4, 6, 6), (5, 4, 1, 2), (4, 4, 1, 1), (3, 4, 1, 1), (2, 2, 1, 1)],
)
def test_top_fraction_keeps_the_best_share(
    num_members: int, width: int, keep: int, num_kept: int
) -> None:
    policy = make("top_fraction", width=width)
    assert policy.checks.tolist() == [64]
    score = np.random.default_rng(0).permutation(num_members).astype(float)
    found = stopped(policy, group(keep, 1, score=score))
    assert found == np.flatnonzero(score < num_members - num_kept).tolist()


def test_top_fraction_waits_until_all_that_go_on_have_passed_tau() -> None:
    policy = make("top_fraction", width=2)
    behind = {"score": [3.0, 2.0, 1.0, NAN]}
    assert stopped(policy, group(checks=1, **behind)) == []
    assert stopped(policy, group(checks=1, stopped=[0, 0, 0, 1], **behind)) == [2]
    ended = group(checks=1, final=[NAN, NAN, NAN, 2.5], **behind)
    assert stopped(policy, ended) == [1, 2]


def test_top_fraction_cuts_a_group_once() -> None:
    policy = make("top_fraction", width=2)
    score = [4.0, 3.0, 2.0, 1.0]
    assert stopped(policy, group(checks=1, score=score)) == [2, 3]
    assert stopped(policy, group(checks=1, score=score, stopped=[0, 0, 1, 1])) == []
    ended = group(checks=1, score=score, stopped=[0, 0, 1, 1], final=[-9.0, NAN, NAN, NAN])
    assert stopped(policy, ended) == []


def test_top_fraction_spares_whoever_has_no_score() -> None:
    policy = make("top_fraction", width=4)
    groups = group(checks=1, score=[3.0, NAN, 2.0, 1.0], passed=[1, 1, 1, 1])
    assert stopped(policy, groups) == [2, 3]


def test_top_fraction_takes_the_first_checkpoint_that_tells_enough() -> None:
    checks, length = [4, 16, 36, 49, 60], 64
    policy = make("top_fraction", tau=None, correlation=0.7, check_at_tokens=checks)
    assert policy.audits(np.ones(7, np.int32)).all()
    assert stopped(policy, group(checks=5, score=[9.0, 0.0], passed=[5, 5])) == []
    rng = np.random.default_rng(0)
    path = rng.normal(size=(40, 16, length)).cumsum(axis=2)
    learned = [
        group(checks=5, score=[0.0] * 16, final=one[:, -1], passed=[5] * 16) for one in path
    ]
    for one, found in zip(learned, path, strict=True):
        one.score[:] = found[:, np.array(checks) - 1]
        one.audited[:] = True
        policy.learn(one)
    # sqrt(16 / 64) = 0.5 and sqrt(36 / 64) = 0.75
    assert policy.figures == {"audited_groups": 40.0, "tau": 36.0}
    assert policy.audits(np.ones(4000, np.int32)).mean() == pytest.approx(0.05, abs=0.015)
    early = group(checks=5, score=[9.0, 8.0, 7.0, 6.0], passed=[2, 2, 2, 2])
    assert stopped(policy, early) == []
    late = group(checks=5, score=[9.0, 8.0, 7.0, 6.0], passed=[4, 3, 4, 4])
    late.score[0, :, 2] = [1.0, 2.0, NAN, 4.0]
    late.score[0, 2, 3] = 3.0  # one jumped tau and is judged by what came next
    assert stopped(policy, late) == [0, 1, 2]


def test_top_fraction_judges_nobody_where_no_checkpoint_tells_enough() -> None:
    policy = make("top_fraction", tau=None, check_at_tokens=[8])
    rng = np.random.default_rng(0)
    for _ in range(30):
        one = group(checks=1, score=rng.normal(size=8), final=rng.normal(size=8))
        one.audited[:] = True
        policy.learn(one)
    assert policy.figures["tau"] == np.inf
    assert stopped(policy, group(checks=1, score=[9.0, 0.0])) == []


# speculative_rejection


@pytest.mark.parametrize(
    ("score", "fraction", "keep", "expected"),
    [
        ([4.0, 1.0, 3.0, 2.0], 0.5, 1, [1, 3]),
        ([4.0, 1.0, 3.0, 2.0], 0.25, 1, [1]),
        ([4.0, 1.0, 3.0, 2.0], 0.9, 1, [1, 2, 3]),
        ([4.0, 1.0, 3.0, 2.0], 0.9, 2, [1, 3]),
        ([4.0, 1.0, NAN, 2.0], 0.5, 1, [1]),
        ([1.0, 2.0, 3.0], 0.5, 1, [0]),
        ([1.0], 0.9, 1, []),
        ([2.0, 2.0, 2.0, 2.0], 0.5, 1, [2, 3]),
    ],
)
def test_speculative_rejection_drops_the_lowest_when_memory_is_short(
    score: list[float], fraction: float, keep: int, expected: list[int]
) -> None:
    policy = make("speculative_rejection", fraction=fraction)
    groups = group(keep, score=score)
    assert stopped(policy, groups) == []
    assert stopped(policy, groups, Load(memory_short=True)) == expected


def test_speculative_rejection_goes_by_the_latest_score() -> None:
    policy = make("speculative_rejection")
    groups = group(score=[1.0, 2.0], passed=[2, 2])
    groups.score[0, :, 1] = [4.0, 3.0]
    assert stopped(policy, groups, Load(memory_short=True)) == [1]


# self_eval


@pytest.mark.parametrize(
    ("state", "keep", "expected"),
    [
        ({"score": [0.5, 0.2, 0.05]}, 1, [2]),
        ({"score": [0.02, 0.01, 0.05]}, 1, [0, 1]),  # the best of the poor stays
        ({"score": [0.02, 0.01, 0.05]}, 2, [1]),
        ({"score": [0.02, NAN, NAN]}, 1, [0]),
        ({"score": [NAN] * 3, "passed": [1, 1, 1]}, 1, []),
        ({"score": [0.02, 0.01, NAN], "final": [NAN, NAN, 0.3]}, 1, [0, 1]),
        ({"score": [0.5, 0.8, NAN], "final": [NAN, NAN, 0.9]}, 1, [0, 1]),
        ({"score": [0.5, 0.8, NAN], "final": [NAN, NAN, 0.95]}, 2, []),
        ({"score": [0.5, NAN, NAN], "final": [NAN, 0.9, 0.95]}, 2, [0]),
        ({"score": [0.5, 0.95, NAN], "final": [NAN, NAN, 0.89]}, 1, []),
    ],
)
def test_self_eval_stops_the_poor_and_whoever_is_no_longer_needed(
    state: dict[str, Any], keep: int, expected: list[int]
) -> None:
    assert stopped(make("self_eval"), group(keep, **state)) == expected


def test_poor_above_good_is_refused() -> None:
    with pytest.raises(PolicyFileError, match="rejection: expected poor to be at most"):
        make("self_eval", poor=0.6, good_enough=0.5)


# consensus


def ballot(*answers: int | None, more: int = 0) -> Groups:
    """A group whose members ended with these answers, None without one; `more` go on."""
    given = [-1 if answer is None else answer for answer in answers]
    return group(answer=[*given, *[-1] * more], finished=[True] * len(given) + [False] * more)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([], (0, 0)),
        ([0], (1, 0)),
        ([0, 1], (1, 1)),
        ([1, 0, 1, 2, 1, 2], (3, 2)),
        ([0, 1, 2, 2, 1], (2, 2)),
        ([None, 0, None, 0], (2, 0)),
        ([7, 3, 7], (2, 1)),  # numbers need not be small
    ],
)
def test_votes_are_those_of_the_leader_and_the_runner_up(
    answers: list[int | None], expected: tuple[int, int]
) -> None:
    first, second = votes(ballot(*answers, more=2))
    assert (int(first[0]), int(second[0])) == expected


def brute_force(first: int, second: int) -> float:
    """P(leader's share of both exceeds 1/2) under a flat prior, by summing the likelihood."""
    share = (np.arange(200_000) + 0.5) / 200_000
    weight = share**first * (1.0 - share) ** second
    return float(weight[share > 0.5].sum() / weight.sum())


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_consensus_stops_where_the_posterior_is_sure(confidence: float) -> None:
    policy = make("consensus", confidence=confidence, num_least=1)
    for first in range(1, 12):
        for second in range(first + 1):
            groups = ballot(*[0] * first, *[1] * second, more=40)
            sure = brute_force(first, second) >= confidence
            assert (len(stopped(policy, groups)) == 40) is sure
            assert len(stopped(policy, groups)) in (0, 40)


def test_consensus_waits_for_enough_answers() -> None:
    groups = ballot(0, 0, 0, 0, 0, None, None, more=20)
    assert len(stopped(make("consensus", num_least=5), groups)) == 20
    assert stopped(make("consensus", num_least=6), groups) == []


@pytest.mark.parametrize(
    ("answers", "more", "stops"),
    [
        ([0, 0], 1, True),
        ([0, 0], 2, False),  # two more votes for another would tie
        ([0, 0, 0, 1], 1, True),
        ([0, 0, 0, 1], 2, False),
        ([0, 1], 1, False),
        ([None, None], 1, False),
    ],
)
def test_consensus_stops_where_nothing_can_change(
    answers: list[int | None], more: int, stops: bool
) -> None:
    policy = make("consensus", confidence=0.999, num_least=9)
    assert len(stopped(policy, ballot(*answers, more=more))) == (more if stops else 0)


def test_the_least_safe_question_is_sampled_next() -> None:
    policy = make("consensus")
    questions = [
        ballot(0, 1, 0, 1, more=12),
        ballot(0, 0, 1, None, more=12),
        ballot(0, 0, 0, 1, more=12),
        ballot(0, 0, 0, 0, more=12),
    ]
    found = [policy.priority(question)[0] for question in questions]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 4


def test_the_allocation_moves_from_the_posterior_to_ppr_1v1() -> None:
    policy = make("consensus")
    for answers, more in (((0, 0, 0, 1), 12), ((0, 0, 0, 0, 0, 1, 2), 1), ((0, 0, 0), 0)):
        first, second = (int(v[0]) for v in votes(ballot(*answers)))
        posterior = np.log(1.0 - brute_force(first, second))
        rivals = max(len(set(answers)) - 1, 1)
        limit = np.log(min(rivals * beta.pdf(0.5, first + 1, second + 1), 1.0))
        done = len(answers) / (len(answers) + more)
        expected = (1.0 - done) * posterior + done * limit
        found = policy.priority(ballot(*answers, more=more))[0]
        assert found == pytest.approx(expected, abs=1e-3)


def test_samples_that_begin_together_spread_over_questions() -> None:
    policy = make("consensus")
    fresh = group(finished=[0, 0, 0])
    under_way = group(finished=[0, 0, 0], tokens=[5, 0, 0])
    assert policy.priority(fresh)[0] > policy.priority(under_way)[0]


def asked(policy: RejectionPolicy, share: float, rng: np.random.Generator) -> int:
    """Samples that a question takes, of 40 at most, whose leading answer has this share."""
    answers: list[int] = []
    while True:
        answers.append(0 if rng.random() < share else int(rng.integers(1, 4)))
        groups = ballot(*answers, more=40 - len(answers))
        if policy.decide(groups, Load())[0].any() or len(answers) == 40:
            policy.learn(groups)
            return len(answers)


@pytest.mark.parametrize("budget", [3.0, 6.0, 10.0])
def test_a_budget_of_samples_is_met_on_average(budget: float) -> None:
    policy = make("consensus", mean_samples=budget)
    rng = np.random.default_rng(0)
    share = rng.uniform(0.3, 1.0, 400)
    taken = np.array([asked(policy, one, rng) for one in share])
    assert taken.mean() <= budget * (1.0 + (4.0 * logit(0.95) + 40 / budget) / len(taken))
    assert taken.mean() >= 0.9 * budget
    assert policy.figures["samples_per_group"] == taken.mean()
    assert taken[share < 0.5].mean() > taken[share > 0.8].mean()  # they go where they are needed


def test_a_budget_that_is_not_needed_leaves_the_confidence_as_it_is() -> None:
    policy, rng = make("consensus", mean_samples=12.0), np.random.default_rng(0)
    assert max(asked(policy, 1.0, rng) for _ in range(50)) == 4
    assert policy.figures["confidence_in_force"] == pytest.approx(0.95)


def test_the_error_allowed_moves_as_stated() -> None:
    policy = make("consensus", mean_samples=4.0)
    policy.learn(ballot(*[0] * 10))
    expected = 1.0 - expit(logit(0.05) + 0.25 * 6.0 / 4.0)
    assert policy.figures["confidence_in_force"] == pytest.approx(expected)


def test_a_budget_below_the_least_is_refused() -> None:
    with pytest.raises(PolicyFileError, match="rejection: expected mean_samples of at least"):
        make("consensus", mean_samples=2.0, num_least=3)


# hopeless


def trained(**settings: Any) -> RejectionPolicy:
    """Hopeless after 100 completions of which half are worth it, at 100 tokens each."""
    policy = make("hopeless", worth=0.0, check_at_tokens=[10], risk=0.2, **settings)
    rng = np.random.default_rng(0)
    for _ in range(100):
        final = rng.normal(size=1)
        one = group(checks=1, score=final + 0.5 * rng.normal(size=1), final=final, tokens=[100])
        one.audited[:] = True
        policy.learn(one)
    return policy


def test_hopeless_stops_those_that_will_not_be_worth_it() -> None:
    policy = trained()
    assert stopped(policy, group(checks=1, score=[-3.0, 3.0, 0.5, NAN])) == [0]
    assert stopped(policy, group(checks=1, score=[-3.0])) == [0]  # the last one too
    assert stopped(policy, group(checks=1, score=[-3.0], passed=[0])) == []


def test_hopeless_spares_what_is_cheap_to_finish() -> None:
    hopeless = group(checks=1, score=[-3.0])
    assert stopped(trained(value_of_winning=100.0), hopeless, Load(token_price=1.0)) == [0]
    # 90 tokens are left; at this price they cost less than the smallest chance is worth
    assert stopped(trained(value_of_winning=100.0), hopeless, Load(token_price=1e-4)) == []
    assert stopped(trained(value_of_winning=1e7), hopeless) == []


def test_hopeless_stops_nobody_before_something_was_worth_it() -> None:
    policy = make("hopeless", worth=100.0, check_at_tokens=[10])
    rng = np.random.default_rng(0)
    for _ in range(100):
        one = group(checks=1, score=rng.normal(size=1), final=rng.normal(size=1))
        one.audited[:] = True
        policy.learn(one)
    assert stopped(policy, group(checks=1, score=[-9.0, 9.0])) == []
    assert policy.audits(np.ones(40, np.int32)).all()
