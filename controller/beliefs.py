"""What the governor believes: acceptance of every draft, costs, and the price of a second."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.controller.choice import Choice, Ways, WaysWithOffers
from flyball.controller.contract import Cost, HostInfo, Offer, Outcomes
from flyball.controller.cost_beliefs import CostBeliefs
from flyball.controller.draft_beliefs import DraftBeliefs
from flyball.controller.guard import BadAnswerError, Guard
from flyball.controller.look import Costs, Look
from flyball.controller.price import PriceCorrection, quote
from flyball.controller.stretch import Knowledge
from flyball.estimators.surprise import Surprise
from flyball.policies.length.base import View

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

# Batch size, versions of what is believed of drafts and costs, and slots.
Key = tuple[int, int, int, bytes]


@dataclass(slots=True)
class _Prospect:
    """What is known of some requests until something new is learned."""

    key: Key
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
        self._stepping = host.stepping
        self._drafts = DraftBeliefs(host, max_draft_len, guard)
        self._costs = CostBeliefs(host, max_draft_len, self._drafts.fill, guard)
        self.forget("price")

    def forget(self, kind: str) -> None:
        """Start anew with what may be spoilt after a fault of this kind."""
        self._prospect: _Prospect | None = None
        self._costs.drop()
        if kind == "acceptance":
            self._drafts.forget()
        elif kind == "cost":
            self._costs.forget()
        elif kind == "price":
            self._correction = PriceCorrection()
            self._surprise = Surprise()

    def admit(self, slots: Ints) -> None:
        """New requests take these slots (n,)."""
        self._drafts.admit(slots)

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
        key = (batch_size, self._drafts.version, self._costs.version, slots.tobytes())
        prospect = self._prospect
        if prospect is None or prospect.key != key:
            self._prospect = prospect = self._foresee(key, slots)
        ways = prospect.ways if room is None else prospect.ways.within(room)
        probe = prospect.costs.probe
        if probe is None:
            trial = self._drafts.next_trial()
            if trial is not None:
                return self._appraise(slots, prospect, ways, trial)
        if offers and probe is None:
            return self._appraise(slots, prospect, self._drafts.with_offers(slots, ways, offers))
        if room is not None:
            return self._appraise(slots, prospect, ways, probe)
        if prospect.look is None:
            prospect.look = self._appraise(slots, prospect, prospect.ways, probe)
        return prospect.look

    def _foresee(self, key: Key, slots: Ints) -> _Prospect:
        """What the estimators say of these requests, checked."""
        ways = self._drafts.ways(slots)
        self._guard.at_work = "price"
        if not (self._correction.healthy and self._surprise.healthy):
            raise BadAnswerError("expected a finite correction")
        return _Prospect(key, ways, self._costs.costs(key[0]))

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
            num_ways = len(ways.tokens) - (isinstance(ways, Ways) and len(self._stepping) > 0)
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
        if way < len(self._stepping):
            draft = self._drafts.drafts[self._stepping[way]]
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
        return self._drafts.know(slots, look.view, self._can_stop)

    def note(self, rows: Outcomes, num_rounds: int) -> None:
        """Take in what some rounds showed of their drafts, oldest first.

        Offers are not looked at: they learn from `compare` alone. That a draft had no further
        token to offer is no miss: what it has is not worse for it.
        """
        self._drafts.note(rows, num_rounds)

    def read_every(self, draft: int) -> int:
        """Skipped tokens that a stepping draft should read at once; see `Governor.read_every`."""
        return self._costs.read_every(self._stepping.index(draft))

    def overdue(self, way: int) -> bool:
        """Whether a draft that goes on is worth its step for what it tells.

        Drafts that always end after one token would never show what a second is worth now.
        """
        draft = self._drafts.drafts[self._stepping[way]]
        return draft.num_single >= self._costs.read_every(way)

    def read(self, slots: Ints, match: Floats, draft: int) -> None:
        """Take in what a stepping draft would have proposed; see `Governor.read`."""
        self._drafts.read(slots, match, draft)

    def read_members(self, slots: Ints, match: Floats) -> None:
        """Take in what the ensemble's members would have proposed (n, w, members) each alone."""
        self._drafts.read_members(slots, match)

    def compare(self, slots: Ints, offer: Offer, num_matched: Ints, num_compared: Ints) -> None:
        """Take in how an offer would have done; see `Governor.compare`."""
        self._drafts.compare(slots, offer, num_matched, num_compared)

    def observe_cost(self, cost: Cost, look: Look | None, accepted: Ints | None) -> None:
        """Take in what a round cost.

        Args:
            cost: of the round.
            look: that the round was planned with, if it is known.
            accepted: (n,) drafted tokens accepted, if they are known of all its requests.
        """
        probing = look is not None and look.view.probe_len is not None
        probed = look.way if look is not None and probing else None
        if not self._costs.observe(cost, probed):
            return
        if look is None or look.quoted is None or probing or accepted is None:
            return
        self._guard.at_work = "price"
        num_tokens = float(look.quoted.weight.dot(accepted + 1.0))
        # An interrupted step says nothing about the policy.
        step_s = min(cost.step_s, 2.0 * look.longest_s)
        self._correction.update(num_tokens, look.quoted.price * step_s)
        if self._surprise.update(num_tokens):
            self._drafts.hasten()

    def token_price(self, batch_size: int) -> float:
        """What one more row's token costs in a batch, in tokens: from 0 to 1."""
        return self._costs.token_price(batch_size)

    def learn_cost(self, cost: Cost) -> bool:
        """Take in seconds alone; False where they cannot be true."""
        return self._costs.learn(cost)
