"""Shadows: what every policy would have done on the live text, known without trying it.

An autoregressive draft reads the settled text anyway, and so shows at every position whether it
would have been right there. A shadow is a policy that walks over this text in virtual rounds, with
virtual seconds from the cost model; the best of them is followed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from flyball.controller.contract import Outcomes
from flyball.controller.live_text import LiveText
from flyball.controller.stretch import Knowledge, Stretch, walk, walk_round_by_round
from flyball.estimators.hedge import FixedShare
from flyball.policies.length.base import LengthPolicy

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_ROUNDS = 16  # after which shadows walk
_MOST_SLOTS = 16  # whose text is followed; requests in the others are like these
_SHARE_OF_STEP = 0.02  # of the engine's seconds, that shadows may take
# What they take, measured on one core of an AMD EPYC: to listen to a round, to let a policy walk,
# and a virtual round of one that learns. Constants, for the same trace to give the same decisions.
_LISTEN_S, _WALK_S, _ROUND_S = 60e-6, 150e-6, 60e-6
_RATE, _SHARE = 0.03, 0.0005  # of the hedge, for a token of each request
_CLEARLY = 3.0  # times the acting one's weight has a policy that takes over
_HEAD_START = 4.0  # weight of the preferred policy at first, to the others together


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
        stretch = Stretch(self._text, slots, known, self._rng)
        seconds = known.view.round_s / len(known.view.slots)
        loss = np.full(len(self._names), np.nan)
        at = np.arange(len(stretch.match))
        view = stretch.view(at)
        lengths = np.array(
            [stretch.lengths(self.policies[name], at, view) for name in self._still]
        )
        loss[: len(lengths)], walked = walk(stretch, lengths, seconds)
        exposure = float(walked.mean())
        if exposure == 0.0:
            return
        for index, name in enumerate(self._learning, len(lengths)):
            if self._credit_s >= _ROUND_S * exposure:
                self._credit_s -= _ROUND_S * exposure
                loss[index] = walk_round_by_round(stretch, self.policies[name], seconds)
        loss = loss / np.nanmin(loss) - 1.0
        self._hedge.update(np.minimum(loss, 2.0), exposure)
        self._text.drop(slots, walked)
        weight = self._hedge.weight
        if weight.max() > _CLEARLY * weight[self._names.index(self.acting)]:
            self.acting = self._names[int(weight.argmax())]
