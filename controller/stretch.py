"""Virtual rounds of policies over a stretch of settled text."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flyball.controller.guard import check_lengths, check_stops
from flyball.controller.live_text import LiveText
from flyball.controller.match_text import runs
from flyball.estimators.survival import Chances, sigmoid
from flyball.policies.length.base import LengthPolicy, Progress, RoundResult, View

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Rows = NDArray[np.intp]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is believed of some requests.

    Attributes:
        view: that the latest round was planned with.
        survival: (n, K) of each request, by position.
        effect: (2, n) of each request on
        chances: that a token is accepted; see `SteppingDraft`.
        asks: whether the host asks policies in mid-draft.
    """

    view: View
    survival: Floats
    effect: Floats
    chances: Chances
    asks: bool


class Stretch:
    """The text of several requests, one after the other; t tokens in all.

    Attributes:
        slots: (n,) requests.
        ends: (n,) where the text of each ends.
        match: (t,) whether the draft was right.
    """

    def __init__(self, text: LiveText, slots: Ints, known: Knowledge, rng: np.random.Generator):
        size = text.size.values[slots]
        self.slots, self.ends = slots, size.cumsum()
        self.starts = self.ends - size
        self.row = np.arange(len(slots)).repeat(size)  # of each token
        place = np.arange(len(self.row)) - self.starts[self.row]
        match, self.sure, self.entropy = text.signs[slots[self.row], :, place].T
        self._known = known
        self.acceptance = self._accept()  # (2, t)
        chance = np.where(match == match, match, self.acceptance[0])
        self.match: Bools = rng.random(len(chance)) < chance
        self.run = runs(self.match, self.ends[self.row])
        limit = known.view.max_draft_len
        # (K, t) survival of a draft that starts at each token, up to each position.
        padded = np.concatenate([self.acceptance[0], np.ones(limit)])
        self.survival = np.empty((limit, len(match)))
        reached = np.ones(len(match))
        for ahead in range(limit):
            reached = reached * padded[ahead : ahead + len(match)]
            self.survival[ahead] = reached

    def _accept(self) -> Floats:
        """What the confidences say; where there are none, what is believed of the request."""
        known, row = self._known, self.row
        logits = known.chances.logits(self.sure, self.entropy, 1)
        found = sigmoid(logits + known.effect[:, row])
        usual = known.survival[row, 0]
        return np.where(self.sure == self.sure, found, usual)

    def view(self, at: Rows) -> View:
        """A row for each start."""
        view, row = self._known.view, self.row[at]
        # A host shares a round's seconds among its requests; a policy divides by its rows.
        scale = len(at) / len(view.slots)
        return replace(
            view,
            slots=self.slots[row],
            padded=False,
            survival=self._known.survival[row],
            marginal_s=view.marginal_s * scale,
            verify_marginal_s=view.verify_marginal_s * scale,
            weight=np.ones(len(at)),
            probe_len=None,
        )

    def lengths(self, policy: LengthPolicy, at: Rows, view: View) -> NDArray[np.int64]:
        """How many tokens a policy drafts from each start, with the view of these starts.

        What it sees past a miss is a guess.
        """
        decided = check_lengths(policy.decide(view), len(at), view.max_draft_len)
        length = decided.astype(np.int64)
        if not (policy.stops and self._known.asks):
            return length
        last = len(self.sure) - 1
        going = np.arange(len(at))
        for position in range(1, view.max_draft_len):
            going = going[length[going] > position]
            if len(going) == 0:
                break
            place = np.minimum(at[going] + position - 1, last)
            survival = self.survival[position - 1, at[going]]
            stops = policy.stop(
                Progress(
                    view,
                    going,
                    position,
                    survival,
                    self.acceptance[1, place],
                    self.sure[place],
                    self.entropy[place],
                )
            )
            length[going[check_stops(stops, len(going))]] = position
        return length


def walk(
    stretch: Stretch, length: NDArray[np.int64], seconds: Floats
) -> tuple[Floats, NDArray[np.int64]]:
    """Virtual seconds a token of policies that draft length (p, t) tokens from each token.

    And the tokens (n,) that all of them walked over.
    """
    count, ends = len(stretch.match), stretch.ends
    nodes = count + len(ends)  # tokens, and the end of each request
    at, end = np.arange(count), ends[stretch.row]
    emitted = np.minimum(stretch.run, length) + 1
    whole = at + np.maximum(emitted, length) <= end
    # A round ends at a token, at its request's end, or, if it is not whole, where it began.
    ahead = np.tile(np.arange(nodes), (len(length), 1))
    spent_s = np.zeros(ahead.shape)
    after = np.where(at + emitted == end, count + stretch.row, at + emitted)
    ahead[:, :count] = np.where(whole, after, at)
    spent_s[:, :count] = np.where(whole, seconds[length], 0.0)
    ahead += nodes * np.arange(len(length))[:, None]
    for _ in range(int((ends - stretch.starts).max()).bit_length()):
        spent_s += spent_s.take(ahead)
        ahead = ahead.take(ahead)
    reached = ahead[:, stretch.starts] % nodes
    walked = np.where(reached < count, reached, ends) - stretch.starts
    num_tokens = walked.sum(axis=1)
    loss = spent_s[:, stretch.starts].sum(axis=1) / np.maximum(num_tokens, 1)
    return np.where(num_tokens > 0, loss, np.nan), walked.min(axis=0)


def walk_round_by_round(stretch: Stretch, policy: LengthPolicy, seconds: Floats) -> float:
    """A policy that learns: virtual seconds a token."""
    at, going = stretch.starts.copy(), np.arange(len(stretch.starts))
    spent_s, num_tokens = 0.0, 0
    while len(going):
        start = at[going]
        length = stretch.lengths(policy, start, stretch.view(start))
        accepted = np.minimum(stretch.run[start], length)
        whole = start + np.maximum(accepted + 1, length) <= stretch.ends[going]
        going, length, accepted = going[whole], length[whole], accepted[whole]
        policy.learn(
            RoundResult(stretch.slots[going], length.astype(np.int32), accepted.astype(np.int32))
        )
        spent_s += float(seconds[length].sum())
        num_tokens += int((accepted + 1).sum())
        at[going] += accepted + 1
        going = going[at[going] < stretch.ends[going]]
    return spent_s / num_tokens if num_tokens else np.nan
