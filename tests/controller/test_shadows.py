from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flyball.controller.contract import Outcomes
from flyball.controller.live_text import LiveText
from flyball.controller.policy_file import load_policy
from flyball.controller.shadows import Shadows
from flyball.controller.stretch import Knowledge, Stretch, walk, walk_round_by_round
from flyball.estimators.survival import NEXT_TOKEN, THIS_TOKEN, Chances, SurvivalEstimator
from flyball.policies.length.base import LengthPolicy, View

K = 8
SECONDS = 1.0 + 0.15 * np.arange(K + 1)


def make(name: str, **settings: Any) -> LengthPolicy:
    section = {"policy": name, "max_draft_len": K, **settings}
    return load_policy({"version": 1, "length": section}).make_length_policy()


def knowledge(slots: np.ndarray) -> Knowledge:
    n = len(slots)
    survival = np.full((n, K), 0.7).cumprod(axis=1)
    view = View(
        slots=slots,
        max_draft_len=K,
        can_stop=True,
        padded=True,
        survival=survival,
        round_s=SECONDS * n,
        marginal_s=np.diff(SECONDS) * n,
        verify_marginal_s=np.diff(SECONDS) * n / 2,
        price=2.0,
        weight=np.ones(n),
        best_len=3,
        probe_len=None,
    )
    theta = np.stack([SurvivalEstimator(prior).theta for prior in (THIS_TOKEN, NEXT_TOKEN)])
    return Knowledge(view, survival, np.zeros((2, n)), Chances(theta), True)


def outcomes(slots: Any, accepted: Any, observed: Any, sure: Any = None) -> Outcomes:
    slots_, accepted_, observed_ = (np.array(x, np.int32) for x in (slots, accepted, observed))
    return Outcomes(1, slots_, observed_, accepted_, observed_, sure)


def text_of(match: list[np.ndarray], sure: list[np.ndarray]) -> tuple[LiveText, np.ndarray]:
    text, slots = LiveText(), np.arange(len(match), dtype=np.int32)
    text.admit(slots)
    for slot in slots:
        row = slots[slot : slot + 1]
        text.read(row, match[slot][None].astype(float), sure[slot][None], None)
    return text, slots


@pytest.fixture
def texts() -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    sizes = (60, 1, 17, 200)
    return [rng.random(t) < 0.75 for t in sizes], [rng.beta(3.0, 1.0, t) for t in sizes]


def walk_plainly(match: np.ndarray, sure: np.ndarray, length_at: Any) -> tuple[float, int]:
    """Seconds and tokens of whole rounds, one after the other."""
    at, seconds = 0, 0.0
    while at < len(match):
        length = length_at(at, sure)
        run = 0
        while run < length and at + run < len(match) and match[at + run]:
            run += 1
        if at + max(run + 1, length) > len(match):
            break
        seconds += SECONDS[length]
        at += run + 1
    return seconds, at


def threshold_at(at: int, sure: np.ndarray) -> int:
    for position in range(1, K):
        if at + position - 1 >= len(sure) or sure[at + position - 1] < 0.6:
            return position
    return K


@pytest.mark.parametrize(
    ("policy", "length_at"),
    [
        (make("static", draft_len=3), lambda at, sure: 3),
        (make("static", draft_len=0), lambda at, sure: 0),
        (make("threshold", min_confidence=0.6), threshold_at),
    ],
)
def test_a_shadow_walks_as_one_would_by_hand(
    policy: LengthPolicy, length_at: Any, texts: tuple[list[np.ndarray], list[np.ndarray]]
) -> None:
    text, slots = text_of(*texts)
    stretch = Stretch(text, slots, knowledge(slots), np.random.default_rng(0))
    at = np.arange(len(stretch.match))
    lengths = stretch.lengths(policy, at, stretch.view(at))
    (loss, _), walked = walk(stretch, np.stack([lengths, lengths]), SECONDS)
    seconds, tokens = zip(
        *(walk_plainly(m, s, length_at) for m, s in zip(*texts, strict=True)), strict=True
    )
    assert np.isclose(loss, sum(seconds) / sum(tokens))
    assert walked.tolist() == list(tokens)


