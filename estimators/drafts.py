"""What is believed about each draft: how far it will be accepted, for every request.

Outcomes are gathered in a journal and learned from every few rounds, in one vectorised pass: that
costs a fraction of learning each round, and what is believed changes slowly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flyball.estimators.acceptance import (
    CONFIDENCE_PRIOR,
    FLAT_PRIOR,
    AcceptanceEstimator,
    confidence_cells,
)
from flyball.estimators.slots import SlotArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

NUM_STRENGTHS = 8  # cells of how well founded an offer is
_OFFER_POSITIONS = 8  # positions of an offer told apart; later ones are like the last
_ROUNDS = 16  # rounds after which a journal is due; sooner after new requests
_ROWS = 4096  # rows after which it is due sooner
_NOT_GIVEN = -1.0  # in place of a confidence


@dataclass
class Tokens:
    """Observed tokens of several rounds, one after the other.

    Attributes:
        row: (t,) the row of the journal that each token stands in.
        position: (t,) its position in its draft, from 0.
        rejected: (t,) 1 where the target rejected it, else 0.
    """

    row: NDArray[np.intp]
    position: NDArray[np.intp]
    rejected: Floats


class Journal:
    """Rounds that were observed and not learned from yet; memory for a few rounds.

    Args:
        width: most tokens of a row.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._clear(_ROWS)

    def _clear(self, capacity: int) -> None:
        self.num_rows = self.num_rounds = 0
        self._ints = np.zeros((4, capacity), np.int32)
        self._confidence = np.full((capacity, self._width), _NOT_GIVEN)

    @property
    def due(self) -> bool:
        """Whether it is time to learn."""
        return self.num_rounds >= _ROUNDS or self.num_rows >= _ROWS

    def add(
        self,
        slots: Ints,
        accepted: Ints,
        observed: Ints,
        strength: Ints | int = 0,
        confidence: Floats | None = None,
        num_rounds: int = 1,
    ) -> None:
        """Note the rows (n,) of some rounds; confidence is (n, >= observed) or unknown."""
        start, stop = self.num_rows, self.num_rows + len(slots)
        if stop > self._ints.shape[1]:
            ints, known = self._ints[:, :start], self._confidence[:start]
            before = self.num_rounds
            self._clear(2 * stop)
            self._ints[:, :start], self._confidence[:start] = ints, known
            self.num_rounds = before
        block = self._ints[:, start:stop]
        block[0], block[1], block[2], block[3] = slots, accepted, observed, strength
        if confidence is None:
            self._confidence[start:stop] = _NOT_GIVEN
        else:
            width = min(self._width, confidence.shape[1])
            self._confidence[start:stop, :width] = confidence[:, :width]
            self._confidence[start:stop, width:] = _NOT_GIVEN  # not what stood there before
        self.num_rows = stop
        self.num_rounds += num_rounds

    def take(self) -> tuple[NDArray[np.int32], Floats, int]:
        """Slots, accepted, observed, strength (4, rows), confidence (rows, width) and rounds.

        They are views, good until the next `add`.
        """
        taken = (self._ints[:, : self.num_rows], self._confidence[: self.num_rows])
        num_rounds, self.num_rows, self.num_rounds = self.num_rounds, 0, 0
        return *taken, num_rounds


def unroll(accepted: Ints, observed: Ints) -> Tokens:
    """The tokens of rows (r,) of which the first `observed` were seen."""
    ends = observed.cumsum()
    row = np.arange(len(observed)).repeat(observed)
    position = np.arange(len(row)) - (ends - observed)[row]
    return Tokens(row, position, (position >= accepted[row]).astype(np.float64))


