"""What the governor believes: acceptance of every draft, costs, and the price of a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.controller.choice import Choice, Ways, WaysWithOffers
from flyball.controller.contract import Cost, HostInfo, Offer, Outcomes, cost_kinds
from flyball.controller.guard import BadAnswerError, Guard
from flyball.controller.look import MOST_UNREAD, Costs, Look
from flyball.controller.member_readings import MemberReadings
from flyball.controller.price import PriceCorrection, quote
from flyball.controller.stretch import Knowledge
from flyball.estimators.cost import CostEstimator
from flyball.estimators.drafts import OfferDraft, SteppingDraft
from flyball.estimators.fill import FillEstimator
from flyball.estimators.step_cost import StepCostEstimator
from flyball.estimators.surprise import Surprise
from flyball.policies.length.base import View

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_COST_ROUNDS = 16  # rounds after which a new plan takes in what costs were measured
# Rounds without the ensemble after which it is tried: what it would have done shows nowhere else.
_TRIAL_ROUNDS, _TRIAL_LEN = 64, 4


@dataclass(slots=True)
class _Prospect:
    """What is known of some requests until something new is learned."""

    key: tuple[int, bytes]
    ways: Ways
    costs: Costs
    look: Look | None = None  # without offers


class Beliefs:
    """Everything learned, and the view of a round that follows from it.

    What is expected of the same requests is kept until something is learned. Each method says in
    `guard.at_work` whose turn it is, so that a fault is put right where it happened.

    Args:
        host: what the host can do.
        max_draft_len: largest draft length.
        can_stop: whether drafts are ended in mid-round.
        guard: counts what makes no sense.
    """

    def __init__(self, host: HostInfo, max_draft_len: int, can_stop: bool, guard: Guard) -> None:
        self._host = host
        self._max_draft_len = max_draft_len
        self._can_stop = can_stop
        self._guard = guard
        self._stepping = [i for i, draft in enumerate(host.drafts) if draft.steps]
        infos = [host.drafts[i] for i in self._stepping]
        self._kinds = cost_kinds(infos)
        self._together = next((way for way, info in enumerate(infos) if info.together), None)
        self._num_apart = 0  # rounds since the ensemble drafted
        self._held = MemberReadings()
        self._num_unused = 0  # costs that no plan has seen yet
        self._num_slots = 0
        self._fill = FillEstimator(max_draft_len)
        for kind in ("acceptance", "cost", "price"):
            self.forget(kind)

    def forget(self, kind: str) -> None:
        """Start anew with what may be spoilt after a fault of this kind."""
        self._prospect: _Prospect | None = None
        self._costs: Costs | None = None
        if kind == "acceptance":
            drafts, limit = enumerate(self._host.drafts), self._max_draft_len
            self._drafts = {i: SteppingDraft(limit) for i in self._stepping}
            self._fill.forget()
            self._offers = {i: OfferDraft(limit) for i, draft in drafts if not draft.steps}
            for part in self._parts:
                part.admit(np.arange(self._num_slots, dtype=np.int32))
        elif kind == "cost":
            self._cost: CostEstimator | StepCostEstimator
            if self._host.rounds_overlap:
                self._cost = StepCostEstimator(self._max_draft_len, self._fill)
            else:
                self._cost = CostEstimator(self._max_draft_len, self._kinds)
        elif kind == "price":
            self._correction = PriceCorrection()
            self._surprise = Surprise()

    @property
    def _parts(self) -> list[SteppingDraft | OfferDraft]:
        return [*self._drafts.values(), *self._offers.values()]

    def admit(self, slots: Ints) -> None:
        """New requests take these slots (n,)."""
        self._guard.at_work = "acceptance"
        self._read_held()
        self._num_slots = max(self._num_slots, int(slots.max(initial=-1)) + 1)
        for part in self._parts:
            self._learn(part)
            part.admit(slots)

    def _learn(self, part: SteppingDraft | OfferDraft) -> None:
        self._prospect = None
        self._count("confidence", part.learn())

    def _count(self, kind: str, number: int) -> None:
        if not isinstance(number, int):
            raise BadAnswerError(f"expected a number of values, but got {number!r:.80}")
        if number:
            self._guard.count(kind, "values that are not between 0 and 1", number)

    def look(
        self, slots: Ints, batch_size: int, offers: Sequence[Offer], room: Ints | None = None
    ) -> Look:
        """What a policy gets to see of these requests.

        Args:
            slots: (n > 0,) requests.
            batch_size: rows that the forwards run over.
            offers: what the drafts without steps propose.
            room: (stepping drafts, n) tokens that each can draft; None for any number.
        """
        key = (batch_size, slots.tobytes())
        prospect = self._prospect
        if prospect is None or prospect.key != key:
            self._prospect = prospect = self._foresee(key, slots)
        ways = prospect.ways if room is None else prospect.ways.within(room)
        probe = prospect.costs.probe
        if probe is None and self._together is not None:
            self._num_apart += 1
            if self._num_apart > _TRIAL_ROUNDS:
                self._num_apart = 0
                trial = self._together, min(_TRIAL_LEN, self._max_draft_len)
                return self._appraise(slots, prospect, ways, trial)
        if offers and probe is None:
            return self._appraise(slots, prospect, self._with_offers(slots, ways, offers))
        if room is not None:
            return self._appraise(slots, prospect, ways, probe)
        if prospect.look is None:
            prospect.look = self._appraise(slots, prospect, prospect.ways, probe)
        return prospect.look

    def _foresee(self, key: tuple[int, bytes], slots: Ints) -> _Prospect:
        """What the estimators say of these requests, checked."""
        self._guard.at_work = "acceptance"
        survival = np.zeros((len(self._drafts) + 1, len(slots), self._max_draft_len + 1))
        survival[-1, :, 0] = 1.0
        for way, draft in enumerate(self._drafts.values()):
            survival[way] = draft.survival(slots) * self._fill.share
        if not all(part.healthy for part in self._parts):
            raise BadAnswerError("expected finite hazards")
        self._guard.at_work = "price"
        if not (self._correction.healthy and self._surprise.healthy):
            raise BadAnswerError("expected a finite correction")
        self._guard.at_work = "cost"
        costs = self._costs
        if costs is None or costs.batch_size != key[0] or self._num_unused >= _COST_ROUNDS:
            self._costs = costs = Costs(self._cost, key[0], len(self._drafts))
            self._num_unused = 0
        drafts = np.array([*self._drafts, 0], np.int32)
        tokens = np.ones_like(survival)
        np.cumsum(survival[:-1], axis=2, out=tokens[:-1])
        limit = np.full(survival.shape[:2], self._max_draft_len, np.int32)
        limit[-1] = 0
        return _Prospect(key, Ways(drafts, survival, tokens, limit), costs)

    def _with_offers(self, slots: Ints, ways: Ways, offers: Sequence[Offer]) -> WaysWithOffers:
        self._guard.at_work = "acceptance"
        limits = [
            np.minimum(offer.draft_len, self._max_draft_len).astype(np.int32, copy=False)
            for offer in offers
        ]
        survival = [
            self._offers[offer.draft].survival(slots, limit, offer.strength)
            for offer, limit in zip(offers, limits, strict=True)
        ]
        return WaysWithOffers(ways, [offer.draft for offer in offers], limits, survival)

    def _appraise(
        self,
        slots: Ints,
        prospect: _Prospect,
        ways: Ways | WaysWithOffers,
        probe: tuple[int, int] | None = None,
    ) -> Look:
        """The best way, or that of a probe, its price and what the policy gets to see."""
        self._guard.at_work = "price"
        costs, way, best_len = prospect.costs, 0, 0
        price, weight, quoted = np.nan, np.ones(len(slots)), None
        if costs.measured:
            # Without offers only a stepping draft, if there is one, can fill a draft.
            num_ways = len(ways.tokens) - (isinstance(ways, Ways) and len(self._drafts) > 0)
            quoted = quote(ways.tokens[:num_ways], costs.round_s[:num_ways])
            way, best_len, weight = quoted.way, quoted.draft_len, quoted.weight
            price = quoted.price * self._correction.factor
            if not 0.0 < price < np.inf:
                raise BadAnswerError(f"expected a positive finite price, but got {price}")
        if probe is not None:
            way = probe[0]
        choice = ways.choose(way, best_len)
        if self._can_stop:  # an offer ends where drafts should end on average
            choice.limit = np.where(
                choice.offered, np.minimum(choice.limit, best_len), choice.limit
            )
        view = View(
            slots=slots,
            max_draft_len=self._max_draft_len,
            can_stop=self._host.mid_draft_stop,
            padded=self._host.padded,
            survival=choice.survival[:, 1:],
            round_s=costs.round_s[way],
            marginal_s=costs.marginal_s(way),
            verify_marginal_s=costs.marginal_s(len(costs.round_s) - 1),
            price=price,
            weight=weight,
            best_len=best_len,
            probe_len=None if probe is None else probe[1],
        )
        look = Look(view, ways, choice, quoted, way, costs.longest_s)
        if way < len(self._drafts):
            draft = self._drafts[self._stepping[way]]
            look.effects = draft.effects(slots)
            look.chances = draft.chances
        return look

    def rechoose(self, look: Look, draft_len: int) -> Choice:
        """The drafts that are best for a length that the policy chose on its own."""
        if look.quoted is not None and look.view.probe_len is None:
            look.way = int(look.quoted.rates[:, draft_len].argmax())
            look.choice = look.ways.choose(look.way, draft_len)
        return look.choice

    def know(self, slots: Ints, look: Look) -> Knowledge:
        """What shadows need to know of requests (n,) of a host with one draft."""
        self._guard.at_work = "acceptance"
        draft = self._drafts[self._stepping[0]]
        return Knowledge(
            view=look.view,
            survival=draft.survival(slots)[:, 1:],
            effect=draft.effect(slots),
            chances=draft.chances,
            asks=self._can_stop,
        )

    def note(self, rows: Outcomes, num_rounds: int) -> None:
        """Take in what some rounds showed of their drafts, oldest first.

        Offers are not looked at: they learn from `compare` alone. That a draft had no further
        token to offer is no miss: what it has is not worse for it.
        """
        self._guard.at_work = "acceptance"
        if rows.exhausted is not None:
            self._fill.update(rows.proposed, rows.exhausted)
        for index, draft in self._drafts.items():
            own: Any = slice(None) if rows.draft is None else rows.draft == index
            if rows.draft is None and index > 0:
                continue
            if self._host.drafts[index].together and (rows.proposed[own] > 0).any():
                self._num_apart = 0
            draft.note(
                rows.slots[own],
                rows.proposed[own],
                rows.accepted[own],
                rows.observed[own],
                None if rows.confidence is None else rows.confidence[own],
                None if rows.entropy is None else rows.entropy[own],
                num_rounds,
                None if rows.foreseen is None else rows.foreseen[own],
            )
            if draft.due:
                self._learn(draft)

    def read_every(self, draft: int) -> int:
        """Skipped tokens that a stepping draft should read at once; see `Governor.read_every`."""
        if self._costs is None or not self._costs.measured:
            return MOST_UNREAD
        return self._costs.read_every(self._stepping.index(draft))

    def overdue(self, way: int) -> bool:
        """Whether a draft that goes on is worth its step for what it tells.

        Drafts that always end after one token would never show what a second is worth now.
        """
        draft = self._stepping[way]
        return self._drafts[draft].num_single >= self.read_every(draft)

    def read(self, slots: Ints, match: Floats, draft: int) -> None:
        """Take in what a stepping draft would have proposed; see `Governor.read`."""
        self._guard.at_work = "acceptance"
        self._count("match", self._drafts[draft].read(slots, match))
        if self._drafts[draft].due:
            self._learn(self._drafts[draft])

    def read_members(self, slots: Ints, match: Floats) -> None:
        """Take in what the ensemble's members would have proposed (n, w, members) each alone.

        Rounds of the same requests are gathered: learning from several at once costs less.
        """
        if not self._held.takes(slots):
            self._read_held()
        self._held.add(slots, match)
        if self._held.full:
            self._read_held()

    def _read_held(self) -> None:
        if not self._held.num_rounds:
            return
        slots, match = self._held.take()
        for member in self._stepping:
            if not self._host.drafts[member].together:
                self.read(slots, match[:, :, member], member)

    def compare(self, slots: Ints, offer: Offer, num_matched: Ints, num_compared: Ints) -> None:
        """Take in how an offer would have done; see `Governor.compare`."""
        self._guard.at_work = "acceptance"
        draft = self._offers[offer.draft]
        draft.note(slots, offer.strength, num_matched, num_compared)
        if draft.due:
            self._learn(draft)

    def observe_cost(self, cost: Cost, look: Look | None, accepted: Ints | None) -> None:
        """Take in what a round cost.

        Args:
            cost: of the round.
            look: that the round was planned with, if it is known.
            accepted: (n,) drafted tokens accepted, if they are known of all its requests.
        """
        self._guard.at_work = "cost"
        if not self.learn_cost(cost):
            return
        probing = look is not None and look.view.probe_len is not None
        if probing and look is not None:
            self._cost.probed(cost.batch_size, look.way)
        # Where nothing steps, nothing is probed: the first cost is news all the same.
        first = self._costs is not None and not self._costs.measured
        if probing or first or self._num_unused >= 2 * _COST_ROUNDS:
            self._prospect = self._costs = None
        if look is None or look.quoted is None or probing or accepted is None:
            return
        self._guard.at_work = "price"
        num_tokens = float(look.quoted.weight.dot(accepted + 1.0))
        # An interrupted step says nothing about the policy.
        step_s = min(cost.step_s, 2.0 * look.longest_s)
        self._correction.update(num_tokens, look.quoted.price * step_s)
        if self._surprise.update(num_tokens):
            self._guard.at_work = "acceptance"
            for draft in self._drafts.values():
                draft.hasten()
                self._learn(draft)

    def token_price(self, batch_size: int) -> float:
        """What one more row's token costs, in tokens that the host makes in the same seconds.

        With T(b) the seconds of a round of b rows without drafts, each of which brings a token,
        rows added to half the batch take T(b) - T(b / 2) and cost b / T(b) tokens a second: over
        b / 2 rows 2 (1 - T(b / 2) / T(b)) each. 1, where rows cost what they bring, as long as
        either is unknown.
        """
        self._guard.at_work = "cost"
        sizes = max(batch_size // 2, 1), batch_size
        half, whole = (float(self._cost.round_s(size)[-1, 0]) for size in sizes)
        price = 2.0 * (1.0 - half / whole)
        return min(max(price, 0.0), 1.0) if batch_size > 1 and np.isfinite(price) else 1.0

    def learn_cost(self, cost: Cost) -> bool:
        """Take in seconds alone; False where they cannot be true."""
        if not cost.sound or (cost.num_draft_steps > 0 and cost.draft not in self._drafts):
            self._guard.count("seconds", cost)
            return False
        self._num_unused += 1
        if isinstance(self._cost, StepCostEstimator):
            self._cost.update(
                cost.batch_size,
                cost.verify_len,
                cost.num_prefill,
                cost.num_draft_steps,
                cost.step_s,
            )
        else:
            is_news = self._cost.update(
                cost.batch_size,
                int(cost.verify_len),
                int(cost.num_draft_steps),
                cost.step_s,
                cost.draft_s,
                cost.verify_s,
                self._stepping.index(cost.draft) if cost.num_draft_steps > 0 else 0,
            )
            if is_news:  # a guess was tried, and may have been too good
                self._prospect = self._costs = None
        return True
