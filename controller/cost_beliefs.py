"""What is believed of seconds: what rounds cost, until enough more was measured."""

from __future__ import annotations

import numpy as np

from flyball.controller.contract import Cost, HostInfo, cost_kinds
from flyball.controller.guard import Guard
from flyball.controller.look import MOST_UNREAD, Costs
from flyball.estimators.cost import CostEstimator
from flyball.estimators.fill import FillEstimator
from flyball.estimators.step_cost import StepCostEstimator

_COST_ROUNDS = 16  # rounds after which a new plan takes in what costs were measured


class CostBeliefs:
    """The estimator of costs, and what it said last.

    Args:
        host: what the host can do.
        max_draft_len: largest draft length.
        fill: how much of what is planned drafts have to offer.
        guard: counts what makes no sense.

    Attributes:
        estimator: learns from every cost.
        version: changes when what it said last has to be given up.
    """

    def __init__(
        self, host: HostInfo, max_draft_len: int, fill: FillEstimator, guard: Guard
    ) -> None:
        self._host = host
        self._max_draft_len = max_draft_len
        self._fill = fill
        self._guard = guard
        self._stepping = host.stepping
        self._kinds = cost_kinds([host.drafts[i] for i in self._stepping])
        self._num_unused = 0  # costs that no plan has seen yet
        self.version = 0
        self.forget()

    def forget(self) -> None:
        """Start anew."""
        self.estimator: CostEstimator | StepCostEstimator
        if self._host.rounds_overlap:
            self.estimator = StepCostEstimator(self._max_draft_len, self._fill)
        else:
            self.estimator = CostEstimator(self._max_draft_len, self._kinds)
        self.drop()

    def drop(self) -> None:
        """Give up what the estimator said last."""
        self._latest: Costs | None = None
        self.version += 1

    def costs(self, batch_size: int) -> Costs:
        """What rounds of a batch size cost."""
        self._guard.at_work = "cost"
        costs = self._latest
        if costs is None or costs.batch_size != batch_size or self._num_unused >= _COST_ROUNDS:
            self._latest = costs = Costs(self.estimator, batch_size, len(self._stepping))
            self._num_unused = 0
        return costs

    def read_every(self, way: int) -> int:
        """Skipped tokens that a draft should read at once; see `Governor.read_every`."""
        if self._latest is None or not self._latest.measured:
            return MOST_UNREAD
        return self._latest.read_every(way)

    def token_price(self, batch_size: int) -> float:
        """What one more row's token costs, in tokens that the host makes in the same seconds.

        With T(b) the seconds of a round of b rows without drafts, each of which brings a token,
        rows added to half the batch take T(b) - T(b / 2) and cost b / T(b) tokens a second: over
        b / 2 rows 2 (1 - T(b / 2) / T(b)) each. 1, where rows cost what they bring, as long as
        either is unknown.
        """
        self._guard.at_work = "cost"
        sizes = max(batch_size // 2, 1), batch_size
        half, whole = (float(self.estimator.round_s(size)[-1, 0]) for size in sizes)
        price = 2.0 * (1.0 - half / whole)
        return min(max(price, 0.0), 1.0) if batch_size > 1 and np.isfinite(price) else 1.0

    def observe(self, cost: Cost, probed: int | None) -> bool:
        """Take in what a round cost, and which way it probed; False where it cannot be true."""
        self._guard.at_work = "cost"
        if not self.learn(cost):
            return False
        if probed is not None:
            self.estimator.probed(cost.batch_size, probed)
        # Where nothing steps, nothing is probed: the first cost is news all the same.
        first = self._latest is not None and not self._latest.measured
        if probed is not None or first or self._num_unused >= 2 * _COST_ROUNDS:
            self.drop()
        return True

    def learn(self, cost: Cost) -> bool:
        """Take in seconds alone; False where they cannot be true."""
        if not cost.sound or (cost.num_draft_steps > 0 and cost.draft not in self._stepping):
            self._guard.count("seconds", cost)
            return False
        self._num_unused += 1
        if isinstance(self.estimator, StepCostEstimator):
            self.estimator.update(
                cost.batch_size,
                cost.verify_len,
                cost.num_prefill,
                cost.num_draft_steps,
                cost.step_s,
            )
        else:
            is_news = self.estimator.update(
                cost.batch_size,
                int(cost.verify_len),
                int(cost.num_draft_steps),
                cost.step_s,
                cost.draft_s,
                cost.verify_s,
                self._stepping.index(cost.draft) if cost.num_draft_steps > 0 else 0,
            )
            if is_news:  # a guess was tried, and may have been too good
                self.drop()
        return True
