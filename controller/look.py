"""What a plan is made from."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flyball.controller.choice import Choice, Ways, WaysWithOffers
from flyball.controller.guard import BadAnswerError
from flyball.controller.price import Quote
from flyball.estimators.cost import CostEstimator, marginal_seconds
from flyball.estimators.step_cost import StepCostEstimator
from flyball.estimators.survival import Chances
from flyball.policies.length.base import View

Floats = NDArray[np.float64]
Ints = NDArray[np.int32]

_READING_SHARE = 0.01  # of the seconds without drafts, that a draft may take to read
_LEAST_UNREAD, MOST_UNREAD = 4, 32  # tokens
_LEAST_SAVING = 0.05  # of a round's seconds, in the verification of all but first tokens


@dataclass(slots=True)
class Look:
    """What a plan is made from."""

    view: View
    ways: Ways | WaysWithOffers
    choice: Choice
    quoted: Quote | None  # None while the costs are unknown
    way: int
    longest_s: float  # of a round
    effects: Floats | None = None  # for stops (2, n, effects); None where nothing steps
    chances: Chances | None = None  # likewise
    _drafted: View | None = None

    def can_save(self, draft_len: Ints) -> bool:
        """Whether to verify drafts (m,) of these lengths takes long enough for cuts to pay.

        First tokens aside, which are always verified. Asking takes its own seconds, and a cut
        saves a part of the others at the price of some that would have been right.
        """
        if self.quoted is None or self.view.probe_len is not None:
            return True  # nobody knows yet
        longest = int(draft_len.max(initial=0))
        saving = float(self.view.verify_marginal_s[1:longest].sum())
        return saving >= _LEAST_SAVING * float(self.view.round_s[longest])

    @property
    def drafted(self) -> View:
        """The view of drafts that are finished: a token costs its verification alone."""
        if self._drafted is None:
            self._drafted = replace(self.view, marginal_s=self.view.verify_marginal_s)
        return self._drafted


class Costs:
    """What rounds of a batch size cost, until more was measured.

    Args:
        cost: the estimator.
        batch_size: rows that the forwards run over.
        num_drafts: drafts that step.

    Raises:
        BadAnswerError: what was measured is no time.
    """

    def __init__(
        self, cost: CostEstimator | StepCostEstimator, batch_size: int, num_drafts: int
    ) -> None:
        self.batch_size = batch_size
        self.measured = cost.measured(batch_size)
        self.round_s = cost.round_s(batch_size)  # (ways, max_draft_len + 1)
        self.longest_s = float(self.round_s.max())
        if self.measured and not 0.0 < self.round_s.min() <= self.longest_s < np.inf:
            raise BadAnswerError(f"expected positive seconds, but got {self.round_s!r:.80}")
        probes = (
            (way, length)
            for way in range(num_drafts)
            if (length := cost.next_probe(batch_size, way)) is not None
        )
        self.probe = next(probes, None)  # way and length that would teach most
        self._marginal_s: dict[int, Floats] = {}

    def read_every(self, way: int) -> int:
        """Skipped tokens that a stepping draft should read in one forward."""
        step_s = float(self.round_s[way, 1] - self.round_s[-1, 1])
        tokens = math.ceil(step_s / (_READING_SHARE * float(self.round_s[-1, 0])))
        return min(max(tokens, _LEAST_UNREAD), MOST_UNREAD)

    def marginal_s(self, way: int) -> Floats:
        """Seconds that each drafted token adds (max_draft_len,)."""
        if way not in self._marginal_s:
            self._marginal_s[way] = marginal_seconds(self.round_s[way])
        return self._marginal_s[way]
