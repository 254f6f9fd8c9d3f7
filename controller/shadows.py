"""Shadows: what every policy would have done on the live text, known without trying it.

An autoregressive draft reads the settled text anyway, and so shows at every position whether it
would have been right there. A shadow is a policy that walks over this text in virtual rounds, with
virtual seconds from the cost model; the best of them is followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Outcomes
from flyball.controller.guard import check_lengths, check_stops
from flyball.estimators.hedge import FixedShare
from flyball.estimators.slots import SlotArray
from flyball.estimators.survival import Chances, sigmoid
from flyball.policies.length.base import LengthPolicy, Progress, RoundResult, View

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]
Rows = NDArray[np.intp]
Bools = NDArray[np.bool_]

_CAPACITY = 256  # tokens of a request that wait to be walked over
_ROUNDS = 16  # after which shadows walk
_MOST_SLOTS = 16  # whose text is followed; requests in the others are like these
_SHARE_OF_STEP = 0.02  # of the engine's seconds, that shadows may take
# What they take, measured on one core of an AMD EPYC: to listen to a round, to let a policy walk,
# and a virtual round of one that learns. Constants, for the same trace to give the same decisions.
_LISTEN_S, _WALK_S, _ROUND_S = 60e-6, 150e-6, 60e-6
_RATE, _SHARE = 0.03, 0.0005  # of the hedge, for a token of each request
_CLEARLY = 3.0  # times the acting one's weight has a policy that takes over
_HEAD_START = 4.0  # weight of the preferred policy at first, to the others together


class LiveText:
    """Settled text of each request that no shadow has walked over, as its draft saw it.

    Attributes:
        size: tokens of each request.
        signs: (slots, 3, capacity) whether the draft was right, NaN where nobody saw; how sure
            it was; its entropy.
    """

    def __init__(self) -> None:
        self.size = SlotArray(0, np.int64)
        self._unread = SlotArray(0, np.int64)  # settled tokens that the draft may still read
        self.signs = SlotArray(np.nan, shape=(3, _CAPACITY))

    def admit(self, slots: Ints) -> None:
        """Forget what earlier requests in these slots left."""
        for array in (self.size, self._unread, self.signs):
            array.reset(slots)

    def clear(self) -> None:
        """Begin anew with all requests."""
        self.size.values[:] = 0
        self._unread.values[:] = 0

    def note(self, rows: Outcomes) -> None:
        """Add what a round settled.

        Settled tokens that no draft saw wait for it to read them; a new draft ends the wait.
        """
        slots, observed = rows.slots, rows.observed.astype(np.int64)
        drafted = observed > 0
        unread = self._unread.values[slots]
        settled = rows.accepted + 1 - observed
        self._unread.values[slots] = np.where(drafted, settled, unread + settled)
        gap = np.where(drafted, unread, 0)
        if gap.any():
            self._add(slots, gap, ())
        width = int(observed.max(initial=0))
        if width:
            match = (np.arange(width) < rows.accepted[:, None]).astype(np.float64)
            self._add(slots, observed, (match, rows.confidence, rows.entropy))

    def read(
        self, slots: Ints, match: Floats, confidence: Floats | None, entropy: Floats | None
    ) -> None:
        """Add text that the draft read; NaN at the end of a row where there is none."""
        count = np.count_nonzero(match == match, axis=1)
        self._add(slots, count, (match, confidence, entropy))
        self._unread.values[slots] = np.maximum(self._unread.values[slots] - count, 0)

    def _add(
        self, slots: Ints, count: NDArray[np.int64], signs: tuple[Floats | None, ...]
    ) -> None:
        width = int(count.max(initial=0))
        start = self.size.values[slots]
        too_long = start + count > _CAPACITY
        if too_long.any():
            # Nobody walked for long: begin anew rather than keep all of it.
            start = np.where(too_long, 0, start)
        count = np.minimum(count, _CAPACITY)
        row, column = (np.arange(min(width, _CAPACITY)) < count[:, None]).nonzero()
        place = start[row] + column
        self.signs.values[slots[row], :, place] = np.nan
        for index, sign in enumerate(signs):
            if sign is not None:
                known = column < sign.shape[1]
                where = (slots[row[known]], index, place[known])
                self.signs.values[where] = sign[row[known], column[known]]
        self.size.values[slots] = start + count

    def drop(self, slots: Ints, count: NDArray[np.int64]) -> None:
        """Drop the first tokens (n,) of these requests."""
        place = np.minimum(np.arange(_CAPACITY) + count[:, None], _CAPACITY - 1)
        self.signs.values[slots] = np.take_along_axis(
            self.signs.values[slots], place[:, None, :], axis=2
        )
        self.size.values[slots] -= count


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


class _Stretch:
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
        match, self.sure, self.entropy = text.signs.values[slots[self.row], :, place].T
        self._known = known
        self.acceptance = self._accept()  # (2, t)
        chance = np.where(match == match, match, self.acceptance[0])
        self.match: Bools = rng.random(len(chance)) < chance
        self.run = self._runs()
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

    def _runs(self) -> NDArray[np.int64]:
        """How many tokens in a row the draft is right from each token on, within its request."""
        count = len(self.match)
        misses = np.where(self.match, count, np.arange(count))
        nearest = np.minimum.accumulate(misses[::-1])[::-1]
        run: NDArray[np.int64] = np.minimum(nearest, self.ends[self.row]) - np.arange(count)
        return run

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

    def lengths(self, policy: LengthPolicy, at: Rows) -> NDArray[np.int64]:
        """How many tokens a policy drafts from each start; what it sees past a miss is a guess."""
        view = self.view(at)
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


class Shadows:
    """Walks policies over the live text and says which to follow.

    Policies without a memory of their own are asked for a length at every token at once, and walk
    by pointer doubling; those that learn walk round by round. Text is listened to for some rounds
    and walked over, as often as the shadows' share of the engine's seconds allows. A walk starts
    at a token of the text and counts whole rounds only; what it leaves is walked over again with
    the text to come. Loss of a policy: its virtual seconds a token, relative to the best. In a
    batch a request's virtual seconds are its share of a round in which all draft as it does.

    Args:
        policies: by name; the first is preferred.
        seed: of the draws where the draft's being right is only known as a probability.

    Attributes:
        acting: name of the policy to follow.
        listening: whether text is taken in.
    """

    def __init__(self, policies: Mapping[str, LengthPolicy], seed: int = 0) -> None:
        self.policies = dict(policies)
        self._still = [name for name, policy in policies.items() if not policy.learns]
        self._learning = [name for name, policy in policies.items() if policy.learns]
        self._names = [*self._still, *self._learning]
        self._turn_s = _WALK_S * len(self._still) + _LISTEN_S * _ROUNDS
        self.listening = True
        self._rng = np.random.default_rng(seed)
        others = max(1, len(self._names) - 1)
        prior = np.full(len(self._names), 1.0 / others)
        self.acting = next(iter(policies))
        prior[self._names.index(self.acting)] = _HEAD_START
        self._hedge = FixedShare(prior, _RATE, _SHARE)
        self._text = LiveText()
        self._num_rounds = 0
        self._credit_s = 0.0

    def admit(self, slots: Ints) -> None:
        """New requests take these slots (n,)."""
        self._text.admit(slots[slots < _MOST_SLOTS])
        for policy in self.policies.values():
            policy.admit(slots)

    def note(self, rows: Outcomes) -> None:
        """Take in what a round settled."""
        if not self.listening:
            return
        self._num_rounds += 1
        followed = rows.slots < _MOST_SLOTS
        self._text.note(rows if followed.all() else rows.only(followed))

    def read(
        self, slots: Ints, match: Floats, confidence: Floats | None, entropy: Floats | None
    ) -> None:
        """Take in text that the draft read."""
        if not self.listening:
            return
        self._num_rounds += match.shape[1]
        followed = slots < _MOST_SLOTS
        if not followed.all():
            slots, match = slots[followed], match[followed]
            confidence = None if confidence is None else confidence[followed]
            entropy = None if entropy is None else entropy[followed]
        self._text.read(slots, match, confidence, entropy)

    @property
    def due(self) -> bool:
        """Whether enough was heard for a walk."""
        return self._num_rounds >= _ROUNDS

    def allow(self, step_s: float) -> None:
        """The engine worked so many seconds; shadows may take a share of them."""
        self._credit_s = min(self._credit_s + _SHARE_OF_STEP * step_s, 1.0)
        if not self.listening and self._credit_s >= 0.0:
            self.listening = True
            self._text.clear()

    def walk(self, slots: Ints, know: Callable[[Ints], Knowledge]) -> None:
        """Walk over the text of these requests (n,) and choose whom to follow."""
        self._num_rounds = 0
        self._credit_s -= self._turn_s
        self.listening = self._credit_s >= 0.0
        slots = slots[slots < _MOST_SLOTS]
        slots = slots[self._text.size.values[slots] > 0]
        if len(slots) == 0:
            return
        known = know(slots)
        stretch = _Stretch(self._text, slots, known, self._rng)
        seconds = known.view.round_s / len(known.view.slots)
        loss = np.full(len(self._names), np.nan)
        at = np.arange(len(stretch.match))
        lengths = np.array([stretch.lengths(self.policies[name], at) for name in self._still])
        loss[: len(lengths)], walked = _walk(stretch, lengths, seconds)
        exposure = float(walked.mean())
        if exposure == 0.0:
            return
        for index, name in enumerate(self._learning, len(lengths)):
            if self._credit_s >= _ROUND_S * exposure:
                self._credit_s -= _ROUND_S * exposure
                loss[index] = _walk_round_by_round(stretch, self.policies[name], seconds)
        loss = loss / np.nanmin(loss) - 1.0
        self._hedge.update(np.minimum(loss, 2.0), exposure)
        self._text.drop(slots, walked)
        weight = self._hedge.weight
        if weight.max() > _CLEARLY * weight[self._names.index(self.acting)]:
            self.acting = self._names[int(weight.argmax())]


def _walk(
    stretch: _Stretch, length: NDArray[np.int64], seconds: Floats
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


def _walk_round_by_round(stretch: _Stretch, policy: LengthPolicy, seconds: Floats) -> float:
    """A policy that learns: virtual seconds a token."""
    at, going = stretch.starts.copy(), np.arange(len(stretch.starts))
    spent_s, num_tokens = 0.0, 0
    while len(going):
        start = at[going]
        length = stretch.lengths(policy, start)
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