class SteppingDraft:
    """Beliefs about a draft that runs token by token and knows how sure it is.

    Before the round by position; in mid-draft by the confidence at this token, for this token
    and, half way to no knowledge, for the token after. Where the draft only read settled text,
    its proposals are counted as those of a draft that goes on until its first miss.

    Args:
        max_draft_len: largest draft length in tokens.
    """

    def __init__(self, max_draft_len: int) -> None:
        self._last = max_draft_len - 1
        self._by_position = AcceptanceEstimator(np.full(max_draft_len, FLAT_PRIOR))
        # One look for changes does for all: positions are seen even where nothing is drafted.
        self._by_confidence = AcceptanceEstimator(CONFIDENCE_PRIOR, drift=0.0)
        self._after_confidence = AcceptanceEstimator(
            (CONFIDENCE_PRIOR + FLAT_PRIOR) / 2, drift=0.0
        )
        self._match_run = SlotArray(0, np.int64)  # tokens matched since the last miss
        self._journal = Journal(max_draft_len)
        self._readings: list[tuple[Ints, NDArray[np.intp], Floats]] = []
        self._num_read = 0
        self._patience = 2  # rounds after which to learn
        self._derive()

    @property
    def _parts(self) -> tuple[AcceptanceEstimator, AcceptanceEstimator, AcceptanceEstimator]:
        return self._by_position, self._by_confidence, self._after_confidence

    @property
    def healthy(self) -> bool:
        """Whether all estimates are finite."""
        return all(part.healthy for part in self._parts)

    @property
    def due(self) -> bool:
        """Whether it is time to learn from what was gathered."""
        num_rounds = self._journal.num_rounds + self._num_read
        return num_rounds >= self._patience or self._journal.num_rows >= _ROWS

    def admit(self, slots: Ints) -> None:
        """Forget what earlier requests in these slots did; nothing of theirs may be pending."""
        self._patience = 2
        self._match_run.reset(slots)
        for part in self._parts:
            part.admit(slots)

    def survival(self, slots: Ints) -> Floats:
        """Probability that the draft is accepted up to each length (n, max_draft_len + 1)."""
        frailty = self._by_position.frailty(slots)
        result: Floats = np.exp(frailty[:, None] * self._log_survival)
        return result

    def confidence_frailty(self, slots: Ints) -> Floats:
        """Frailty (2, n) for `log_acceptance`: of the present token, and of the next."""
        return np.stack(
            [self._by_confidence.frailty(slots), self._after_confidence.frailty(slots)]
        )

    def _derive(self) -> None:
        hazard = self._by_position.hazard
        self._log_survival = np.zeros(len(hazard) + 1)
        np.negative(hazard.cumsum(), out=self._log_survival[1:])
        # (2, cells) by confidence, for the average request: this token, and the next.
        hazards = [self._by_confidence.hazard, self._after_confidence.hazard]
        self.log_acceptance = -np.stack(hazards)

    def note(
        self,
        slots: Ints,
        proposed: Ints,
        accepted: Ints,
        observed: Ints,
        confidence: Floats | None,
        num_rounds: int = 1,
    ) -> None:
        """Gather what rounds showed of their drafts (n,), oldest first."""
        # The next token that the draft reads continues a draft that was accepted in full.
        run = self._match_run.values
        run[slots] = np.where(proposed > 0, accepted * (observed == accepted), run[slots])
        if np.count_nonzero(observed):
            self._journal.add(
                slots, accepted, observed, confidence=confidence, num_rounds=num_rounds
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

    def learn(self) -> int:
        """Learn from what was gathered; returns how many confidences made no sense."""
        self._patience = min(2 * self._patience, _ROUNDS)
        (slots, accepted, observed, _), confidence, num_rounds = self._journal.take()
        tokens = unroll(accepted, observed)
        owner, seen = slots.astype(np.intp)[tokens.row], slots[observed > 0]
        readings = [(owner, tokens.position, tokens.rejected), *self._readings]
        read_owner, cells, rejected = map(np.concatenate, zip(*readings, strict=True))
        read_seen = np.concatenate([seen, read_owner[len(owner) :]])
        lasting = self._by_position.update(
            read_owner, cells, rejected, read_seen, num_rounds + self._num_read
        )
        if lasting < 1.0:
            self._by_confidence.forget(lasting)
            self._after_confidence.forget(lasting)
        self._readings.clear()
        self._num_read = 0

        sure = confidence[tokens.row, tokens.position]
        num_given = int(np.count_nonzero(sure != _NOT_GIVEN))
        if num_given:
            num_given -= self._learn_confidence(tokens, sure, slots, observed, num_rounds)
        self._derive()
        return num_given

    def _learn_confidence(
        self, tokens: Tokens, sure: Floats, slots: Ints, observed: Ints, num_rounds: int
    ) -> int:
        """Learn from confidences (t,) of tokens; returns how many made sense."""
        owner = slots[tokens.row]
        known = (sure >= 0.0) & (sure <= 1.001)  # rounding may exceed 1
        bins, rejected = confidence_cells(sure), tokens.rejected
        self._by_confidence.update(
            owner[known], bins[known], rejected[known], slots[observed > 0], num_rounds
        )
        before = np.flatnonzero(known[:-1] & (tokens.position[1:] > 0))
        after = before + 1
        self._after_confidence.update(
            owner[after], bins[before], rejected[after], slots[observed > 1], num_rounds
        )
        return int(np.count_nonzero(known))


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
        self._acceptance = AcceptanceEstimator(_offer_prior())
        self._journal = Journal(0)
        self._lengths = np.arange(max_draft_len + 1)
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

    def survival(self, slots: Ints, draft_len: Ints, strength: Ints) -> Floats:
        """Probability (n, max_draft_len + 1) that each length is accepted; 0 beyond the offer."""
        frailty = self._acceptance.frailty(slots)
        survival: Floats = np.exp(frailty[:, None] * self._log_survival[strength])
        survival *= self._lengths <= draft_len[:, None]
        return survival

    def _derive(self) -> None:
        hazard = self._acceptance.hazard.reshape(NUM_STRENGTHS, _OFFER_POSITIONS)
        position = np.minimum(self._lengths[:-1], _OFFER_POSITIONS - 1)
        self._log_survival = np.zeros((NUM_STRENGTHS, len(self._lengths)))
        np.negative(hazard[:, position].cumsum(axis=1), out=self._log_survival[:, 1:])

    def note(self, slots: Ints, strength: Ints, num_matched: Ints, num_compared: Ints) -> None:
        """Gather how far offers (n,) agreed with the text that settled."""
        if np.count_nonzero(num_compared):
            self._journal.add(slots, num_matched, num_compared, strength)

    def learn(self) -> int:
        """Learn from what was gathered."""
        (slots, accepted, observed, strength), _, num_rounds = self._journal.take()
        tokens = unroll(accepted, observed)
        cells = np.minimum(tokens.position, _OFFER_POSITIONS - 1)
        cells += _OFFER_POSITIONS * strength[tokens.row]
        self._acceptance.update(
            slots[tokens.row], cells, tokens.rejected, slots[observed > 0], num_rounds
        )
        self._derive()
        return 0