def test_a_shadow_with_a_memory_walks_round_by_round(
    texts: tuple[list[np.ndarray], list[np.ndarray]],
) -> None:
    match, sure = texts[0][3], texts[1][3]
    text, slots = text_of([match], [sure])
    policy = make("heuristic", start_draft_len=4)
    policy.admit(slots)
    stretch = Stretch(text, slots, knowledge(slots), np.random.default_rng(0))
    loss = walk_round_by_round(stretch, policy, SECONDS)
    length = 4

    def length_at(at: int, sure: np.ndarray) -> int:
        nonlocal length
        now = length
        full = match[at : at + now].all()
        length = min(K, now + 2) if full else max(1, now - 1)
        return now

    seconds, tokens = walk_plainly(match, sure, length_at)
    assert np.isclose(loss, seconds / tokens)


def test_text_is_put_together_from_rounds_and_readings() -> None:
    text, slot = LiveText(), np.array([3], np.int32)
    text.admit(slot)
    text.note(outcomes([3], [2], [3]))  # two accepted, one rejected
    text.note(outcomes([3], [2], [2]))  # all accepted; one more token, still to be read
    text.read(slot, np.array([[1.0, np.nan]]), np.array([[0.9, 0.0]]), None)
    for _ in range(3):
        text.note(outcomes([3], [0], [0]))  # nothing drafted
    text.read(slot, np.array([[0.0, 1.0, 0.25]]), None, None)
    text.note(outcomes([3], [1], [1]))  # its next token is never read
    text.note(outcomes([3], [0], [1], np.array([[0.5]])))
    size = int(text.size.values[3])
    match, sure, _ = text.signs[3][:, :size]
    np.testing.assert_array_equal(match, [1, 1, 0, 1, 1, 1, 0, 1, 0.25, 1, np.nan, 0])
    assert sure[5] == 0.9
    assert sure[-1] == 0.5
    text.drop(slot, np.array([4]))
    np.testing.assert_array_equal(text.signs[3, 0, : size - 4], [1, 1, 0, 1, 0.25, 1, np.nan, 0])


def test_more_text_than_there_is_room_for_starts_anew() -> None:
    text, slots = LiveText(), np.array([0, 1], np.int32)
    text.admit(slots)
    for _ in range(40):
        text.read(slots, np.array([[1.0] * 9, [0.0, 1.0] + [np.nan] * 7]), None, None)
    assert text.size.values[0] <= 256
    assert text.size.values[1] == 80
    text.read(slots[:1], np.ones((1, 1000)), None, None)
    assert text.size.values[0] == 256


def shadows_on(acceptance: float, num_tokens: int) -> Shadows:
    rng = np.random.default_rng(1)
    policies = {"static_4": make("static", draft_len=4), "static_0": make("static", draft_len=0)}
    shadows = Shadows({**policies, "heuristic": make("heuristic")})
    slots = np.arange(2, dtype=np.int32)
    shadows.admit(slots)
    for _ in range(num_tokens // 16):
        shadows.allow(0.1)
        shadows.read(slots, (rng.random((2, 16)) < acceptance).astype(float), None, None)
        if shadows.due:
            shadows.walk(slots, knowledge)
    return shadows


def test_the_best_shadow_is_followed() -> None:
    assert shadows_on(0.95, 600).acting != "static_0"
    assert shadows_on(0.05, 600).acting == "static_0"


def test_walks_are_reproducible() -> None:
    one, other = (shadows_on(0.5, 300) for _ in range(2))
    assert one._hedge.weight.tolist() == other._hedge.weight.tolist()


def test_one_policy_in_the_text_of_a_short_request_does_no_harm() -> None:
    text, slots = text_of([np.ones(2, np.bool_)], [np.full(2, 0.9)])
    known = knowledge(slots)
    known = replace(known, view=replace(known.view, max_draft_len=K))
    stretch = Stretch(text, slots, known, np.random.default_rng(0))
    loss, walked = walk(stretch, np.full((1, 2), 4), SECONDS)
    assert np.isnan(loss[0])
    assert walked.tolist() == [0]
