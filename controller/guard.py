"""Faults become fallbacks: what goes wrong inside costs the host nothing but the adaptive gain.

A policy or an estimator that raises, turns NaN or answers out of range is benched: rounds run
without a draft for a pause, which doubles as long as the trouble comes back soon. Every fault is
counted, and the first of a kind is logged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import HostInfo, Offer, Outcomes
from flyball.controller.errors import HostError
from flyball.estimators.drafts import NUM_STRENGTHS
from flyball.estimators.slots import SlotPool

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Bools = NDArray[np.bool_]
Plans = int | NDArray[np.int64]

FIRST_PAUSE = 16  # rounds
LONGEST_PAUSE = 4096  # rounds
SLOW_DECISION_S = 0.02  # a decision below this is never an overrun

# What arrays that are none, or do not fit each other, raise.
_MALFORMED = (AttributeError, IndexError, TypeError, ValueError)

logger = logging.getLogger(__name__)


class BadAnswerError(ValueError):
    """A policy or an estimator answered something that cannot be used."""


class Guard:
    """Counts faults and says in which rounds the policy is benched.

    Attributes:
        faults: how often each kind of fault happened.
        at_work: whose turn it is; the kind of a fault that happens now.
    """

    def __init__(self) -> None:
        self.at_work = ""
        self.faults: dict[str, int] = {}
        self._pause = FIRST_PAUSE // 2
        self._until = 0

    def count(self, kind: str, what: object, number: int = 1) -> None:
        """Count faults; the first of a kind is logged with `what` happened."""
        if kind not in self.faults:
            logger.warning("%s fault, decoding goes on: %s", kind, what)
        self.faults[kind] = self.faults.get(kind, 0) + number

    def bench(self, round_id: int) -> None:
        """Bench the policy: no drafts in the rounds after `round_id` for a pause."""
        if self.benched(round_id):
            return
        # Trouble that stayed away for longer than the last pause is not the same trouble.
        again = round_id - self._until <= self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE) if again else FIRST_PAUSE
        self._until = round_id + self._pause

    def benched(self, round_id: int) -> bool:
        """Whether a round has to do without the policy."""
        return round_id <= self._until

    def sound_offers(self, offers: Sequence[Offer], num_requests: int) -> list[Offer]:
        """The offers without what makes no sense, which is counted."""
        sound = []
        for offer in offers:
            checked = sound_offer(offer, num_requests)
            if checked is not offer:
                self.count("offers", "lengths or strengths that cannot be true")
            if checked is not None:
                sound.append(checked)
        return sound

    def sound_outcomes(
        self, outcomes: Outcomes, plans: Callable[[], Plans], pool: SlotPool, limit: int
    ) -> Bools | None:
        """Which rows are current and can be true; None where nothing can be made of them.

        Args:
            outcomes: of some rounds (n,).
            plans: the step that planned them, or the steps (n,).
            pool: of the slots that are taken.
            limit: largest draft length.
        """
        try:
            check_outcomes(outcomes)
            current = pool.current(outcomes.slots, plans())
            counts = (outcomes.proposed, outcomes.accepted, outcomes.observed)
            sound = sound_rows(outcomes.slots, *counts, limit)
            keep: Bools = current & sound
        except _MALFORMED as error:
            self.count("outcomes", repr(error))
            return None
        if not keep.all():
            unknown = (outcomes.slots < 0) | (outcomes.slots >= pool.num_slots)
            num_bad = int(np.count_nonzero(unknown | (current & ~sound)))
            if num_bad:
                self.count("outcomes", "slots or counts that cannot be true", num_bad)
        return keep

    def sound_reading(
        self, slots: Ints, match: Floats, signs: Sequence[Floats | None], num_slots: int
    ) -> bool:
        """Whether a reading can be one: a row for each request, of requests that there are."""
        try:
            check_alike(slots)
            fits = match.dtype.kind in "fb" and match.ndim == 2 and len(match) == len(slots)
            for sign in signs:
                if sign is not None:
                    fits &= sign.dtype.kind == "f" and sign.shape == match.shape
            sound = fits and bool(((slots >= 0) & (slots < num_slots)).all())
        except _MALFORMED:
            sound = False
        if not sound:
            self.count("match", "expected a row of probabilities for each of some requests")
        return sound

    def sound_comparison(
        self,
        slots: Ints,
        offer: Offer,
        num_matched: Ints,
        num_compared: Ints,
        num_slots: int,
        limit: int,
    ) -> tuple[Ints, Offer, Ints, Ints] | None:
        """The rows of a comparison that can be true; None where nothing can be made of it."""
        try:
            check_alike(slots, offer.draft_len, offer.strength, num_matched, num_compared)
            counts = (num_compared, num_matched, num_compared)
            keep = sound_rows(slots, *counts, limit) & (slots < num_slots)
            keep &= (offer.strength >= 0) & (offer.strength < NUM_STRENGTHS)
        except _MALFORMED as error:
            self.count("offers", repr(error))
            return None
        if not keep.all():
            self.count("offers", "counts that cannot be true", int((~keep).sum()))
            offer = Offer(offer.draft, offer.draft_len[keep], offer.strength[keep])
            slots, num_matched, num_compared = slots[keep], num_matched[keep], num_compared[keep]
        return slots, offer, num_matched, num_compared


def check_draft(host: HostInfo, draft: int, steps: bool) -> None:
    """Refuse what is not the index of a draft of that kind.

    Raises:
        HostError: in one line.
    """
    if not 0 <= draft < len(host.drafts) or host.drafts[draft].steps is not steps:
        raise HostError(
            f"expected the index of a draft with steps={steps} among {len(host.drafts)} drafts, "
            f"but got {draft}; see HostInfo.drafts"
        )


def check_room(host: HostInfo, room: Ints, num_requests: int) -> None:
    """Refuse room (drafts, requests) of other drafts than those that step, or of other requests.

    Raises:
        HostError: in one line.
    """
    shape = (sum(draft.steps for draft in host.drafts), num_requests)
    if room.shape != shape:
        raise HostError(
            f"expected room of shape {shape}, one row a draft that steps, but got {room.shape}"
        )


def check_lengths(draft_len: object, num_requests: int, limit: int) -> Ints:
    """The draft lengths that a policy decided on.

    Raises:
        BadAnswerError: they are not (num_requests,) integers from 0 to `limit`.
    """
    if not isinstance(draft_len, np.ndarray) or draft_len.dtype.kind != "i":
        raise BadAnswerError(f"expected an integer array of lengths, but got {draft_len!r:.80}")
    if draft_len.shape != (num_requests,):
        raise BadAnswerError(f"expected {num_requests} lengths, but got shape {draft_len.shape}")
    # A negative length has its sign bit set either way.
    if num_requests and not int(np.bitwise_or.reduce(draft_len | (limit - draft_len))) >= 0:
        raise BadAnswerError(f"expected lengths from 0 to {limit}, but got {draft_len!r:.80}")
    return draft_len.astype(np.int32, copy=False)


def check_stops(ends: object, num_rows: int) -> Bools:
    """Which drafts a policy ends.

    Raises:
        BadAnswerError: they are not (num_rows,) booleans.
    """
    if isinstance(ends, np.ndarray) and ends.dtype == np.bool_ and ends.shape == (num_rows,):
        return ends
    raise BadAnswerError(f"expected {num_rows} booleans, but got {ends!r:.80}")


def check_alike(*arrays: Ints) -> None:
    """Refuse what is not one signed integer a row.

    Raises:
        BadAnswerError: in one line.
    """
    for array in arrays:
        if array.dtype.kind != "i" or array.ndim != 1 or len(array) != len(arrays[0]):
            raise BadAnswerError(f"expected one signed integer a row, but got {array!r:.80}")


def check_outcomes(outcomes: Outcomes) -> None:
    """Refuse outcomes whose arrays do not fit each other.

    Raises:
        BadAnswerError: in one line.
    """
    check_alike(outcomes.slots, outcomes.proposed, outcomes.accepted, outcomes.observed)
    if outcomes.draft is not None:
        check_alike(outcomes.slots, outcomes.draft)
    num_rows, exhausted = len(outcomes.slots), outcomes.exhausted
    if exhausted is not None and (exhausted.dtype != np.bool_ or exhausted.shape != (num_rows,)):
        raise BadAnswerError(f"expected {num_rows} booleans, but got {exhausted!r:.80}")
    for sign in (outcomes.confidence, outcomes.entropy):
        if sign is not None and (
            sign.dtype.kind != "f" or sign.ndim != 2 or len(sign) != num_rows
        ):
            raise BadAnswerError(f"expected {num_rows} rows of floats, but got {sign!r:.80}")
    foreseen = outcomes.foreseen
    if foreseen is not None and (foreseen.dtype.kind != "f" or foreseen.shape != (num_rows,)):
        raise BadAnswerError(f"expected {num_rows} floats, but got {foreseen!r:.80}")


def sound_rows(slots: Ints, proposed: Ints, accepted: Ints, observed: Ints, limit: int) -> Bools:
    """Rows (n,) whose counts can be true: no more accepted than proposed, and so on."""
    # The sign bit of the union is set where any of these is negative.
    signs = accepted | observed | (proposed - accepted) | (proposed - observed)
    signs |= (limit - proposed) | (accepted + 1 - observed)
    result: Bools = (signs | slots) >= 0
    return result


def sound_offer(offer: Offer, num_requests: int) -> Offer | None:
    """The offer without rows that make no sense; None where nothing can be made of it."""
    draft_len, strength = offer.draft_len, offer.strength
    try:
        check_alike(draft_len, strength)
    except _MALFORMED:
        return None
    if len(draft_len) != num_requests:
        return None
    bad = (draft_len | strength | (NUM_STRENGTHS - 1 - strength)) < 0
    if not np.count_nonzero(bad):
        return offer
    return Offer(offer.draft, np.where(bad, 0, draft_len), np.where(bad, 0, strength))
