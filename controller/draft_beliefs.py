"""What is believed of drafts: how many of the tokens that each proposes would be accepted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flyball.controller.choice import Ways, WaysWithOffers
from flyball.controller.contract import HostInfo, Offer, Outcomes
from flyball.controller.guard import BadAnswerError, Guard
from flyball.controller.member_readings import MemberReadings
from flyball.controller.stretch import Knowledge
from flyball.estimators.drafts import OfferDraft, SteppingDraft
from flyball.estimators.fill import FillEstimator
from flyball.policies.length.base import View

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

# Rounds without the ensemble after which it is tried: what it would have done shows nowhere else.
_TRIAL_ROUNDS, _TRIAL_LEN = 64, 4


class DraftBeliefs:
    """An estimator for every draft, and what they say of requests.

    Args:
        host: what the host can do.
        max_draft_len: largest draft length.
        guard: counts what makes no sense.

    Attributes:
        drafts: estimators of the drafts that step, by their place among the host's.
        fill: how much of what is planned drafts have to offer.
        version: changes when something is learned: what was expected before is stale.
    """

    def __init__(self, host: HostInfo, max_draft_len: int, guard: Guard) -> None:
        self._host = host
        self._max_draft_len = max_draft_len
        self._guard = guard
        self._stepping = host.stepping
        together = (way for way, i in enumerate(self._stepping) if host.drafts[i].together)
        self._together = next(together, None)
        self._num_apart = 0  # rounds since the ensemble drafted
        self._held = MemberReadings()
        self._num_slots = 0
        self.fill = FillEstimator(max_draft_len)
        self.version = 0
        self.forget()

    def forget(self) -> None:
        """Start anew with the requests that are there."""
        self.version += 1
        drafts, limit = enumerate(self._host.drafts), self._max_draft_len
        self.drafts = {i: SteppingDraft(limit) for i in self._stepping}
        self.fill.forget()
        self._offers = {i: OfferDraft(limit) for i, draft in drafts if not draft.steps}
        for part in self._parts:
            part.admit(np.arange(self._num_slots, dtype=np.int32))

    @property
    def _parts(self) -> list[SteppingDraft | OfferDraft]:
        return [*self.drafts.values(), *self._offers.values()]

    def admit(self, slots: Ints) -> None:
        """New requests take these slots (n,)."""
        self._guard.at_work = "acceptance"
        self._read_held()
        self._num_slots = max(self._num_slots, int(slots.max(initial=-1)) + 1)
        for part in self._parts:
            self._learn(part)
            part.admit(slots)

    def _learn(self, part: SteppingDraft | OfferDraft) -> None:
        self.version += 1
        self._count("confidence", part.learn())

    def _count(self, kind: str, number: int) -> None:
        if not isinstance(number, int):
            raise BadAnswerError(f"expected a number of values, but got {number!r:.80}")
        if number:
            self._guard.count(kind, "values that are not between 0 and 1", number)

    def ways(self, slots: Ints) -> Ways:
        """What each draft that steps would bring these requests (n,); the last way is none.

        Raises:
            BadAnswerError: an estimator is spoilt.
        """
        self._guard.at_work = "acceptance"
        survival = np.zeros((len(self.drafts) + 1, len(slots), self._max_draft_len + 1))
        survival[-1, :, 0] = 1.0
        for way, draft in enumerate(self.drafts.values()):
            survival[way] = draft.survival(slots) * self.fill.share
        if not all(part.healthy for part in self._parts):
            raise BadAnswerError("expected finite hazards")
        drafts = np.array([*self.drafts, 0], np.int32)
        tokens = np.ones_like(survival)
        np.cumsum(survival[:-1], axis=2, out=tokens[:-1])
        limit = np.full(survival.shape[:2], self._max_draft_len, np.int32)
        limit[-1] = 0
        return Ways(drafts, survival, tokens, limit)

    def with_offers(self, slots: Ints, ways: Ways, offers: Sequence[Offer]) -> WaysWithOffers:
        """The same where drafts without steps propose something, too."""
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

    def next_trial(self) -> tuple[int, int] | None:
        """Way and length of the ensemble's trial, where one is due in this round."""
        if self._together is None:
            return None
        self._num_apart += 1
        if self._num_apart <= _TRIAL_ROUNDS:
            return None
        self._num_apart = 0
        return self._together, min(_TRIAL_LEN, self._max_draft_len)

    def know(self, slots: Ints, view: View, asks: bool) -> Knowledge:
        """What shadows need to know of requests (n,) of a host with one draft; see `Beliefs`."""
        self._guard.at_work = "acceptance"
        draft = self.drafts[self._stepping[0]]
        return Knowledge(
            view=view,
            survival=draft.survival(slots)[:, 1:],
            effect=draft.effect(slots),
            chances=draft.chances,
            asks=asks,
        )

    def note(self, rows: Outcomes, num_rounds: int) -> None:
        """Take in what some rounds showed; see `Beliefs.note`."""
        self._guard.at_work = "acceptance"
        if rows.exhausted is not None:
            self.fill.update(rows.proposed, rows.exhausted)
        for index, draft in self.drafts.items():
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

    def read(self, slots: Ints, match: Floats, draft: int) -> None:
        """Take in what a stepping draft would have proposed; see `Governor.read`."""
        self._guard.at_work = "acceptance"
        self._count("match", self.drafts[draft].read(slots, match))
        if self.drafts[draft].due:
            self._learn(self.drafts[draft])

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

    def hasten(self) -> None:
        """The texts have changed: what is new counts for more."""
        self._guard.at_work = "acceptance"
        for draft in self.drafts.values():
            draft.hasten()
            self._learn(draft)
