"""Several drafts: the governor picks one for each request and round."""

from typing import Any

import numpy as np
import pytest

from flyball.controller.errors import HostError
from flyball.controller.governor import Cost, DraftInfo, Governor, HostInfo, Offer, Outcomes
from flyball.controller.policy_file import load_policy

VERIFY_S, LIMIT = 3.5e-3, 8
MODEL, LOOKUP = DraftInfo("model"), DraftInfo("lookup", steps=False)


class Host:
    """Requests whose drafts accept with known probabilities and take known seconds a step.

    Offers are strong or weak at random; strong ones are right with `strong`, weak ones rarely.
    """

    def __init__(
        self,
        drafts: tuple[DraftInfo, ...],
        acceptance: list[float],
        step_s: list[float],
        num_requests: int = 1,
        strong: float = 0.95,
        length: dict[str, Any] | None = None,
        **host: Any,
    ) -> None:
        section = length or {"policy": "goodput", "max_draft_len": LIMIT}
        self.governor = Governor(
            load_policy({"version": 1, "length": section}),
            HostInfo("test", drafts=drafts, **host),
            clock=lambda: 0.0,  # time here is simulated
        )
        self.drafts, self.step_s, self.strong = drafts, step_s, strong
        self.acceptance = np.array(acceptance)  # by draft; of an offer meaningless
        self.slots = self.governor.admit(num_requests)
        self.rng = np.random.default_rng(0)
        self.unread = np.zeros(len(drafts), int)
        self.room: np.ndarray | None = None  # (stepping drafts,) of every request
        self.tokens, self.seconds = 0, 0.0

    def offers(self) -> list[Offer]:
        n = len(self.slots)
        return [
            Offer(
                index,
                np.full(n, 6, np.int32),
                np.where(self.rng.random(n) < 0.5, 7, 0).astype(np.int32),
            )
            for index, draft in enumerate(self.drafts)
            if not draft.steps
        ]

    def round(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draft lengths, drafts used, and strength of the (last) offer."""
        n, governor = len(self.slots), self.governor
        offers = self.offers()
        room = None
        if self.room is not None:
            room = np.repeat(self.room[:, None], n, axis=1).astype(np.int32)
        plan = governor.plan(self.slots, offers=offers, room=room)
        steps = np.array([draft.steps for draft in self.drafts] or [False])
        stepping = steps[plan.draft] & (plan.draft_len > 0)
        used = set(plan.draft[stepping].tolist())
        assert len(used) <= 1
        k = plan.draft_len.astype(int)
        for position in range(1, int(k[stepping].max(initial=0))):
            rows = np.flatnonzero(stepping & (k > position))
            if governor.wants_confidence and len(rows):
                ends = governor.stop(plan.step_id, rows, position, np.full(len(rows), 0.9))
                k[rows[ends]] = position
        p = np.tile(np.append(self.acceptance, 0.0), (n, 1))
        for offer in offers:
            p[:, offer.draft] = np.where(offer.strength == 7, self.strong, 0.05)
            assert (k[plan.draft == offer.draft] <= 6).all()
        agrees = (self.rng.random((n, len(p[0]), LIMIT)) < p[:, :, None]).cumprod(axis=2)
        matched = agrees.sum(axis=2)
        accepted = np.minimum(matched[np.arange(n), plan.draft], k)
        draft = used.pop() if used else 0
        num_steps = int(k[stepping].max(initial=0))
        draft_s = num_steps * self.step_s[draft] if num_steps else 0.0
        verify_s = VERIFY_S * (1 + 0.02 * k.max())
        self.tokens += int((accepted + 1).sum())
        self.seconds += draft_s + verify_s
        ints = [x.astype(np.int32) for x in (k, accepted, np.minimum(accepted + 1, k))]
        governor.observe(
            Outcomes(plan.step_id, self.slots, *ints, draft=plan.draft),
            Cost(
                plan.step_id,
                draft_s + verify_s,
                n,
                int(k.max()) + 1,
                num_steps,
                draft_s,
                verify_s,
                draft,
            ),
        )
        for offer in offers:
            right = np.minimum(matched[:, offer.draft], 6).astype(np.int32)
            governor.compare(self.slots, offer, right, np.minimum(right + 1, 6).astype(np.int32))
        self.read(draft if num_steps else -1)
        strength = offers[-1].strength if offers else np.zeros(n, np.int32)
        return k, plan.draft, strength

    def read(self, used: int) -> None:
        for index, draft in enumerate(self.drafts):
            self.unread[index] = 0 if index == used else self.unread[index] + 1
            if draft.steps and self.governor.wants_reading and self.unread[index] >= 32:
                hits = self.rng.random((len(self.slots), 32)) < self.acceptance[index]
                self.governor.read(self.slots, hits.astype(float), index)
                self.unread[index] = 0

    def rounds(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        k, draft, strength = zip(*(self.round() for _ in range(number)), strict=True)
        return np.array(k), np.array(draft), np.array(strength)


@pytest.mark.parametrize("order", [(MODEL, LOOKUP), (LOOKUP, MODEL)])
@pytest.mark.parametrize("num_requests", [1, 4])
def test_strong_offers_are_used_and_the_model_else(
    order: tuple[DraftInfo, ...], num_requests: int
) -> None:
    model, lookup = order.index(MODEL), order.index(LOOKUP)
    host = Host(order, [0.8, 0.8], [3e-4, 3e-4], num_requests)
    host.rounds(150)
    k, draft, strength = host.rounds(200)
    used = k > 0
    assert (draft[used & (strength == 7)] == lookup).mean() > 0.95
    assert (draft[used & (strength == 0)] == model).mean() > 0.95
    assert used.mean() > 0.9
    assert k[used & (strength == 7)].mean() > 4


def test_a_dear_model_is_left_aside_where_the_offer_does() -> None:
    host = Host((MODEL, LOOKUP), [0.5, 0.0], [5e-3, 0.0])
    host.rounds(150)
    k, draft, strength = host.rounds(200)
    assert (draft[k > 0] == 1).all()
    assert k[strength == 7].mean() > k[strength == 0].mean() + 1


@pytest.mark.parametrize("num_requests", [1, 3])
def test_the_better_of_two_models_is_found_and_found_again(num_requests: int) -> None:
    host = Host((MODEL, DraftInfo("other")), [0.9, 0.3], [3e-4, 3e-4], num_requests)
    for phase in range(4):
        better = phase % 2
        host.acceptance[:] = [(0.9, 0.3), (0.3, 0.9)][better]
        host.rounds(130)
        k, draft, _ = host.rounds(50)
        assert (draft[k > 0] == better).mean() > 0.9
        assert (k > 0).mean() > 0.8


def test_of_two_equal_models_the_faster_one_drafts() -> None:
    host = Host((MODEL, DraftInfo("fast")), [0.8, 0.8], [1.2e-3, 2e-4])
    host.rounds(100)
    k, draft, _ = host.rounds(50)
    assert (draft[k > 0] == 1).all()
    assert (k > 0).mean() > 0.9


@pytest.mark.parametrize("drafts", [(MODEL, DraftInfo("other")), (MODEL, LOOKUP, MODEL)])
def test_where_the_better_model_has_no_room_the_other_drafts(
    drafts: tuple[DraftInfo, ...],
) -> None:
    worse = len(drafts) - 1
    acceptance = [0.95] + [0.6] * worse
    host = Host(drafts, acceptance, [3e-4] * len(drafts), 2, strong=0.1)
    host.rounds(100)
    k, draft, _ = host.rounds(50)
    assert (draft[k > 0] == 0).mean() > 0.9
    host.room = np.array([0, 2])
    k, draft, strength = host.rounds(50)
    stepping = np.isin(draft, [0, worse]) & (k > 0)
    assert (draft[stepping] == worse).all() and stepping.mean() > 0.8
    assert k[stepping].max() == 2
    host.room = None
    k, draft, _ = host.rounds(50)
    assert (draft[k > 0] == 0).mean() > 0.9
    assert not host.governor.faults


def test_room_of_other_drafts_is_refused() -> None:
    governor = Host((MODEL, LOOKUP), [0.5, 0.5], [1e-3, 0.0]).governor
    slots = governor.admit(3)
    with pytest.raises(HostError, match=r"expected room of shape \(1, 3\)"):
        governor.plan(slots, room=np.zeros((2, 3), np.int32))


@pytest.mark.parametrize(
    "length",
    [{"policy": "goodput"}, {"policy": "heuristic"}, {"policy": "static", "draft_len": 3}],
)
def test_without_drafts_the_length_is_zero(length: dict[str, Any]) -> None:
    host = Host((), [], [], 2, length=length)
    k, _, _ = host.rounds(40)
    assert (k == 0).all()
    assert not host.governor.faults


@pytest.mark.parametrize("padded", [True, False])
def test_offers_alone_are_used_where_they_pay(padded: bool) -> None:
    host = Host((LOOKUP,), [0.0], [0.0], 2, padded=padded)
    host.rounds(100)
    k, _, strength = host.rounds(100)
    assert k[strength == 7].mean() > 4
    assert not host.governor.faults


def test_offers_alone_are_used_once_a_round_was_measured() -> None:
    host = Host((LOOKUP,), [], [], 2, strong=1.0)
    lengths = np.array([host.round()[0] for _ in range(6)])
    assert not lengths[0].any()
    assert lengths[1:].any(axis=1).all()


def test_equal_lengths_are_kept_with_offers_where_the_host_needs_them() -> None:
    length = {"policy": "static", "draft_len": 8}
    host = Host((LOOKUP, MODEL), [0.0, 0.8], [0.0, 3e-4], 3, ragged_ok=False, length=length)
    k, _, _ = host.rounds(60)
    assert all(len(set(row.tolist())) == 1 for row in k)
    assert k.max() > 0


def test_a_constant_length_gets_the_draft_that_is_best_at_it() -> None:
    length = {"policy": "static", "draft_len": 4, "max_draft_len": LIMIT}
    host = Host((MODEL, LOOKUP), [0.8, 0.0], [3e-4, 0.0], length=length)
    host.rounds(150)
    k, draft, strength = host.rounds(100)
    assert (k == 4).all()
    assert (draft[strength == 7] == 1).mean() > 0.95
    assert (draft[strength == 0] == 0).mean() > 0.95
    assert not host.governor.faults
