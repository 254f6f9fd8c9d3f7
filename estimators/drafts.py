"""What is believed about each draft: how far it will be accepted, for every request."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.acceptance import FLAT_PRIOR, FRAILTIES, AcceptanceEstimator
from flyball.estimators.journal import (
    MOST_ROUNDS,
    MOST_ROWS,
    NO_CONFIDENCE,
    Journal,
    Tokens,
    unroll,
)
from flyball.estimators.slots import SlotArray
from flyball.estimators.survival import (
    NEXT_TOKEN,
    THIS_TOKEN,
    Chances,
    SurvivalEstimator,
    features,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

NUM_STRENGTHS = 8  # cells of how well founded an offer is
_OFFER_POSITIONS = 8  # positions of an offer told apart; later ones are like the last
_SIGN_ROWS = 512  # of a journal, whose confidences are learned from
_SURPRISING = 2.0  # standard deviations of a reading


class SteppingDraft:
    """Beliefs about a draft that runs token by token and knows how sure it is.

    Before the round by position; in mid-draft by the confidence at this token, for this token
    and, half way to no knowledge, for the token after. Where the draft only read settled text,
    its proposals are counted as those of a draft that goes on until its first miss.

    Args:
        max_draft_len: largest draft length in tokens.

    Attributes:
        num_single: rounds since more than one token of a draft was observed.
    """

    def __init__(self, max_draft_len: int) -> None:
        self._last = max_draft_len - 1
        self._by_position = AcceptanceEstimator(np.full(max_draft_len, FLAT_PRIOR), max_draft_len)
        self._this_token = SurvivalEstimator(THIS_TOKEN)
        self._next_token = SurvivalEstimator(NEXT_TOKEN)
        self._match_run = SlotArray(0, np.int64)  # tokens matched since the last miss
        self._journal = Journal(max_draft_len)
        self._readings: list[tuple[Ints, NDArray[np.intp], Floats]] = []
        self._num_read = 0
        self._patience = 2.0  # rounds after which to learn
        self.num_single = 0
        self._derive()

    @property
    def _parts(self) -> tuple[AcceptanceEstimator, SurvivalEstimator, SurvivalEstimator]:
        return self._by_position, self._this_token, self._next_token

    @property
    def healthy(self) -> bool:
        """Whether all estimates are finite."""
        return all(part.healthy for part in self._parts)

    @property
    def due(self) -> bool:
        """Whether it is time to learn from what was gathered."""
        num_rounds = self._journal.num_rounds + self._num_read
        return num_rounds >= self._patience or self._journal.num_rows >= MOST_ROWS

    def admit(self, slots: Ints) -> None:
        """Forget what earlier requests in these slots did; nothing of theirs may be pending."""
        self._patience = 2.0
        self._match_run.reset(slots)
        for part in self._parts:
            part.admit(slots)

    def survival(self, slots: Ints) -> Floats:
        """Probability that the draft is accepted up to each length (n, max_draft_len + 1)."""
        result: Floats = self._by_position.frailties(slots) @ self._survival
        return result

    def effect(self, slots: Ints) -> Floats:
        """What is particular to these requests (2, n), as a logit: this token, and the next."""
        return np.stack([self._this_token.effect(slots), self._next_token.effect(slots)])

    def effects(self, slots: Ints) -> Floats:
        """Probability (2, n, effects) of each of `EFFECTS`, likewise."""
        return np.stack([self._this_token.effects(slots), self._next_token.effects(slots)])

    def _derive(self) -> None:
        hazard = np.concatenate([[0.0], self._by_position.hazard]).cumsum()
        self._survival = np.exp(-FRAILTIES[:, None] * hazard)  # (frailties, lengths)
        # Of this token's acceptance, and of the next one's.
        self.chances = Chances(np.stack([self._this_token.theta, self._next_token.theta]))

    def note(
        self,
        slots: Ints,
        proposed: Ints,
        accepted: Ints,
        observed: Ints,
        confidence: Floats | None,
        entropy: Floats | None = None,
        num_rounds: int = 1,
        foreseen: Floats | None = None,
    ) -> None:
        """Gather what rounds showed of their drafts (n,), oldest first."""
        # The next token that the draft reads continues a draft that was accepted in full.
        run = self._match_run.values
        run[slots] = np.where(proposed > 0, accepted * (observed == accepted), run[slots])
        self.num_single = 0 if (observed > 1).any() else self.num_single + num_rounds
        if np.count_nonzero(observed):
            self._journal.add(
                slots, accepted, observed, 0, confidence, entropy, num_rounds, foreseen
            )

    def read(self, slots: Ints, match: Floats) -> int:
        """Gather what the draft would have proposed on text that it only read.

        Args:
            slots: (n,) distinct requests.
            match: (n, w > 0) probability that each token would have been accepted, NaN for none.

        Returns:
            How many of them made no sense.
        """
        present = (match >= 0.0) & (match <= 1.001)  # rounding may exceed 1
        self._compare(slots, match, present)
        before = self._match_run.values[slots]
        count = present.cumsum(axis=1)
        # Tokens read up to the last miss; a run from before the reading counts as negative.
        missed = np.where(present & (match <= 0.5), count, -before[:, None])
        missed = np.maximum.accumulate(missed, axis=1)
        run = count - 1
        run[:, 0] += before
        run[:, 1:] -= missed[:, :-1]
        row, column = present.nonzero()
        self._match_run.values[slots] = count[:, -1] - missed[:, -1]
        cells = np.minimum(run[row, column], self._last)
        self._readings.append((slots[row], cells, np.maximum(1.0 - match[row, column], 0.0)))
        self._num_read += match.shape[1]
        return int(np.count_nonzero(match == match) - np.count_nonzero(present))

    def _compare(self, slots: Ints, match: Floats, present: NDArray[np.bool_]) -> None:
        """Learn soon where a reading is not what was expected of first tokens."""
        expected = self.survival(slots)[:, 1]
        count = np.count_nonzero(present, axis=1)
        surplus = float(match[present].sum() - count @ expected)
        variance = float(count @ (expected * (1.0 - expected)))
        if surplus * surplus > _SURPRISING**2 * (variance + 0.25):
            self.hasten()

    def hasten(self) -> None:
        """Something has changed: learn after 1, 2, 4, 8 rounds again."""
        self._patience = 0.5

    def learn(self) -> int:
        """Learn from what was gathered; returns how many confidences made no sense."""
        self._patience = min(2 * self._patience, MOST_ROUNDS)
        if self._journal.num_rows == 0 and not self._readings:
            return 0
        foreseen = self._journal.foreseen
        (slots, accepted, observed, _), signs, num_rounds = self._journal.take()
        tokens = unroll(accepted, observed)
        owner, seen = slots.astype(np.intp)[tokens.row], slots[observed > 0]
        readings = [(owner, tokens.position, tokens.rejected), *self._readings]
        # Left unverified for an unsure sign: drafts that go on look better than drafts are, unless
        # what was expected of these stands in for what nobody saw.
        unseen = None
        cut = np.flatnonzero((accepted == observed) & (foreseen >= 0.0) & (foreseen <= 1.001))
        if len(cut):
            position = np.minimum(observed[cut], self._last).astype(np.intp)
            rejected = np.maximum(1.0 - foreseen[cut], 0.0)
            unseen = slots[cut].astype(np.intp), position, rejected
        read_owner, cells, rejected = map(np.concatenate, zip(*readings, strict=True))
        read_seen = np.concatenate([seen, read_owner[len(owner) :]])
        lasting = self._by_position.update(
            read_owner, cells, rejected, read_seen, num_rounds + self._num_read, unseen
        )
        if lasting < 1.0:
            self._this_token.forget(lasting)
            self._next_token.forget(lasting)
        self._readings.clear()
        self._num_read = 0

        # Of a large batch the latest rounds say enough, at a fraction of the cost.
        first = max(0, len(slots) - _SIGN_ROWS)
        late = slice(int(tokens.row.searchsorted(first)), None)
        tokens = Tokens(tokens.row[late], tokens.position[late], tokens.rejected[late])
        num_bad = self._learn_signs(tokens, slots, observed[first:], signs, num_rounds)
        self._derive()
        return num_bad

    def _learn_signs(
        self, tokens: Tokens, slots: Ints, observed: Ints, signs: Floats, num_rounds: int
    ) -> int:
        """Learn from confidence and entropy (2, rows, width) of tokens; how many made no sense.

        Args:
            tokens: of the latest rows.
            slots: (rows,) of all rows.
            observed: of the latest rows.
            signs: of all rows.
            num_rounds: that they come from.
        """
        sure, entropy = signs[:, tokens.row, tokens.position]
        given = int(np.count_nonzero(sure != NO_CONFIDENCE))
        if given == 0:
            return 0
        owner, hit = slots[tokens.row], 1.0 - tokens.rejected
        known = (sure >= 0.0) & (sure <= 1.001)  # rounding may exceed 1
        x = features(sure, entropy, tokens.position.astype(np.float64) + 1.0)
        latest = slots[len(slots) - len(observed) :]
        seen = latest[observed > 0]
        self._this_token.update(owner[known], x[:, known], hit[known], seen, num_rounds)
        before = np.flatnonzero(known[:-1] & (tokens.position[1:] > 0))
        after = before + 1
        self._next_token.update(
            owner[after], x[:, before], hit[after], latest[observed > 1], num_rounds
        )
        return given - int(np.count_nonzero(known))


def _offer_prior() -> Floats:
    """Hazards believed in at first: each token that agreed makes the next one surer."""
    agreed = np.arange(NUM_STRENGTHS)[:, None] + np.arange(_OFFER_POSITIONS)
    # From a quarter after one token to nine tenths after twelve.
    hazard: Floats = -np.log(1.0 - 0.75 / (1.0 + 0.6 * agreed.ravel()))
    return hazard


class OfferDraft:
    """Beliefs about a draft whose proposals are known before the round (prompt lookup).

    Cells are how well founded an offer is, times the position in it. Every offer is compared with
    the text that settled, used or not, so nothing needs to be tried.

    Args:
        max_draft_len: largest draft length in tokens.
    """

    def __init__(self, max_draft_len: int) -> None:
        self._acceptance = AcceptanceEstimator(_offer_prior(), _OFFER_POSITIONS)
        self._journal = Journal(0)
        self._lengths = np.arange(max_draft_len + 1)
        # What follows for some requests until something is learned (n, strengths, lengths).
        self._expected: tuple[bytes, Floats] | None = None
        self._derive()

    @property
    def healthy(self) -> bool:
        """Whether all estimates are finite."""
        return self._acceptance.healthy

    @property
    def due(self) -> bool:
        """Whether it is time to learn from what was gathered."""
        return self._journal.due

    def admit(self, slots: Ints) -> None:
        """Forget what earlier requests in these slots did; nothing of theirs may be pending."""
        self._acceptance.admit(slots)
        self._expected = None

    def survival(self, slots: Ints, draft_len: Ints, strength: Ints) -> Floats:
        """Probability (n, max_draft_len + 1) that each length is accepted; 0 beyond the offer."""
        key = slots.tobytes()
        if self._expected is None or self._expected[0] != key:
            by_frailty = self._acceptance.frailties(slots) @ self._survival
            self._expected = key, by_frailty.reshape(len(slots), NUM_STRENGTHS, -1)
        survival: Floats = self._expected[1][np.arange(len(slots)), strength]
        survival *= self._lengths <= draft_len[:, None]
        return survival

    def _derive(self) -> None:
        hazard = self._acceptance.hazard.reshape(NUM_STRENGTHS, _OFFER_POSITIONS)
        position = np.minimum(self._lengths[:-1], _OFFER_POSITIONS - 1)
        total = np.zeros((NUM_STRENGTHS, len(self._lengths)))
        np.cumsum(hazard[:, position], axis=1, out=total[:, 1:])
        # (frailties, strengths x lengths)
        self._survival = np.exp(-FRAILTIES[:, None] * total.ravel())
        self._expected = None

    def note(self, slots: Ints, strength: Ints, num_matched: Ints, num_compared: Ints) -> None:
        """Gather how far offers (n,) agreed with the text that settled."""
        if np.count_nonzero(num_compared):
            self._journal.add(slots, num_matched, num_compared, strength)

    def learn(self) -> int:
        """Learn from what was gathered."""
        if self._journal.num_rows == 0:
            return 0
        (slots, accepted, observed, strength), _, num_rounds = self._journal.take()
        tokens = unroll(accepted, observed)
        cells = np.minimum(tokens.position, _OFFER_POSITIONS - 1)
        cells += _OFFER_POSITIONS * strength[tokens.row]
        self._acceptance.update(
            slots[tokens.row], cells, tokens.rejected, slots[observed > 0], num_rounds
        )
        self._derive()
        return 0
